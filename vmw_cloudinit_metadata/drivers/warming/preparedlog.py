"""PreparedLog: what is prepared for several processes, kept once.

It is a file in memory, which the parent makes before it forks. The parent appends an entry for each
call of PreparedKeeper; each worker reads the entries (PreparedLogReader) and makes the same calls
of its own, with the place of a line instead of the line. The parent waits for no worker: whether
one has noted its revision in time is seen by the clock, which they share.

If everything is to be forgotten, or the file is full, a new generation begins at the start of the
file. A reader looks at the generation after each read: what it has read of another one is no entry.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import ujson

from vmw_cloudinit_metadata.drivers.preparedanswers import PreparedKeeper
from vmw_cloudinit_metadata.drivers.preparedrecords import (
    Gone,
    Lasting,
    Prepared,
    PreparedRecord,
    Warmed,
    decoded,
    of_lasting,
)

# From the entry until a worker must have noted its revision: far more than it takes, since one that
# is late has nothing until the next survey.
NOTED_S = 1.5
BEGINS_S = 2.0  # then a survey may read

_STEM_BYTES = 100  # of the parent's memory
_PIECE_BYTES = 256 * 1024  # read in one turn of a worker; longer than any entry

_HEAD = struct.Struct("<QQ")  # the generation, and the end of its last entry
_ENTRY = struct.Struct("<BHI")  # its kind, the bytes of a stem, and of what follows
_TIME = struct.Struct("<d")

_SURROGATES = "surrogatepass"  # what JSON may have is kept


class _Kind:
    """The kinds of entries: what is called."""

    WAKE, BEGIN, PREPARED, UNPREPARED, GONE, LASTING, WARMED = b"wbpugtl"


class FollowedLog(NamedTuple):
    """What a worker needs of the log."""

    file: int
    limit_bytes: int


class PreparedLog(PreparedKeeper):
    """The parent's side: writes."""

    begins_after_s = BEGINS_S

    def __init__(self, limit_bytes: int, file: int | None = None) -> None:
        """Begin anew in the file of the program before an upgrade, which workers follow, or in a
        new one. Raises OSError."""
        self.limit_bytes = limit_bytes
        self.file = os.memfd_create("prepared answers") if file is None else file
        self._generation = self._end = 0
        if file is not None:
            self._generation, _ = PreparedLogReader(file).head()
        self._stems: set[str] = set()  # with a line
        self._is_whole = False  # a survey has ended in this generation
        self._is_closed = False  # for what is prepared, until everything is sent anew
        self._is_too_small = False  # for the changes of much data, and asks for everything
        self._restart()

    @property
    def followed(self) -> FollowedLog:
        return FollowedLog(self.file, self.limit_bytes)

    @property
    def line_bytes(self) -> int:
        """The rest has room for changes: each is a further line."""
        return self.limit_bytes // 2

    @property
    def kept_bytes(self) -> int:
        return self._end + len(self._stems) * _STEM_BYTES

    @property
    def count(self) -> int:
        return len(self._stems)

    def shed(self) -> bool:
        if self._is_closed:
            return False
        self._close()
        return True

    def forget(self) -> None:
        self._is_closed = False
        self._restart()

    def wake(self) -> None:
        self._write(_Kind.WAKE)

    def begin(self, until_s: float = inf) -> None:
        in_time_s = time.monotonic() + NOTED_S
        self._write(_Kind.BEGIN, rest=_TIME.pack(min(until_s, in_time_s)))

    def take(self, record: PreparedRecord) -> None:
        if self._is_closed and record != Warmed(None):
            return
        match record:
            case Prepared(stem, bytes(line)):
                self._stems.add(stem)
                self._write(_Kind.PREPARED, stem, line)
            case Prepared(stem, _):
                self._write(_Kind.UNPREPARED, stem)
                self._stems.discard(stem)
            case Gone(stem):
                self._write(_Kind.GONE, stem)
                self._stems.discard(stem)
            case Lasting():
                self._write(_Kind.LASTING, rest=of_lasting(record))
            case Warmed(None):
                self.forget()
            case Warmed(layers):
                self._write(_Kind.WARMED, rest=ujson.dumps(layers).encode())
                self._is_whole = not self._is_closed

    def wants_everything(self) -> bool:
        is_too_small, self._is_too_small = self._is_too_small, False
        return is_too_small

    def _write(self, kind: int, stem: str = "", rest: bytes = b"") -> None:
        name = stem.encode(errors=_SURROGATES)
        entry = _ENTRY.pack(kind, len(name), len(rest)) + name + rest
        if self._end + len(entry) > self.limit_bytes:
            self._is_too_small = self._is_whole  # else it would be so again
            self._close()
            return
        self._put(entry, self._end)
        self._end += len(entry)
        self._put_head()

    def _close(self) -> None:
        self._is_closed = True
        self._restart()

    def _restart(self) -> None:
        self._generation += 1
        self._end = _HEAD.size
        self._is_whole = False
        self._stems.clear()
        self._put_head()  # before what readers of another generation may still read is gone
        os.ftruncate(self.file, self._end)

    def _put_head(self) -> None:
        self._put(_HEAD.pack(self._generation, self._end), 0)

    def _put(self, content: bytes, place: int) -> None:
        if os.pwrite(self.file, content, place) != len(content):
            raise OSError("no memory for prepared answers")


