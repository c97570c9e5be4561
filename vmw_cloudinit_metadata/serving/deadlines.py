"""Times that run out, on one timer for all connections: a timer for each would cost too much.

A deadline never beats what has arrived. One that judges a peer hears first what the peer's socket
has; and while the process is stopped or far behind, no time runs.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

import gevent

TICK_S = 0.1  # how exactly they are kept

# A tick that comes so late shows that nobody was heard meanwhile: what is more does not count.
LATE_S = 0.5
_STOPPED_S = TICK_S + LATE_S

Callback = Callable[[], None]
Hearing = Callable[[], Iterator[None]]  # takes in what a socket has, a turn at each step

_HEARING = -1.0  # in place of its seconds, of a deadline that is over and hears first


class Deadlines:
    """Calls back, in the hub, when a time is over. A callback has one deadline at most."""

    def __init__(self) -> None:
        # Those of one length run out in the order in which they began, so the first is the next.
        self._due: dict[float, dict[Callback, tuple[float, Hearing | None]]] = {}
        self._seconds: dict[Callback, float] = {}  # of each that runs
        self._timer = gevent.get_hub().loop.timer(TICK_S, repeat=TICK_S)
        self._is_ticking = False
        self._seen_s = 0.0  # when the time was looked at last
        self._lost_s = 0.0  # that did not count
        self._soon: deque[Callback] = deque()
        self._turn_timer = gevent.get_hub().loop.timer(0.0)

    def soon(self, callback: Callback) -> None:
        """Calls `callback` when all others have had their turn."""
        self._soon.append(callback)
        if len(self._soon) == 1:
            self._turn_timer.start(self._turn)

    def start(self, seconds: float, callback: Callback, hears: Hearing | None = None) -> None:
        """Calls `callback` once `seconds` are over; a deadline that it had before is gone.

        With `hears`, what that takes in comes first, and may cancel the deadline or begin it anew.
        """
        if callback in self._seconds:
            self.cancel(callback)
        self._seconds[callback] = seconds
        due_s = self._now_s() + seconds
        self._due.setdefault(seconds, {})[callback] = (due_s, hears)
        if not self._is_ticking:
            self._is_ticking = True
            self._timer.start(self._tick)

    def cancel(self, *callbacks: Callback) -> None:
        """Those that have no deadline too."""
        for callback in callbacks:
            seconds = self._seconds.pop(callback, None)
            if seconds is not None:
                del self._due[seconds][callback]

    def close(self) -> None:
        for timer in (self._timer, self._turn_timer):
            timer.stop()
            timer.close()

    def _turn(self) -> None:
        callback = self._soon.popleft()
        if self._soon:
            self._turn_timer.stop()
            self._turn_timer.start(self._turn)
        callback()

    def _now_s(self) -> float:
        """The time that counts."""
        now_s = time.monotonic()
        if now_s - self._seen_s > _STOPPED_S:
            self._lost_s += now_s - self._seen_s - TICK_S
        self._seen_s = now_s
        return now_s - self._lost_s

    def _tick(self) -> None:
        now_s = self._now_s()
        for waiting in list(self._due.values()):
            due = []
            for callback, (due_s, _) in waiting.items():
                if due_s > now_s:
                    break
                due.append(callback)
            for callback in due:
                if callback in waiting:  # an earlier one may have cancelled it
                    self._is_over(callback, waiting[callback][1])
        if not self._seconds:
            self._is_ticking = False
            self._timer.stop()

    def _is_over(self, callback: Callback, hears: Hearing | None) -> None:
        self.cancel(callback)
        if hears is None:
            callback()
            return
        self._seconds[callback] = _HEARING
        self._due.setdefault(_HEARING, {})[callback] = (float("inf"), None)
        self._hear(callback, hears())

    def _hear(self, callback: Callback, turns: Iterator[None]) -> None:
        """One turn; the callback when there are no more, unless what was heard has stopped it."""
        if self._seconds.get(callback) != _HEARING:
            return
        for _ in turns:
            self.soon(partial(self._hear, callback, turns))
            return
        if self._seconds.get(callback) == _HEARING:
            self.cancel(callback)
            callback()
