"""What the process of the catalogue sends of the answers that it prepares. No I/O.

Each is a line of JSON among the records of the catalogue (catalogue/records.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ujson

from vmw_cloudinit_metadata.drivers import preparation

MAX_LINE_BYTES = 64 * 1024
_STEM_CHARACTERS = 255

KINDS = ("prepared", "unprepared", "gone", "warmed")


class InvalidRecord(ValueError):  # noqa: N818 - what a record is
    """A line that the process never sends."""


class Place(Protocol):
    """Where a line is kept for several processes."""

    def read(self) -> bytes | None:
        """Return the line; None if it is gone."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The data under a stem, as the line that came (preparation.py); None: it is not prepared."""

    stem: str
    line: bytes | Place | None


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no data under a stem any more."""

    stem: str


@dataclass(frozen=True, slots=True)
class Warmed:
    """All data was prepared, or sent as not prepared, with these layers: path and `match`.

    None: everything that was sent is to be forgotten.
    """

    layers: Sequence[tuple[str, Any]] | None


PreparedRecord = Prepared | Gone | Warmed


def of_unprepared(stem: str) -> bytes:
    return _line({"kind": "unprepared", "stem": stem})


def of_gone(stem: str) -> bytes:
    return _line({"kind": "gone", "stem": stem})


def of_warmed(layers: Sequence[tuple[str, Any]] | None) -> bytes:
    """Return the record; without layers if JSON changes their `match`, or it is too long."""
    try:
        line = _line({"kind": "warmed", "layers": layers})
        is_same = layers is None or ujson.loads(line)["layers"] == list(map(list, layers))
    except (TypeError, ValueError, OverflowError):
        is_same = False
    return line if is_same and len(line) <= MAX_LINE_BYTES else of_warmed(None)


def _line(record: Mapping[str, Any]) -> bytes:
    return ujson.dumps(record, escape_forward_slashes=False).encode() + b"\n"


def decoded(found: Mapping[str, Any], line: bytes) -> PreparedRecord:
    """Return the record that a parsed line is; raise InvalidRecord."""
    match found:
        case {"kind": "prepared", "stem": str(stem), "data": data} if preparation.is_valid(data):
            return Prepared(_stem(stem), line)
        case {"kind": "unprepared", "stem": str(stem)}:
            return Prepared(_stem(stem), None)
        case {"kind": "gone", "stem": str(stem)}:
            return Gone(_stem(stem))
        case {"kind": "warmed", "layers": None}:
            return Warmed(None)
        case {"kind": "warmed", "layers": list(layers)}:
            return Warmed([_layer(one) for one in layers])
    raise InvalidRecord("a prepared answer that is none")


def _stem(stem: str) -> str:
    if len(stem) > _STEM_CHARACTERS:
        raise InvalidRecord("a name that is too long")
    return stem


def _layer(found: object) -> tuple[str, Any]:
    match found:
        case [str(path), condition]:
            return path, condition
    raise InvalidRecord("a layer that is none")
