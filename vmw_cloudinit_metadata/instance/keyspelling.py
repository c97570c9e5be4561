"""Keys as people write them, also those of the settings file: `-` and `_` are equal. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from vmw_cloudinit_metadata.instance.fault import Fault, Faults, Key, unknown

_APPENDS = "+"  # `key+`: layering/patch.py


def with_dashes(
    mapping: Mapping[Any, Any], known: Collection[str], key: Key, faults: Faults
) -> dict[Any, Any]:
    """Return the mapping with its known keys written with `-`; duplicates go to `faults`."""
    if all(map(known.__contains__, mapping)):
        return dict(mapping)
    result: dict[Any, Any] = {}
    for name, value in mapping.items():
        dashed = name.replace("_", "-") if isinstance(name, str) else name
        is_known = isinstance(dashed, str) and dashed.removesuffix(_APPENDS) in known
        name = dashed if is_known else name
        if name in result:
            faults.add(Fault((*key, name), "a duplicate key, with - and _", "each key once"))
        result[name] = value
    return result


def unknown_faults(seed: Mapping[str, Any], known: Collection[str]) -> Iterator[Fault]:
    return (unknown((str(name),), name, known) for name in seed if name not in known)
