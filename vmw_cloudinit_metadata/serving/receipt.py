"""The documents that a guest has received, and the reports about them.

Answers are collected while the guest requests more, and reported together when it stops: a boot is
one line of the log. Errors are reported at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import islice
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
    WindowClosed,
)
from vmw_cloudinit_metadata.monitoring.onceaminute import QUIET_S, key_of
from vmw_cloudinit_metadata.protocol.packet import ErrorCode
from vmw_cloudinit_metadata.protocol.printable import quoted, shortened
from vmw_cloudinit_metadata.protocol.servedboot import ServedBoot
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import Failure, Origin
from vmw_cloudinit_metadata.serving.fleetuses import Others
from vmw_cloudinit_metadata.serving.services import Services
from vmw_cloudinit_metadata.serving.timeouts import SETTLED_S, UNSETTLED_S

log = logging.getLogger(__name__)

MAX_DOCUMENTS_REPORTED = 64  # of one boot
NAMED_OTHERS = 3  # VMs that get the same file

# A document's name, as a label of metrics -> its counter.
_ANSWERED: Mapping[str, counters.Key] = {
    document: key for (document, outcome), key in counters.OUTCOMES.items() if outcome == "answered"
}
_OTHER_ANSWERED = counters.OUTCOMES[counters.OTHER_DOCUMENT, "answered"]

_NOTHING_YET = Origin()


class GuestLine(Protocol):
    """The part of its line that a receipt uses."""

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
    """Collects one guest's answers, and reports them for `line`, on which the guest is now."""

    __slots__ = (
        "_asked_s",
        "_collected",
        "_is_well",
        "_machine",
        "_origin",
        "_reported",
        "_services",
        "_used",
        "boot",
        "line",
    )

    def __init__(self, services: Services, line: GuestLine) -> None:
        self.line = line
        self._services = services
        self._machine: Machine | None = None  # of the last answer
        self._origin = _NOTHING_YET  # of the last answer
        self._collected: dict[str, float] = {}  # document: when it was answered
        self._asked_s = 0.0  # when the first of them was requested
        self._is_well = False  # answered without a problem, not yet recorded in `news`
        self._used: tuple[str, str] | None = None  # the source and VC UUID that are counted
        self._reported: tuple[str, float] = ("", 0.0)  # the last line of the log, and when
        self.boot: ServedBoot | None = None  # since there is meta-data

    def answered(
        self, machine: Machine, document: str, origin: Origin, size: int, asked_s: float
    ) -> None:
        """Add `document`, requested at `asked_s`, with a response of `size` bytes."""
        services = self._services
        self.count_answer(document, size)
        if not self._collected:
            self._asked_s = asked_s
            services.deadlines.start(SETTLED_S, self._settled)
        if document in self._collected or len(self._collected) < MAX_DOCUMENTS_REPORTED:
            self._collected[document] = time.time()
        self._machine, self._origin = machine, origin
        if not origin.problem:
            self._is_well = True
        elif self._is_new(origin.problem):
            self._report_stale(origin)
        if document == "METADATA":
            self._begin_boot(origin, machine)
            self._use_source(origin, machine)  # now: the other VM may not be there later
            if origin.duplicates:
                self._report_duplicates(origin)

    def boot_of(self, machine: Machine) -> ServedBoot | None:
        """Return what a report of this machine must fit; None if it has had no meta-data here."""
        return self.boot if self.boot and self.boot.vm == _vm_of(machine) else None

    def _begin_boot(self, origin: Origin, machine: Machine) -> None:
        boot = ServedBoot(_vm_of(machine), origin.identity, time.time())
        if last := self.boot:
            boot = boot._replace(report=last.report, reported_s=last.reported_s)
        self.boot = boot

    def count_answer(self, document: str, size: int) -> None:
        services = self._services
        services.counters[counters.ANSWERED] += 1
        services.counters[_ANSWERED.get(document, _OTHER_ANSWERED)] += 1
        if services.machines.rivals and self.line.is_older:
            services.counters[counters.ANSWERED_OLDER] += 1
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s: > RESPONSE_%s, %d bytes", self.line, document, size)

    def failed(self, document: str, failure: Failure) -> None:
        """Report that `document` was answered with an error."""
        self.count_failure(document, failure.error)
        if failure.secret:
            self._services.counters[counters.SECRETS_UNAVAILABLE[failure.secret]] += 1
        machine = self.line.machine
        trouble = f"{failure.error}: {failure.reason}"
        unreported = self._services.throttle.passes("failed", key_of(machine), trouble)
        # A request for something that does not exist says nothing about the VM.
        is_new = failure.error != "unknown-request" and self._is_new(trouble)
        if is_new:
            self.report()
        if is_new or unreported is not None:
            text = f"REQUEST_{document} answered with {trouble}{unreported or ''}"
            reason = shortened(failure.reason)
            fact: Fact = RequestFailed(text, document, failure.error, reason)
            if not failure.is_trouble:
                fact = WindowClosed(text, document, reason)
            self.line.report(fact, level=logging.DEBUG if unreported is None else None)

    def tell(self, fact: Fact) -> None:
        """Report a happening of this VM, wherever it is by now."""
        self.line.report(fact)

    def count_failure(self, document: str, error: ErrorCode) -> None:
        counted = self._services.counters
        counted[counters.ANSWERED_WITH[error]] += 1
        counted[counters.OUTCOMES[counters.document_label(document), error]] += 1

    def report(self) -> None:
        """Report everything answered since the last report."""
        if not self._collected:
            return
        self._services.deadlines.cancel(self._settled)
        documents, origin, self._collected = self._collected, self._origin, {}
        seconds = max(documents.values()) - self._asked_s
        self._tell_news()
        if "METADATA" in documents:
            self._services.counters[counters.BOOTS] += 1
            self._services.boots.observe(seconds)
        text = f"answered {', '.join(documents)} from {', '.join(origin.sources) or 'the driver'}"
        self.line.report(
            DocumentsServed(
                text,
                answered=documents,
                seconds=seconds,
                digest=origin.shown_digest,
                sources=origin.sources,
                matched_by=origin.matched_by,
                problem=shortened(origin.problem),
            ),
            level=self._level_of(text, documents),
        )

    @property
    def used(self) -> tuple[str, str] | None:
        """The source that the VM is counted for, and its VC UUID."""
        return self._used

    def use(self, source: str, vc_uuid: str) -> int:
        """Count the VM for this source alone; return how many VMs use it."""
        self._release_source()
        self._used = source, vc_uuid
        users = self._services.sources.setdefault(source, {})
        users[vc_uuid] = users.get(vc_uuid, 0) + 1
        if self._services.uses and users[vc_uuid] == 1:
            self._services.uses.begin(_data_of(source), vc_uuid, self._is_shared_elsewhere)
        return len(users)

    def close(self) -> None:
        """Report the rest: the guest has disconnected."""
        self.report()
        self._release_source()

    def _settled(self) -> None:
        now_s = time.time()
        if (
            now_s - max(self._collected.values()) < SETTLED_S
            and now_s - self._asked_s < UNSETTLED_S
        ):
            self._services.deadlines.start(SETTLED_S, self._settled)
        else:
            self.line.guarded(self.report)

    def _level_of(self, text: str, documents: Collection[str]) -> int:
        """Return the level of a line: an equal one is reported at most once a minute."""
        reported, when_s = self._reported
        now_s = time.monotonic()
        if "METADATA" not in documents or (reported == text and now_s - when_s < QUIET_S):
            return logging.DEBUG
        self._reported = text, now_s
        return logging.INFO

    # Problems

    def _is_new(self, trouble: str) -> bool:
        """Return whether `trouble` differs from the machine's last reported one."""
        self._tell_news()
        return self._services.news.is_new(self.line.machine, trouble)

    def _tell_news(self) -> None:
        """Record in `news` that the machine was answered without a problem."""
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
        """Report each value once a minute: all VMs with one default value get the same text."""
        self._services.counters[counters.CONFLICTS["duplicate"]] += 1
        for duplicate in origin.duplicates:
            unreported = self._services.throttle.passes("duplicate", duplicate)
            if unreported is None:
                continue
            report = partial(_report_duplicate, self.line, f"{duplicate}{unreported}", origin)
            if self._services.uses:
                self._services.uses.report_once(f"duplicate {duplicate}", report)
            else:
                report("")

    def _use_source(self, origin: Origin, machine: Machine) -> None:
        """Count the VM for its own file, and report if others get that file too."""
        vc_uuid = machine.vc_uuid
        is_own = bool(origin.sources) and origin.matched_by != BY_LAYER
        used = (origin.sources[0], vc_uuid) if vc_uuid and is_own else None
        if used == self._used:
            return
        self._release_source()
        if used and self.use(*used) > 1:
            self._report_shared(origin, used[1], self._services.sources[used[0]])

    def _report_shared(self, origin: Origin, vc_uuid: str, users: Collection[str]) -> None:
        self._services.counters[counters.CONFLICTS["shared source"]] += 1
        source = origin.sources[0]
        unreported = self._services.throttle.passes("shared source", source)
        if unreported is not None:
            others = _named_others(users, vc_uuid)
            text = f"gets {source}, which other connected VMs get too: VC UUID {others}{unreported}"
            self.line.report(SourceShared(text, origin.sources))

    def _is_shared_elsewhere(self, others: Others) -> None:
        """Report that VMs of other processes get the same file."""
        self._services.counters[counters.CONFLICTS["shared source"]] += 1
        if self._used and others.held_back is not None:
            source = self._used[0]
            named = ", ".join(f"{user} ({quoted(server)})" for user, server in others.named)
            more = others.number - len(others.named)
            further = f" and {more} more" if more > 0 else ""
            text = (
                f"gets {source}, which VMs of other processes get too: VC UUID {named}{further}"
                f"{others.remark}"
            )
            self.line.report(SourceShared(text, (source,)))

    def _release_source(self) -> None:
        if not self._used:
            return
        (source, vc_uuid), self._used = self._used, None
        users = self._services.sources[source]
        users[vc_uuid] -= 1
        if not users[vc_uuid]:
            del users[vc_uuid]
            if self._services.uses:
                self._services.uses.end(_data_of(source), vc_uuid)
        if not users:
            del self._services.sources[source]


def _report_duplicate(line: GuestLine, text: str, origin: Origin, remark: str) -> None:
    line.report(ValueDuplicated(f"{text}{remark}", origin.sources))


def _vm_of(machine: Machine) -> str:
    return machine.vc_uuid or machine.bios_uuid or machine.name or ""


def _data_of(source: str) -> str:
    return f"data {source}"


def _named_others(users: Collection[str], vc_uuid: str) -> str:
    others = [user for user in islice(users, NAMED_OTHERS + 1) if user != vc_uuid][:NAMED_OTHERS]
    further = len(users) - 1 - len(others)
    return ", ".join(others) + (f" and {further} more" if further else "")