@dataclass(frozen=True, slots=True)
class PlaceInLog:
    """Where the line of an entry is."""

    reader: PreparedLogReader
    generation: int
    start: int
    length: int

    def read(self) -> bytes | None:
        """Return the line; None if the log has forgotten it."""
        line = os.pread(self.reader.file, self.length, self.start)
        return line if self.reader.head()[0] == self.generation else None


class PreparedLogReader:
    """A worker's side: makes the calls that the parent has written."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._generation = self._next = 0

    def head(self) -> tuple[int, int]:
        """Return the generation of the log, and its end."""
        generation, end = _HEAD.unpack(os.pread(self.file, _HEAD.size, 0))
        return generation, end

    def follow(self, keeper: PreparedKeeper) -> None:
        """Make the calls that were written since; some of them if they are many."""
        generation, end = self.head()
        if generation != self._generation:
            self._generation, self._next = generation, _HEAD.size
            keeper.take(Warmed(None))
        piece = os.pread(self.file, min(end - self._next, _PIECE_BYTES), self._next)
        if piece and self.head()[0] == generation:
            self._next += self._make_calls(piece, keeper)

    def _make_calls(self, piece: bytes, keeper: PreparedKeeper) -> int:
        """Make the calls of all entries that are whole; return their bytes."""
        start = 0
        while start + _ENTRY.size <= len(piece):
            kind, name_bytes, rest_bytes = _ENTRY.unpack_from(piece, start)
            name_at = start + _ENTRY.size
            rest_at = name_at + name_bytes
            if rest_at + rest_bytes > len(piece):
                break
            stem = piece[name_at:rest_at].decode(errors=_SURROGATES)
            if kind == _Kind.PREPARED:
                place = PlaceInLog(self, self._generation, self._next + rest_at, rest_bytes)
                keeper.take(Prepared(stem, place))
            else:
                _make_call(kind, stem, piece[rest_at : rest_at + rest_bytes], keeper)
            start = rest_at + rest_bytes
        return start


def _make_call(kind: int, stem: str, rest: bytes, keeper: PreparedKeeper) -> None:
    match kind:
        case _Kind.WAKE:
            keeper.wake()
        case _Kind.BEGIN:
            keeper.begin(*_TIME.unpack(rest))
        case _Kind.UNPREPARED:
            keeper.take(Prepared(stem, None))
        case _Kind.GONE:
            keeper.take(Gone(stem))
        case _Kind.LASTING:
            keeper.take(decoded(ujson.loads(rest), rest))
        case _Kind.WARMED:
            layers: Sequence[tuple[str, object]] = [tuple(one) for one in ujson.loads(rest)]
            keeper.take(Warmed(layers))
