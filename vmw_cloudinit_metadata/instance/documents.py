"""The standard documents, and what the protocol, NoCloud and instance files call them. Pure.

A new one in cloud-init's user-data format is a row here: instance files, messages, NoCloud's names,
the requests that a VM may send, and metrics follow. What is served from it is
`InstanceData.content_of`. The agent, which ships alone, has its own list: conversation.py
and documentset.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StandardDocument:
    code: str  # in the protocol: REQUEST_USERDATA
    nocloud_name: str  # the file of a NoCloud seed
    key: str  # of an instance file
    is_user_data: bool = False  # free content, inline or from a file of its own


STANDARD = (
    StandardDocument("METADATA", "meta-data", "metadata"),
    StandardDocument("NETWORKDATA", "network-config", "network"),
    StandardDocument("USERDATA", "user-data", "userdata", is_user_data=True),
    StandardDocument("VENDORDATA", "vendor-data", "vendordata", is_user_data=True),
)
USER_DATA = tuple(document for document in STANDARD if document.is_user_data)

# By the protocol's names -> NoCloud's file names.
NOCLOUD_NAMES = {document.code: document.nocloud_name for document in STANDARD}

USER_DATA_KEYS = tuple(document.key for document in USER_DATA)
FILE_KEYS = frozenset(f"{key}-file" for key in USER_DATA_KEYS)  # the content is in another file
