"""What a guest was served last, for the report of its boot that may follow on its line. Pure.

It goes with the guest, in a move and in an upgrade: else a report after one would be refused. The
bytes: each number, and each text with its length before it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from vmw_cloudinit_metadata.protocol.owed import MAX_AGE_MS, Cursor, InvalidOwedError
from vmw_cloudinit_metadata.protocol.state import SECONDS, InvalidState, State, mapping, text

MAX_ID_BYTES = 1024  # of an instance-id; the reports of longer ones are refused
MAX_HOSTS = 12
MAX_HOST_BYTES = 255
MAX_VM_BYTES = 4096
DIGEST_BYTES = 32

_SIZE = struct.Struct("!H")
_AGES = struct.Struct("!II")


class ServedIdentity(NamedTuple):
    """How a VM is called in what it is served."""

    instance_id: str
    hosts: tuple[str, ...] = ()  # names and addresses


NOT_CALLED = ServedIdentity("")


class ServedBoot(NamedTuple):
    """Times are seconds since 1970."""

    vm: str  # its identity
    identity: ServedIdentity
    served_s: float  # when it got its meta-data
    report: bytes = b""  # the SHA-256 of its last report
    reported_s: float = 0.0

    def to_bytes(self, now_s: float) -> bytes:
        """Return the bytes from which `read` makes this value."""
        texts = (self.vm, *self.identity.hosts, self.identity.instance_id)
        ages = (_age_ms(at_s, now_s) for at_s in (self.served_s, self.reported_s))
        return b"".join(
            (_AGES.pack(*ages), _sized(self.report), bytes([len(texts)]), *map(_text, texts))
        )

    @classmethod
    def read(cls, cursor: Cursor, now_s: float) -> ServedBoot:
        """Return the value that `to_bytes` wrote; raise InvalidOwedError for anything else."""
        served_s, reported_s = (now_s - cursor.number("!I") / 1000 for _ in range(2))
        report = cursor.bytes_of("report", cursor.number("!H"), DIGEST_BYTES)
        count = cursor.number("!B")
        if not 2 <= count <= MAX_HOSTS + 2:
            raise InvalidOwedError("what was served: other parts")
        vm, *hosts, instance_id = (_read_text(cursor) for _ in range(count))
        return cls(vm, ServedIdentity(instance_id, tuple(hosts)), served_s, report, reported_s)

    def state(self) -> State:
        """Return the value as JSON has it."""
        vm, (instance_id, hosts), served_s, report, reported_s = self
        return {
            "vm": vm,
            "instance_id": instance_id,
            "hosts": [*hosts],
            "served_s": served_s,
            "report": report.hex(),
            "reported_s": reported_s,
        }

    @classmethod
    def of_state(cls, state: object) -> ServedBoot:
        """Return the value of a state; raise InvalidState."""
        match mapping(state):
            case {
                "vm": vm,
                "instance_id": instance_id,
                "hosts": [*hosts],
                "served_s": served_s,
                "report": report,
                "reported_s": reported_s,
            } if len(hosts) <= MAX_HOSTS:
                return cls(
                    _VM.read(vm),
                    ServedIdentity(_ID.read(instance_id), tuple(map(_HOST.read, hosts))),
                    SECONDS.read(served_s),
                    _digest(_DIGEST.read(report)),
                    SECONDS.read(reported_s),
                )
        raise InvalidState("what was served has other parts")


_VM, _ID, _HOST = text(MAX_VM_BYTES), text(MAX_ID_BYTES), text(MAX_HOST_BYTES)
_DIGEST = text(2 * DIGEST_BYTES)


def _digest(digits: Any) -> bytes:
    try:
        return bytes.fromhex(digits)
    except ValueError:
        raise InvalidState("expected hexadecimal digits") from None


def _age_ms(at_s: float, now_s: float) -> int:
    return min(max(round((now_s - at_s) * 1000), 0), MAX_AGE_MS)


def _text(text: str) -> bytes:
    return _sized(text.encode("utf-8", "replace")[:MAX_VM_BYTES])


def _sized(data: bytes) -> bytes:
    return _SIZE.pack(len(data)) + data


def _read_text(cursor: Cursor) -> str:
    try:
        return cursor.bytes_of("text", cursor.number("!H"), MAX_VM_BYTES).decode()
    except UnicodeDecodeError:
        raise InvalidOwedError("text: not UTF-8") from None


def bounded(instance_id: str, hosts: Sequence[str]) -> ServedIdentity:
    """Return what a line keeps of them; an instance-id that is too long is none."""
    is_short = len(instance_id.encode("utf-8", "replace")) <= MAX_ID_BYTES
    return ServedIdentity(instance_id if is_short else "", tuple(hosts[:MAX_HOSTS]))
