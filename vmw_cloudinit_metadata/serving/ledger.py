"""Ledger: what VMs have used up, so that none of it is given twice: `once` documents.

A claim is recorded before the answer goes out, on a disk or in the fleet's database, and never in
the hub. One that is granted to a guest that is gone meanwhile is given back. What cannot be
recorded is not served.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from cachetools import LRUCache

from vmw_cloudinit_metadata.monitoring.counters import LEDGER, Key
from vmw_cloudinit_metadata.process.deadlines import Deadlines
from vmw_cloudinit_metadata.protocol.vmware import Machine

LATE_S = 3.0  # for a claim to be recorded
# A claim may be given back so soon after it was recorded: another one is not refused before.
SETTLED_S = 1.0
_AGAIN_S = 0.25
_MAX_DOUBTFUL = 10_000
_CLAIMANT_BYTES = 8

# Of a Use, instead of a document that is served once:
WINDOW = ""  # the VM's window for user-data has been opened
IN_WINDOW = "USERDATA"  # the VM has had a document in it


@dataclass(frozen=True, slots=True)
class Use:
    """What a VM uses: a document of one of its instances."""

    vm: str
    instance: bytes  # of `instance_of`
    document: str
    # What was recorded so many seconds ago counts no more; None: it counts for ever.
    lasts_s: float | None = field(default=None, compare=False)


def instance_of(instance_id: str) -> bytes:
    """Return the instance as the ledger names it, in few bytes however long its id is."""
    return hashlib.blake2b(instance_id.encode(), digest_size=16).digest()


def vm_of(machine: Machine) -> str:
    """Return the VM as the ledger names it, wherever it is connected; at most 64 characters."""
    if machine.vc_uuid:
        return machine.vc_uuid
    if machine.bios_uuid:
        return f"bios-uuid {machine.bios_uuid}"
    name = (machine.name or "").encode(errors="replace")
    return f"name {hashlib.blake2b(name, digest_size=16).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Claimed:
    """What the ledger says of a claim."""

    is_first: bool
    age_s: float = 0.0  # since the first one
    had_in_window: bool = False  # the instance has had what is served in its window
    was_reopened: bool = False  # it opens the window that an operator has had opened again


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """A claim that may not be recorded, and why."""

    reason: str


Verdict = Claimed | Unrecorded
Then = Callable[[Verdict], None]


class Book(Protocol):
    """Where claims are recorded. Nothing of it blocks the hub."""

    def claim(self, use: Use, claimant: bytes, then: Then) -> None:
        """Call `then` once, with what is recorded; the same claimant is the first one again."""

    def give_back(self, use: Use, claimant: bytes) -> None:
        """Forget the claim of that claimant."""

    @property
    def is_busy(self) -> bool:
        """Whether something is being recorded, or waits for that."""

    def close(self) -> None:
        """Record what waits."""


class NoBook:
    """A Book that records nothing: there is no place for it."""

    is_busy = False

    def claim(self, _use: Use, _claimant: bytes, then: Then) -> None:
        then(Unrecorded("the server has nowhere to record what VMs use up: set --ledger FILE"))

    def give_back(self, use: Use, claimant: bytes) -> None: ...

    def close(self) -> None: ...


class Ledger:
    """Grants each use once. Belongs to the hub."""

    def __init__(self, book: Book, deadlines: Deadlines, counters: defaultdict[Key, int]) -> None:
        self.book = book
        self.deadlines = deadlines
        self.counters = counters
        self.is_held = False  # it asks for no more claims: the program is replaced
        # Claims that may be recorded although nothing was served.
        self.doubtful: LRUCache[Use, bytes] = LRUCache(_MAX_DOUBTFUL)

    def claim(self, use: Use, then: Then) -> UseClaim:
        """Call `then` once, later, unless the claim is forsaken before."""
        return self._begin(UseClaim(self, use, then))

    def open(self, use: Use, then: Then) -> UseClaim:
        """Likewise, for what all may use that come after the first one."""
        return self._begin(UseClaim(self, use, then, is_shared=True))

    def _begin(self, claim: UseClaim) -> UseClaim:
        self.deadlines.soon(claim.ask)
        return claim


class UseClaim:
    """One claim on its way; `forsake` it when nobody waits any more."""

    __slots__ = ("_claimant", "_is_doubtful", "_is_shared", "_ledger", "_then", "_use")

    def __init__(self, ledger: Ledger, use: Use, then: Then, *, is_shared: bool = False) -> None:
        self._ledger = ledger
        self._is_shared = is_shared
        self._use = use
        self._claimant = ledger.doubtful.pop(use, b"") or secrets.token_bytes(_CLAIMANT_BYTES)
        self._then: Then | None = then  # None: nobody waits
        self._is_doubtful = False
        ledger.deadlines.start(LATE_S, self._late)

    def ask(self) -> None:
        if self._then is None:
            return
        if self._ledger.is_held:
            self._ledger.deadlines.start(_AGAIN_S, self.ask)
        else:
            self._ledger.book.claim(self._use, self._claimant, self._told)

    def forsake(self) -> None:
        """Give back what is granted from now on."""
        self._then = None
        self._ledger.deadlines.cancel(self._late, self.ask)

    def give_back(self) -> None:
        """Give back what was granted, and cannot be served."""
        self._ledger.counters[LEDGER["given back"]] += 1
        self._ledger.book.give_back(self._use, self._claimant)

    def _told(self, verdict: Verdict) -> None:
        if self._then is None:
            self._told_too_late(verdict)
        elif isinstance(verdict, Claimed) and self._is_unsettled(verdict):
            self._ledger.deadlines.start(_AGAIN_S, self.ask)
        else:
            self._settle(verdict)

    def _told_too_late(self, verdict: Verdict) -> None:
        match verdict:
            case Unrecorded():
                self._doubt()
            case Claimed(is_first=True) if not self._is_shared and not self._has_successor():
                self.give_back()

    def _doubt(self) -> None:
        """Let a later claim go on as the same claimant: this one may be recorded."""
        if not self._is_shared and not self._is_doubtful:
            self._is_doubtful = True
            self._ledger.doubtful[self._use] = self._claimant

    def _has_successor(self) -> bool:
        """Whether a later claim may have gone on as the same claimant: it keeps what is granted."""
        doubtful = self._ledger.doubtful
        if not self._is_doubtful:
            return False
        if doubtful.get(self._use) != self._claimant:
            return True
        del doubtful[self._use]
        return False

    def _is_unsettled(self, verdict: Claimed) -> bool:
        """Whether the first claim may be given back yet."""
        is_used = not verdict.is_first and not self._is_shared
        return is_used and 0 <= verdict.age_s < SETTLED_S

    def _late(self) -> None:
        self._settle(Unrecorded("the ledger does not answer in time"))

    def _settle(self, verdict: Verdict) -> None:
        then, ledger = self._then, self._ledger
        self.forsake()
        if isinstance(verdict, Unrecorded):
            self._doubt()
            ledger.counters[LEDGER["failed"]] += 1
        elif self._is_shared:
            ledger.counters[LEDGER["opened"]] += verdict.is_first and self._use.document == WINDOW
        else:
            ledger.counters[LEDGER["first" if verdict.is_first else "used"]] += 1
        if then:
            then(verdict)
