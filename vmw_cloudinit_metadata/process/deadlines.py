"""Deadlines, on one timer for all connections, since a timer for each costs too much; their clock.

Received data comes before a deadline: a deadline that judges a peer first receives what the peer's
socket has. Time in which this process is stopped (SIGSTOP, a suspended machine) or far behind does
not count: what has arrived meanwhile is not received, so nobody else is late. Times that are
compared with those of files or of other processes are of time.monotonic().
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from math import ceil

import gevent

TICK_S = 0.1  # their accuracy
LATE_S = 0.5  # a reading of the clock that is this late shows that nothing was received meanwhile

# Rests of deadlines are rounded up to this: each length has a table, and thousands have rests.
REST_S = 0.5

Callback = Callable[[], None]
Receiving = Callable[[], Iterator[None]]  # receives what a socket has, a turn at each step

_RECEIVING = -1.0  # the seconds of a deadline that is over and receives first


class RunningClock:
    """Belongs to one owner, which reads it at least each `tick_s` while it waits for something.

    Of the time between two readings that are further apart, only `tick_s` counts.
    """

    __slots__ = ("_lost_s", "_seen_s", "_tick_s")

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self._seen_s = time.monotonic()  # when it was read last
        self._lost_s = 0.0  # that did not count

    def now_s(self) -> float:
        """Return the time that counts, in seconds since any moment."""
        now_s = time.monotonic()
        passed_s = now_s - self._seen_s
        if passed_s > self._tick_s + LATE_S:
            self._lost_s += passed_s - self._tick_s
        self._seen_s = now_s
        return now_s - self._lost_s

    def passed_s(self) -> float:
        """Return how much of the time since the last reading counts."""
        before_s = self._seen_s - self._lost_s
        return self.now_s() - before_s


class Deadlines:
    """Calls back, in the hub, when a time is over. A callback has at most one deadline."""

    def __init__(self) -> None:
        # Deadlines of one length end in the order in which they began, so the first is the next.
        self._due: dict[float, dict[Callback, tuple[float, Receiving | None]]] = {}
        self._seconds: dict[Callback, float] = {}  # of each that runs
        self._timer = gevent.get_hub().loop.timer(TICK_S, repeat=TICK_S)
        self._is_ticking = False
        self._clock = RunningClock(TICK_S)
        self._soon: deque[Callback] = deque()
        self._turn_timer = gevent.get_hub().loop.timer(0.0)
        self._hearing: deque[tuple[Callback, Iterator[None]]] = deque()
        self._hear_timer = gevent.get_hub().loop.timer(0.0)

    def now_s(self) -> float:
        """Return the time by which they are judged; it counts while there are any."""
        return self._clock.now_s()

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
        due_s = self._clock.now_s() + seconds
        self._due.setdefault(seconds, {})[callback] = (due_s, receive)
        if not self._is_ticking:
            self._is_ticking = True
            self._timer.start(self._tick)

    def left_s(self, callback: Callback) -> float | None:
        """Return how long the deadline of `callback` still runs; None without one."""
        seconds = self._seconds.get(callback)
        if seconds is None:
            return None
        due_s, _ = self._due[seconds][callback]
        return max(due_s - self._clock.now_s(), 0.0) if seconds != _RECEIVING else 0.0

    def go_on(self, left_s: float, callback: Callback, receive: Receiving | None = None) -> None:
        """Go on with a deadline of which so much was left in the program before an upgrade."""
        self.start(ceil(left_s / REST_S) * REST_S, callback, receive)

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

    def _tick(self) -> None:
        now_s = self._clock.now_s()
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
