"""Bytes on their way to one peer: written without ever blocking, and bounded while they wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent.socket import socket

# Room for the largest packet (1 MiB of a document in base64) behind what is small.
MAX_WAITING_BYTES = 2 * 1024 * 1024

_WRITABLE = 2  # libev's EV_WRITE


class Output:
    """The sending side of a non-blocking socket. The hub calls `on_empty` when all is sent."""

    def __init__(self, sock: socket, on_empty: Callable[[], None]) -> None:
        self._sock = sock
        self._on_empty = on_empty
        self._watcher: Any = None
        self._waiting: deque[memoryview] = deque()
        self._broken = False
        self.waiting_bytes = 0

    def write(self, data: bytes) -> bool:
        """Sends what the socket takes and keeps the rest; False if there is no room for it."""
        if self.waiting_bytes + len(data) > MAX_WAITING_BYTES:
            return False
        rest = memoryview(data)
        if not self._waiting:
            rest = rest[self._send(rest) :]
        if rest:
            self._waiting.append(rest)
            self.waiting_bytes += len(rest)
            self._watch()
        return True

    def close(self) -> None:
        self._broken = True
        self._waiting.clear()
        self.waiting_bytes = 0
        if self._watcher:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = gevent.get_hub().loop.io(self._sock.fileno(), _WRITABLE)
        if not self._watcher.active:
            self._watcher.start(self._send_waiting)

    def _send_waiting(self) -> None:
        while self._waiting:
            sent = self._send(self._waiting[0])
            self.waiting_bytes -= sent
            if sent < len(self._waiting[0]):
                self._waiting[0] = self._waiting[0][sent:]
                return
            self._waiting.popleft()
        self._watcher.stop()
        self._on_empty()

    def _send(self, data: memoryview) -> int:
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
