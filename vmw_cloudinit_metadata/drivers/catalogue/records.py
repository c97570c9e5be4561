"""What the process of the catalogue sends to the server: a record is a line of JSON. No I/O.

The server trusts no line: `decode` checks each, and what it returns is bounded. A further kind is a
class here, a function that encodes it, a case of `decode`, and a case of who takes the records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ujson

from vmw_cloudinit_metadata.drivers import preparedrecords
from vmw_cloudinit_metadata.drivers.catalogue.findings import Finding
from vmw_cloudinit_metadata.drivers.preparedrecords import (
    MAX_LINE_BYTES,
    InvalidRecord,
    PreparedRecord,
)
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened

_MAX_NUMBER = 2**53
_TEXTS = {"file": 1100, "key": 700, "found": 700, "expected": 700}  # most characters
_NUMBERS = ("line", "column", "count", "vm_count")
_LISTS = {"files": 1100, "vms": 300}  # most characters of one
_MAX_ITEMS = 100
_SEVERITIES = ("fault", "warning")
_TOTALS = ("vms", "layers", "faults", "warnings", "left_out")
_STATES = ("ok", "warning", "fault")


@dataclass(frozen=True, slots=True)
class Unable:
    """The driver cannot check its data."""


@dataclass(frozen=True, slots=True)
class Began:
    """A survey has begun."""


@dataclass(frozen=True, slots=True)
class Alive:
    """The process works, or waits."""

    checked: int = 0  # of the survey that is under way


@dataclass(frozen=True, slots=True)
class Found:
    """One finding: its keys and values, as checked."""

    finding: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A survey has ended; all of its findings have been sent."""

    files: Mapping[str, int]  # by state
    vms: int
    layers: int
    faults: int
    warnings: int
    left_out: int  # findings that were not sent
    seconds: float
    noun: str  # for what `files` counts


@dataclass(frozen=True, slots=True)
class Failed:
    """A survey has ended without a result."""

    reason: str


Record = Unable | Began | Alive | Found | Surveyed | Failed | PreparedRecord


def of_unable() -> bytes:
    return _line({"kind": "unable"})


def of_began() -> bytes:
    return _line({"kind": "began"})


def of_alive(checked: int = 0) -> bytes:
    return _line({"kind": "alive", "checked": checked})


def of_finding(finding: Finding) -> bytes:
    return _line({"kind": "found", "finding": finding.bounded_json()})


def of_done(done: Surveyed) -> bytes:
    names = ("files", *_TOTALS, "seconds", "noun")
    return _line({"kind": "done", **{name: getattr(done, name) for name in names}})


def of_failed(reason: str) -> bytes:
    return _line({"kind": "failed", "reason": shortened(reason)})


def _line(record: Mapping[str, Any]) -> bytes:
    return ujson.dumps(record, escape_forward_slashes=False).encode() + b"\n"


def decode(line: bytes) -> Record:
    """Parse a line; raise InvalidRecord, and nothing else, whatever the bytes are."""
    if len(line) > MAX_LINE_BYTES:
        raise InvalidRecord("a line that is too long")
    try:
        found = ujson.loads(line)
    except ValueError as error:
        raise InvalidRecord(f"invalid JSON ({len(line)} bytes)") from error
    match found:
        case {"kind": "unable"}:
            return Unable()
        case {"kind": "began"}:
            return Began()
        case {"kind": "alive", "checked": checked} if _is_count(checked):
            return Alive(checked)
        case {"kind": "failed", "reason": str(reason)}:
            return Failed(_text(reason, 1100))
        case {"kind": "found", "finding": dict(finding)}:
            return Found(_finding(finding))
        case {"kind": "done"}:
            return _done(found)
        case {"kind": str(kind)} if kind in preparedrecords.KINDS:
            return preparedrecords.decoded(found, line)
    raise InvalidRecord("an unknown record")


def _done(found: Mapping[str, Any]) -> Surveyed:
    numbers: dict[str, Any] = {name: found.get(name) for name in _TOTALS}
    files, seconds = found.get("files"), found.get("seconds")
    if not isinstance(files, dict) or sorted(files) != sorted(_STATES):
        raise InvalidRecord("files without their states")
    if not all(map(_is_count, (*numbers.values(), *files.values()))):
        raise InvalidRecord("a number that is no count")
    if not isinstance(seconds, int | float) or not 0 <= seconds < _MAX_NUMBER:
        raise InvalidRecord("a time that is none")
    return Surveyed(
        files={state: files[state] for state in _STATES},
        seconds=float(seconds),
        noun=_text(found.get("noun"), 20),
        **numbers,
    )


def _finding(found: Mapping[str, Any]) -> dict[str, Any]:
    if found.get("severity") not in _SEVERITIES:
        raise InvalidRecord("a finding without its severity")
    if not all(_is_count(found.get(name)) for name in _NUMBERS):
        raise InvalidRecord("a number that is no count")
    return {
        "severity": found["severity"],
        **{name: _text(found.get(name), most) for name, most in _TEXTS.items()},
        **{name: found[name] for name in _NUMBERS},
        **{name: _texts(found.get(name), most) for name, most in _LISTS.items()},
    }


def _texts(value: object, most: int) -> list[str]:
    if not isinstance(value, list) or len(value) > _MAX_ITEMS:
        raise InvalidRecord("a list that is none, or too long")
    return [_text(one, most) for one in value]


def _text(value: object, most: int) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise InvalidRecord("a text that is none, or too long")
    return one_line(value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_NUMBER
