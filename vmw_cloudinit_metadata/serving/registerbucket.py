"""A bucket of the register: records of some VMs, and the rule that finds the newest. Pure.

A record says: what has this digest was read from the data source between `began_s` and `ended_s`.
The times are of time.monotonic(), the same clock for all processes of a machine. Two records whose
times overlap do not say which of them is newer; then neither is.

A bucket is a checksum, and slots. The first slot is of no VM: it stands for the records that had to
make room. A damaged bucket may have had any record.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from typing import NamedTuple

_SLOT = struct.Struct("<12s12sdd")
_CHECKSUM = struct.Struct("<I20x")
SLOTS = 25
BUCKET_BYTES = _CHECKSUM.size + SLOTS * _SLOT.size  # 1024: a page has whole ones
EMPTY = bytes(BUCKET_BYTES)

HASH_BYTES = 12  # of keys and digests
NO_VM = bytes(HASH_BYTES)
UNCERTAIN = bytes(HASH_BYTES)  # the digest of no answer: of two, or of one that made room
NOT_FOUND = b"not found\0\0\0"  # likewise: the source has no such VM


class RegisterRecord(NamedTuple):
    key: bytes  # of the VM
    digest: bytes  # of its answer
    began_s: float
    ended_s: float


def any_until(time_s: float) -> RegisterRecord:
    """Return the record of any answers until then, of any VM."""
    return RegisterRecord(NO_VM, UNCERTAIN, 0.0, time_s)


def is_sound(bucket: bytes) -> bool:
    """Return whether the bucket is whole, and not half of one and half of the next."""
    return bool(_CHECKSUM.unpack_from(bucket)[0] == _checksum(bucket[_CHECKSUM.size :]))


def of_vm(key: bytes, bucket: bytes) -> list[RegisterRecord]:
    """Return what a sound bucket may have of the VM."""
    slots = bucket[_CHECKSUM.size :]
    records = [_get(slots, slot) for slot in (0, _slot_of(key, slots)) if slot is not None]
    return [record for record in records if record.ended_s]


def is_newest(digest: bytes, records: Collection[RegisterRecord]) -> bool:
    """Return whether none of a VM's records can be of an answer newer than the one of the digest.

    The newest was read when the last reading began, or later.
    """
    last_s = max((record.began_s for record in records), default=0.0)
    return all(record.digest == digest for record in records if record.ended_s >= last_s)


def with_record(record: RegisterRecord, bucket: bytes) -> bytes:
    """Return the bucket with a further record, which ended after all others.

    It replaces that of its VM. If no slot is free, the oldest record makes room.
    """
    slots = bytearray(bucket[_CHECKSUM.size :])
    if not is_sound(bucket):
        slots = bytearray(EMPTY[_CHECKSUM.size :])
        _put(any_until(record.ended_s), slots, 0)
    slot = _slot_of(record.key, slots)
    if slot is not None:
        record = _merged(_get(slots, slot), record)
    else:
        ended_s = [ended_s for *_, ended_s in _SLOT.iter_unpack(slots)]
        slot = ended_s.index(min(ended_s[1:]), 1)
        if ended_s[slot]:
            _put(any_until(ended_s[slot]), slots, 0)
    _put(record, slots, slot)
    return _CHECKSUM.pack(_checksum(slots)) + slots


def _slot_of(key: bytes, slots: bytes | bytearray) -> int | None:
    at = slots.find(key, _SLOT.size)
    while at % _SLOT.size and at > 0:
        at = slots.find(key, at + 1)
    return at // _SLOT.size if at > 0 else None


def _get(slots: bytes | bytearray, slot: int) -> RegisterRecord:
    return RegisterRecord(*_SLOT.unpack_from(slots, slot * _SLOT.size))


def _put(record: RegisterRecord, slots: bytearray, slot: int) -> None:
    _SLOT.pack_into(slots, slot * _SLOT.size, *record)


def _merged(before: RegisterRecord, record: RegisterRecord) -> RegisterRecord:
    """Return the record in place of the one before it, which may be newer if it was read then."""
    is_certain = record.digest == before.digest or record.began_s >= before.ended_s
    return record if is_certain else record._replace(digest=UNCERTAIN)


def _checksum(slots: bytes | bytearray) -> int:
    """Return 0 for an empty bucket, which has never been written."""
    return zlib.crc32(slots) ^ _CRC_OF_EMPTY


_CRC_OF_EMPTY = zlib.crc32(EMPTY[_CHECKSUM.size :])
