"""Writer: writes lines in a thread, so that a slow reader does not block the server.

Only a thread is certain not to block: poll(2) reports a file on a network share, or a terminal, as
writable, and then write(2) hangs. O_NONBLOCK would apply to all processes that share the
descriptor.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, Thread
from weakref import WeakSet

from vmw_cloudinit_metadata.settings.errors import ConfigError

log = logging.getLogger(__name__)

MAX_BYTES = 4 * 1024 * 1024  # that wait to be written
FLUSH_S = 1.0  # how long the end of the process waits for a slow reader

# Several processes write to one pipe: the system mixes nothing that is no longer than this.
_PIECE_BYTES = select.PIPE_BUF

_BATCH_BYTES = 64 * 1024
_NAP_S = 0.002  # between two batches: to wake the thread costs more than to write some lines
_BUSY_NAP_S = 0.02  # behind a batch of more than _FEW_BYTES: lines come fast
_FEW_BYTES = 2 * 1024
_REST_S = 0.1

Task = Callable[[], None]


class Writer:
    """Writes whole lines to `descriptor`, in their order.

    At most MAX_BYTES wait. Beyond that, further lines are dropped until all waiting lines are
    written; then `dropped_line(count)`, the line that reports the number, follows.

    The caller and the thread share no lock, only a queue whose `put` may interrupt another one: the
    garbage collector can run anywhere, and finalize something that logs. The caller ensures that no
    two threads call `put` at the same time.
    """

    def __init__(self, descriptor: int, dropped_line: Callable[[int], bytes]) -> None:
        self._descriptor = descriptor
        self._dropped_line = dropped_line
        self.begin()
        _WRITERS.add(self)

    def begin(self) -> None:
        """Drop all lines and the thread: in a forked child both belong to the parent."""
        self._queue: SimpleQueue[bytes | Task] = SimpleQueue()
        self._thread: Thread | None = None
        self._has_thread = False
        # Used by the callers
        self._put_bytes = 0
        self._shed_lines = 0
        self._is_full = False
        # Used by the thread
        self._done_bytes = 0
        self._lost_lines = 0
        self._reported_lines = 0
        self._is_torn = False  # the last line was written in part
        self._is_over = False

    @property
    def dropped(self) -> int:
        """The number of lines dropped so far."""
        return self._shed_lines + self._lost_lines

    def put(self, lines: bytes) -> None:
        """Queue lines, each with its end, or drop all of them. Does not block."""
        waiting_bytes = self._put_bytes - self._done_bytes
        was_full = self._is_full and waiting_bytes > 0
        self._is_full = was_full or waiting_bytes + len(lines) > MAX_BYTES
        if self._is_full:
            self._shed_lines += lines.count(b"\n")
            lines = b""
        if not was_full:  # also if nothing waits, and this alone is too much: it has to be reported
            self._put_bytes += len(lines)
            self._do(lines)

    def reopen(self, opener: Callable[[], int]) -> None:
        """Write to the file that `opener` opens, in the thread, from here on."""
        self._do(lambda: self._open(opener))

    def flush(self, limit_s: float = FLUSH_S) -> None:
        """Wait until everything is written, but no longer than `limit_s`."""
        if self._has_thread or not self._queue.empty():
            done = Event()
            self._do(done.set)
            done.wait(limit_s)

    def rest(self) -> None:
        """End the thread, before a fork, unless it hangs. The next line starts another one."""
        if self._thread and self._has_thread:
            self._queue.put(self._end)
            self._thread.join(_REST_S)

    def _do(self, what: bytes | Task) -> None:
        self._queue.put(what)
        if self._has_thread:
            return
        self._has_thread = True
        self._thread = Thread(target=self._run, name="writer", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the system has no further thread: the next line tries again
            self._has_thread = False

    # In the thread

    def _run(self) -> None:
        self._is_over = False
        while not self._is_over:
            batch, task = self._next()
            self._lost_lines += self._write(batch)
            self._done_bytes += len(batch)
            if self._queue.empty():
                self._report_dropped()
            if task:
                task()
            time.sleep(_BUSY_NAP_S if len(batch) > _FEW_BYTES else _NAP_S)
        self._has_thread = False

    def _next(self) -> tuple[bytes, Task | None]:
        """Return the waiting lines, and what to do after them."""
        batch = b""
        while True:
            item = self._queue.get()
            if not isinstance(item, bytes):
                return batch, item
            batch += item
            if len(batch) >= _BATCH_BYTES or self._queue.empty():
                return batch, None

    def _end(self) -> None:
        """End the thread, unless more lines have come: it hung, and `rest` has returned."""
        self._is_over = self._queue.empty()

    def _report_dropped(self) -> None:
        count = self.dropped - self._reported_lines
        if count and self._write(self._dropped_line(count)) == 0:
            self._reported_lines += count

    def _write(self, lines: bytes) -> int:
        """Write them in pieces of whole lines; return how many were lost, because the reader is
        gone or the disk is full."""
        written = 0
        try:
            if self._is_torn:
                os.write(self._descriptor, b"\n")
                self._is_torn = False
            while written < len(lines):
                written += self._write_some(lines[written : end_of_piece(lines, written)])
        except OSError:
            self._is_torn |= written > 0 and lines[written - 1 : written] != b"\n"
        return lines.count(b"\n", written)

    def _write_some(self, piece: bytes) -> int:
        try:
            return os.write(self._descriptor, piece)
        except BlockingIOError:  # a process that shares the descriptor made it non-blocking
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll()
            return 0

    def _open(self, opener: Callable[[], int]) -> None:
        try:
            descriptor, before = opener(), self._descriptor
        except ConfigError as error:
            log.error("%s; the open file stays in use", error)
        else:
            self._descriptor = descriptor
            self._is_torn = False
            os.close(before)


def end_of_piece(lines: bytes, start: int) -> int:
    """Return the end of the last line within a piece, or of the first line if that is longer."""
    return (lines.rfind(b"\n", start, start + _PIECE_BYTES) + 1) or (lines.index(b"\n", start) + 1)


_WRITERS: WeakSet[Writer] = WeakSet()


def rest_all() -> None:
    for writer in list(_WRITERS):
        writer.rest()


def _begin_all() -> None:
    for writer in list(_WRITERS):
        writer.begin()


# A process forks without these threads. One that hangs is in write(2), and holds no lock.
os.register_at_fork(before=rest_all, after_in_child=_begin_all)
