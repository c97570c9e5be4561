"""Bytes on their way to one peer: written without ever blocking, and bounded while they wait."""

from __future__ import annotations

from collections.abc import Callable
from socket import socket
from typing import Any

import gevent

from vmw_cloudinit_metadata.serving.deadlines import Deadlines
from vmw_cloudinit_metadata.serving.turn import Turn
from vmw_cloudinit_metadata.serving.unsent import Unsent

# With so much waiting nothing more is taken. Answers wait before that; this is what the protocol
# says.
MAX_WAITING_BYTES = 64 * 1024

# With more than this waiting, what can be held back is.
CLEAR_BYTES = 4 * 1024

# A suspended guest does not read. After this long it is taken for dead.
STALLED_S = 15 * 60.0

_WRITABLE = 2  # libev's EV_WRITE


def _nothing() -> None:
    pass


class Output:
    """The sending side of a non-blocking socket.

    The hub calls `on_empty` when all is sent and that `is_awaited`, `on_stalled` when the peer has
    taken nothing for STALLED_S, and `on_shed` when the memory of what waits is needed.
    """

    def __init__(
        self,
        sock: socket,
        turn: Turn,
        deadlines: Deadlines,
        unsent: Unsent,
        *,
        on_empty: Callable[[], None],
        on_stalled: Callable[[], None],
        on_shed: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._turn = turn
        self._deadlines = deadlines
        self._on_empty = on_empty
        self._on_stalled = on_stalled
        self._unsent = unsent
        self.give_up = on_shed
        self._watcher: Any = None
        self._waiting = b""
        self.is_awaited = False  # that all is sent; until the next call of `on_empty`
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

    @property
    def has_room(self) -> bool:
        """Whether the next piece is taken, of whatever size."""
        return len(self._waiting) < MAX_WAITING_BYTES

    def write(self, data: bytes) -> bool:
        """Sends `data` with the hub's turn, or when the socket takes it; False: it has no room."""
        has_room = len(self._waiting) < MAX_WAITING_BYTES
        if has_room:
            self.put(data)
        return has_room

    def put(self, data: bytes) -> None:
        """The same for what cannot be left out; to be little, or after a look at `has_room`."""
        before = self._waiting
        self._waiting = before + data
        if self._is_full:
            self._unsent.hold(self, len(self._waiting))
        elif data and not before:
            self._turn.add(self)

    def send(self) -> bool:
        """Sends what the socket takes, now; whether all is sent and that is awaited."""
        waiting = self._waiting
        try:
            is_idle = self._is_broken or not waiting
            sent = len(waiting) if is_idle else self._sock.send(waiting)
        except BlockingIOError:
            sent = 0
        except OSError:  # the peer is gone: the reader learns of that
            self._is_broken = True
            sent = len(waiting)
        if sent == len(waiting):
            self._waiting = b""
            return self.is_awaited
        self._waiting = waiting[sent:]
        self._wait_for_room(is_moving=sent > 0)
        return False

    def all_is_sent(self) -> None:
        """Called at the turn's end: more may have been written since, and wait."""
        if self.is_awaited and not self._waiting:
            self.is_awaited = False
            self._on_empty()

    def close(self) -> None:
        self._is_broken = True
        self._waiting = b""
        if self._watcher:
            self._deadlines.cancel(self._look_again)
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
        self._unsent.hold(self, 0)
        self._on_empty = self._on_stalled = self.give_up = (
            _nothing  # they refer to what refers to this
        )

    def _wait_for_room(self, *, is_moving: bool) -> None:
        """The socket is full; the peer has taken something of late, if it `is_moving`."""
        if is_moving or not self._is_full:
            self._deadlines.start(STALLED_S, self._look_again)
        if not self._is_full:
            self._is_full = True
            loop = gevent.get_hub().loop
            self._watcher = self._watcher or loop.io(self._sock.fileno(), _WRITABLE)
            self._watcher.start(self._send_again)
        self._unsent.hold(self, len(self._waiting))

    def _send_again(self) -> None:
        self.send()
        if self._waiting:
            return
        self._is_full = False
        self._unsent.hold(self, 0)
        self._watcher.stop()
        self._deadlines.cancel(self._look_again)
        self.all_is_sent()

    def _look_again(self) -> None:
        """The peer may have read of late, and nobody has had the time to see that."""
        before = len(self._waiting)
        self._send_again()
        if len(self._waiting) == before:
            self._on_stalled()
