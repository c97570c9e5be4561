"""What the process of the catalogue sends of the answers that it prepares. No I/O.

Each is a line of JSON among the records of the catalogue (catalogue/records.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

import ujson

from vmw_cloudinit_metadata.drivers import preparation

MAX_LINE_BYTES = 64 * 1024
# Data that may be kept for a shorter time is not prepared: the next survey begins later.
LEAST_S = 60.0
_STEM_CHARACTERS = 255

KINDS = ("prepared", "unprepared", "gone", "lasting", "warmed")


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
class Lasting:
    """All that was sent, or will be in this survey, may be given until then.

    Without this record, it may be for as long as no change is told. `too_short` lines are not sent,
    since their data may not be kept for `LEAST_S`.
    """

    until_s: float  # of time.monotonic(), which all processes share
    too_short: int = 0


@dataclass(frozen=True, slots=True)
class Warmed:
    """All data was prepared, or sent as not prepared, with these layers: path and `match`.

    None: everything that was sent is to be forgotten.
    """

    layers: Sequence[tuple[str, Any]] | None


PreparedRecord = Prepared | Gone | Lasting | Warmed


def of_unprepared(stem: str) -> bytes:
    return _line({"kind": "unprepared", "stem": stem})


def of_gone(stem: str) -> bytes:
    return _line({"kind": "gone", "stem": stem})


def of_lasting(lasting: Lasting) -> bytes:
    until_s = None if lasting.until_s == inf else lasting.until_s
    return _line({"kind": "lasting", "until_s": until_s, "too_short": lasting.too_short})


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
        case {"kind": "lasting", "until_s": None | float() as until_s, "too_short": int(count)}:
            return Lasting(inf if until_s is None else until_s, count)
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
