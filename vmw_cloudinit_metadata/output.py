"""Bytes on their way to one peer: written without ever blocking, and bounded while they wait."""

from __future__ import annotations

from collections.abc import Callable
from socket import socket
from typing import Any

import gevent

from vmw_cloudinit_metadata.deadlines import Deadlines
from vmw_cloudinit_metadata.turn import Turn

# Answers come in smaller pieces; this is what the protocol says.
MAX_WAITING_BYTES = 64 * 1024

# With more than this waiting, what can be held back is.
CLEAR_BYTES = 4 * 1024

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
        turn: Turn,
        deadlines: Deadlines,
        on_empty: Callable[[], None],
        on_stalled: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._turn = turn
        self._deadlines = deadlines
        self._on_empty = on_empty
        self._on_stalled = on_stalled
        self._watcher: Any = None
        self._waiting = b""
        self._is_full = False  # the socket
        self._is_broken = False

    @property
    def waiting_bytes(self) -> int:
        """What the socket has not taken yet."""
        return len(self._waiting)

    @property
    def is_clear(self) -> bool:
        """Whether what is written now will be sent with this turn."""
        return not self._is_full and len(self._waiting) <= CLEAR_BYTES

    def has_room(self, size: int) -> bool:
        """Whether so much more may wait; to be asked before writing what can be left out."""
        return len(self._waiting) + size <= MAX_WAITING_BYTES

    def write(self, data: bytes) -> None:
        """Sends `data` with the hub's turn, or when the socket takes it."""
        is_first = not self._waiting
        self._waiting += data
        if is_first and data:
            self._turn.add(self)

    def send(self) -> bool:
        """Sends what the socket takes, now; whether that is all."""
        sent = self._send() if self._waiting else 0
        self._waiting = self._waiting[sent:]
        if not self._waiting:
            return True
        if sent or not self._is_full:
            self._deadlines.start(STALLED_S, self._on_stalled)
        if not self._is_full:
            self._is_full = True
            loop = gevent.get_hub().loop
            self._watcher = self._watcher or loop.io(self._sock.fileno(), _WRITABLE)
            self._watcher.start(self._send_again)
        return False

    def all_is_sent(self) -> None:
        """Called at the turn's end: more may have been written since, and wait."""
        if not self._waiting:
            self._on_empty()

    def close(self) -> None:
        self._is_broken = True
        self._waiting = b""
        if self._watcher:
            self._deadlines.cancel(self._on_stalled)
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
        self._on_empty = self._on_stalled = _nothing  # they refer to what refers to this

    def _send_again(self) -> None:
        if self.send():
            self._is_full = False
            self._watcher.stop()
            self._deadlines.cancel(self._on_stalled)
            self._on_empty()

    def _send(self) -> int:
        """How many bytes the socket took; all, if the peer is gone: the reader learns of that."""
        if self._is_broken:
            return len(self._waiting)
        try:
            return self._sock.send(self._waiting)
        except BlockingIOError:
            return 0
        except OSError:
            self._is_broken = True
            return len(self._waiting)
