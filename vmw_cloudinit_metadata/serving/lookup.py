"""The pooled look-up: which answer a machine gets, at once if it is kept, else from the driver.

Drivers run in threads, as many as the pool has places, so that a slow or broken one costs the VMs
that asked and nobody else. Equal look-ups under way are one. Answers are kept as ready packets for
as long as the driver says that they hold (recheck.py). Callbacks run in the hub and must not block.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import Any

import gevent
from cachetools import LRUCache, TTLCache
from gevent.event import Event

from vmw_cloudinit_metadata.drivers.driver import Driver, DriverError, UnderWay, Work
from vmw_cloudinit_metadata.instance import nocloud
from vmw_cloudinit_metadata.instance.dump import json_text
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.monitoring.figures import Timing
from vmw_cloudinit_metadata.process.budget import Budget, Fixed, size_of
from vmw_cloudinit_metadata.process.threads import Threads
from vmw_cloudinit_metadata.protocol import packet
from vmw_cloudinit_metadata.protocol.packet import Packet
from vmw_cloudinit_metadata.protocol.printable import shortened
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.recheck import FRESH_S, NEVER_S, OVERDUE_S, Recheck

log = logging.getLogger(__name__)

KEPT_BYTES = 256 * 1024 * 1024
MAX_REASON_CHARACTERS = 4096  # of a failure or a stale answer, for the operator
_JOB_BYTES = 4096  # of a look-up that waits, with its machine

# A look-up that runs has what it reads, the documents, and two copies of their packets. Together
# they may take this part of the budget: with large documents fewer run at the same time.
_RUN_SIZES = 3  # of the largest answer of late
_MIN_RUN_BYTES = 64 * 1024
_FORGET = 0.99  # of the largest, with each look-up that ends
_RUNNING_SHARE = 0.25
_REPEATED_S = 0.005  # who asks again within this time does so without pause
_MAX_FAILURES = 64  # names and reasons are cut: 2 MiB at most
_ABOUT_BYTES = 3072  # of a kept answer beside its texts: driver's token, objects, the cache's own
QUEUE_TIMEOUT_S = 60.0  # the longest wait for a place in the pool
_CLOSE_S = 2.0  # for the driver to let go of what it holds
_TICK_S = 0.1  # how exactly deadlines are kept

_SILENT = "the driver does not answer: its files or what else it asks may be out of reach"

# What the guest hears: what to do, and nothing that is secret.
MESSAGES = {
    "not-found": "The server has no data for this VM. An administrator must add it.",
    "invalid": "The data of this VM has a fault. An administrator must mend it: the log of the "
    "server, and its command validate, name it.",
    "failed": "The server cannot get at its data now. Ask again later; its log has the reason.",
    "timeout": "The server has no answer in time. Ask again later; its log has the reason.",
    "unknown-request": "No VM has such a document. Ask for another one.",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an answer comes from: what the operator is told of it."""

    matched_by: str = ""
    sources: tuple[str, ...] = ()
    problem: str = ""
    digest: str = ""  # the packet RESPONSE_DIGEST
    duplicates: tuple[str, ...] = ()  # what another VM has too and should not


@dataclass(slots=True, eq=False, weakref_slot=True)
class Answer:
    """What a machine gets: a serialized packet for each document, and for the digest."""

    packets: Mapping[str, bytes]
    origin: Origin
    token: object = None
    size: int = 0  # bytes, when it is kept for its machine
    seen_s: float = NEVER_S  # when the look began, at the driver's data, at which it held last


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a machine gets none: a key of MESSAGES, and the reason for the operator's log."""

    error: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", shortened(self.reason, MAX_REASON_CHARACTERS))


Outcome = Answer | Failure


def error_packet(document: str, error: str) -> bytes:
    request = packet.REQUEST + document
    body = json_text({"request": request, "error": error, "message": MESSAGES[error]})
    return packet.serialize(Packet("RESPONSE_ERROR", body.encode()))


def response_packet(document: str, body: bytes) -> bytes:
    return packet.serialize(Packet(packet.RESPONSE + document, body))


