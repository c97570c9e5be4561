"""What a line owes its guest, as a value that another process can go on with. Pure.

Heard is what a session has received and not passed on, Unanswered what a dialogue has not sent.
A guest that goes on with both elsewhere gets the same bytes as if it had stayed.

The bytes: a version and flags, then each part with its length or count before it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from vmw_cloudinit_metadata.protocol.packet import (
    MAX_LINE_BYTES,
    NO_HALF_LINE,
    WITH_ARGUMENT,
    GuestRequest,
    HalfLine,
)

VERSION = 2

# What one line may owe: these are the limits of a session and of a dialogue. A guest asks for one
# document after the other; there is room for one that asks for all of them, again and again.
MAX_UNIDENTIFIED = 64
MAX_REQUESTS = 1024
MAX_ARGUMENTS_BYTES = 4096  # of the requests of a session, and again of those of a dialogue
MAX_UNSENT_BYTES = 2 * 1024 * 1024  # 64 KiB and the longest answer, which base64 makes longer
MAX_AGE_MS = 2**32 - 1

_IS_OVERLONG, _OWES_LINE_FEED, _HAS_LOST = _FLAGS = (1, 2, 4)

_DOCUMENT = re.compile(rb"[A-Z_]{0,64}")
_PACKETS = re.compile(rb"(?:[A-Za-z0-9+/=!#_\n]*\n)?")
_LINE_END = re.compile(rb"[\r\n]")


class InvalidOwedError(ValueError):
    """These are not the bytes of a value; says what is wrong, and quotes nothing of them."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a session has received of its guest, and not passed on to its owner."""

    half_line: HalfLine = NO_HALF_LINE
    requests: tuple[GuestRequest, ...] = ()  # they wait for the VM to be identified


@dataclass(frozen=True, slots=True)
class Unanswered:
    """What a dialogue has not sent to its guest."""

    requests: tuple[tuple[GuestRequest, int], ...] = ()  # each with its age in ms
    unsent: bytes = b""  # answers; of the first only the part that was not sent
    owes_line_feed: bool = False  # before the next answer
    has_lost: bool = False  # requests, since all were answered


@dataclass(frozen=True, slots=True)
class Owed:
    """What a line owes its guest."""

    heard: Heard = field(default_factory=Heard)
    unanswered: Unanswered = field(default_factory=Unanswered)

    def to_bytes(self) -> bytes:
        """Return the bytes from which `from_bytes` makes this value."""
        heard, unanswered = self.heard, self.unanswered
        flags = (
            heard.half_line.is_overlong * _IS_OVERLONG
            | unanswered.owes_line_feed * _OWES_LINE_FEED
            | unanswered.has_lost * _HAS_LOST
        )
        return b"".join(
            (
                struct.pack("!BBH", VERSION, flags, len(heard.half_line.begun)),
                heard.half_line.begun,
                struct.pack("!H", len(heard.requests)),
                *map(_request, heard.requests),
                struct.pack("!H", len(unanswered.requests)),
                *(
                    _request(request) + struct.pack("!I", age)
                    for request, age in unanswered.requests
                ),
                struct.pack("!I", len(unanswered.unsent)),
                unanswered.unsent,
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Owed:
        """Return the value that `to_bytes` wrote; raise InvalidOwedError for anything else."""
        return cls.read(Cursor(data))

    @classmethod
    def read(cls, cursor: Cursor) -> Owed:
        """Return the value that makes up all the rest; raise InvalidOwedError."""
        version, flags = cursor.number("!B"), cursor.number("!B")
        if version != VERSION or flags > sum(_FLAGS):
            raise InvalidOwedError("another version")
        begun = cursor.bytes_of("half line", cursor.number("!H"), MAX_LINE_BYTES)
        if _LINE_END.search(begun) or (begun and flags & _IS_OVERLONG):
            raise InvalidOwedError("half line: not one that the server keeps")
        heard = Heard(
            HalfLine(begun, bool(flags & _IS_OVERLONG)),
            tuple(cursor.request() for _ in range(cursor.count(MAX_UNIDENTIFIED))),
        )
        requests = tuple(
            (cursor.request(), cursor.number("!I")) for _ in range(cursor.count(MAX_REQUESTS))
        )
        _limit_arguments(heard.requests)
        _limit_arguments([request for request, _ in requests])
        unsent = cursor.bytes_of("unsent answers", cursor.number("!I"), MAX_UNSENT_BYTES)
        if not _PACKETS.fullmatch(unsent):
            raise InvalidOwedError("unsent answers: not the end of packets")
        if cursor.rest:
            raise InvalidOwedError("more bytes than it has parts")
        owes, has_lost = bool(flags & _OWES_LINE_FEED), bool(flags & _HAS_LOST)
        return cls(heard, Unanswered(requests, unsent, owes, has_lost))


def aged(
    requests: Sequence[tuple[GuestRequest, float]], now_s: float
) -> tuple[tuple[GuestRequest, int], ...]:
    """Return requests with their ages in ms, from those with the times of their arrival."""
    return tuple(
        (request, min(max(int((now_s - asked_s) * 1000), 0), MAX_AGE_MS))
        for request, asked_s in requests
    )


def _request(request: GuestRequest) -> bytes:
    document, argument = request
    name = bytes([len(document)]) + document.encode()
    return name + struct.pack("!H", len(argument)) + argument


def _limit_arguments(requests: Sequence[GuestRequest]) -> None:
    if sum(len(argument) for _, argument in requests) > MAX_ARGUMENTS_BYTES:
        raise InvalidOwedError(f"arguments: more than {MAX_ARGUMENTS_BYTES:,} bytes")


class Cursor:
    """Reads parts of bytes, one after the other; raises InvalidOwedError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def rest(self) -> int:
        return len(self._data) - self._at

    def number(self, form: str) -> int:
        size = struct.calcsize(form)
        (number,) = struct.unpack(form, self.bytes_of("number", size, size))
        return int(number)

    def count(self, limit: int) -> int:
        count = self.number("!H")
        if count > limit:
            raise InvalidOwedError(f"more than {limit} requests")
        return count

    def bytes_of(self, what: str, size: int, limit: int) -> bytes:
        if size > limit:
            raise InvalidOwedError(f"{what}: more than {limit:,} bytes")
        if size > self.rest:
            raise InvalidOwedError(f"{what}: incomplete")
        begin, self._at = self._at, self._at + size
        return self._data[begin : self._at]

    def request(self) -> GuestRequest:
        name = self.bytes_of("document", self.number("!B"), 64)
        if not _DOCUMENT.fullmatch(name):
            raise InvalidOwedError("document: not a name of one")
        document = name.decode()
        argument = self.bytes_of("argument", self.number("!H"), MAX_LINE_BYTES)
        if argument and document not in WITH_ARGUMENT:
            raise InvalidOwedError("argument: of a document that takes none")
        return GuestRequest(document, argument)
