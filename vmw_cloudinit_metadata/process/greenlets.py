"""Greenlets that serve one connection after the other.

Each connection has its own greenlet. Starting a new one costs a sixth of a whole boot of the C
yardstick (docs/performance.md), as the memory of its frames is allocated and freed.
"""

from __future__ import annotations

from collections.abc import Callable
from socket import socket
from typing import Any

import gevent
from greenlet import greenlet

MAX_IDLE = 256  # after a burst of connections thousands need not stay


class Greenlets:
    """Greenlets that are never joined or killed. One whose `serve` raises ends; the hub logs the
    error."""

    def __init__(self, serve: Callable[[socket, Any], None], max_idle: int = MAX_IDLE) -> None:
        self._serve = serve
        self._idle: list[greenlet] = []
        self._max_idle = max_idle

    @property
    def idle(self) -> int:
        return len(self._idle)

    def spawn(self, sock: socket, connection: Any) -> None:
        """Serve this connection, from the hub's next turn on."""
        if self._idle:
            gevent.get_hub().loop.run_callback(self._idle.pop().switch, sock, connection)
        else:
            gevent.spawn_raw(self._work, [(sock, connection)])

    def close(self) -> None:
        """End the idle ones now, and the others once they are idle: a waiting greenlet is never
        freed, nor the objects that it refers to."""
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