def look_up(driver: Driver, machine: Machine) -> Outcome | Work:
    """Asks the driver, in this thread. Never raises; returns what has to be waited for."""
    if machine.is_anonymous:
        return Failure("not-found", "the VM has told neither a name nor a UUID")
    try:
        instance = driver.get_instance(machine)
        if instance is None:
            return Failure("not-found", driver.explain(machine))
        documents = nocloud.render(instance, machine)
    except UnderWay as error:
        return error.work
    except InvalidInstanceData as error:
        return Failure("invalid", str(error))
    except DriverError as error:
        return Failure("failed", str(error))
    except (Exception, SystemExit) as error:  # a driver is foreign code
        log.exception("%s: the driver fails for %s", type(driver).__name__, machine)
        return Failure("failed", f"{type(error).__name__}: {error}")
    packets = {name: response_packet(name, body) for name, body in documents.items()}
    digest = packets["DIGEST"] = response_packet("DIGEST", nocloud.digest(documents))
    problem = shortened(instance.problem, MAX_REASON_CHARACTERS)
    origin = Origin(
        instance.matched_by, instance.sources, problem, digest.decode(), instance.duplicates
    )
    texts = (machine.name, machine.service_uri, origin.sources, origin.problem, origin.digest)
    return Answer(
        packets, origin, instance.token, _ABOUT_BYTES + size_of((packets, texts, origin.duplicates))
    )


def _document_names(driver: Driver) -> Collection[str] | Failure:
    try:
        return frozenset(driver.document_names())
    except (Exception, SystemExit) as error:
        log.exception("%s: the driver fails to tell its documents", type(driver).__name__)
        return Failure("failed", f"{type(error).__name__}: {error}")


@dataclass(slots=True)
class _Waiter:
    callback: Callable[[Any], None]
    since_s: float


@dataclass(slots=True)
class _Job:
    """One call of the driver, and who waits for it."""

    key: Hashable
    work: Callable[[], Any]
    waiters: list[_Waiter] = field(default_factory=list)
    asked_s: float = field(default_factory=time.monotonic)
    started_s: float | None = None
    run_s: float = 0.0  # the same, of its last run

    def take_overdue(
        self, now_s: float, queue_timeout_s: float, run_timeout_s: float
    ) -> list[_Waiter]:
        """Removes and returns those who have waited too long, for a place or for the driver."""
        limit_s = queue_timeout_s if self.started_s is None else run_timeout_s
        begun_s = self.started_s or 0.0
        if now_s - max(self.asked_s, begun_s) <= limit_s:  # the first to wait asked then
            return []
        overdue: list[_Waiter] = []
        patient: list[_Waiter] = []
        for waiter in self.waiters:
            waited_s = now_s - max(waiter.since_s, begun_s)
            (overdue if waited_s > limit_s else patient).append(waiter)
        self.waiters = patient
        return overdue


