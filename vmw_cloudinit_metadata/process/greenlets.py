"""Greenlets that serve one connection after the other.

Each connection has a greenlet of its own. To begin a new one costs a sixth of a whole boot of the C
yardstick (docs/performance.md): the memory of its frames comes from the system and goes back to it.
"""

from __future__ import annotations

from collections.abc import Callable
from socket import socket
from typing import Any

import gevent
from greenlet import greenlet

MAX_IDLE = 256  # a herd that has gone need not leave thousands


class Greenlets:
    """Nobody joins or kills them. One whose `serve` raises ends; the hub tells of the error."""

    def __init__(self, serve: Callable[[socket, Any], None]) -> None:
        self._serve = serve
        self._idle: list[greenlet] = []
        self._max_idle = MAX_IDLE

    @property
    def idle(self) -> int:
        return len(self._idle)

    def spawn(self, sock: socket, connection: Any) -> None:
        """Serves this connection, from the hub's next turn on."""
        if self._idle:
            gevent.get_hub().loop.run_callback(self._idle.pop().switch, sock, connection)
        else:
            gevent.spawn_raw(self._work, [(sock, connection)])

    def close(self) -> None:
        """Ends those that are idle, and the others when they are: one that waits is never freed,
        nor what it knows."""
        self._max_idle = 0
        while self._idle:
            gevent.get_hub().loop.run_callback(self._idle.pop().switch, None, None)

    def _work(self, first: list[tuple[socket, Any]]) -> None:
        hub = gevent.get_hub()
        sock: socket | None
        sock, connection = first.pop()  # a greenlet keeps what it was begun with
        while sock:
            self._serve(sock, connection)
            sock = connection = None
            if len(self._idle) < self._max_idle:
                self._idle.append(gevent.getcurrent())
                sock, connection = hub.switch()
