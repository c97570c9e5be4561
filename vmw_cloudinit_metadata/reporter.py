"""A worker's side of the pair with its parent: tells what it has counted; stops when alone."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import gevent
import ujson

INTERVAL_S = 0.5

_READABLE = 1  # libev's EV_READ


class Reporter:
    """Reports `counters` as long as they change. Calls `on_alone` when the parent is gone."""

    def __init__(
        self, pair: socket.socket, counters: Counter[str], on_alone: Callable[[], None]
    ) -> None:
        pair.setblocking(False)
        self._pair = pair
        self._counters = counters
        self._reported: Counter[str] = Counter()
        self._on_alone = on_alone
        self._timer = gevent.get_hub().loop.timer(INTERVAL_S, repeat=INTERVAL_S)
        self._readable = gevent.get_hub().loop.io(pair.fileno(), _READABLE)

    def start(self) -> None:
        """Tells that the worker accepts."""
        self._pair.send(ujson.dumps({"ready": True}).encode())
        self._timer.start(self.report)
        self._readable.start(self._parent_is_gone)  # it never says anything

    def stop(self) -> None:
        self.report()
        for watcher in (self._timer, self._readable):
            watcher.stop()
            watcher.close()

    def report(self) -> None:
        if self._counters == self._reported:
            return
        with suppress(OSError):  # the parent is busy, or gone: the next report has it all
            self._pair.send(ujson.dumps({"counters": self._counters}).encode())
            self._reported = self._counters.copy()

    def _parent_is_gone(self) -> None:
        self._readable.stop()
        self._on_alone()