class Lookup:
    """Answers for machines. Belongs to the thread of its hub; only the driver runs elsewhere."""

    def __init__(
        self, driver: Driver, pool_size: int, run_timeout_s: float, budget: Budget
    ) -> None:
        self._driver = driver
        self._recheck = Recheck(driver, min(OVERDUE_S, run_timeout_s))
        self._threads = Threads()
        self._pool_size = pool_size
        self._run_timeout_s = run_timeout_s
        self._budget = budget
        self._run_bytes: float = _MIN_RUN_BYTES
        self._kept = Kept()
        budget.add("kept answers", self._kept)
        budget.add("look-ups waiting", self)
        budget.add("look-ups running", Fixed(lambda: int(self._running * self._run_bytes)))
        # Told again to a guest that asks without pause.
        self._failures: TTLCache[Hashable, tuple[Failure, float]]
        self._failures = TTLCache(_MAX_FAILURES, _REPEATED_S)
        self._jobs: dict[Hashable, _Job] = {}
        self._queue: deque[_Job] = deque()
        self._deferred: dict[Work, deque[_Job]] = {}  # by what they wait for, without a place
        self._running = 0
        self._moved_s = time.monotonic()  # when a place in the pool was taken or left
        self.queued = Timing()  # how long look-ups waited for a place in the pool
        self.ran = Timing()  # how long the driver took
        self._ticker = gevent.get_hub().loop.timer(_TICK_S, repeat=_TICK_S)
        self._is_ticking = False

    @property
    def run_timeout_s(self) -> float:
        return self._run_timeout_s

    @run_timeout_s.setter
    def run_timeout_s(self, seconds: float) -> None:
        self._run_timeout_s = seconds
        self._recheck.overdue_s = min(OVERDUE_S, seconds)

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        """Look-ups that have no place in the pool yet."""
        return len(self._queue)

    def kept(self, machine: Machine) -> Answer | None:
        """The machine's answer, if there is one: to be given if it `is_fresh`, else to be looked at
        by `recheck`."""
        try:
            return self._kept[machine]
        except KeyError:
            return None

    def is_fresh(self, answer: Answer) -> bool:
        """Whether it was seen to hold just now."""
        return time.monotonic() - answer.seen_s < FRESH_S

    def recheck(
        self, machine: Machine, answer: Answer, callback: Callable[[Outcome | None], None]
    ) -> None:
        """Has the machine's answer looked at, and calls back, later and once: with it, with None if
        it does not hold, and if the driver does not answer, with what there is then."""
        self._recheck.ask(answer, partial(self._rechecked, machine, answer, callback))

    def _rechecked(
        self,
        machine: Machine,
        answer: Answer,
        callback: Callable[[Outcome | None], None],
        holds: bool | None,
    ) -> None:
        if holds:
            callback(answer)
        elif holds is None:
            callback(self._unchecked(machine, answer))
        else:
            if self._kept.get(machine) is answer:
                del self._kept[machine]
            callback(None)

    def _unchecked(self, machine: Machine, answer: Answer) -> Outcome:
        """The answer as the last good one, to the VM whose own it is: no name is a VM's own."""
        age_s = time.monotonic() - answer.seen_s
        if not machine.vc_uuid or age_s > self._driver.stale_if_error_s:
            return Failure("failed", _SILENT)
        problem = f"the last good answer is served, because: {_SILENT}"
        origin = replace(answer.origin, problem=problem)
        return replace(answer, token=None, origin=origin, seen_s=NEVER_S)

    def ask(self, machine: Machine, callback: Callable[[Outcome], None]) -> None:
        """Calls `callback`, later and once, with the machine's answer or why there is none."""
        self._join(machine, partial(look_up, self._driver, machine), callback)

    def fresh_failure(self, machine: Machine) -> Failure | None:
        """Why the machine has no answer, if the driver has told that just now."""
        failure, run_s = self._failures.get(machine, (None, NEVER_S))
        return failure if time.monotonic() - run_s < _REPEATED_S else None

    def ask_document_names(self, callback: Callable[[Collection[str] | Failure], None]) -> None:
        """Calls `callback`, later and once, with the documents beyond the standard ones."""
        self._join("document names", partial(_document_names, self._driver), callback)

    @property
    def kept_bytes(self) -> int:
        """Of the look-ups that wait."""
        return (len(self._jobs) - self._running) * _JOB_BYTES

    def shed(self) -> bool:
        """Give up the look-up that waits longest; return False if there is none."""
        waiting = next((jobs for jobs in (self._queue, *self._deferred.values()) if jobs), None)
        if waiting is None:
            return False
        job = waiting.popleft()
        del self._jobs[job.key]
        self._forget_empty()
        for waiter in job.waiters:
            waiter.callback(Failure("timeout", "the memory budget is used up (--memory-budget)"))
        return True

    def close(self) -> None:
        """Closes the driver too."""
        self._ticker.stop()
        self._ticker.close()
        self._recheck.close()
        closed = Event()
        self._threads.run(self._driver.close, partial(self._closed, closed))
        if not closed.wait(_CLOSE_S):
            log.warning("%s: close does not return", type(self._driver).__name__)
        self._threads.close()

    def _closed(self, closed: Event, _nothing: None, error: BaseException | None) -> None:
        if error:
            log.error("%s: close fails", type(self._driver).__name__, exc_info=error)
        closed.set()

    def _join(
        self, key: Hashable, work: Callable[[], Any], callback: Callable[[Any], None]
    ) -> None:
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = _Job(key, work)
            self._queue.append(job)
            self._budget.keep()
        job.waiters.append(_Waiter(callback, time.monotonic()))
        self._start_jobs()

    def _start_jobs(self) -> None:
        share = _RUNNING_SHARE * self._budget.room_bytes / self._run_bytes
        while self._queue and self._running < min(self._pool_size, max(share, 1)):
            job = self._queue.popleft()
            self._running += 1
            self._moved_s = job.run_s = time.monotonic()
            if job.started_s is None:
                job.started_s = job.run_s
                self.queued.observe(job.run_s - job.asked_s)
            self._threads.run(job.work, partial(self._ended, job))
        if self._jobs and not self._is_ticking:
            self._is_ticking = True
            self._ticker.start(self._tick)

    def _ended(self, job: _Job, outcome: Any, error: BaseException | None) -> None:
        self._running -= 1
        self._moved_s = time.monotonic()
        self.ran.observe(self._moved_s - job.run_s)
        if isinstance(outcome, Work):
            self._deferred.setdefault(outcome, deque()).append(job)
            self._resume()
            self._start_jobs()
            return
        del self._jobs[job.key]
        if error is not None:
            outcome = Failure("failed", str(error))
        if isinstance(outcome, Answer):
            self._keep(job, outcome)
        elif isinstance(outcome, Failure) and outcome.error in ("not-found", "invalid"):
            self._failures[job.key] = outcome, job.run_s
        self._budget.keep()  # also of what the driver keeps
        self._resume()
        self._start_jobs()
        for waiter in job.waiters:
            waiter.callback(outcome)

    def _keep(self, job: _Job, answer: Answer) -> None:
        self._run_bytes = max(_MIN_RUN_BYTES, _RUN_SIZES * answer.size, _FORGET * self._run_bytes)
        if answer.token is not None and answer.size <= KEPT_BYTES:
            assert isinstance(job.key, Machine)
            answer.seen_s = job.run_s
            self._kept[job.key] = answer

    def _resume(self) -> None:
        """Those who wait for what is over now: all of them, or, where it was not kept, the next."""
        for work in [work for work in self._deferred if work.is_over]:
            jobs = self._deferred[work]
            self._queue.extend(jobs if work.is_kept else [jobs.popleft()])
            if work.is_kept or not jobs:
                del self._deferred[work]

    def _tick(self) -> None:
        now_s = time.monotonic()
        is_stuck = now_s - self._moved_s > self._run_timeout_s  # the whole pool
        queue_timeout_s = self._run_timeout_s if is_stuck else QUEUE_TIMEOUT_S
        for job in list(self._jobs.values()):
            waits_for = "a place in the look-up pool" if job.started_s is None else "the driver"
            for waiter in job.take_overdue(now_s, queue_timeout_s, self._run_timeout_s):
                waiter.callback(Failure("timeout", f"waited too long for {waits_for}"))
        self._drop_unwanted()
        self._resume()
        self._start_jobs()
        if not self._jobs:
            self._is_ticking = False
            self._ticker.stop()

    def _drop_unwanted(self) -> None:
        """A job that does not run and that nobody waits for any more is not begun."""
        for jobs in (self._queue, *self._deferred.values()):
            unwanted = [job for job in jobs if not job.waiters]
            for job in unwanted:
                jobs.remove(job)
                del self._jobs[job.key]
        self._forget_empty()

    def _forget_empty(self) -> None:
        self._deferred = {work: jobs for work, jobs in self._deferred.items() if jobs}


class Kept(LRUCache[Machine, Answer]):
    """Answers that can be given again, within KEPT_BYTES."""

    def __init__(self) -> None:
        super().__init__(KEPT_BYTES, getsizeof=attrgetter("size"))

    @property
    def kept_bytes(self) -> int:
        return int(self.currsize)

    def shed(self) -> bool:
        """Drop the answer that was used longest ago; return False if there is none."""
        if not self:
            return False
        self.popitem()
        return True
