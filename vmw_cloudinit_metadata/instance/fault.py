"""What is wrong with instance data, told to the person who wrote it. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vmw_cloudinit_metadata.printable import one_line

Key = tuple[str | int, ...]

_SECRET = {"userdata", "vendordata", "documents"}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `line` counts from 1; 0 and an empty file stand for "not from a file"."""

    key: Key
    found: str
    expected: str
    file: str = ""
    line: int = 0
    is_warning: bool = False
    is_absence: bool = False  # a key is missing: a file of defaults may leave it to the others

    def __str__(self) -> str:
        """`web1.yaml:9: network.gateway: found '10.0.0.1', expected an address in 10.1.0.0/24`"""
        place = f"{self.file}:{self.line}: " if self.file else ""
        key = ".".join(map(str, self.key))
        parts = (
            place,
            "warning: " if self.is_warning else "",
            f"{key}: " if key else "",
            f"found {self.found}, expected {self.expected}",
        )
        return one_line("".join(parts))


class InvalidInstanceData(ValueError):  # noqa: N818 - it says what is wrong already
    """Instance data that cannot be served; `faults` has every reason."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(map(str, self.faults)))


def describe(value: Any, key: Key = ()) -> str:
    """What was found, for a message: short, on one line, and without the text of secrets."""
    match value:
        case None:
            return "nothing"
        case str() | bytes() if key and key[0] in _SECRET:
            return f"{len(value):,} {'bytes' if isinstance(value, bytes) else 'characters'}"
        case bool() | int() | float() | str():
            text = repr(value)
            return text if len(text) <= 80 else f"{text[:60]}... ({len(text):,} characters)"
        case bytes():
            return f"{len(value):,} bytes"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def nearest(name: str, known: Iterable[str]) -> str:
    """What was expected in place of an unknown name: the nearest one, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"{close[0]!r}" if close else f"one of {', '.join(known)}"
