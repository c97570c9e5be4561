"""Faults: what is wrong with instance data or settings, and where. Pure."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vmw_cloudinit_metadata.instance import secrecy
from vmw_cloudinit_metadata.instance.counts import amount, characters
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened

Key = secrecy.Key

# More faults than these are usually one mistake, repeated.
MAX_FAULTS = 100
MAX_TEXT_BYTES = 8 * 1024  # of all faults joined: the text is kept, logged and shown

_SHORT_CHARACTERS = 80  # strings up to here are quoted whole
_QUOTED_CHARACTERS = 60  # so much is quoted of longer ones
_QUOTED_BITS = 256
_FOUND_CHARACTERS = 200
_EXPECTED_CHARACTERS = 600  # room for a list of all settings
_MORE = f"more than {MAX_FAULTS} faults"
_ODD_SPACES = ("Zs", "Cf")  # look like a space, or like nothing
_NAME_CHARACTERS = 64  # longer names are not compared: they resemble no known one


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault or warning. `line` counts from 1; 0 and an empty `file` mean "not from a file".

    `key` is as it was written and may contain a secret; `str` shows only what may be shown.
    """

    key: Key
    found: str
    expected: str
    file: str = ""
    line: int = 0
    column: int = 0  # from 1
    is_warning: bool = False
    is_absence: bool = False  # a key is missing, which is right in a file of defaults
    is_named: bool = False  # the key is unknown, but resembles a known one: it may be shown

    def __str__(self) -> str:
        """`web1.yaml:9: network.gateway: found '10.0.0.1', expected an address in 10.1.0.0/24`"""
        return self.text(secrecy.NAMES)

    def text(self, names: Collection[str]) -> str:
        """Return the message, which shows only the keys `names`."""
        place = ":".join([self.file, *(str(n) for n in (self.line, self.column) if n)])
        key = secrecy.shown(self.key, names, with_last=self.is_named)
        parts = (
            f"{place}: " if place else "",
            "warning: " if self.is_warning else "",
            f"{key}: " if key else "",
            f"found {shortened(self.found, _FOUND_CHARACTERS)}, ",
            f"expected {shortened(self.expected, _EXPECTED_CHARACTERS)}",
        )
        return one_line("".join(parts))

    def hides_key(self, names: Collection[str] = secrecy.NAMES) -> bool:
        """Return whether `text` hides a part of the key."""
        shown = secrecy.shown(self.key, names, with_last=self.is_named)
        return shown != ".".join(map(str, self.key))


class Faults:
    """Collects the first MAX_FAULTS faults, and whether there are more."""

    def __init__(self) -> None:
        self.found: list[Fault] = []
        self.has_more = False

    def add(self, fault: Fault) -> None:
        if len(self.found) < MAX_FAULTS and fault.found != _MORE:
            self.found.append(fault)
        else:
            self.has_more = True

    def extend(self, faults: Iterable[Fault]) -> None:
        """Add as many as there is room for; an iterator is not read further."""
        for fault in faults:
            self.add(fault)
            if self.has_more:
                return

    def all(self) -> tuple[Fault, ...]:
        """Return each fault, and a last one if there are more."""
        if not self.has_more:
            return tuple(self.found)
        last = self.found[-1]
        more = Fault((), _MORE, "none: fix these first", last.file, last.line)
        return (*self.found, more)


class InvalidInstanceData(ValueError):  # noqa: N818 - a public name without "Error"
    """Raised for instance data that cannot be served; `faults` has up to MAX_FAULTS reasons."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = bounded(faults)
        super().__init__(joined(map(str, self.faults)))


def bounded(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """Return the first MAX_FAULTS, and a last one if there are more."""
    collected = Faults()
    faults = list(faults)
    collected.extend(fault for fault in faults if fault.found != _MORE)
    collected.has_more |= any(fault.found == _MORE for fault in faults)
    return collected.all()


def joined(texts: Iterable[str]) -> str:
    """Join texts with "; ", cut at MAX_TEXT_BYTES."""
    parts: list[str] = []
    room = MAX_TEXT_BYTES - len("; ...")
    for text in texts:
        part = text.encode("utf-8", "replace")
        if len(part) > room:
            parts.append(f"{part[:room].decode('utf-8', 'ignore')}..." if not parts else "...")
            break
        parts.append(text)
        room -= len(part) + len("; ")
    return "; ".join(parts)


def describe(value: Any, key: Key = ()) -> str:
    """Return the value found at `key` for a message: short, on one line, without secrets."""
    if secrecy.is_secret(key):
        return kind_of(value)
    match value:
        case str():
            return _text(value)
        case int() if value.bit_length() > _QUOTED_BITS:
            return f"a number of {amount(value.bit_length(), 'bit')}"
        case bool() | int() | float():
            return repr(value)
        case _:
            return kind_of(value)


def kind_of(value: Any) -> str:
    """Return what kind of value it is, without quoting it: for what may be a secret."""
    match value:
        case None:
            return "nothing"
        case str():
            return characters(len(value))
        case bytes():
            return amount(len(value), "byte")
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case dict() | Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def _text(text: str) -> str:
    if secrecy.is_secret_text(text):
        return f"a string of {characters(len(text))}"
    first, several_lines, _ = text.partition("\n")  # what follows belongs elsewhere: a secret, too
    start = repr(first[: _SHORT_CHARACTERS + 1])
    if len(start) <= _SHORT_CHARACTERS:
        return f"{start}... ({characters(len(text))})" if several_lines else start
    return f"{start[:_QUOTED_CHARACTERS]}... ({characters(len(text))})"


def unknown(key: Key, name: object, known: Iterable[str]) -> Fault:
    """Return the fault of an unknown key; `name` is its last part, as it was written."""
    text = str(name)
    close = _close(text, known := sorted(known))
    if close:
        return Fault(key, repr(text), repr(close), is_named=True)
    odd = next((c for c in text if c != " " and unicodedata.category(c) in _ODD_SPACES), None)
    if odd:
        expected = "plain spaces only (was it copied from a web page?)"
        return Fault(key, f"a key with the character U+{ord(odd):04X}", expected)
    found = f"an unknown key ({characters(len(text))})"
    return Fault(key, found, f"one of {', '.join(known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return what is expected in place of an unknown name: the nearest known one, or all."""
    known = sorted(known)
    close = _close(name, known)
    return repr(close) if close else f"one of {', '.join(known)}"


def _close(name: str, known: list[str]) -> str | None:
    if len(name) > _NAME_CHARACTERS:
        return None
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.6)), None)
