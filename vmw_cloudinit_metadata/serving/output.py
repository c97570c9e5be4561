"""Bytes on their way to the peers: written without blocking, and bounded while they wait.

The hub sends, at the end of a turn, everything that connections wrote in it. The peers are often
one ESXi host, or one load generator: single segments would wake it each time, which costs more than
the segment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from socket import socket
from typing import Any, Protocol

import gevent

from vmw_cloudinit_metadata.monitoring.counters import SENT_BYTES, Key
from vmw_cloudinit_metadata.process.deadlines import Deadlines
from vmw_cloudinit_metadata.serving.timeouts import STALLED_S
from vmw_cloudinit_metadata.serving.unsent import Unsent

# With this much waiting, `write` refuses. Answers are held back before; this is room for the
# protocol's own messages.
MAX_WAITING_BYTES = 64 * 1024

# With more than this waiting, answers are held back.
CLEAR_BYTES = 4 * 1024

# A turn of many connections is long: this many do not wait for the others.
MAX_TOGETHER = 64

_WRITABLE = 2  # libev's EV_WRITE


class Sender(Protocol):
    def send(self) -> bool:
        """Send waiting bytes; return whether to call `all_is_sent`."""

    def all_is_sent(self) -> None:
        """Handle the end of the turn; may write more."""


class Turn:
    """Lets senders send together: at the end of the hub's turn, or MAX_TOGETHER at a time."""

    def __init__(self) -> None:
        self._loop = gevent.get_hub().loop
        self._waiting: list[Sender] = []
        self._done: list[Sender] = []
        self._has_end = False

    def add(self, sender: Sender) -> None:
        """Let `sender` send with this turn."""
        self._waiting.append(sender)
        if not self._has_end:
            self._has_end = True
            self._loop.run_callback(self._end)
        if len(self._waiting) >= MAX_TOGETHER:
            self._send()

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._done += [sender for sender in waiting if sender.send()]

    def _end(self) -> None:
        self._has_end = False
        self._send()
        done, self._done = self._done, []
        for sender in done:  # not before: it could be in the middle of writing
            sender.all_is_sent()


def _nothing() -> None:
    """Do nothing: the callback of a closed output avoids a reference cycle."""


class Output:
    """The sending side of a non-blocking socket.

    The hub calls `on_empty` once all is sent after `await_empty`, `on_stalled` when the peer has
    read nothing for STALLED_S, and `give_up` when the memory of what waits is needed.
    """

    __slots__ = (
        "_counters",
        "_deadlines",
        "_is_awaited",
        "_is_broken",
        "_is_ended",
        "_is_full",
        "_on_empty",
        "_on_stalled",
        "_sock",
        "_turn",
        "_unsent",
        "_waiting",
        "_watcher",
        "give_up",
    )

    def __init__(
        self,
        sock: socket,
        turn: Turn,
        deadlines: Deadlines,
        unsent: Unsent,
        counters: defaultdict[Key, int],
        *,
        on_empty: Callable[[], None],
        on_stalled: Callable[[], None],
        on_shed: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._turn = turn
        self._deadlines = deadlines
        self._unsent = unsent
        self._counters = counters
        self._on_empty = on_empty
        self._on_stalled = on_stalled
        self.give_up = on_shed
        self._watcher: Any = None
        self._waiting = b""
        self._is_awaited = False
        self._is_ended = False
        self._is_full = False  # the socket
        self._is_broken = False

    @property
    def waiting(self) -> bytes:
        """What the socket has not taken yet."""
        return self._waiting

    @property
    def waiting_bytes(self) -> int:
        return len(self._waiting)

    @property
    def is_clear(self) -> bool:
        """Whether what is written now will be sent with this turn."""
        return not self._is_full and len(self._waiting) <= CLEAR_BYTES

    @property
    def has_room(self) -> bool:
        """Whether the next `write` is accepted, whatever its size."""
        return len(self._waiting) < MAX_WAITING_BYTES

    def write(self, data: bytes) -> bool:
        """Queues all or nothing; False if the buffer is full. Ignores everything after `end`."""
        if self._is_ended:
            return True
        if len(self._waiting) >= MAX_WAITING_BYTES:
            return False
        self._counters[SENT_BYTES] += len(data)
        self.put(data)
        return True

    def put(self, data: bytes) -> None:
        """Like `write`, but never refuses; for small protocol messages only."""
        before = self._waiting
        self._waiting = before + data
        if self._is_full:
            self._unsent.hold(self, len(self._waiting))
        elif data and not before:
            self._turn.add(self)

    def await_empty(self) -> None:
        """Call `on_empty`, once, when no bytes wait any more."""
        self._is_awaited = True

    def end(self) -> None:
        """Ignore everything written from now on; still send what waits."""
        self._is_ended = True

    def send(self) -> bool:
        """Send what the socket takes now; return whether all is sent and that is awaited."""
        waiting = self._waiting
        size = len(waiting)
        try:
            sent = self._sock.send(waiting) if size and not self._is_broken else size
        except BlockingIOError:
            sent = 0
        except OSError:  # disconnected: the reader finds out
            self._is_broken = True
            sent = size
        if sent == size:
            self._waiting = b""
            return self._is_awaited
        self._waiting = waiting[sent:]
        self._wait_for_room(is_moving=sent > 0)
        return False

    def all_is_sent(self) -> None:
        """Handle the end of the turn, unless more was written meanwhile."""
        if self._is_awaited and not self._waiting:
            self._is_awaited = False
            self._on_empty()

    def close(self) -> None:
        self._is_ended = self._is_broken = True
        self._waiting = b""
        if self._watcher:
            self._deadlines.cancel(self._look_again)
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
        self._unsent.hold(self, 0)
        self._on_empty = self._on_stalled = self.give_up = _nothing

    def _wait_for_room(self, *, is_moving: bool) -> None:
        """Wait until the full socket has room; `is_moving` if the peer has just read something."""
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
        """Give up unless the peer has read while this process was too busy to notice."""
        before = len(self._waiting)
        self._send_again()
        if len(self._waiting) == before:
            self._on_stalled()
