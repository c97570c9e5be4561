"""Telnet, RFC 854 and RFC 855: bytes <-> events.

`Decoder.receive_data` turns what a peer sends into `Data`, `Negotiation`, `Subnegotiation` and
`Malformed`, however the bytes are cut. The functions below it encode the other direction. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

from vmw_cloudinit_metadata.protocol.state import (
    FLAG,
    Form,
    InvalidState,
    Stateful,
    octets,
    written,
)

SE, NOP, GA, SB, IAC = 240, 241, 249, 250, 255
IAC_BYTE = bytes([IAC])
DOUBLED = bytes([IAC, IAC])
_QUERY = ord("?")  # of a service URI
_BEGIN, _END = bytes([IAC, SB]), bytes([IAC, SE])

# The longest legitimate one is a VM-NAME or a service URI of some hundred bytes.
MAX_SUBNEGOTIATION_BYTES = 4096

# Longer segments do not repeat, and are not cached: the four answers of a VM have some 190 bytes.
_REPEATED_BYTES = 128


class Verb(IntEnum):
    WILL = 251
    WONT = 252
    DO = 253
    DONT = 254


class Option:
    """The numbers of telnet options."""

    BINARY = 0
    ECHO = 1
    SGA = 3
    AUTHENTICATION = 37
    COM_PORT = 44
    VMWARE_TELNET_EXT = 232


class Data(NamedTuple):
    """Bytes of the stream, with doubled IACs undone."""

    payload: bytes


class Negotiation(NamedTuple):
    verb: Verb
    option: int


class Subnegotiation(NamedTuple):
    option: int
    payload: bytes


class Malformed(NamedTuple):
    """Bytes that are not telnet, or too many of them."""

    kind: str  # one of a few fixed texts


Event = Data | Negotiation | Subnegotiation | Malformed
Events = Sequence[Event]


def _write_event(event: Event) -> list[Any]:
    kind = next(kind for kind, made in _EVENTS.items() if isinstance(event, made))
    parts = event._asdict()
    if "payload" in parts:
        parts["payload"] = written(parts["payload"])
    return [kind, *parts.values()]


def _read_event(value: Any) -> Event:
    match value:
        case ["data", payload]:
            return Data(_PAYLOAD.read(payload))
        case ["negotiation", int(verb), int(option)] if verb in list(Verb) and 0 <= option < 256:
            return Negotiation(Verb(verb), option)
        case ["subnegotiation", int(option), payload] if 0 <= option < 256:
            return Subnegotiation(option, _PAYLOAD.read(payload))
        case ["malformed", str(kind)]:
            return Malformed(kind)
    raise InvalidState("an event of an unknown kind")


_EVENTS = {
    "data": Data,
    "negotiation": Negotiation,
    "subnegotiation": Subnegotiation,
    "malformed": Malformed,
}
_PAYLOAD = octets(MAX_SUBNEGOTIATION_BYTES)
EVENT = Form(None, _write_event, _read_event)


class Decoder(Stateful):
    """Decodes one direction of one connection. Never raises; keeps at most one subnegotiation.

    One grammar has a row for each kind of thing that a peer can send. Something incomplete is kept
    and read again with the next bytes. Of a subnegotiation only its beginning and end are read
    again: one that arrives byte by byte would be read a thousand times otherwise.
    """

    __slots__ = ("_limit", "_overlong", "_payload", "begun")
    STATE: ClassVar = {
        "begun": octets(3),
        "_payload": octets(MAX_SUBNEGOTIATION_BYTES),
        "_overlong": FLAG,
    }

    def __init__(self, max_subnegotiation_bytes: int = MAX_SUBNEGOTIATION_BYTES) -> None:
        self._limit = max_subnegotiation_bytes
        self.begun = b""  # what is not complete
        self._payload = b""  # of the subnegotiation that has begun
        self._overlong = False  # it is too long

    def receive_data(self, data: bytes) -> Events:
        """Return the events that `data` completes, in order."""
        known: Events | None = None
        if not self.begun and IAC not in data:  # a number: bytes take ten times as long to find
            known = [Data(data)] if data else []
        elif not self.begun and len(data) <= _REPEATED_BYTES:
            if _QUERY in data:
                return self._decode_own(data)
            known = events_of(data, self._limit)
        return self.decode(data) if known is None else known

    def _decode_own(self, data: bytes) -> Events:
        """Decode a segment that no other VM sends, but for its beginning: a query can have a token.

        To keep its events would take longer than to decode it.
        """
        repeated, begin, own = data.rpartition(_BEGIN)
        known = events_of(repeated, self._limit)
        return self.decode(data) if known is None else [*known, *self.decode(begin + own)]

    def decode(self, data: bytes) -> list[Event]:
        data, self.begun = self.begun + data, b""
        events: list[Event] = []
        for match in _GRAMMAR.finditer(data):
            row = match.lastindex or 0
            events += _MEANINGS[row](self, match[row])
        return events

    # The meanings of the rows: each returns the events of what has matched

    def _plain(self, payload: bytes) -> Events:
        return (Data(payload),)

    def _negotiation(self, command: bytes) -> Events:
        return (_NEGOTIATIONS[command],)

    def _subnegotiation(self, content: bytes) -> Events:
        if self._payload or self._overlong or IAC in content or len(content) > self._limit:
            malformed = self._keep(content)
            content, is_overlong = self._take()
            if is_overlong:
                return malformed
        if not content:
            return (Malformed("subnegotiation without an option"),)
        return (Subnegotiation(content[0], content[1:]),)

    def _unterminated(self, content: bytes) -> Events:
        """Drop a subnegotiation without an end; the command inside it counts."""
        malformed = self._keep(content)
        self._take()
        return (*malformed, Malformed("unterminated subnegotiation"))

    def _command(self, code: bytes) -> Events:
        return () if NOP <= code[0] <= GA else (Malformed("unknown telnet command"),)

    def _begun_subnegotiation(self, content: bytes) -> Events:
        self.begun = _BEGIN
        return self._keep(content)

    def _begun_end(self, content: bytes) -> Events:
        self.begun = _BEGIN + IAC_BYTE
        return self._keep(content)

    def _begun_command(self, command: bytes) -> Events:
        self.begun = command
        return ()

    def _keep(self, content: bytes) -> Events:
        """Add to the payload; drop one that is too long, and report that once."""
        if self._overlong:
            return ()
        self._payload += content.replace(DOUBLED, IAC_BYTE)
        if len(self._payload) <= self._limit:
            return ()
        self._payload, self._overlong = b"", True
        return (Malformed("subnegotiation too long"),)

    def _take(self) -> tuple[bytes, bool]:
        """Return the payload, and whether it was too long; start the next one."""
        taken = self._payload, self._overlong
        self._payload, self._overlong = b"", False
        return taken


@lru_cache(maxsize=256)  # 4.2 % of a cached boot: hosts begin with the same few segments
def events_of(data: bytes, limit: int) -> Events | None:
    """Return the events of `data` alone, or None if it ends within an event."""
    decoder = Decoder(limit)
    events = decoder.decode(data)
    return None if decoder.begun else events


_NEGOTIATIONS = {
    bytes([verb, option]): Negotiation(verb, option) for verb in Verb for option in range(256)
}

_IN_SB = rb"\xff\xfa((?:[^\xff]++|\xff\xff)*+)"  # RFC 855: IAC is doubled inside SB

_ROWS: tuple[tuple[bytes, Callable[[Decoder, bytes], Events]], ...] = (
    (rb"([^\xff]+)", Decoder._plain),
    (rb"\xff([\xfb-\xfe].)", Decoder._negotiation),
    (_IN_SB + rb"\xff\xf0", Decoder._subnegotiation),
    (_IN_SB + rb"(?=\xff[^\xf0])", Decoder._unterminated),
    (rb"\xff(\xff)", Decoder._plain),
    (rb"\xff([^\xfa-\xfe])", Decoder._command),
    # At the end of what is there:
    (_IN_SB + rb"\Z", Decoder._begun_subnegotiation),
    (_IN_SB + rb"\xff\Z", Decoder._begun_end),
    (rb"(\xff[\xfb-\xfe]?)", Decoder._begun_command),
)
_GRAMMAR = re.compile(b"|".join(pattern for pattern, _ in _ROWS), re.DOTALL)
_MEANINGS = {row: meaning for row, (_, meaning) in enumerate(_ROWS, 1)}


class NvtDecoder(Stateful):
    """Undoes RFC 854's CR NUL where BINARY is off; CR LF is a line end as it stands."""

    __slots__ = ("_after_cr",)
    STATE: ClassVar = {"_after_cr": FLAG}

    def __init__(self) -> None:
        self._after_cr = False

    def receive_data(self, data: bytes) -> bytes:
        if not data:
            return data
        if self._after_cr and data.startswith(b"\0"):
            data = data[1:]
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\0", b"\r")


_NVT_NEWLINES = {b"\r\n": b"\r\n", b"\n": b"\r\n", b"\r": b"\r\0"}


def encode_data(data: bytes, *, binary: bool) -> bytes:
    """Return `data` encoded: IAC doubled and, where BINARY is off, newlines by the NVT's rules."""
    if not binary:
        data = re.sub(rb"\r\n|\n|\r", lambda newline: _NVT_NEWLINES[newline[0]], data)
    return data.replace(IAC_BYTE, DOUBLED)


def encode_negotiation(negotiation: Negotiation) -> bytes:
    return _COMMANDS[negotiation.verb, negotiation.option]


def encode_subnegotiation(subnegotiation: Subnegotiation) -> bytes:
    payload = bytes([subnegotiation.option]) + subnegotiation.payload
    return _BEGIN + payload.replace(IAC_BYTE, DOUBLED) + _END


_COMMANDS = {(verb, option): bytes([IAC, verb, option]) for verb in Verb for option in range(256)}
