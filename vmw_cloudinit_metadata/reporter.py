"""A worker's side of the pair with its parent: tells what it counts and what happens; stops when
alone."""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Callable
from itertools import islice

import gevent
import ujson

from vmw_cloudinit_metadata.happenings import Happening, pack
from vmw_cloudinit_metadata.server import MetadataServer

log = logging.getLogger(__name__)

INTERVAL_S = 0.5
HAPPENINGS_S = 0.1  # what happens is told together

# While the parent is slow; more are counted and not told.
MAX_WAITING = 10_000
_TOGETHER = 16  # a message has room for so many of the longest

_READABLE = 1  # libev's EV_READ


class Reporter:
    """Reports what `server` has counted, as long as it changes. Calls `on_alone` when the parent is
    gone."""

    def __init__(
        self, pair: socket.socket, server: MetadataServer, on_alone: Callable[[], None]
    ) -> None:
        pair.setblocking(False)
        self._pair = pair
        self._server = server
        self._reported = b""
        self._waiting: deque[Happening] = deque()
        self._on_alone = on_alone
        loop = gevent.get_hub().loop
        self._timer = loop.timer(INTERVAL_S, repeat=INTERVAL_S)
        self._soon = loop.timer(HAPPENINGS_S, repeat=HAPPENINGS_S)
        self._readable = loop.io(pair.fileno(), _READABLE)

    def start(self) -> None:
        """Tells that the worker accepts."""
        self._pair.send(ujson.dumps({"ready": True}).encode())
        self._timer.start(self.report)
        self._readable.start(self._parent_is_gone)  # it never says anything

    def stop(self) -> None:
        self._send_waiting()
        self.report()
        for watcher in (self._timer, self._soon, self._readable):
            watcher.stop()
            watcher.close()

    def hear(self, happening: Happening) -> None:
        """A listener: passes on what happens."""
        if len(self._waiting) >= MAX_WAITING:
            self._server.count("events dropped")
            return
        self._waiting.append(happening)
        if len(self._waiting) == 1:
            self._soon.again(self._send_waiting)

    def _send_waiting(self) -> None:
        while self._waiting:
            together = list(islice(self._waiting, _TOGETHER))
            if not self._send({"happenings": list(map(pack, together))}):
                return  # until the timer's next time
            for _ in together:
                self._waiting.popleft()
        self._soon.stop()

    def report(self) -> None:
        figures = {"figures": self._server.figures.pack(), "problem": self._server.problem}
        told = ujson.dumps(figures).encode()
        if told != self._reported and self._send_bytes(told):
            self._reported = told

    def _send(self, message: object) -> bool:
        return self._send_bytes(ujson.dumps(message).encode())

    def _send_bytes(self, message: bytes) -> bool:
        """Whether the parent could take it now; if it is gone, nothing waits for it."""
        try:
            self._pair.send(message)
        except BlockingIOError:
            return False
        except OSError as error:
            log.debug("nothing can be told to the parent: %s", error)
        return True

    def _parent_is_gone(self) -> None:
        self._readable.stop()
        self._on_alone()
