"""Whether kept answers still hold: the driver is asked in threads of its own, with a deadline.

The hub collects what is asked for in a turn, gives it to one thread, and waits for a moment: to
pass the interpreter to and fro at each look costs more. A driver that needs longer is not waited
for again until it is quick. What takes long is given to further threads, a few in all; so one
answer whose file system hangs does not hold up the others, and of threads that hang there is a
bound. Callbacks run in the hub and must not block.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from threading import Lock
from typing import Protocol

import gevent

from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.process.threads import Threads

log = logging.getLogger(__name__)

FRESH_S = 0.15  # what was seen so long ago counts
OVERDUE_S = 1.0  # a look that takes longer is not waited for
NEVER_S = -inf

_MOMENT_S = 0.001  # so long the hub waits for a batch, if the one before took no longer
_TOGETHER = 64  # at most, so that no one waits for too many others
_SLICE_S = 0.05  # so long a thread looks before it tells what it has found
_SLOW_S = 0.1  # what is under way for longer holds up no other thread
_STUCK_S = 0.3  # a thread that has told nothing for so long hangs in one look
_THREADS = 8
_TICK_S = 0.1


class Seen(Protocol):
    """What may hold: `seen_s` is when the look began at which it held last."""

    token: object
    seen_s: float


# Called with True: it holds; False: it does not; None: the driver does not answer.
Callback = Callable[[bool | None], None]


@dataclass(slots=True, eq=False)
class _Look:
    """One answer that is looked at, or shall be, and who waits for it."""

    answer: Seen
    asked_s: float
    waiting: list[tuple[float, Callback]] = field(default_factory=list)  # and since when


@dataclass(slots=True, eq=False)
class _Batch:
    """What one thread looks at, one after the other."""

    looks: list[_Look]
    began_s: float
    found: list[bool] = field(default_factory=list)  # the thread adds to it
    taken: int = 0  # of those: told already
    is_stuck: bool = False
    took_s: float = inf  # the thread, for all of it
    is_over: Lock = field(default_factory=Lock)  # released by the thread


class Recheck:
    """Belongs to the thread of its hub; only the driver runs elsewhere."""

    def __init__(self, driver: Driver, overdue_s: float) -> None:
        self._driver = driver
        self.overdue_s = overdue_s
        self._threads = Threads()
        self._looks: dict[Seen, _Look] = {}
        self._pending: deque[_Look] = deque()
        self._batches: list[_Batch] = []
        self._loop = gevent.get_hub().loop
        self._has_end = False
        self._ticker = self._loop.timer(_TICK_S, repeat=_TICK_S)
        self._is_ticking = False
        self._is_quick = True  # the last batch was
        self._is_late = False  # the last tick
        self._ticked_s = 0.0

    def close(self) -> None:
        self._ticker.stop()
        self._ticker.close()
        self._threads.close()

    def ask(self, answer: Seen, callback: Callback) -> None:
        """Has the answer looked at, from the end of this turn on, and calls back, later and once.

        What is overdue already is told at the end of this turn.
        """
        now_s = time.monotonic()
        look = self._looks.get(answer)
        if look is None:
            look = self._looks[answer] = _Look(answer, now_s)
            self._await(look)
        if now_s - look.asked_s > self.overdue_s:
            self._loop.run_callback(callback, None)
        else:
            look.waiting.append((now_s, callback))

    def _await(self, look: _Look) -> None:
        """It is looked at when a thread has time for it."""
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
        self._is_quick = batch.is_over.acquire(timeout=_MOMENT_S)
        if self._is_quick:
            self._take(batch)

    def _begin(self) -> _Batch | None:
        """Gives the next to a thread, if none is about to return or they all hang."""
        now_s = time.monotonic()
        if not self._pending or len(self._batches) >= _THREADS:
            return None
        if any(now_s - batch.began_s < _SLOW_S for batch in self._batches):
            return None
        pending = self._pending
        return self._run([pending.popleft() for _ in range(min(len(pending), _TOGETHER))], now_s)

    def _run(self, looks: list[_Look], now_s: float) -> _Batch:
        batch = _Batch(looks, now_s)
        batch.is_over.acquire()
        self._batches.append(batch)
        self._threads.run(partial(self._look, batch), partial(self._returned, batch))
        if not self._is_ticking:
            self._is_ticking = True
            self._ticked_s = now_s
            self._ticker.start(self._tick)
        return batch

    def _look(self, batch: _Batch) -> None:
        """In a thread."""
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
            for holds in self._driver.which_hold(tokens):
                batch.found.append(holds)
                if time.monotonic() > end_s:
                    return
        except (Exception, SystemExit):  # a driver is foreign code
            log.exception("%s: still_holds fails", type(self._driver).__name__)
        if len(batch.found) < len(tokens):  # the one at which it failed, or ended
            batch.found.append(False)

    def _returned(self, batch: _Batch, _nothing: None, error: BaseException | None) -> None:
        self._batches.remove(batch)
        self._is_quick = batch.took_s < _MOMENT_S
        self._take(batch)
        if error:  # there is no thread
            for look in batch.looks:
                self._settle(look, None, batch.began_s)
        else:
            self._pending.extendleft(reversed(batch.looks))
        self._begin()

    def _take(self, batch: _Batch) -> None:
        """Tells what was found so far; what was not stays in the batch."""
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
        if holds and waiting and waiting[-1][0] - began_s >= FRESH_S:
            waiting = self._look_again(look, began_s)
        else:
            del self._looks[look.answer]
        for _, callback in waiting:
            callback(holds)

    def _look_again(self, look: _Look, began_s: float) -> list[tuple[float, Callback]]:
        """Who came later than that asks for what is true now; returns the others."""
        others = [one for one in look.waiting if one[0] - began_s < FRESH_S]
        look.waiting = look.waiting[len(others) :]
        look.asked_s = look.waiting[0][0]
        self._await(look)
        return others

    def _tick(self) -> None:
        now_s = time.monotonic()
        late_s, self._ticked_s = now_s - self._ticked_s, now_s
        self._is_late = late_s > 3 * _TICK_S and not self._is_late
        if self._is_late:  # this process had no time: what was found is told first
            return
        for batch in list(self._batches):
            if now_s - batch.began_s > _STUCK_S and not batch.is_stuck:
                self._divide(batch)
        self._begin()
        for look in list(self._looks.values()):
            if now_s - look.asked_s > self.overdue_s:
                waiting, look.waiting = look.waiting, []
                for _, callback in waiting:
                    callback(None)
        if not self._looks:
            self._is_ticking = False
            self._ticker.stop()

    def _divide(self, batch: _Batch) -> None:
        """The thread hangs in the first look that it has not told. The others share what is behind,
        in which there may be more of the kind."""
        batch.is_stuck = True
        self._take(batch)
        behind = batch.looks[1:]
        del batch.looks[1:]
        threads = min(_THREADS - len(self._batches), len(behind))
        for number in range(threads):
            self._run(behind[number::threads], time.monotonic())
        if not threads:
            self._pending.extendleft(reversed(behind))
