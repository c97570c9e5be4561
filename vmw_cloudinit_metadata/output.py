"""Bytes on their way to one peer: written without ever blocking, and bounded while they wait."""

from __future__ import annotations

from collections.abc import Callable
from socket import socket
from typing import Any

import gevent

from vmw_cloudinit_metadata.deadlines import Deadlines

# Answers come in smaller pieces, one when the last is gone; this is what the protocol says.
MAX_WAITING_BYTES = 64 * 1024

# A suspended guest does not read. After this long it is taken for dead.
STALLED_S = 15 * 60.0

_WRITABLE = 2  # libev's EV_WRITE


def _nothing() -> None:
    pass


class Output:
    """The sending side of a non-blocking socket. The hub calls `on_empty` when all is sent, and
    `on_stalled` when the peer has taken nothing for STALLED_S."""

    def __init__(
        self,
        sock: socket,
        deadlines: Deadlines,
        on_empty: Callable[[], None],
        on_stalled: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._deadlines = deadlines
        self._on_empty = on_empty
        self._on_stalled = on_stalled
        self._watcher: Any = None
        self._waiting: list[memoryview] = []  # few: a deque would take 600 bytes
        self._broken = False
        self.waiting_bytes = 0

    def has_room(self, size: int) -> bool:
        """Whether so much more may wait; to be asked before writing what can be left out."""
        return self.waiting_bytes + size <= MAX_WAITING_BYTES

    def write(self, data: bytes) -> None:
        """Sends what the socket takes and keeps the rest."""
        sent = 0 if self._waiting else self._send(data)
        if sent < len(data):
            self._waiting.append(memoryview(data)[sent:])
            self.waiting_bytes += len(data) - sent
            self._watch()

    def close(self) -> None:
        self._broken = True
        self._waiting.clear()
        self.waiting_bytes = 0
        if self._watcher:
            self._deadlines.cancel(self._on_stalled)
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
        self._on_empty = self._on_stalled = _nothing  # they refer to what refers to this

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = gevent.get_hub().loop.io(self._sock.fileno(), _WRITABLE)
        if not self._watcher.active:
            self._watcher.start(self._send_waiting)
            self._deadlines.start(STALLED_S, self._on_stalled)

    def _send_waiting(self) -> None:
        while self._waiting:
            sent = self._send(self._waiting[0])
            self.waiting_bytes -= sent
            if sent:
                self._deadlines.start(STALLED_S, self._on_stalled)
            if sent < len(self._waiting[0]):
                self._waiting[0] = self._waiting[0][sent:]
                return
            del self._waiting[0]
        self._watcher.stop()
        self._deadlines.cancel(self._on_stalled)
        self._on_empty()

    def _send(self, data: bytes | memoryview) -> int:
        """How many bytes the socket took; all, if the peer is gone: the reader learns of that."""
        if self._broken:
            return len(data)
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._broken = True
            return len(data)
