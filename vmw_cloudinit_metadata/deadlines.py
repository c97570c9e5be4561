"""Times that run out, on one timer for all connections: a timer for each would cost too much."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import gevent

TICK_S = 0.1  # how exactly they are kept

Callback = Callable[[], None]


class Deadlines:
    """Calls back, in the hub, when a time is over. A callback has one deadline at most."""

    def __init__(self) -> None:
        # Those of one length run out in the order in which they began, so the first is the next.
        self._due_s: dict[float, dict[Callback, float]] = {}
        self._seconds: dict[Callback, float] = {}  # of each that runs
        self._timer = gevent.get_hub().loop.timer(TICK_S, repeat=TICK_S)
        self._is_ticking = False
        self._soon: deque[Callback] = deque()
        self._turn_timer = gevent.get_hub().loop.timer(0.0)

    def soon(self, callback: Callback) -> None:
        """Calls `callback` when all others have had their turn."""
        self._soon.append(callback)
        if len(self._soon) == 1:
            self._turn_timer.start(self._turn)

    def start(self, seconds: float, callback: Callback) -> None:
        """Calls `callback` once `seconds` are over; a deadline that it had before is gone."""
        if callback in self._seconds:
            self.cancel(callback)
        self._seconds[callback] = seconds
        self._due_s.setdefault(seconds, {})[callback] = time.monotonic() + seconds
        if not self._is_ticking:
            self._is_ticking = True
            self._timer.start(self._tick)

    def cancel(self, *callbacks: Callback) -> None:
        """Those that have no deadline too."""
        for callback in callbacks:
            seconds = self._seconds.pop(callback, None)
            if seconds is not None:
                del self._due_s[seconds][callback]

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

    def _tick(self) -> None:
        now_s = time.monotonic()
        for waiting in list(self._due_s.values()):
            due = []
            for callback, due_s in waiting.items():
                if due_s > now_s:
                    break
                due.append(callback)
            for callback in due:
                if callback in waiting:  # an earlier one may have cancelled it
                    self.cancel(callback)
                    callback()
        if not self._seconds:
            self._is_ticking = False
            self._timer.stop()
