"""The pooled look-up: which answer a machine gets, at once if it is kept, else from the driver.

Drivers run in threads, as many as the pool has places, so that a slow or broken one costs the VMs
that asked and nobody else. Equal look-ups under way are one. Answers are kept as ready packets for
as long as the driver says that they hold. Callbacks run in the hub and must not block.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any

import gevent
from cachetools import LRUCache

from vmw_cloudinit_metadata.budget import Budget, Fixed, size_of
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.errors import DriverError
from vmw_cloudinit_metadata.figures import Timing
from vmw_cloudinit_metadata.instance import nocloud
from vmw_cloudinit_metadata.instance.dump import json_text
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.printable import shortened
from vmw_cloudinit_metadata.protocol import packet
from vmw_cloudinit_metadata.protocol.packet import Packet
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.threads import Threads

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
_ABOUT_BYTES = 3072  # of a kept answer beside its texts: driver's token, objects, the cache's own
QUEUE_TIMEOUT_S = 60.0  # the longest wait for a place in the pool
_TICK_S = 0.1  # how exactly deadlines are kept

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


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Answer:
    """What a machine gets: a serialized packet for each document, and for the digest."""

    packets: Mapping[str, bytes]
    origin: Origin
    token: object = None
    size: int = 0  # bytes, when it is kept for its machine


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


def look_up(driver: Driver, machine: Machine) -> Outcome:
    """Asks the driver, in this thread. Never raises."""
    if machine.is_anonymous:
        return Failure("not-found", "the VM has told neither a name nor a UUID")
    try:
        instance = driver.get_instance(machine)
        if instance is None:
            return Failure("not-found", driver.explain(machine))
        documents = nocloud.render(instance, machine)
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
    origin = Origin(instance.matched_by, instance.sources, problem, digest.decode())
    texts = (machine.name, machine.service_uri, origin.sources, origin.problem, origin.digest)
    return Answer(packets, origin, instance.token, _ABOUT_BYTES + size_of((packets, texts)))


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

    def take_overdue(self, now_s: float, run_timeout_s: float) -> list[_Waiter]:
        """Removes and returns those who have waited too long, for a place or for the driver."""
        limit_s = QUEUE_TIMEOUT_S if self.started_s is None else run_timeout_s
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
        driver.moment = gevent.get_hub().loop.now
        self._threads = Threads()
        self._pool_size = pool_size
        self.run_timeout_s = run_timeout_s
        self._budget = budget
        self._run_bytes: float = _MIN_RUN_BYTES
        self._kept = Kept()
        budget.add("kept answers", self._kept)
        budget.add("look-ups waiting", self)
        budget.add("look-ups running", Fixed(lambda: int(self._running * self._run_bytes)))
        self._jobs: dict[Hashable, _Job] = {}
        self._queue: deque[_Job] = deque()
        self._running = 0
        self.queued = Timing()  # how long look-ups waited for a place in the pool
        self.ran = Timing()  # how long the driver took
        self._ticker = gevent.get_hub().loop.timer(_TICK_S, repeat=_TICK_S)
        self._is_ticking = False

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        """Look-ups that have no place in the pool yet."""
        return len(self._queue)

    def kept(self, machine: Machine) -> Answer | None:
        """The machine's answer, if there is one that holds. Does not block."""
        try:
            answer = self._kept[machine]
        except KeyError:
            return None
        if self.holds(answer):
            return answer
        self._kept.pop(machine, None)
        return None

    def holds(self, answer: Answer) -> bool:
        """Whether the driver would give this answer again. Does not block."""
        try:
            return answer.token is not None and self._driver.still_holds(answer.token)
        except Exception:  # a driver is foreign code
            log.exception("%s: still_holds fails", type(self._driver).__name__)
            return False

    def ask(self, machine: Machine, callback: Callable[[Outcome], None]) -> None:
        """Calls `callback`, later and once, with the machine's answer or why there is none."""
        self._join(machine, partial(look_up, self._driver, machine), callback)

    def ask_document_names(self, callback: Callable[[Collection[str] | Failure], None]) -> None:
        """Calls `callback`, later and once, with the documents beyond the standard ones."""
        self._join("document names", partial(_document_names, self._driver), callback)

    @property
    def kept_bytes(self) -> int:
        """Of the look-ups that wait."""
        return len(self._queue) * _JOB_BYTES

    def shed(self) -> bool:
        """Give up the look-up that waits longest; return False if there is none."""
        if not self._queue:
            return False
        job = self._queue.popleft()
        del self._jobs[job.key]
        for waiter in job.waiters:
            waiter.callback(Failure("timeout", "the memory budget is used up (--memory-budget)"))
        return True

    def close(self) -> None:
        self._ticker.stop()
        self._ticker.close()
        self._threads.close()

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
            job.started_s = time.monotonic()
            self.queued.observe(job.started_s - job.asked_s)
            self._threads.run(job.work, partial(self._ended, job))
        if self._jobs and not self._is_ticking:
            self._is_ticking = True
            self._ticker.start(self._tick)

    def _ended(self, job: _Job, outcome: Any, error: BaseException | None) -> None:
        self._running -= 1
        self.ran.observe(time.monotonic() - (job.started_s or 0.0))
        del self._jobs[job.key]
        if error is not None:
            outcome = Failure("failed", str(error))
        if isinstance(outcome, Answer):
            self._run_bytes = max(
                _MIN_RUN_BYTES, _RUN_SIZES * outcome.size, _FORGET * self._run_bytes
            )
            if outcome.token is not None:
                assert isinstance(job.key, Machine)
                self._kept[job.key] = outcome
        self._budget.keep()  # also of what the driver keeps
        self._start_jobs()
        for waiter in job.waiters:
            waiter.callback(outcome)

    def _tick(self) -> None:
        now_s = time.monotonic()
        for job in list(self._jobs.values()):
            waits_for = "a place in the look-up pool" if job.started_s is None else "the driver"
            for waiter in job.take_overdue(now_s, self.run_timeout_s):
                waiter.callback(Failure("timeout", f"waited too long for {waits_for}"))
        self._drop_unwanted()
        if not self._jobs:
            self._is_ticking = False
            self._ticker.stop()

    def _drop_unwanted(self) -> None:
        """A job that has not begun and that nobody waits for any more is not begun."""
        unwanted = [job for job in self._queue if not job.waiters]
        for job in unwanted:
            self._queue.remove(job)
            del self._jobs[job.key]


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
