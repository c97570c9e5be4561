"""vMotions: a VM moves from one connection to another (EN-001415).

The source host's connection sends VMOTION-BEGIN and gets a secret. The target host's connection, a
new one, proves with it that it is the same VM. `Moves` is the table of moves under way, by sequence
and secret; each host has a share of it. With a shared key the secret itself is the proof, in every
process that has the key. Pure: clock and random bytes are arguments.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from vmw_cloudinit_metadata.protocol.crowd import Crowd
from vmw_cloudinit_metadata.protocol.identitytoken import Proof
from vmw_cloudinit_metadata.protocol.rate import Rate
from vmw_cloudinit_metadata.protocol.state import (
    InvalidState,
    State,
    items,
    mapping,
    octets,
    written,
)

# Four bytes in all recordings; the document calls it opaque.
MAX_SEQUENCE_BYTES = 64

# How long a secret is valid. ESXi itself gives a move up long before.
EXPIRES_S = 60

MIN_KEY_BYTES = 16

# VMOTION-BEGINs of one host, a second: more than a load test makes from one address, less than a
# third of what a hostile host could. ESXi itself moves some ten VMs at a time.
MAX_MOVE_RATE = 1000

# One host may have this part of a table, so that it cannot have moves of other hosts declined.
SHARES = 4
MIN_SHARE = 16  # a table of less than SHARES times as many is not divided

# Secrets that must not be accepted again, as long as they are fresh. Each takes some 200 bytes.
MAX_SPENT = 50_000

_TIME_BYTES, _NONCE_BYTES, _HASH_BYTES = 4, 4, 16
MAX_SECRET_BYTES = _TIME_BYTES + _NONCE_BYTES + _HASH_BYTES

Source = TypeVar("Source")

_SEQUENCE = octets(MAX_SEQUENCE_BYTES)
_SECRET = octets(MAX_SECRET_BYTES)


class Secrets(Protocol):
    """Makes secrets, all of one length, and checks those that were made here or elsewhere."""

    length: int
    are_shared: bool  # whether another process can check them

    def make(self, sequence: bytes, vc_uuid: str | None, proof: Proof) -> bytes: ...

    def is_fresh(self, secret: bytes) -> bool: ...

    def proves(self, secret: bytes, sequence: bytes, vc_uuid: str | None) -> Proof | None: ...


class RandomSecrets:
    """Secrets of 8 bytes that only the table of this process knows."""

    length = 8
    are_shared = False

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes

    def make(self, _sequence: bytes, _vc_uuid: str | None, _proof: Proof) -> bytes:
        return self._random_bytes(self.length)

    def is_fresh(self, _secret: bytes) -> bool:
        return False

    def proves(self, _secret: bytes, _sequence: bytes, _vc_uuid: str | None) -> Proof | None:
        return None


class KeyedSecrets:
    """Secrets that prove a move to whoever has `key`: issue time, nonce, and a keyed hash.

    The hash is HMAC-SHA-256, 16 bytes of it, over time, nonce, sequence, VC UUID, and whether that
    is proved. `now_s` is the time of day in seconds: the clocks of all servers have to agree well
    within EXPIRES_S.
    """

    length = _TIME_BYTES + _NONCE_BYTES + _HASH_BYTES
    are_shared = True

    def __init__(
        self, key: bytes, random_bytes: Callable[[int], bytes], now_s: Callable[[], float]
    ) -> None:
        self._key = key
        self._random_bytes = random_bytes
        self._now_s = now_s

    def make(self, sequence: bytes, vc_uuid: str | None, proof: Proof = Proof.UNASKED) -> bytes:
        issued = int(self._now_s()).to_bytes(_TIME_BYTES, "big")
        head = issued + self._random_bytes(_NONCE_BYTES)
        return head + self._hash(head, sequence, vc_uuid, proof.is_proved)

    def is_fresh(self, secret: bytes) -> bool:
        """Return whether the issue time that the secret claims is near."""
        issued_s = int.from_bytes(secret[:_TIME_BYTES], "big")
        return abs(self._now_s() - issued_s) <= EXPIRES_S

    def proves(self, secret: bytes, sequence: bytes, vc_uuid: str | None) -> Proof | None:
        head, given = secret[:-_HASH_BYTES], secret[-_HASH_BYTES:]
        for proof in (Proof.MOVE, Proof.UNASKED):
            expected = self._hash(head, sequence, vc_uuid, proof.is_proved)
            if hmac.compare_digest(given, expected):
                return proof
        return None

    def _hash(self, head: bytes, sequence: bytes, vc_uuid: str | None, is_proved: bool) -> bytes:
        text = head + bytes([len(sequence)]) + sequence + (vc_uuid or "").encode()
        text += b"\x01" if is_proved else b""
        return bytes(hmac.new(self._key, text, hashlib.sha256).digest()[:_HASH_BYTES])


@dataclass(eq=False, slots=True)
class Move(Generic[Source]):
    """A move whose source is connected to this process."""

    sequence: bytes
    secret: bytes
    source: Source
    host: str  # of the source
    number: int  # of all moves of this process
    is_taken: bool = False  # a target has given the secret

    @property
    def token(self) -> bytes:
        """What the source's host gets, and the target's host gives."""
        return self.sequence + self.secret


@dataclass(frozen=True, slots=True)
class Begun(Generic[Source]):
    """A move that may proceed, and the abandoned one that was ended to make room for it."""

    move: Move[Source]
    instead_of: Move[Source] | None


@dataclass(frozen=True, slots=True)
class Declined:
    """The reason why there is no move."""

    reason: str
    is_of_rate: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A possible move from another process; `settle` it when the VC UUID is known."""

    sequence: bytes
    secret: bytes

    @property
    def token(self) -> bytes:
        """What the target's host has given."""
        return self.sequence + self.secret


