"""VM name -> the name of its instance file: the one place where a name becomes part of a path."""

from __future__ import annotations

import os
import re

from vmw_cloudinit_metadata.protocol.vmware import parse_uuid

SUFFIXES = (".yaml", ".yml")
MAX_FILE_NAME_BYTES = 255

_SPECIAL = re.compile(r"%(?:2f|5c|25)|[/\\%]", re.IGNORECASE)
_ESCAPED = {"/": "%2f", "\\": "%5c", "%": "%25"}


def stem_of(vm_name: str) -> str | None:
    """The file name, without suffix, for a VM name; None for a name that no file is looked up by.

    vCenter writes / \\ % in names as %2f %5c %25, and so the file is named; a raw one, which only a
    hostile peer sends, is escaped likewise. A name in the form of a UUID is none: it could take the
    file of another VM's UUID.
    """
    if parse_uuid(vm_name) or "\0" in vm_name:
        return None
    stem = _SPECIAL.sub(lambda found: _ESCAPED.get(found[0], found[0].lower()), vm_name)
    try:
        longest = len(os.fsencode(stem)) + len(SUFFIXES[0])
    except UnicodeEncodeError:  # no file of this system can have that name
        return None
    return stem if stem and longest <= MAX_FILE_NAME_BYTES else None


def is_named_by_uuid(path: str) -> bool:
    """Whether an instance file is named by a UUID, as it is looked up."""
    stem = os.path.splitext(os.path.basename(path))[0]
    return parse_uuid(stem) == stem
