"""Frames between a process of the server and the fleet process: a JSON head and bytes. Pure.

    frame = length of the rest (4 bytes) + length of the head (4 bytes) + head + payload

What another server has written into the database arrives in frames too, so a head is checked when
it is received, whoever sent it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ujson

MAX_FRAME_BYTES = 4 * 1024 * 1024  # a document and 64 KiB, encrypted, have room
MAX_HEAD_BYTES = 64 * 1024
MAX_KIND = 40  # characters

_SIZE = 4  # bytes of a length

Fields = Mapping[str, Any]


class InvalidFrame(ValueError):  # noqa: N818 - what it is
    """Bytes that no process of ours sends."""


@dataclass(frozen=True, slots=True)
class Frame:
    head: Fields
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """What an ask is answered with, or what has arrived from another server."""

    fields: Fields
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Told:
    """A tell or an ask of a process; an ask has a number, and a deadline by time.monotonic()."""

    kind: str
    fields: Fields
    payload: bytes
    ask: int | None = None
    until_s: float = 0.0


def encode(head: Fields, payload: bytes = b"") -> bytes:
    """Return a frame; raise InvalidFrame if it is too long, or has what JSON cannot have."""
    try:
        text = ujson.dumps(head, escape_forward_slashes=False).encode()
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidFrame(f"a head that JSON cannot have ({type(error).__name__})") from None
    length = _SIZE + len(text) + len(payload)
    if len(text) > MAX_HEAD_BYTES or length > MAX_FRAME_BYTES:
        raise InvalidFrame(f"a frame of {length:,} bytes, with a head of {len(text):,}")
    return b"".join((_number(length), _number(len(text)), text, payload))


def encode_told(
    kind: str, fields: Fields, payload: bytes, ask: int | None = None, until_s: float = 0.0
) -> bytes:
    if ask is None:
        return encode({"kind": kind, "fields": fields}, payload)
    return encode({"kind": kind, "fields": fields, "ask": ask, "until": until_s}, payload)


def decode_told(frame: Frame) -> Told:
    """Check what a process tells or asks; raise InvalidFrame."""
    match frame.head:
        case {"kind": str(kind)} if len(kind) > MAX_KIND:
            pass
        case {"kind": str(kind), "fields": dict(fields), "ask": int(ask), "until": float(until_s)}:
            return Told(kind, fields, frame.payload, ask, until_s)
        case {"kind": str(kind), "fields": dict(fields)}:
            return Told(kind, fields, frame.payload)
    raise InvalidFrame("neither a tell nor an ask")


class FrameReader:
    """Joins the bytes of a stream to frames; keeps at most one incomplete one."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def receive(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that `data` completes; raise InvalidFrame if the stream is of no use."""
        self._rest += data
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        rest = self._rest
        if len(rest) < _SIZE:
            return None
        length = int.from_bytes(rest[:_SIZE])
        if not _SIZE <= length <= MAX_FRAME_BYTES:
            raise InvalidFrame(f"a frame of {length:,} bytes")
        end = _SIZE + length
        if len(rest) < end:
            return None
        start = 2 * _SIZE + int.from_bytes(rest[_SIZE : 2 * _SIZE])
        if start > end or start - 2 * _SIZE > MAX_HEAD_BYTES:
            raise InvalidFrame("a head that is too long")
        head, payload = bytes(rest[2 * _SIZE : start]), bytes(rest[start:end])
        del rest[:end]
        return Frame(_head(head), payload)


def _head(text: bytes) -> Fields:
    try:
        found = ujson.loads(text)
    except ValueError as error:
        raise InvalidFrame(f"invalid JSON ({len(text)} bytes)") from error
    if not isinstance(found, dict):
        raise InvalidFrame("a head that is no object")
    return found


def _number(value: int) -> bytes:
    return value.to_bytes(_SIZE)