class Moves(Generic[Source]):
    """The moves under way, at most `limit`, and a share of that for each host.

    A move is abandoned when its source has disconnected and no target is connected. When the table
    is full, the oldest abandoned move ends; no other move ends for another host's sake.
    """

    def __init__(
        self,
        limit: int,
        secrets: Secrets,
        rate: Rate | None = None,
        max_spent: int = MAX_SPENT,
    ) -> None:
        self.limit = limit
        self._max_spent = max_spent
        self.rate = Rate() if rate is None else rate  # of VMOTION-BEGIN, for each host
        self._secrets = secrets
        # By sequence and secret. Python's keyed hash covers both, so the time of a look-up does not
        # depend on how much of a wrong secret is right.
        self._pending: dict[bytes, Move[Source]] = {}
        self._count = 0  # of all moves that began
        self._of_host: Counter[str] = Counter()
        self._abandoned: Crowd[Move[Source]] = Crowd()
        # Shared secrets that were used or ended here, with the host: their hash alone would be
        # valid once more. None is forgotten while it is fresh.
        self._spent: dict[bytes, str] = {}
        self._spent_of_host: Counter[str] = Counter()
        self.is_draining = False

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def share(self) -> int:
        """How many moves of one host may be under way at a time."""
        return min(_share(self.limit), self.limit)

    def state(self) -> State:
        """Return the state of the table, without its moves: each belongs to its source."""
        spent = [[written(secret), host] for secret, host in self._spent.items()]
        return {"count": self._count, "spent": spent, "rate": self.rate.state()}

    def restore(self, state: object) -> None:
        """Go on from a state, as a new table; raise InvalidState."""
        match mapping(state):
            case {"count": int(count), "spent": spent, "rate": rate, **further} if not further:
                self._count = count
                self.rate.restore(rate)
                for one in items(spent, self._max_spent):
                    self._restore_spent(one)
            case _:
                raise InvalidState("a table of moves has other fields")

    def _restore_spent(self, entry: object) -> None:
        match entry:
            case [secret, str(host)]:
                self._spend(_SECRET.read(secret), host)
            case _:
                raise InvalidState("expected a secret and its host")

    def written_move(self, move: Move[Source]) -> list[Any] | None:
        """Return a move that is under way as JSON has it."""
        if self._pending.get(move.token) is not move:
            return None
        secret = [written(move.sequence), written(move.secret)]
        return [*secret, move.host, move.number, move.is_taken]

    def restore_move(self, source: Source, state: object) -> Move[Source]:
        """Go on with a move of `source`; raise InvalidState."""
        match state:
            case [sequence, secret, str(host), int(number), bool(is_taken)]:
                proof = _SEQUENCE.read(sequence), _SECRET.read(secret)
                move = Move(*proof, source, host, number, is_taken)
                self._pending[move.token] = move
                self._of_host[host] += 1
                return move
        raise InvalidState("a move has other fields")

    def taken(self, sequence: bytes, secret: bytes) -> Move[Source] | None:
        """Return the move under way whose secret a target has given."""
        return self._pending.get(sequence + secret)

    def begin(
        self,
        source: Source,
        host: str,
        sequence: bytes,
        vc_uuid: str | None,
        now_s: float = 0.0,
        proof: Proof = Proof.UNASKED,
    ) -> Begun[Source] | Declined:
        """Start a move of `source`, which is connected from `host`, or decline it.

        `proof` is that of its VC UUID.
        """
        if len(sequence) > MAX_SEQUENCE_BYTES:
            return Declined(f"its sequence has more than {MAX_SEQUENCE_BYTES} bytes")
        if self.is_draining and not self._secrets.are_shared:
            return Declined("the server is stopping")
        if not self.rate.passes(host, now_s):
            reason = f"its host begins more than {self.rate.per_s} a second (--max-move-rate)"
            return Declined(reason, is_of_rate=True)
        if not self._can_spend(host):
            return Declined("too many moves of its host, or of all hosts, in the last minute")
        instead_of = None
        if self._of_host[host] >= self.share:
            instead_of = self._abandoned.oldest(host)
            if not instead_of:
                share = f"its host has {self.share} under way, its share of --max-pending-moves"
                return Declined(share)
        elif len(self._pending) >= self.limit:
            instead_of = self._abandoned.oldest()
            if not instead_of:
                return Declined(f"{self.limit} are under way (--max-pending-moves)")
        if instead_of:
            self.end(instead_of)
        self._count += 1
        secret = self._secrets.make(sequence, vc_uuid, proof)
        move = Move(sequence, secret, source, host, self._count)
        self._pending[move.token] = move
        self._of_host[host] += 1
        return Begun(move, instead_of)

    def abandon(self, move: Move[Source]) -> None:
        """Mark a move whose source has disconnected, and that has no target, or none any more."""
        if self._pending.get(move.token) is move:
            self._abandoned.discard(move.host, move)
            self._abandoned.add(move.host, move)

    def take(self, move: Move[Source]) -> None:
        """Accept the secret of this move no more: its target has come, here or elsewhere."""
        move.is_taken = True
        self._abandoned.discard(move.host, move)

    def arrive(self, argument: bytes) -> Move[Source] | Claim | None:
        """Return the move that a VMOTION-PEER proves, now taken; or a Claim; or None."""
        cut = len(argument) - self._secrets.length
        if not 0 <= cut <= MAX_SEQUENCE_BYTES:
            return None
        found = self._pending.get(argument)
        if found:
            if found.is_taken:
                return None
            self.take(found)
            return found
        sequence, secret = argument[:cut], argument[cut:]
        if self._secrets.is_fresh(secret) and secret not in self._spent:
            return Claim(sequence, secret)
        return None

    def settle(self, claim: Claim, vc_uuid: str | None, host: str) -> Proof | None:
        """Return what a claim proves of the VM with this VC UUID, connected from `host`; None if it
        is wrong.

        A claim is right only once.
        """
        if claim.secret in self._spent or not self._secrets.is_fresh(claim.secret):
            return None
        proof = self._secrets.proves(claim.secret, claim.sequence, vc_uuid)
        if proof is None or not self._can_spend(host):
            return None
        self._spend(claim.secret, host)
        return proof

    def end(self, move: Move[Source]) -> None:
        """Forget a move: completed, aborted, replaced or expired."""
        if self._pending.pop(move.token, None) is None:
            return
        self._abandoned.discard(move.host, move)
        _count_down(self._of_host, move.host)
        if self._secrets.are_shared and self._secrets.is_fresh(move.secret):
            self._spend(move.secret, move.host)

    def _can_spend(self, host: str) -> bool:
        """Return whether one more secret of `host` can be remembered until it is stale."""
        if not self._secrets.are_shared:
            return True
        self._forget_stale()
        of_host = self._spent_of_host[host] + self._of_host[host]
        in_all = len(self._spent) + len(self._pending)
        return of_host < _share(self._max_spent) and in_all < self._max_spent

    def _spend(self, secret: bytes, host: str) -> None:
        self._spent[secret] = host
        self._spent_of_host[host] += 1

    def _forget_stale(self) -> None:
        while self._spent and not self._secrets.is_fresh(oldest := next(iter(self._spent))):
            _count_down(self._spent_of_host, self._spent.pop(oldest))


def _share(limit: int) -> int:
    return max(limit // SHARES, MIN_SHARE)


def _count_down(counts: Counter[str], host: str) -> None:
    counts[host] -= 1
    if not counts[host]:
        del counts[host]
