"""vMotions: a VM moves from one connection to another (EN-001415).

The source host's connection says VMOTION-BEGIN and is given a secret; the target host's, a new one,
proves with it that it is the same VM. `Moves` is the table of what is under way, each known by
sequence and secret. With a shared key the secret itself is the proof, in every process that has the
key. Pure: clock and random bytes come in as arguments.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Protocol, TypeVar

# Four bytes in all recordings; the document calls it opaque.
MAX_SEQUENCE_BYTES = 64

# How long a secret is good for. ESXi itself gives a move up long before.
EXPIRES_S = 60

MIN_KEY_BYTES = 16

# Of secrets that must not be right again, some hundred bytes each, for as long as they are fresh.
MAX_SPENT = 50_000

_TIME_BYTES, _NONCE_BYTES, _HASH_BYTES = 4, 4, 16

Source = TypeVar("Source")


class Secrets(Protocol):
    """What makes secrets, all of one length, and tells which others made here or elsewhere hold."""

    length: int
    are_shared: bool  # whether another process can tell that they are right

    def make(self, sequence: bytes, vc_uuid: str | None) -> bytes: ...

    def is_fresh(self, secret: bytes) -> bool: ...

    def proves(self, secret: bytes, sequence: bytes, vc_uuid: str | None) -> bool: ...


class RandomSecrets:
    """Secrets of 8 bytes that mean something to the table of this process alone."""

    length = 8
    are_shared = False

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes

    def make(self, _sequence: bytes, _vc_uuid: str | None) -> bytes:
        return self._random_bytes(self.length)

    def is_fresh(self, _secret: bytes) -> bool:
        return False

    def proves(self, _secret: bytes, _sequence: bytes, _vc_uuid: str | None) -> bool:
        return False


class KeyedSecrets:
    """Secrets that prove a move to whoever has `key`: issue time, nonce, and a keyed hash.

    The hash is HMAC-SHA-256, 16 bytes of it, over time, nonce, sequence and VC UUID. `now_s` is
    the time of day in seconds: the clocks of all servers have to agree well within EXPIRES_S.
    """

    length = _TIME_BYTES + _NONCE_BYTES + _HASH_BYTES
    are_shared = True

    def __init__(
        self, key: bytes, random_bytes: Callable[[int], bytes], now_s: Callable[[], float]
    ) -> None:
        self._key = key
        self._random_bytes = random_bytes
        self._now_s = now_s

    def make(self, sequence: bytes, vc_uuid: str | None) -> bytes:
        issued = int(self._now_s()).to_bytes(_TIME_BYTES, "big")
        head = issued + self._random_bytes(_NONCE_BYTES)
        return head + self._hash(head, sequence, vc_uuid)

    def is_fresh(self, secret: bytes) -> bool:
        """Whether the issue time that the secret claims is near."""
        issued_s = int.from_bytes(secret[:_TIME_BYTES], "big")
        return abs(self._now_s() - issued_s) <= EXPIRES_S

    def proves(self, secret: bytes, sequence: bytes, vc_uuid: str | None) -> bool:
        head, given = secret[:-_HASH_BYTES], secret[-_HASH_BYTES:]
        return hmac.compare_digest(given, self._hash(head, sequence, vc_uuid))

    def _hash(self, head: bytes, sequence: bytes, vc_uuid: str | None) -> bytes:
        text = head + bytes([len(sequence)]) + sequence + (vc_uuid or "").encode()
        return bytes(hmac.new(self._key, text, hashlib.sha256).digest()[:_HASH_BYTES])


@dataclass(eq=False, slots=True)
class Move(Generic[Source]):
    """A move of which this process knows the source."""

    sequence: bytes
    secret: bytes
    source: Source
    is_taken: bool = False  # a target has given the secret


@dataclass(frozen=True, slots=True)
class Claim:
    """What may be a move from another process: to be settled when the VC UUID is known."""

    sequence: bytes
    secret: bytes


class Moves(Generic[Source]):
    """The moves under way, at most `limit`."""

    def __init__(self, limit: int, secrets: Secrets) -> None:
        self.limit = limit
        self._secrets = secrets
        self._pending: dict[bytes, list[Move[Source]]] = {}  # by sequence
        self._count = 0
        # Shared secrets that were used or ended here: their hash alone would be right once more.
        self._spent: dict[bytes, None] = {}
        self.is_draining = False

    def __len__(self) -> int:
        return self._count

    def begin(self, source: Source, sequence: bytes, vc_uuid: str | None) -> Move[Source] | None:
        """A new move of `source`, or None if there is to be none now."""
        is_over = self.is_draining and not self._secrets.are_shared
        if is_over or self._count >= self.limit or len(sequence) > MAX_SEQUENCE_BYTES:
            return None
        move = Move(sequence, self._secrets.make(sequence, vc_uuid), source)
        self._pending.setdefault(sequence, []).append(move)
        self._count += 1
        return move

    def arrive(self, argument: bytes) -> Move[Source] | Claim | None:
        """The move, now taken, that the argument of a VMOTION-PEER proves; a Claim; or None."""
        cut = len(argument) - self._secrets.length
        if not 0 <= cut <= MAX_SEQUENCE_BYTES:
            return None
        sequence, secret = argument[:cut], argument[cut:]
        found = None
        for move in self._pending.get(sequence, ()):
            if hmac.compare_digest(move.secret, secret):
                found = move
        if found:
            was_taken, found.is_taken = found.is_taken, True
            return None if was_taken else found
        if self._secrets.is_fresh(secret) and secret not in self._spent:
            return Claim(sequence, secret)
        return None

    def settle(self, claim: Claim, vc_uuid: str | None) -> bool:
        """Whether the claim is right for the VM with this VC UUID; it is so once."""
        is_right = (
            claim.secret not in self._spent
            and self._secrets.is_fresh(claim.secret)
            and self._secrets.proves(claim.secret, claim.sequence, vc_uuid)
        )
        if is_right:
            self._spend(claim.secret)
        return is_right

    def end(self, move: Move[Source]) -> None:
        """Forgets a move: completed, aborted, replaced or expired."""
        moves = self._pending.get(move.sequence, [])
        if move not in moves:
            return
        moves.remove(move)
        if not moves:
            del self._pending[move.sequence]
        self._count -= 1
        if self._secrets.are_shared:
            self._spend(move.secret)

    def _spend(self, secret: bytes) -> None:
        """Remembers it until it is no more fresh; the oldest are looked at first."""
        for oldest in list(islice(self._spent, 2)):
            if len(self._spent) >= MAX_SPENT or not self._secrets.is_fresh(oldest):
                del self._spent[oldest]
        self._spent[secret] = None
