"""Deadlines, on one timer for all connections: a timer for each would cost too much.

Received data comes before a deadline: a deadline that judges a peer first receives what the peer's
socket has. Time in which the process is stopped or far behind does not count.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator

import gevent

TICK_S = 0.1  # their accuracy

# A tick that is this late shows that nothing was received meanwhile: more does not count.
LATE_S = 0.5
_STOPPED_S = TICK_S + LATE_S

Callback = Callable[[], None]
Receiving = Callable[[], Iterator[None]]  # receives what a socket has, a turn at each step

_RECEIVING = -1.0  # the seconds of a deadline that is over and receives first


class Deadlines:
    """Calls back, in the hub, when a time is over. A callback has at most one deadline."""

    def __init__(self) -> None:
        # Deadlines of one length end in the order in which they began, so the first is the next.
        self._due: dict[float, dict[Callback, tuple[float, Receiving | None]]] = {}
        self._seconds: dict[Callback, float] = {}  # of each that runs
        self._timer = gevent.get_hub().loop.timer(TICK_S, repeat=TICK_S)
        self._is_ticking = False
        self._seen_s = 0.0  # when the clock was read last
        self._lost_s = 0.0  # that did not count
        self._soon: deque[Callback] = deque()
        self._turn_timer = gevent.get_hub().loop.timer(0.0)
        self._hearing: deque[tuple[Callback, Iterator[None]]] = deque()
        self._hear_timer = gevent.get_hub().loop.timer(0.0)

    def soon(self, callback: Callback) -> None:
        """Call `callback` after all others have had their turn."""
        self._soon.append(callback)
        if len(self._soon) == 1:
            self._turn_timer.start(self._turn)

    def start(self, seconds: float, callback: Callback, receive: Receiving | None = None) -> None:
        """Call `callback` after `seconds`; this replaces an earlier deadline of it.

        `receive` is run to its end first, and may cancel or restart the deadline.
        """
        if callback in self._seconds:
            self.cancel(callback)
        self._seconds[callback] = seconds
        due_s = self._now_s() + seconds
        self._due.setdefault(seconds, {})[callback] = (due_s, receive)
        if not self._is_ticking:
            self._is_ticking = True
            self._timer.start(self._tick)

    def cancel(self, *callbacks: Callback) -> None:
        """Cancel the deadlines of these callbacks, if they have any."""
        for callback in callbacks:
            seconds = self._seconds.pop(callback, None)
            if seconds is not None:
                del self._due[seconds][callback]

    def close(self) -> None:
        for timer in (self._timer, self._turn_timer, self._hear_timer):
            timer.stop()
            timer.close()

    def _turn(self) -> None:
        callback = self._soon.popleft()
        if self._soon:
            self._turn_timer.stop()
            self._turn_timer.start(self._turn)
        callback()

    def _now_s(self) -> float:
        """Return the time that counts."""
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

    def _is_over(self, callback: Callback, receive: Receiving | None) -> None:
        self.cancel(callback)
        if receive is None:
            callback()
            return
        self._seconds[callback] = _RECEIVING
        self._due.setdefault(_RECEIVING, {})[callback] = (float("inf"), None)
        self._hear(callback, receive())
        self._hear_on()

    def _hear_all(self) -> None:
        """Receive one turn of each, as their readers do in the same time: with one peer at a time,
        a flood of 400 peers made a deadline of 3 s last 74 s."""
        try:
            for _ in range(len(self._hearing)):
                self._hear(*self._hearing.popleft())
        finally:
            self._hear_on()

    def _hear_on(self) -> None:
        if self._hearing:
            self._hear_timer.stop()
            self._hear_timer.start(self._hear_all)

    def _hear(self, callback: Callback, turns: Iterator[None]) -> None:
        """Receive one turn; after the last, call back unless received data has cancelled that."""
        if self._seconds.get(callback) != _RECEIVING:
            return
        for _ in turns:
            self._hearing.append((callback, turns))
            return
        if self._seconds.get(callback) == _RECEIVING:
            self.cancel(callback)
            callback()
