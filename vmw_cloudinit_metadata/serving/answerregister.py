"""The register: which answer of each VM is the newest that any worker has, in memory they share.

Each worker writes to a part of its own, and reads all parts. Nobody waits for anybody: there is no
lock. A bucket is written by one system call, so a worker that is killed leaves whole ones, and the
worker that replaces it goes on with its part. There is a digest of the answer, not the answer.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from mmap import mmap

from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving import registerbucket
from vmw_cloudinit_metadata.serving.answer import Answer
from vmw_cloudinit_metadata.serving.cachedanswers import identity_of
from vmw_cloudinit_metadata.serving.registerbucket import (
    BUCKET_BYTES,
    HASH_BYTES,
    NOT_FOUND,
    RegisterRecord,
)

BUCKETS = 4096  # of a part: room for 50,000 VMs, of which fewer than 1 % are forgotten
_HEAD_BYTES = 4096  # a page, with the number of writes
PART_BYTES = _HEAD_BYTES + BUCKETS * BUCKET_BYTES
_READS = 5  # of a bucket that is being written


@dataclass(frozen=True, slots=True)
class AnswerRegister:
    """All parts, as open files; made by the parent before it forks."""

    parts: Sequence[int]
    secret: bytes = field(repr=False)  # else names could be chosen for one bucket

    @classmethod
    def of(cls, workers: int) -> AnswerRegister:
        """Make one for so many workers; raise OSError."""
        parts = [os.memfd_create("answer register") for _ in range(workers)]
        for part in parts:
            os.posix_fallocate(part, 0, PART_BYTES)  # so that no write fails
        return cls(parts, secrets.token_bytes(32))

    def of_worker(self, number: int) -> WorkerRegister:
        return WorkerRegister(self.parts, number, self.secret)


class WorkerRegister:
    """The register, as one worker uses it; without parts, nothing is noted, and all is the newest.

    `note` and `note_absent` are called in the hub, `is_newest` in any thread; nothing blocks. VMs
    without a VC UUID are left out: names may change owners.
    """

    def __init__(self, parts: Sequence[int], own: int, secret: bytes) -> None:
        self._parts = parts
        self._secret = secret
        writes = [memoryview(mmap(part, _HEAD_BYTES)).cast("Q") for part in parts]
        self._own_writes = writes[own : own + 1]
        self._other_writes = writes[:own] + writes[own + 1 :]
        self._own_part = parts[own : own + 1]

    @property
    def kept_bytes(self) -> int:
        """The bytes of this worker's part."""
        return PART_BYTES * len(self._own_part)

    def note(self, machine: Machine, answer: Answer, began_s: float) -> None:
        """Note an answer that the source has given, before the VM gets it."""
        if self._parts and machine.vc_uuid and not answer.origin.problem:
            key, place = self._place_of(machine)
            self._write(key, place, self._digest(answer), began_s)

    def note_absent(self, machine: Machine, began_s: float) -> None:
        """Note that the source has no such VM any more; nothing for one that never had data."""
        if self._parts and machine.vc_uuid:
            key, place = self._place_of(machine)
            if any(record.key == key for record in self._records(key, place)):
                self._write(key, place, NOT_FOUND, began_s)

    def is_newest(self, machine: Machine, answer: Answer) -> bool:
        """Return whether no worker has noted an answer that is newer, or may be.

        Usually nobody else has written since the answer was last found to be the newest: that is
        seen at once.
        """
        if not self._parts or not machine.vc_uuid:
            return True
        stamp = sum([writes[0] for writes in self._other_writes])  # before anything is read
        if answer.register_stamp == stamp:
            return True
        records = self._records(*self._place_of(machine))
        if not registerbucket.is_newest(self._digest(answer), records):
            return False
        answer.register_stamp = stamp
        return True

    def _records(self, key: bytes, place: int) -> list[RegisterRecord]:
        """Return what all workers have noted for a VM."""
        return [record for part in self._parts for record in _records_of(key, part, place)]

    def _write(self, key: bytes, place: int, digest: bytes, began_s: float) -> None:
        (part,), (writes,) = self._own_part, self._own_writes
        record = RegisterRecord(key, digest, began_s, time.monotonic())
        bucket = os.pread(part, BUCKET_BYTES, place)
        os.pwrite(part, registerbucket.with_record(record, bucket), place)
        writes[0] += 1

    def _place_of(self, machine: Machine) -> tuple[bytes, int]:
        """Return the VM's key, and where its bucket begins."""
        found = self._hash(repr(identity_of(machine)), HASH_BYTES + 4)
        number = int.from_bytes(found[HASH_BYTES:], "little") % BUCKETS
        return found[:HASH_BYTES], _HEAD_BYTES + number * BUCKET_BYTES

    def _digest(self, answer: Answer) -> bytes:
        return self._hash(answer.origin.digest, HASH_BYTES)

    def _hash(self, text: str, size: int) -> bytes:
        return hashlib.blake2b(text.encode(), digest_size=size, key=self._secret).digest()


ALONE = WorkerRegister((), 0, b"")  # of a process that shares VMs with no other


def _records_of(key: bytes, part: int, place: int) -> list[RegisterRecord]:
    """Return what a worker has noted for a VM; its bucket may be written at this moment."""
    for _ in range(_READS):
        bucket = os.pread(part, BUCKET_BYTES, place)
        if registerbucket.is_sound(bucket):
            return registerbucket.of_vm(key, bucket)
    return [registerbucket.any_until(time.monotonic())]
