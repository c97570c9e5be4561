"""The packets of the serial line: one per line, `!!` CODE `#` BASE64.

A serial line is noisy: it carries kernel messages, login prompts, half a request from before a
reboot, and echoes of the server's answers. Everything but packets is ignored. Pure.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from vmw_cloudinit_metadata.protocol.nearrequest import NearRequest, near_request

# A request has some 20 bytes; the rest is room for the noise that may stand before it.
MAX_LINE_BYTES = 4096

REQUEST = "REQUEST_"
RESPONSE = "RESPONSE_"

# Requests of these are sent with an argument; that of another request is ignored.
WITH_ARGUMENT: frozenset[str] = frozenset({"IDENTITY", "STATUS"})

# What RESPONSE_ERROR can say.
ErrorCode = Literal[
    "not-found", "invalid", "failed", "timeout", "unknown-request", "refused", "used", "closed"
]

_REPEATED_BYTES = 64  # guests repeat a few short lines; longer ones are not cached

_LINE_END = re.compile(rb"[\r\n]")
_PACKET = re.compile(rb"!!([A-Z_]{1,64})#([A-Za-z0-9+/]*={0,2})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Packet:
    code: str  # "REQUEST_METADATA"
    body: bytes = b""

    @property
    def requests(self) -> str | None:
        """The document that this packet requests ("METADATA"), or None."""
        return self.code.removeprefix(REQUEST) if self.code.startswith(REQUEST) else None


class GuestRequest(NamedTuple):
    """What a guest requests."""

    document: str  # "METADATA"
    argument: bytes = b""  # of a document that takes one


Asked = GuestRequest | NearRequest | None  # by a line


def parse(line: bytes) -> Packet | None:
    """Return the packet on a line, or None. In a noisy line it begins at the last `!!`."""
    match = _PACKET.fullmatch(line[max(line.rfind(b"!!"), 0) :].rstrip(b" \t\0"))
    if match is None:
        return None
    try:
        return Packet(match[1].decode(), base64.b64decode(match[2], validate=True))
    except binascii.Error:
        return None


def requested(line: bytes) -> Asked:
    """Return what the packet on a line requests, what a line without a packet almost is, or
    None."""
    return _short_requested(line) if len(line) <= _REPEATED_BYTES else _requested(line)


def _requested(line: bytes) -> Asked:
    received = parse(line)
    document = received.requests if received else None
    if received is None or document is None:
        return near_request(line)
    return GuestRequest(document, received.body if document in WITH_ARGUMENT else b"")


# The lines of a flood arrive cut at any place: 14 % of what one costs.
_short_requested = lru_cache(maxsize=256)(_requested)


def serialize(packet: Packet) -> bytes:
    body = binascii.b2a_base64(packet.body, newline=False)
    return b"!!%s#%s\n" % (packet.code.encode(), body)


def body_of(serialized: bytes) -> bytes:
    """Return the body of a packet that `serialize` has made."""
    return binascii.a2b_base64(serialized.partition(b"#")[2])


@dataclass(frozen=True, slots=True)
class HalfLine:
    """A line without its end."""

    begun: bytes = b""
    is_overlong: bool = False  # it is dropped: what was received of it, and what follows


NO_HALF_LINE = HalfLine()


class LineSplitter:
    """Cuts a stream into lines that end with LF, CR, CR LF or LF CR; ignores blank lines.

    A line of more than `max_line_bytes` is dropped while it arrives, and counted in `overlong`.
    """

    __slots__ = ("_dropping", "_limit", "_tail", "overlong")

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._limit = max_line_bytes
        self._tail = b""
        self._dropping = False
        self.overlong = 0

    def receive_data(self, data: bytes) -> Sequence[bytes]:
        """Return the lines that `data` completes, without their ends."""
        if not _LINE_END.search(data):
            self._keep(data)
            return []
        *ended, self._tail = _LINE_END.split(self._tail + data)
        lines = [line for line in ended if self._fits(line)]
        self._keep(b"")
        return [line for line in lines if line]

    def requests(self, data: bytes) -> Sequence[Asked]:
        """Return, for each line that `data` completes, what it requests."""
        is_short = len(data) <= _REPEATED_BYTES <= self._limit
        if is_short and data.endswith(b"\n") and not self._tail and not self._dropping:
            return requests_of(data)
        return [requested(line) for line in self.receive_data(data)]

    @property
    def half_line(self) -> HalfLine:
        """The incomplete line."""
        return HalfLine(self._tail, self._dropping)

    def resume(self, half_line: HalfLine) -> None:
        """Continue within this line, instead of one that has begun here."""
        self._tail, self._dropping = half_line.begun, half_line.is_overlong

    @property
    def has_begun(self) -> bool:
        """Whether there is an incomplete line."""
        return bool(self._tail) or self._dropping

    def _keep(self, data: bytes) -> None:
        if self._dropping:
            return
        self._tail += data
        if len(self._tail) > self._limit:
            self.overlong += 1
            self._dropping = True
            self._tail = b""

    def _fits(self, line: bytes) -> bool:
        if self._dropping:  # this was the rest of a line that is dropped
            self._dropping = False
            return False
        if len(line) > self._limit:
            self.overlong += 1
            return False
        return True


@lru_cache(maxsize=256)  # 4.8 % of a cached boot
def requests_of(data: bytes) -> Sequence[Asked]:
    """Return what the lines of `data` request; `data` ends with the end of a line."""
    return tuple(requested(line) for line in _LINE_END.split(data) if line)
