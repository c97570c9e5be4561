"""Ration: whether a VM may have a document now, as it is served once, or in a window of time only.

The window of a VM's instance opens at its first answer. Meta-data, network-config and the digest
are served at any time. Secrets are read after that: none for a request after the window.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf

from vmw_cloudinit_metadata.monitoring.facts import Fact, WindowReopened
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import SHOWN, Answer, Failure, Outcome
from vmw_cloudinit_metadata.serving.ledger import (
    IN_WINDOW,
    WINDOW,
    Claimed,
    Unrecorded,
    Use,
    UseClaim,
    Verdict,
    instance_of,
    vm_of,
)
from vmw_cloudinit_metadata.serving.services import Services

Decided = Callable[[Outcome], None]
Report = Callable[[Fact], None]

_ALWAYS_OPEN = SHOWN | {"DIGEST"}
# Between the clocks of vCenter and of who records windows, at most; and by what the latter is set
# back.
SKEW_S = 300.0
_USED = Failure(
    "used",
    "the document is served once, and this instance of the VM has had it: if that was not the VM "
    "itself, change what the document gives access to; a new instance-id serves it again",
)
_CHANGED = Failure("failed", "the data of the VM was changed while its secrets were read")
_HAD = "this instance of the VM has had its user-data before, and keeps it"
_NEVER_HAD = (
    "this instance of the VM has not had its user-data; to serve it, run vmw-cloudinit-metadata "
    "window reopen, or set another instance-id"
)


def is_free(
    services: Services, machine: Machine, answer: Answer, document: str, report: Report
) -> bool:
    """Return whether a document may be served without a Ration; open the window of its VM."""
    if document in answer.once or document in answer.unread:
        return False
    if not services.window_s:
        return True
    if document not in _ALWAYS_OPEN:
        is_open = answer.opened_s is not None and _is_open(services, answer.opened_s)
        if is_open and not answer.is_had:
            _note_had(services, machine, answer)
        return is_open
    if answer.opened_s is None:
        answer.opened_s = -inf  # asked again for what needs it
        _open(services, machine, answer, report, lambda _: None)
    return True


class Ration:
    """Finds out for one request, and calls `decided` later, with the answer that has the document.

    After the window, the digest is that of the documents that have no secret.
    """

    __slots__ = (
        "_answer",
        "_claim",
        "_decided",
        "_document",
        "_is_forsaken",
        "_machine",
        "_services",
    )

    def __init__(
        self,
        services: Services,
        machine: Machine,
        answer: Answer,
        document: str,
        report: Report,
        decided: Decided,
    ) -> None:
        self._services = services
        self._machine = machine
        self._answer = answer
        self._document = document
        self._decided = decided
        self._claim: UseClaim | None = None
        self._is_forsaken = False
        if services.window_s:
            self._claim = _open(services, machine, answer, report, self._opened)
        else:
            self._read()

    def forsake(self) -> None:
        """Nobody waits any more."""
        self._is_forsaken = True
        if self._claim:
            self._claim.forsake()

    def give_back(self) -> None:
        """Give back what was granted, and cannot be served."""
        if self._claim and self._document in self._answer.once:
            self._claim.give_back()

    def _opened(self, verdict: Verdict) -> None:
        failure = _closed(self._services, verdict)
        if self._document not in _ALWAYS_OPEN:
            if failure:
                self._decided(failure)
                return
            if not self._answer.is_had:
                _note_had(self._services, self._machine, self._answer)
        if failure:
            self._decided(self._answer)
        else:
            self._read()

    def _read(self) -> None:
        if self._document in self._answer.unread:
            self._services.lookup.ask_secrets(self._machine, self._was_read)
        else:
            self._claim_once()

    def _was_read(self, outcome: Outcome) -> None:
        if self._is_forsaken:
            return
        if isinstance(outcome, Failure):
            self._decided(outcome)
        elif self._is_same(outcome):
            self._answer = outcome
            self._claim_once()
        else:
            self._decided(_CHANGED)

    def _is_same(self, answer: Answer) -> bool:
        """Return whether it is of the instance whose window is open, and has the document."""
        is_there = self._document in answer.packets.keys() - answer.unread
        return is_there and answer.instance_id == self._answer.instance_id

    def _claim_once(self) -> None:
        """Claim it last: a document that cannot be read is not used up."""
        if self._document in self._answer.once:
            use = _use(self._machine, self._answer, self._document)
            self._claim = self._services.ledger.claim(use, self._claimed)
        else:
            self._decided(self._answer)

    def _claimed(self, verdict: Verdict) -> None:
        match verdict:
            case Unrecorded(reason):
                self._decided(Failure("failed", reason))
            case Claimed(is_first=is_first):
                self._decided(self._answer if is_first else _USED)


def _use(machine: Machine, answer: Answer, document: str, lasts_s: float | None = None) -> Use:
    return Use(vm_of(machine), instance_of(answer.instance_id), document, lasts_s)


def _open(
    services: Services,
    machine: Machine,
    answer: Answer,
    report: Report,
    then: Callable[[Verdict], None],
) -> UseClaim:
    """Open the window of an instance, unless it was opened before; note when that was."""

    def opened(verdict: Verdict) -> None:
        if isinstance(verdict, Claimed):
            answer.opened_s = time.monotonic() - verdict.age_s
            if verdict.is_first and verdict.was_reopened:
                report(WindowReopened("user-data window opened again by the operator"))
        then(verdict)

    vm = services.vcenter.link.find(machine.vc_uuid) if services.vcenter else None
    lasts_s = lasting_s(vm.booted_s, time.time()) if vm else None
    return services.ledger.open(_use(machine, answer, WINDOW, lasts_s), opened)


def lasting_s(booted_s: float, now_s: float) -> float | None:
    """Return the age from which a window is of an earlier power-on; None if nobody knows.

    `booted_s` is by vCenter's clock, which may differ: a window is rather closed than opened twice.
    """
    running_s = now_s - booted_s
    is_known = booted_s > 0 and running_s >= -SKEW_S
    return max(running_s, 0.0) + SKEW_S if is_known else None


def _note_had(services: Services, machine: Machine, answer: Answer) -> None:
    """Record that the VM has had something in its window: then it may do without it later."""

    def noted(verdict: Verdict) -> None:
        answer.is_had = isinstance(verdict, Claimed)

    answer.is_had = True
    services.ledger.open(_use(machine, answer, IN_WINDOW), noted)


def _is_open(services: Services, opened_s: float) -> bool:
    return _is_within(services.window_s, time.monotonic() - opened_s)


def _is_within(window_s: float, age_s: float) -> bool:
    """Return whether a window of that age is open. One that was opened in the future is closed: by
    a clock that was set back nobody knows how long it has been open."""
    return -SKEW_S <= age_s < window_s


def _closed(services: Services, verdict: Verdict) -> Failure | None:
    """Return why a window is not open."""
    if isinstance(verdict, Unrecorded):
        return Failure("failed", verdict.reason)
    window_s = services.window_s
    if not window_s or _is_within(window_s, verdict.age_s):  # 0: switched off meanwhile
        return None
    about = _HAD if verdict.had_in_window else _NEVER_HAD
    reason = f"user-data window {_end_of(window_s, verdict.age_s)}: {about}"
    return Failure("closed", reason, is_trouble=not verdict.had_in_window)


def _end_of(window_s: float, age_s: float) -> str:
    if age_s < 0:
        return "closed, because the clock was set back to a time before it was opened"
    closed = datetime.fromtimestamp(time.time() - age_s + window_s, UTC)
    return f"closed at {closed:%Y-%m-%d %H:%M} UTC"
