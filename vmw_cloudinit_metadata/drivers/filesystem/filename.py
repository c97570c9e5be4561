"""File names: from a VM's name to its instance file, and which files are instance files.

This is the only place where a VM's name becomes part of a path.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from vmw_cloudinit_metadata.instance.vmname import normal
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid

SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILE_NAME_BYTES = 255
LAYERS = "layers"  # the subdirectory of what several VMs share
INVENTORY = "vms"  # the stem of files that each hold many VMs
INVENTORIES = tuple(f"{INVENTORY}{suffix}" for suffix in (*SUFFIXES, ".csv"))
_LONGEST_SUFFIX = max(map(len, SUFFIXES))

# Editors, archives, Ansible and macOS create files with such names.
_HIDDEN = "."
# Most likely meant as one of SUFFIXES: .YAML, and what Notepad makes of .yaml.
_NEARLY_TABLE = re.compile(rf"{INVENTORY}\.csv(?:\.txt)? *", re.IGNORECASE)
_NEARLY_INSTANCE = re.compile(r"(.+)\.(?:ya?ml|json)(?:\.txt)? *", re.IGNORECASE | re.DOTALL)


def stem_of(vm_name: str) -> str | None:
    """Return the file name, without suffix, for a VM name; None for a name that has no file.

    vCenter writes / \\ % in names as %2f %5c %25, and files too; raw ones, which only
    a hostile peer sends, are escaped likewise. A name in the form of a UUID has no file: it could
    get the file of another VM's UUID. Nor has one that begins with a dot: it could get a program's
    file.
    """
    if parse_uuid(vm_name) or "\0" in vm_name or vm_name.startswith(_HIDDEN):
        return None
    stem = normal(vm_name)
    try:
        stem.encode()  # hosts send names in UTF-8
        longest = len(os.fsencode(stem)) + _LONGEST_SUFFIX
    except UnicodeEncodeError:  # no file of this system can have that name
        return None
    return stem if stem and longest <= MAX_FILE_NAME_BYTES else None


def is_instance_file(name: str) -> bool:
    """Whether a file of this name in the directory is an instance file."""
    return is_data_file(name) and name not in INVENTORIES


def is_data_file(name: str) -> bool:
    """Whether a file of this name is read where files are: in the directory, or in layers/."""
    return name.endswith(SUFFIXES) and not name.startswith(_HIDDEN)


def nearly_stem(name: str) -> str | None:
    """Return the stem of a file probably meant as an instance file, such as `web1.YAML`."""
    found = _NEARLY_INSTANCE.fullmatch(name)
    if found is None or name.endswith(SUFFIXES) or name.startswith(_HIDDEN):
        return None
    return found[1]


def is_nearly_table(name: str) -> bool:
    """Whether a file is probably meant as an inventory in CSV, such as `vms.CSV`."""
    return name not in INVENTORIES and _NEARLY_TABLE.fullmatch(name) is not None


def stem_in(path: str) -> str:
    """Return the name of an instance file without its suffix."""
    return os.path.splitext(os.path.basename(path))[0]


def usual_stem(stem: str) -> str | None:
    """Return the usual spelling of a stem, in which it is looked up; None if no VM can have it."""
    return parse_uuid(stem) or stem_of(stem)


def unquoted_stem(stem: str) -> str | None:
    """Return the stem probably meant by a URL-encoded name (`web%201`), or None."""
    meant = unquote(stem, errors="surrogateescape")
    return stem_of(meant) if "%" in stem and normal(meant) != normal(stem) else None


def is_named_by_uuid(path: str) -> bool:
    """Return whether an instance file is named by a UUID in its usual spelling."""
    stem = stem_in(path)
    return parse_uuid(stem) == stem


def swapped(uuid: str) -> str:
    """Return a BIOS UUID as a guest prints it: the first three groups with their bytes reversed.

    SMBIOS 2.6 stores them little-endian; `dmidecode` and /sys/class/dmi/id/product_uuid follow it.
    """
    groups = uuid.split("-")
    return "-".join([bytes.fromhex(group)[::-1].hex() for group in groups[:3]] + groups[3:])
