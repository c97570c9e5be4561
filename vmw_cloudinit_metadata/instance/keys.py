"""The keys of an instance file: which are known, and where each belongs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from vmw_cloudinit_metadata.instance.documents import FILE_KEYS as FILE_KEYS
from vmw_cloudinit_metadata.instance.documents import STANDARD, USER_DATA_KEYS
from vmw_cloudinit_metadata.instance.fault import Fault, Faults, unknown
from vmw_cloudinit_metadata.instance.keyspelling import with_dashes
from vmw_cloudinit_metadata.instance.metadata.fields import MATCH_KEYS, METADATA_KEYS
from vmw_cloudinit_metadata.instance.network import native, shortform
from vmw_cloudinit_metadata.instance.values.plain import MAPPING

DOCUMENTS = USER_DATA_KEYS
TOP_LEVEL = frozenset({*(document.key for document in STANDARD), "documents", "match"})
FILE_LEVEL = TOP_LEVEL | FILE_KEYS
LAYER_LEVEL = FILE_LEVEL | {"serve"}

_PARTS = {"metadata": frozenset(METADATA_KEYS), "match": frozenset(MATCH_KEYS)}

# Keys that people put at the top level, as in NoCloud's meta-data, network-config and user-data.
_NATIVE_KEYS = ("version", "config", "renderer", "ethernets", "bonds", "bridges", "vlans", "wifis")
_CLOUD_CONFIG_KEYS = (
    *("bootcmd", "chpasswd", "disk-setup", "final-message", "fqdn", "fs-setup", "groups"),
    *("growpart", "keyboard", "locale", "manage-etc-hosts", "mounts", "ntp", "package-update"),
    *("package-upgrade", "packages", "phone-home", "power-state", "preserve-hostname", "runcmd"),
    *("ssh-authorized-keys", "ssh-import-id", "ssh-pwauth", "timezone", "user", "users"),
    *("write-files",),
)
_PART_OF = {
    **dict.fromkeys(_CLOUD_CONFIG_KEYS, "userdata"),
    **dict.fromkeys((*shortform.KEYS - {"name"}, *_NATIVE_KEYS, "network-interfaces"), "network"),
    **dict.fromkeys(("vc-uuid", "bios-uuid", "name"), "match"),
    **dict.fromkeys(METADATA_KEYS, "metadata"),
}


def canonical(seed: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
    """Return the mapping with its known keys written with `-`, and a fault for each duplicate."""
    faults = Faults()
    result = with_dashes(seed, FILE_LEVEL, (), faults)
    for part, known in _PARTS.items():
        if isinstance(result.get(part), MAPPING):
            result[part] = with_dashes(result[part], known, (part,), faults)
    if "network" in result:
        result["network"] = _interfaces(result["network"], faults)
    return result, list(faults.all())


def _interfaces(value: Any, faults: Faults) -> Any:
    if isinstance(value, list):
        return [
            with_dashes(item, shortform.KEYS, ("network", index), faults)
            if isinstance(item, MAPPING)
            else item
            for index, item in enumerate(value)
        ]
    if isinstance(value, MAPPING) and not native.is_native(value):
        return with_dashes(value, shortform.KEYS, ("network",), faults)
    return value


def misplaced_faults(seed: Mapping[str, Any], known: Collection[str]) -> Iterator[Fault]:
    """Like `unknown_faults`, for the top level of a file: a key may belong further down."""
    for name in seed:
        if name not in known and not is_extension(name):
            part = _PART_OF.get(name.replace("_", "-")) if isinstance(name, str) else None
            if part:
                expected = f"it below {part}:"
                yield Fault((name,), f"{name!r} at the top level", expected, is_named=True)
            else:
                yield unknown((str(name),), name, known)


def is_extension(name: Any) -> bool:
    """Return whether a top-level key is the operator's own (`x-…`), as a place for anchors."""
    return isinstance(name, str) and name.startswith("x-")
