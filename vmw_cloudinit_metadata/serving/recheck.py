"""Recheck: finds out whether cached answers still hold; calls the driver in threads, with a
deadline.

The hub collects the looks of one turn, gives them to one thread, and waits briefly for it, since
switching threads for each look would cost more. After a slow batch, the hub does not wait until the
driver is quick again. Slow looks go to further threads, up to a limit, so that an answer whose file
system hangs delays no others. Callbacks run in the hub and must not block.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from threading import Lock
from typing import Protocol

import gevent

from vmw_cloudinit_metadata.drivers import contract
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.process.deadlines import RunningClock
from vmw_cloudinit_metadata.process.threads import Threads
from vmw_cloudinit_metadata.serving.driverlog import log_error

FRESH_S = 0.15  # an answer found unchanged within this time needs no look
OVERDUE_S = 1.0  # the longest wait for a look
NEVER_S = -inf

MOMENT_S = 0.001  # the hub waits this long for a batch, if the last one took no longer
_TOGETHER = 64  # looks of one batch
_SLICE_S = 0.05  # a thread returns what it has found after this time
_SLOW_S = 0.1  # a batch under way for longer holds up no other
_STUCK_S = 0.3  # a thread silent for longer hangs in one look
_THREADS = 8
_TICK_S = 0.1


class Cached(Protocol):
    """A cached answer; `seen_s` is the start of the last look that found it unchanged."""

    token: object
    seen_s: float


# Called with whether the answer holds, or with None if the driver does not answer.
Callback = Callable[[bool | None], None]

# Looks and answers are compared by time.monotonic(); `..._since_s` is of the running clock, by
# which the driver and its threads are judged.


@dataclass(frozen=True, slots=True)
class _LookWaiter:
    callback: Callback
    asked_s: float
    waits_since_s: float


@dataclass(slots=True, eq=False)
class _Look:
    """A pending look at one answer, and the callbacks that wait for it."""

    answer: Cached
    waits_since_s: float
    waiting: list[_LookWaiter] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Batch:
    """The looks of one thread, made one after the other."""

    looks: list[_Look]
    began_s: float
    runs_since_s: float
    found: list[bool] = field(default_factory=list)  # the thread appends to it
    taken: int = 0  # of those: reported to who waits
    is_stuck: bool = False
    took_s: float = inf  # set by the thread
    is_over: Lock = field(default_factory=Lock)  # released by the thread


class Recheck:
    """Looks at cached answers. Belongs to the thread of its hub; only the driver runs elsewhere."""

    def __init__(self, driver: Driver, overdue_s: float, moment_s: float = MOMENT_S) -> None:
        self._driver = driver
        self.overdue_s = overdue_s
        self._moment_s = moment_s
        self._threads = Threads()
        self._looks: dict[Cached, _Look] = {}
        self._pending: deque[_Look] = deque()
        self._batches: list[_Batch] = []
        self._loop = gevent.get_hub().loop
        self._has_end = False
        self._clock = RunningClock(_TICK_S)
        self._ticker = self._loop.timer(_TICK_S, repeat=_TICK_S)
        self._is_ticking = False
        self._is_quick = True  # the last batch was

    def close(self) -> None:
        self._ticker.stop()
        self._ticker.close()
        self._threads.close()

    def ask(self, answer: Cached, callback: Callback) -> None:
        """Look at the answer after this turn, and call back, later and once.

        If a look at it is overdue already, call back at the end of this turn.
        """
        now_s = self._clock.now_s()
        look = self._looks.get(answer)
        if look is None:
            look = self._looks[answer] = _Look(answer, now_s)
            self._await(look)
        if now_s - look.waits_since_s > self.overdue_s:
            self._loop.run_callback(callback, None)
        else:
            look.waiting.append(_LookWaiter(callback, time.monotonic(), now_s))

    def _await(self, look: _Look) -> None:
        """Queue the look for a thread."""
        self._pending.append(look)
        if len(self._pending) >= _TOGETHER:
            self._begin()
        elif not self._has_end:
            self._has_end = True
            self._loop.run_callback(self._end_turn)

    def _end_turn(self) -> None:
        self._has_end = False
        batch = self._begin()
        if not batch or not self._is_quick:
            return
        self._is_quick = batch.is_over.acquire(timeout=self._moment_s)
        if self._is_quick:
            self._take(batch)

    def _begin(self) -> _Batch | None:
        """Give the next looks to a thread, unless one is about to return or all of them hang."""
        now_s = self._clock.now_s()
        if not self._pending or len(self._batches) >= _THREADS:
            return None
        if any(now_s - batch.runs_since_s < _SLOW_S for batch in self._batches):
            return None
        pending = self._pending
        return self._run([pending.popleft() for _ in range(min(len(pending), _TOGETHER))], now_s)

    def _run(self, looks: list[_Look], now_s: float) -> _Batch:
        batch = _Batch(looks, time.monotonic(), now_s)
        batch.is_over.acquire()
        self._batches.append(batch)
        self._threads.run(partial(self._look, batch), partial(self._returned, batch))
        if not self._is_ticking:
            self._is_ticking = True
            self._ticker.start(self._tick)
        return batch

    def _look(self, batch: _Batch) -> None:
        """Look at the answers of a batch; runs in a thread."""
        began_s = time.monotonic()
        try:
            self._look_at_all(batch)
        finally:
            batch.took_s = time.monotonic() - began_s
            batch.is_over.release()

    def _look_at_all(self, batch: _Batch) -> None:
        end_s = time.monotonic() + _SLICE_S
        tokens = [look.answer.token for look in batch.looks]
        try:
            found = self._driver.which_hold(tokens)
            for holds in contract.truths(self._driver, tokens, found):
                batch.found.append(holds)
                if time.monotonic() > end_s:
                    return
        except BaseException as error:  # a driver is foreign code, and asyncio's are no Exception
            log_error(self._driver, "still_holds", error)
        if len(batch.found) < len(tokens):  # which_hold failed, or ended, at this one
            batch.found.append(False)

    def _returned(self, batch: _Batch, _nothing: None, error: BaseException | None) -> None:
        self._batches.remove(batch)
        self._is_quick = batch.took_s < self._moment_s
        self._take(batch)
        if error:  # the system has no thread left
            for look in batch.looks:
                self._settle(look, None, batch.began_s)
        else:
            self._pending.extendleft(reversed(batch.looks))
        self._begin()

    def _take(self, batch: _Batch) -> None:
        """Report what the thread has found so far; the rest stays in the batch."""
        found = batch.found[batch.taken :]
        batch.taken += len(found)
        looks = batch.looks[: len(found)]
        batch.looks = batch.looks[len(found) :]
        for look, holds in zip(looks, found, strict=False):
            self._settle(look, holds, batch.began_s)

    def _settle(self, look: _Look, holds: bool | None, began_s: float) -> None:
        waiting = look.waiting
        if holds:
            look.answer.seen_s = began_s
        if holds and waiting and waiting[-1].asked_s - began_s >= FRESH_S:
            waiting = self._look_again(look, began_s)
        else:
            del self._looks[look.answer]
        for waiter in waiting:
            waiter.callback(holds)

    def _look_again(self, look: _Look, began_s: float) -> list[_LookWaiter]:
        """Queue another look for callbacks that came too late for this one; return the others."""
        others = [one for one in look.waiting if one.asked_s - began_s < FRESH_S]
        look.waiting = look.waiting[len(others) :]
        look.waits_since_s = look.waiting[0].waits_since_s
        self._await(look)
        return others

    def _tick(self) -> None:
        now_s = self._clock.now_s()
        for batch in list(self._batches):
            if now_s - batch.runs_since_s > _STUCK_S and not batch.is_stuck:
                self._divide(batch)
        self._begin()
        for look in list(self._looks.values()):
            if now_s - look.waits_since_s > self.overdue_s:
                waiting, look.waiting = look.waiting, []
                for waiter in waiting:
                    waiter.callback(None)
        if not self._looks:
            self._is_ticking = False
            self._ticker.stop()

    def _divide(self, batch: _Batch) -> None:
        """Pass on the looks behind the one in which the thread hangs to several batches: others may
        hang too."""
        batch.is_stuck = True
        self._take(batch)
        behind = batch.looks[1:]
        del batch.looks[1:]
        threads = min(_THREADS - len(self._batches), len(behind))
        for number in range(threads):
            self._run(behind[number::threads], self._clock.now_s())
        if not threads:
            self._pending.extendleft(reversed(behind))
