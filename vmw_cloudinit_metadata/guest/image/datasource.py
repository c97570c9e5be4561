"""The texts by which cloud-init takes the agent's seed. Pure."""

from __future__ import annotations

import re

FILE = "/etc/cloud/cloud.cfg.d/99-nocloud.cfg"
DIRECTORY = "/etc/cloud/cloud.cfg.d"
DS_IDENTIFY = "/etc/cloud/ds-identify.cfg"
_UPDATES = """\
# The network as it is served now, also where the instance-id is the same.
updates: {network: {when: [boot-new-instance, boot]}}
"""

_LIST = re.compile(r"^[ \t]*datasource_list[ \t]*:", re.M)
_POLICY = re.compile(r"^[ \t]*policy[ \t]*:.*$", re.M)


def text(packaged: str, *, with_guestinfo: bool = False, network_every_boot: bool = False) -> str:
    """The one configuration file of cloud-init, from the one that is packaged.

    The list stays on one line: cloud-init's generator reads no other.
    """
    sources = packaged.replace("[NoCloud, None]", "[NoCloud, VMware, None]")
    return (sources if with_guestinfo else packaged) + (_UPDATES if network_every_boot else "")


def with_policy(ds_identify: str) -> str:
    """ds-identify's configuration with `policy: enabled`: cloud-init runs whatever it detects."""
    if _POLICY.search(ds_identify):
        return _POLICY.sub("policy: enabled", ds_identify)
    end = "" if not ds_identify or ds_identify.endswith("\n") else "\n"
    return f"{ds_identify}{end}policy: enabled\n"


def has_list(configuration: str) -> bool:
    return bool(_LIST.search(configuration))
