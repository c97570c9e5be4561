"""What a guest has had, and what the operator learns of it.

Answers are collected while the guest asks, and reported together when it has stopped: a boot is one
line of the log. Errors are reported at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from vmw_cloudinit_metadata.drivers.content.owndata import BY_LAYER
from vmw_cloudinit_metadata.monitoring import counters
from vmw_cloudinit_metadata.monitoring.facts import (
    DocumentsServed,
    Fact,
    RequestFailed,
    SourceShared,
    StaleServed,
    ValueDuplicated,
)
from vmw_cloudinit_metadata.monitoring.onceaminute import QUIET_S, key_of
from vmw_cloudinit_metadata.protocol.packet import ErrorCode
from vmw_cloudinit_metadata.protocol.printable import shortened
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import Failure, Origin
from vmw_cloudinit_metadata.serving.services import Services
from vmw_cloudinit_metadata.serving.timeouts import SETTLED_S, UNSETTLED_S

log = logging.getLogger(__name__)

MAX_DOCUMENTS_REPORTED = 64  # of one boot

# A document's name, as a label of metrics -> its counter.
_ANSWERED: Mapping[str, counters.Key] = {
    document: key for (document, outcome), key in counters.OUTCOMES.items() if outcome == "answered"
}
_OTHER_ANSWERED = counters.OUTCOMES["other", "answered"]


class GuestLine(Protocol):
    """What a receipt uses of the line that its guest is on."""

    @property
    def machine(self) -> Machine: ...

    @property
    def is_older(self) -> bool:
        """Whether a newer connection counts as this VM."""

    def report(self, fact: Fact, *, level: int | None = None) -> None:
        """Report a happening of this VM."""

    def guarded(self, step: Callable[[], None]) -> None:
        """Run `step`; an error in it ends this line and no other."""


class Receipt:
    """Collects what one guest is answered, and reports it for `line`, the one that it is on."""

    __slots__ = (
        "_asked_s",
        "_had",
        "_is_well",
        "_machine",
        "_origin",
        "_reported",
        "_services",
        "_shared",
        "line",
    )

    def __init__(self, services: Services, line: GuestLine) -> None:
        self.line = line
        self._services = services
        self._machine: Machine | None = None  # what was answered last was for
        self._origin = Origin()  # where that came from
        self._had: dict[str, float] = {}  # document: when; what is not reported yet
        self._asked_s = 0.0  # when the first of them was requested
        self._is_well = False  # answered without a problem, which `news` has not heard yet
        self._shared: tuple[str, str] | None = None  # the source and VC UUID that are counted
        self._reported: tuple[str, float] = ("", 0.0)  # the last line of the log, and when

    def answered(
        self, machine: Machine, document: str, origin: Origin, size: int, asked_s: float
    ) -> None:
        """Add `document`, which was requested at `asked_s`, and whose response has `size` bytes."""
        services = self._services
        services.counters[counters.ANSWERED] += 1
        services.counters[_ANSWERED.get(document, _OTHER_ANSWERED)] += 1
        if services.machines.rivals and self.line.is_older:
            services.counters[counters.ANSWERED_OLDER] += 1
        if not self._had:
            self._asked_s = asked_s
            services.deadlines.start(SETTLED_S, self._settled)
        if document in self._had or len(self._had) < MAX_DOCUMENTS_REPORTED:
            self._had[document] = time.time()
        self._machine, self._origin = machine, origin
        if not origin.problem:
            self._is_well = True
        elif self._is_new(origin.problem):
            self._report_stale(origin)
        if origin.duplicates and document == "METADATA":
            self._report_duplicates(origin)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s: > RESPONSE_%s, %d bytes", self.line, document, size)

    def failed(self, document: str, failure: Failure) -> None:
        """Report that `document` was answered with an error."""
        self.count_failure(document, failure.error)
        machine = self.line.machine
        trouble = f"{failure.error}: {failure.reason}"
        unreported = self._services.throttle.passes("failed", key_of(machine), trouble)
        # A request for something that does not exist says nothing about the VM.
        is_new = failure.error != "unknown-request" and self._is_new(trouble)
        if is_new:
            self.report()
        if is_new or unreported is not None:
            text = f"REQUEST_{document} answered with {trouble}{unreported or ''}"
            self.line.report(
                RequestFailed(text, document, failure.error, shortened(failure.reason)),
                level=logging.DEBUG if unreported is None else logging.WARNING,
            )

    def count_failure(self, document: str, error: ErrorCode) -> None:
        counted = self._services.counters
        counted[counters.ANSWERED_WITH[error]] += 1
        counted[counters.OUTCOMES[counters.document_label(document), error]] += 1

    def report(self) -> None:
        """Report what was answered since the last report."""
        if not self._had or self._machine is None:
            return
        self._services.deadlines.cancel(self._settled)
        had, origin, self._had = self._had, self._origin, {}
        seconds = max(had.values()) - self._asked_s
        self._tell_news()
        if "METADATA" in had:
            self._services.counters[counters.BOOTS] += 1
            self._services.boots.observe(seconds)
            self._use_source(origin, self._machine)
        text = f"answered {', '.join(had)} from {', '.join(origin.sources) or 'the driver'}"
        self.line.report(
            DocumentsServed(
                text,
                answered=had,
                seconds=seconds,
                digest=origin.digest,
                sources=origin.sources,
                matched_by=origin.matched_by,
                problem=shortened(origin.problem),
            ),
            level=self._level_of(text, had),
        )

    def close(self) -> None:
        """Report what is left: the guest is gone."""
        self.report()
        self._release_source()

    def _settled(self) -> None:
        now_s = time.time()
        if now_s - max(self._had.values()) < SETTLED_S and now_s - self._asked_s < UNSETTLED_S:
            self._services.deadlines.start(SETTLED_S, self._settled)
        else:
            self.line.guarded(self.report)

    def _level_of(self, text: str, had: Collection[str]) -> int:
        """The same line is reported at most once a minute, whatever the guest does."""
        reported, when_s = self._reported
        now_s = time.monotonic()
        if "METADATA" not in had or (reported == text and now_s - when_s < QUIET_S):
            return logging.DEBUG
        self._reported = text, now_s
        return logging.INFO

    # Problems

    def _is_new(self, trouble: str) -> bool:
        """Whether `trouble` is not what was reported of this machine last."""
        self._tell_news()
        return self._services.news.is_new(self.line.machine, trouble)

    def _tell_news(self) -> None:
        """Let `news` know that the machine was answered without a problem."""
        if self._is_well:
            self._is_well = False
            self._services.news.is_new(self._machine or self.line.machine, "")

    def _report_stale(self, origin: Origin) -> None:
        key = key_of(self.line.machine)
        unreported = self._services.throttle.passes("stale", key, origin.problem)
        self.line.report(
            StaleServed(f"{origin.problem}{unreported or ''}", origin.sources),
            level=logging.DEBUG if unreported is None else logging.WARNING,
        )

    def _report_duplicates(self, origin: Origin) -> None:
        """Report each once a minute: all VMs with one default value have the same text."""
        self._services.counters[counters.CONFLICTS["duplicate"]] += 1
        for duplicate in origin.duplicates:
            unreported = self._services.throttle.passes("duplicate", duplicate)
            if unreported is not None:
                self.line.report(ValueDuplicated(f"{duplicate}{unreported}", origin.sources))

    def _use_source(self, origin: Origin, machine: Machine) -> None:
        """Report when VMs with different VC UUIDs get the same file, unless it is for several."""
        vc_uuid = machine.vc_uuid
        is_own = bool(origin.sources) and origin.matched_by != BY_LAYER
        shared = (origin.sources[0], vc_uuid) if vc_uuid and is_own else None
        if shared == self._shared:
            return
        self._release_source()
        self._shared = shared
        others = self._services.sources.add(*shared) if shared else ""
        if not shared or not others:
            return
        self._services.counters[counters.CONFLICTS["shared source"]] += 1
        unreported = self._services.throttle.passes("shared source", shared[0])
        if unreported is not None:
            text = (
                f"gets {shared[0]}, which other connected VMs get too: VC UUID {others}{unreported}"
            )
            self.line.report(SourceShared(text, origin.sources))

    def _release_source(self) -> None:
        if self._shared:
            self._services.sources.remove(*self._shared)
            self._shared = None
