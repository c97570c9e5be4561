"""Telnet, RFC 854 and RFC 855: bytes <-> events.

`Decoder.receive_data` turns what a peer sends into `Data`, `Negotiation`, `Subnegotiation` and
`Malformed`, whatever way the bytes are cut. The functions below it write the other direction. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

SE, NOP, GA, SB, IAC = 240, 241, 249, 250, 255
_IAC = bytes([IAC])

# The longest legitimate one is a VM-NAME or a service URI of some hundred bytes.
MAX_SUBNEGOTIATION_BYTES = 4096


class Verb(IntEnum):
    WILL = 251
    WONT = 252
    DO = 253
    DONT = 254


class Option(IntEnum):
    BINARY = 0
    ECHO = 1
    SGA = 3
    AUTHENTICATION = 37
    COM_PORT = 44
    VMWARE_TELNET_EXT = 232


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of the stream, with doubled IACs undone."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Negotiation:
    verb: Verb
    option: int


@dataclass(frozen=True, slots=True)
class Subnegotiation:
    option: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Malformed:
    """Bytes that are no telnet, or too many of them; `fault` is one of a few fixed texts."""

    fault: str


Event = Data | Negotiation | Subnegotiation | Malformed


class Decoder:
    """Decodes one direction of one connection. Never raises; keeps at most one subnegotiation.

    Its state is the step that reads what comes next.
    """

    def __init__(self, max_subnegotiation_bytes: int = MAX_SUBNEGOTIATION_BYTES) -> None:
        self._limit = max_subnegotiation_bytes
        self._step: _Step = Decoder._in_data
        self._verb = Verb.WILL
        self._payload = bytearray()  # option and payload of the subnegotiation under way
        self._overlong = False

    def receive_data(self, data: bytes) -> list[Event]:
        """Returns the events that `data` completes, in order."""
        if self.is_idle and _IAC not in data:
            return [Data(data)] if data else []
        events: list[Event] = []
        position = 0
        while position < len(data):
            position = self._step(self, data, position, events)
        return events

    @property
    def is_idle(self) -> bool:
        """Whether nothing has begun that is not complete."""
        return self._step is Decoder._in_data

    # Each step reads from `start` and returns the position behind what it has read.

    def _in_data(self, data: bytes, start: int, events: list[Event]) -> int:
        end = data.find(_IAC, start)
        if end < 0:
            end = len(data)
        else:
            self._step = Decoder._after_iac
        if end > start:
            events.append(Data(data[start:end]))
        return end + 1

    def _after_iac(self, data: bytes, start: int, events: list[Event]) -> int:
        self._step = Decoder._in_data
        match data[start]:
            case 255:
                events.append(Data(_IAC))
            case 251 | 252 | 253 | 254:
                self._verb = Verb(data[start])
                self._step = Decoder._in_option
            case 250:
                self._payload.clear()
                self._overlong = False
                self._step = Decoder._in_subnegotiation
            case command if not NOP <= command <= GA:
                events.append(Malformed("unknown telnet command"))
        return start + 1

    def _in_option(self, data: bytes, start: int, events: list[Event]) -> int:
        events.append(Negotiation(self._verb, data[start]))
        self._step = Decoder._in_data
        return start + 1

    def _in_subnegotiation(self, data: bytes, start: int, events: list[Event]) -> int:
        end = data.find(_IAC, start)
        if end < 0:
            end = len(data)
        else:
            self._step = Decoder._after_iac_in_subnegotiation
        self._keep(data[start:end], events)
        return end + 1

    def _after_iac_in_subnegotiation(self, data: bytes, start: int, events: list[Event]) -> int:
        match data[start]:
            case 255:  # RFC 855: IAC is doubled inside SB
                self._step = Decoder._in_subnegotiation
                self._keep(_IAC, events)
                return start + 1
            case 240:
                self._step = Decoder._in_data
                self._end_subnegotiation(events)
                return start + 1
            case _:  # the subnegotiation was never ended: drop it, and obey the command
                self._step = Decoder._after_iac
                events.append(Malformed("unterminated subnegotiation"))
                return start

    def _keep(self, payload: bytes, events: list[Event]) -> None:
        if self._overlong:
            return
        if len(self._payload) + len(payload) > self._limit:
            self._overlong = True
            self._payload.clear()
            events.append(Malformed("subnegotiation too long"))
            return
        self._payload += payload

    def _end_subnegotiation(self, events: list[Event]) -> None:
        if self._payload:
            events.append(Subnegotiation(self._payload[0], bytes(self._payload[1:])))
            self._payload.clear()
        elif not self._overlong:
            events.append(Malformed("subnegotiation without an option"))


_Step = Callable[[Decoder, bytes, int, list[Event]], int]


class NvtDecoder:
    """Undoes RFC 854's CR NUL where BINARY is off; CR LF is a line end as it stands."""

    def __init__(self) -> None:
        self._after_cr = False

    def receive_data(self, data: bytes) -> bytes:
        if self._after_cr and data.startswith(b"\0"):
            data = data[1:]
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\0", b"\r")


_NVT_NEWLINES = {b"\r\n": b"\r\n", b"\n": b"\r\n", b"\r": b"\r\0"}


def encode_data(data: bytes, *, binary: bool) -> bytes:
    """`data` as it travels: IAC doubled and, where BINARY is off, newlines by the NVT's rules."""
    if not binary:
        data = re.sub(rb"\r\n|\n|\r", lambda newline: _NVT_NEWLINES[newline[0]], data)
    return data.replace(_IAC, b"\xff\xff")


def encode_negotiation(negotiation: Negotiation) -> bytes:
    return bytes([IAC, negotiation.verb, negotiation.option])


def encode_subnegotiation(subnegotiation: Subnegotiation) -> bytes:
    payload = bytes([subnegotiation.option]) + subnegotiation.payload
    return bytes([IAC, SB]) + payload.replace(_IAC, b"\xff\xff") + bytes([IAC, SE])
