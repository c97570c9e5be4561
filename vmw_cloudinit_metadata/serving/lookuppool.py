"""LookupPool: calls the driver, or reads the disk, in as many threads as the pool has places.

A slow or broken driver delays only the VMs whose requests need it. Equal calls are made once. Large
answers, or little memory, leave fewer places.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gevent

from vmw_cloudinit_metadata.drivers.driver import Work
from vmw_cloudinit_metadata.monitoring.figures import Timing
from vmw_cloudinit_metadata.process.budget import Budget
from vmw_cloudinit_metadata.process.deadlines import RunningClock
from vmw_cloudinit_metadata.process.threads import Threads
from vmw_cloudinit_metadata.serving.answer import Answer, Failure

_JOB_BYTES = 4096  # of a waiting look-up, with its machine

# A running look-up holds what it reads, the documents, and two copies of their packets. All of them
# together may take this share of the budget: with large documents fewer run at the same time.
_RUN_SIZES = 3  # of the largest recent answer
_MIN_RUN_BYTES = 64 * 1024
_FORGET = 0.99  # of the largest, with each look-up that ends
_RUNNING_SHARE = 0.25
QUEUE_TIMEOUT_S = 60.0  # the longest wait for a place
_TICK_S = 0.1  # how exactly deadlines are kept


@dataclass(slots=True)
class _Waiter:
    callback: Callable[[Any], None]
    since_s: float


@dataclass(slots=True)
class _Job:
    """One call of the driver, and the callbacks that wait for it."""

    key: Hashable
    call: Callable[[], Any]
    ended: Callable[[Any, float], None] | None
    asked_s: float
    waiters: list[_Waiter] = field(default_factory=list)
    started_s: float | None = None
    run_s: float = 0.0  # when its last run began, by time.monotonic()

    def take_overdue(
        self, now_s: float, queue_timeout_s: float, run_timeout_s: float
    ) -> list[_Waiter]:
        """Remove and return the callbacks that have waited too long, for a place or the driver."""
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


class LookupPool:
    """Calls of `source`. Belongs to the thread of its hub; only the calls run elsewhere."""

    def __init__(
        self,
        threads: Threads,
        places: int,
        run_timeout_s: float,
        budget: Budget,
        source: str = "the driver",
    ) -> None:
        self._threads = threads
        self._places = places
        self.run_timeout_s = run_timeout_s
        self._budget = budget
        self._source = source
        self._run_bytes: float = _MIN_RUN_BYTES
        self._jobs: dict[Hashable, _Job] = {}
        self._queue: deque[_Job] = deque()
        self._deferred: dict[Work, deque[_Job]] = {}  # by what they wait for, without a place
        self.running = 0
        self._clock = RunningClock(_TICK_S)
        self._moved_s = self._clock.now_s()  # when a place was taken or left
        self.queued = Timing()  # how long look-ups waited for a place
        self.ran = Timing()  # how long the driver took
        self._ticker = gevent.get_hub().loop.timer(_TICK_S, repeat=_TICK_S)
        self._is_ticking = False

    @property
    def waiting(self) -> int:
        """Look-ups that have no place yet."""
        return len(self._queue)

    def ask(
        self,
        key: Hashable,
        call: Callable[[], Any],
        callback: Callable[[Any], None],
        ended: Callable[[Any, float], None] | None = None,
    ) -> None:
        """Run `call` in a thread, and `callback` with its result, later and once.

        Calls of one key are made once, and `ended` is called first, with the start time too, which
        is of time.monotonic().
        """
        now_s = self._clock.now_s()
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = _Job(key, call, ended, now_s)
            self._queue.append(job)
            self._budget.keep()
        job.waiters.append(_Waiter(callback, now_s))
        self._start_jobs()

    def is_overdue(self, key: Hashable) -> bool:
        """Return whether the call of this key has run for longer than anybody waits."""
        job = self._jobs.get(key)
        began_s = job.started_s if job else None
        return began_s is not None and self._clock.now_s() - began_s > self.run_timeout_s

    @property
    def kept_bytes(self) -> int:
        """The bytes of the waiting look-ups."""
        return (len(self._jobs) - self.running) * _JOB_BYTES

    @property
    def running_bytes(self) -> int:
        """The bytes of the running look-ups, about."""
        return int(self.running * self._run_bytes)

    def shed(self) -> bool:
        """Give up the look-up that has waited longest; return False if there is none."""
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
        self._ticker.stop()
        self._ticker.close()

    def _start_jobs(self) -> None:
        share = _RUNNING_SHARE * self._budget.room_bytes / self._run_bytes
        while self._queue and self.running < min(self._places, max(share, 1)):
            job = self._queue.popleft()
            self.running += 1
            self._moved_s, job.run_s = self._clock.now_s(), time.monotonic()
            if job.started_s is None:
                job.started_s = self._moved_s
                self.queued.observe(job.started_s - job.asked_s)
            self._threads.run(job.call, partial(self._ended, job))
        if self._jobs and not self._is_ticking:
            self._is_ticking = True
            self._ticker.start(self._tick)

    def _ended(self, job: _Job, outcome: Any, error: BaseException | None) -> None:
        self.running -= 1
        self._moved_s = self._clock.now_s()
        self.ran.observe(time.monotonic() - job.run_s)
        if isinstance(outcome, Work):
            self._deferred.setdefault(outcome, deque()).append(job)
            self._resume()
            self._start_jobs()
            return
        del self._jobs[job.key]
        if error is not None:
            outcome = Failure("failed", str(error))
        if isinstance(outcome, Answer):
            of_this = _RUN_SIZES * outcome.size
            self._run_bytes = max(_MIN_RUN_BYTES, of_this, _FORGET * self._run_bytes)
        if job.ended:
            job.ended(outcome, job.run_s)
        self._budget.keep()  # also of what the driver keeps
        self._resume()
        self._start_jobs()
        for waiter in job.waiters:
            waiter.callback(outcome)

    def _resume(self) -> None:
        """Queue the look-ups whose work is over: all of them, or only the next if it was not
        kept."""
        for work in [work for work in self._deferred if work.is_over]:
            jobs = self._deferred[work]
            self._queue.extend(jobs if work.is_kept else [jobs.popleft()])
            if work.is_kept or not jobs:
                del self._deferred[work]

    def _tick(self) -> None:
        now_s = self._clock.now_s()
        is_stuck = now_s - self._moved_s > self.run_timeout_s  # the whole pool
        queue_timeout_s = self.run_timeout_s if is_stuck else QUEUE_TIMEOUT_S
        for job in list(self._jobs.values()):
            waits_for = "a place in the look-up pool" if job.started_s is None else self._source
            for waiter in job.take_overdue(now_s, queue_timeout_s, self.run_timeout_s):
                waiter.callback(Failure("timeout", f"waited too long for {waits_for}"))
        self._drop_unwanted()
        self._resume()
        self._start_jobs()
        if not self._jobs:
            self._is_ticking = False
            self._ticker.stop()

    def _drop_unwanted(self) -> None:
        """Skip jobs for which no callback waits any more."""
        for jobs in (self._queue, *self._deferred.values()):
            unwanted = [job for job in jobs if not job.waiters]
            for job in unwanted:
                jobs.remove(job)
                del self._jobs[job.key]
        self._forget_empty()

    def _forget_empty(self) -> None:
        self._deferred = {work: jobs for work, jobs in self._deferred.items() if jobs}
