"""All that a target needs of a source in another process: who the VM is, and what it is owed. Pure.

The bytes: a version, the parts of Known, each text with its length before it, what the guest was
served with its length before it, and an Owed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NoReturn

from vmw_cloudinit_metadata.protocol import vmware
from vmw_cloudinit_metadata.protocol.identitytoken import Proof
from vmw_cloudinit_metadata.protocol.known import Codes, Known
from vmw_cloudinit_metadata.protocol.owed import Cursor, InvalidOwedError, Owed
from vmw_cloudinit_metadata.protocol.servedboot import ServedBoot
from vmw_cloudinit_metadata.protocol.vmware import IDENTITY, MAX_NAME_BYTES, MAX_URI_BYTES

VERSION = 3

_MAX_TEXT_BYTES = 4 * MAX_URI_BYTES  # a URI that is no UTF-8 has become longer
_NONE = 2**16 - 1  # the length of a text that there is not
_MAX_BOOT_BYTES = 16 * 1024

_PROOFS = tuple(Proof)
_DIRECTIONS = tuple(vmware.DIRECTIONS.values())
_ANSWERS = tuple(IDENTITY.values())


@dataclass(frozen=True, slots=True)
class Handover:
    """What the source of a move hands over."""

    known: Known
    owed: Owed
    boot: ServedBoot | None = None  # of which the guest may report

    def to_bytes(self, now_s: float) -> bytes:
        """Return the bytes from which `from_bytes` makes this value."""
        known = self.known
        boot = self.boot.to_bytes(now_s) if self.boot else b""
        flags = known.is_asked | known.is_confirmed << 1
        direction, proof = _DIRECTIONS.index(known.direction), _PROOFS.index(known.proof)
        return b"".join(
            (
                bytes((VERSION, flags, direction, proof)),
                _text(known.service_uri),
                _text(known.token),
                _text(known.name),
                _text(known.vc_uuid),
                _text(known.bios_uuid),
                bytes((len(known.unanswered), *known.unanswered)),
                bytes((len(known.unusable), *known.unusable)),
                struct.pack("!H", len(boot)),
                boot,
                self.owed.to_bytes(),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes, now_s: float) -> Handover:
        """Return the value that `to_bytes` wrote; raise InvalidOwedError for anything else."""
        cursor = Cursor(data)
        version, flags, direction, proof = cursor.bytes_of("head", 4, 4)
        if version != VERSION or flags > 0b11:
            raise InvalidOwedError("another version")
        if direction >= len(_DIRECTIONS) or proof >= len(_PROOFS):
            raise InvalidOwedError("head: an unknown direction or proof")
        known = Known(
            _read_uri(cursor),
            _DIRECTIONS[direction],
            token=_read_text(cursor),
            name=_read_name(cursor),
            vc_uuid=_read_uuid(cursor),
            bios_uuid=_read_uuid(cursor),
            proof=_PROOFS[proof],
            is_asked=bool(flags & 1),
            unanswered=_read_codes(cursor),
            unusable=_read_codes(cursor),
            is_confirmed=bool(flags >> 1),
        )
        boot = _read_boot(cursor, now_s)
        return cls(known, Owed.read(cursor), boot)


def _text(text: str | None) -> bytes:
    if text is None:
        return struct.pack("!H", _NONE)
    encoded = text.encode()
    return struct.pack("!H", len(encoded)) + encoded


def _read_text(cursor: Cursor, limit: int = _MAX_TEXT_BYTES) -> str | None:
    length = cursor.number("!H")
    if length == _NONE:
        return None
    try:
        return cursor.bytes_of("text", length, limit).decode()
    except UnicodeDecodeError:
        raise InvalidOwedError("text: not UTF-8") from None


def _read_uri(cursor: Cursor) -> str:
    uri = _read_text(cursor)
    return uri if uri is not None else _wrong("service URI: none")


def _read_name(cursor: Cursor) -> str | None:
    name = _read_text(cursor, MAX_NAME_BYTES)
    return name if name != "" else _wrong("name: empty")


def _read_uuid(cursor: Cursor) -> str | None:
    uuid = _read_text(cursor)
    return uuid if uuid is None or vmware.parse_uuid(uuid) == uuid else _wrong("UUID: not one")


def _read_boot(cursor: Cursor, now_s: float) -> ServedBoot | None:
    size = cursor.number("!H")
    if not size:
        return None
    part = Cursor(cursor.bytes_of("what was served", size, _MAX_BOOT_BYTES))
    boot = ServedBoot.read(part, now_s)
    return _wrong("what was served: more bytes than it has parts") if part.rest else boot


def _read_codes(cursor: Cursor) -> Codes:
    codes = tuple(cursor.bytes_of("codes", cursor.number("!B"), len(_ANSWERS)))
    if len(set(codes)) < len(codes) or not set(codes) <= set(_ANSWERS):
        raise InvalidOwedError("codes: not those of answers")
    return tuple(map(vmware.Suboption, codes))


def _wrong(what: str) -> NoReturn:
    raise InvalidOwedError(what)
