"""VM name -> the name of its instance file: the one place where a name becomes part of a path.

And which files of the directory are instance files: server and `validate` ask here.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from vmw_cloudinit_metadata.instance.vmname import normal
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid

SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILE_NAME_BYTES = 255
_LONGEST_SUFFIX = max(map(len, SUFFIXES))

# Editors, archives, Ansible and macOS put files of theirs beside others, under such names.
_HIDDEN = "."
# What was most likely meant as one of SUFFIXES: .YAML, and what Notepad makes of .yaml.
_NEARLY_INSTANCE = re.compile(r"(.+)\.(?:ya?ml|json)(?:\.txt)? *", re.IGNORECASE | re.DOTALL)


def stem_of(vm_name: str) -> str | None:
    """The file name, without suffix, for a VM name; None for a name that no file is looked up by.

    vCenter writes / \\ % in names as %2f %5c %25, and so the file is named; a raw one, which only a
    hostile peer sends, is escaped likewise. A name in the form of a UUID is none: it could take the
    file of another VM's UUID. Nor is one that begins with a dot: it could take a program's file.
    """
    if parse_uuid(vm_name) or "\0" in vm_name or vm_name.startswith(_HIDDEN):
        return None
    stem = normal(vm_name)
    try:
        stem.encode()  # a VM tells its name in UTF-8
        longest = len(os.fsencode(stem)) + _LONGEST_SUFFIX
    except UnicodeEncodeError:  # no file of this system can have that name
        return None
    return stem if stem and longest <= MAX_FILE_NAME_BYTES else None


def is_instance_file(name: str) -> bool:
    """Whether a file of this name, in the directory, is one that VMs are looked up in."""
    return name.endswith(SUFFIXES) and not name.startswith(_HIDDEN)


def nearly_stem(name: str) -> str | None:
    """The stem of `web1.YAML`, which is no instance file and was most likely meant as one."""
    found = _NEARLY_INSTANCE.fullmatch(name)
    if found is None or name.endswith(SUFFIXES) or name.startswith(_HIDDEN):
        return None
    return found[1]


def stem_in(path: str) -> str:
    """The name of an instance file without its suffix."""
    return os.path.splitext(os.path.basename(path))[0]


def usual_stem(stem: str) -> str | None:
    """The stem by which the VM of a file of this stem is looked up; None if there can be no VM."""
    return parse_uuid(stem) or stem_of(stem)


def unquoted_stem(stem: str) -> str | None:
    """The stem for the VM that is meant if a file was named as in a URL (`web%201`), or None."""
    meant = unquote(stem, errors="surrogateescape")
    return stem_of(meant) if "%" in stem and normal(meant) != normal(stem) else None


def is_named_by_uuid(path: str) -> bool:
    """Whether an instance file is named by a UUID, as it is looked up."""
    stem = stem_in(path)
    return parse_uuid(stem) == stem


def swapped(uuid: str) -> str:
    """A BIOS UUID the way a guest prints it: the bytes of the first three groups in reverse order.

    SMBIOS 2.6 has them little-endian; `dmidecode` and /sys/class/dmi/id/product_uuid follow it.
    """
    groups = uuid.split("-")
    return "-".join([bytes.fromhex(group)[::-1].hex() for group in groups[:3]] + groups[3:])
