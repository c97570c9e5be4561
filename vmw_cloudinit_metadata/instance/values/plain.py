"""Plain values: those that YAML and JSON can write and a guest can read. Pure.

A YAML file hardly has others; a driver may return anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from vmw_cloudinit_metadata.instance.fault import MAX_FAULTS, Fault, Key

MAX_DEPTH = 40
MAX_NUMBER_BITS = 256

# For isinstance: dict first, since it is nearly always one and the check for Mapping takes 0.2 µs.
MAPPING = (dict, Mapping)


def faults_in(value: Any) -> list[Fault]:
    """Return a fault for each value and each key that is not plain, at most MAX_FAULTS + 1."""
    return (
        [] if _is_plain(value, MAX_DEPTH) else list(islice(_faults_in(value, ()), MAX_FAULTS + 1))
    )


def _is_plain(value: Any, levels: int) -> bool:
    """Return whether all of it is surely plain: a quick check that may say no for rare values."""
    kind = type(value)
    if kind is str:
        return _is_text(value)
    if levels == 0:
        return False
    if kind is dict:
        for name in value:
            if type(name) is not str or not name.isascii():
                return False
        value = value.values()
    if kind is dict or kind is list:
        for item in value:
            if not (type(item) is str and item.isascii()) and not _is_plain(item, levels - 1):
                return False
        return True
    return value is None or (isinstance(value, int) and value.bit_length() <= MAX_NUMBER_BITS)


def _faults_in(value: Any, key: Key) -> Iterator[Fault]:
    match value:
        case str():
            yield from _text_faults(value, key)
        case int():
            if value.bit_length() > MAX_NUMBER_BITS:
                found = f"a number of {value.bit_length():,} bits"
                yield Fault(key, found, f"at most {MAX_NUMBER_BITS} bits")
        case dict() | list() | tuple() | Mapping() if len(key) >= MAX_DEPTH:
            yield Fault(key, "too many levels of nesting", f"at most {MAX_DEPTH}")
        case dict() | Mapping():
            for name, item in value.items():
                yield from _key_faults(name, key)
                yield from _faults_in(item, (*key, name if isinstance(name, str) else "?"))
        case list() | tuple():
            for index, item in enumerate(value):
                yield from _faults_in(item, (*key, index))


def _key_faults(name: Any, key: Key) -> Iterator[Fault]:
    if isinstance(name, str):
        yield from _text_faults(name, key)
    elif isinstance(name, Mapping | list | tuple):
        yield Fault(key, "a list or mapping as a key", "a string")
    else:
        yield from _faults_in(name, key)


def _text_faults(text: str, key: Key) -> Sequence[Fault]:
    if _is_text(text):
        return ()
    place = tuple(part for part in key if part != text)
    return [Fault(place, "a string with a lone surrogate", "a string that UTF-8 can encode")]


def _is_text(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
