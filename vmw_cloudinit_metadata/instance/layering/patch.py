"""Patches: what the layers of an instance say, and the one rule by which they are merged. Pure.

Mappings merge; everything else replaces; `key+` appends to the list below; an empty key removes
what is below. Merging is associative: what a patch does to the layers below stays visible in it
(`Replaced`, `Appended`, REMOVED) until `settled` makes values of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import reduce
from typing import Any

from vmw_cloudinit_metadata.instance.documents import USER_DATA_KEYS
from vmw_cloudinit_metadata.instance.fault import Fault, Key, describe
from vmw_cloudinit_metadata.instance.network import native

APPENDS = "+"
MERGED_PARTS = ("metadata", "network", *USER_DATA_KEYS, "documents")

Patch = dict[Any, Any]


class Mark(Enum):
    REMOVED = "removed"  # by an empty key
    CONFLICT = "conflict"  # a mapping over a list, or an appended list over no list


class Replaced(dict[Any, Any]):
    """A mapping that replaces what is below, instead of merging with it."""


class Appended(list[Any]):
    """The items that a `key+` appends."""


@dataclass(frozen=True, slots=True)
class FileName:
    """The value of `userdata-file`: it stands in the place of `userdata`."""

    value: Any


def patch_of(mapping: Mapping[str, Any]) -> tuple[Patch, list[Fault]]:
    """Return the patch of one layer, whose keys are canonical, and what is wrong with its `+`."""
    faults: list[Fault] = []
    patch: Patch = {}
    for name, value in mapping.items():
        is_merged = name in MERGED_PARTS and isinstance(value, dict)
        patch[name] = _with_appended(value, (name,), faults) if is_merged else value
    for name in USER_DATA_KEYS:
        if f"{name}-file" in patch:
            file = patch.pop(f"{name}-file")
            if file is not None or name not in patch:
                patch[name] = None if file is None else FileName(file)
    return patch, faults


def _with_appended(mapping: Mapping[Any, Any], key: Key, faults: list[Fault]) -> Patch:
    result: Patch = {}
    for name, value in mapping.items():
        if isinstance(value, dict):
            value = _with_appended(value, (*key, str(name)), faults)
        if not isinstance(name, str) or not name.endswith(APPENDS) or name == APPENDS:
            result[name] = value
            continue
        place = (*key, name)
        plain = name.removesuffix(APPENDS)
        if plain in mapping:
            faults.append(Fault(place, f"both {plain!r} and {name!r}", "one of them"))
        elif not isinstance(value, list):
            expected = "a list, which is appended to the list below"
            faults.append(Fault(place, describe(value, place), expected))
        else:
            result[plain] = Appended(value)
    return result


def over(under: Patch, upper: Patch) -> Patch:
    """Return `upper` over `under`."""
    result = _over(under, upper)
    if "network" in under and "network" in upper:
        result["network"] = _network(under["network"], upper["network"])
    return result


def stacked(patches: Iterable[Patch]) -> Patch:
    """Return all patches, the lowest first, as one."""
    return reduce(over, patches, {})


def _over(under: Patch, upper: Patch) -> Patch:
    result = {**under, **upper}
    for name in under.keys() & upper.keys():
        result[name] = joined(under[name], upper[name])
    return result


def joined(under: Any, upper: Any) -> Any:
    """Return what `upper` makes of the value below it."""
    match upper:
        case None:
            return None if under is None else Mark.REMOVED
        case Replaced():
            return upper
        case dict():
            return _mapping_over(under, upper)
        case Appended():
            return _appended_to(under, upper)
        case _:
            return upper


def _mapping_over(under: Any, upper: Patch) -> Any:
    match under:
        case Replaced():
            return Replaced(_over(under, upper))
        case dict():
            return _over(under, upper)
        case list() | Mark.CONFLICT:
            return Mark.CONFLICT
        case _:
            return Replaced(upper)


def _appended_to(under: Any, upper: Appended) -> Any:
    match under:
        case None | Mark.REMOVED:
            return list(upper)
        case Appended():
            return Appended([*under, *upper])
        case list():
            return [*under, *upper]
        case _:
            return Mark.CONFLICT


def _network(under: Any, upper: Any) -> Any:
    """A network of another form replaces the one below, also a mapping a list of interfaces."""
    if not isinstance(upper, dict) or isinstance(upper, Replaced):
        return joined(under, upper)
    if isinstance(under, dict) and native.form_of(under) == native.form_of(upper):
        return joined(under, upper)
    return Replaced(upper)


def settled(patch: Patch) -> tuple[dict[str, Any], list[Key]]:
    """Return the mapping that a patch makes of nothing, and the keys where layers conflict."""
    conflicts: list[Key] = []
    mapping = _settled(patch, (), conflicts)
    for name in USER_DATA_KEYS:
        if isinstance(mapping.get(name), FileName):
            mapping[f"{name}-file"] = mapping.pop(name).value
    return mapping, conflicts


def _settled(patch: Patch, key: Key, conflicts: list[Key]) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for name, value in patch.items():
        match value:
            case dict():
                result[name] = _settled(value, (*key, str(name)), conflicts)
            case Mark.REMOVED:
                continue
            case Mark.CONFLICT:
                conflicts.append((*key, str(name)))
            case Appended():
                result[name] = list(value)
            case _:
                result[name] = value
    return result


def merged(*mappings: Mapping[str, Any]) -> dict[str, Any]:
    """Return canonical mappings, the lowest first, merged into one; conflicts are left out."""
    return settled(stacked(patch_of(mapping)[0] for mapping in mappings))[0]


def leaves(mapping: Mapping[Any, Any], key: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of each value that is no mapping, or an empty one, in the file's order."""
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*key, name))
        else:
            yield (*key, name)


_NOTHING = object()


def _at(patch: Patch, key: tuple[Any, ...]) -> Any:
    """Return what a patch has at `key`, or what it has in place of a mapping around it."""
    value: Any = patch
    for part in key:
        if not isinstance(value, dict):
            return value
        value = value.get(part, _NOTHING)
        if value is _NOTHING:
            return value
    return value


def history(patches: Iterable[Patch], key: tuple[Any, ...]) -> tuple[list[int], list[int]]:
    """Return which patches, the lowest first, make the value at `key`, and which they override.

    A list may be made by several, since `key+` appends.
    """
    makers: list[int] = []
    overridden: list[int] = []
    for index, patch in enumerate(patches):
        value = _at(patch, _place_of(key))
        if value is _NOTHING:
            continue
        if not isinstance(value, Appended):
            overridden += makers
            makers = []
        makers.append(index)
    return makers, overridden


def value_at(patch: Patch, key: tuple[Any, ...]) -> Any:
    """Return what one patch says at `key`: a value, None if it removes it."""
    value = _at(patch, _place_of(key))
    if isinstance(value, FileName):
        return value.value
    return None if value is _NOTHING else value


def _place_of(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """`userdata-file` is kept in the place of `userdata`."""
    for name in USER_DATA_KEYS:
        if key == (f"{name}-file",):
            return (name,)
    return key


def conflict_between(patches: Iterable[Patch], key: Key) -> tuple[int, int]:
    """Return the two patches, the upper one first, that conflict at `key` in the end."""
    state: Any = _NOTHING
    found = 0, 0
    last = 0
    for index, patch in enumerate(patches):
        value = _at(patch, key)
        if value is _NOTHING:
            continue
        was, state = state, value if state is _NOTHING else joined(state, value)
        if state is Mark.CONFLICT and was is not Mark.CONFLICT:
            found = index, last
        last = index
    return found
