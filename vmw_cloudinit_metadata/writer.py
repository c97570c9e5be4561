"""Writer: writes lines in a thread, so that whoever reads them slowly, or not at all, stops nobody.

A thread, since nothing else is certain not to block: poll(2) says of a file on a network share, or
of a terminal, that it can be written to, and write(2) hangs. And O_NONBLOCK would belong to all
processes that share the descriptor.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from weakref import WeakSet

from vmw_cloudinit_metadata.errors import ConfigError

log = logging.getLogger(__name__)

MAX_BYTES = 4 * 1024 * 1024  # that wait to be written
FLUSH_S = 1.0  # how long the end of the process waits for a slow reader

# Several processes write to one pipe: the system mixes nothing that is no longer than this.
_PIECE_BYTES = select.PIPE_BUF

_BATCH_BYTES = 64 * 1024
_NAP_S = 0.002  # between two batches: to wake the thread costs more than to write some lines
_REST_S = 0.1


class Writer:
    """Writes whole lines to `descriptor`, in their order. Any thread may call its methods.

    At most MAX_BYTES wait. Once they do, further lines are dropped until all that wait are written;
    then follows `told(count)`, the line that says how many were dropped.
    """

    def __init__(self, descriptor: int, told: Callable[[int], bytes]) -> None:
        self._descriptor = descriptor
        self._told = told
        self.begin()
        _WRITERS.add(self)

    def begin(self) -> None:
        """Forget all lines and the thread. In a forked child both are its parent's."""
        self._changed = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0  # also those that are being written
        self._is_full = False
        self._is_idle = True
        self._is_resting = False
        self._is_torn = False  # the last line was written in part
        self._opener: Callable[[], int] | None = None
        self._untold = 0
        self.dropped = 0  # lines, ever

    def put(self, lines: bytes) -> None:
        """Queue lines, each with its end, or drop all of them. Does not block."""
        with self._changed:
            self._is_full = self._is_full or self._waiting_bytes + len(lines) > MAX_BYTES
            if self._is_full:
                self._drop(lines.count(b"\n"))
            else:
                self._waiting.append(lines)
                self._waiting_bytes += len(lines)
            self._wake()

    def reopen(self, opener: Callable[[], int]) -> None:
        """Write to what `opener` opens, in the thread, from the next batch on."""
        with self._changed:
            self._opener = opener
            self._wake()

    def flush(self, limit_s: float = FLUSH_S) -> None:
        """Wait until everything is written, but no longer than `limit_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_idle, limit_s)

    def rest(self) -> None:
        """End the thread, before a fork, unless it hangs. The next line starts another one."""
        thread = self._thread
        if thread is None:
            return
        with self._changed:
            self._is_resting = True
            self._changed.notify_all()
        thread.join(_REST_S)
        self._is_resting = False

    def _wake(self) -> None:
        self._is_idle = False
        self._changed.notify()
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="writer", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no further thread: the next line tries again
                return
            self._thread = thread

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._untold += count

    # In the thread

    def _run(self) -> None:
        while self._wait():
            if self._opener:
                self._open(self._opener)
            while batch := self._take():
                self._write_or_drop(batch)
            self._tell_dropped()
            time.sleep(_NAP_S)

    def _wait(self) -> bool:
        """Wait for something to do; return False if the thread is to end."""
        with self._changed:
            while not (self._waiting or self._is_full or self._opener):
                self._is_idle = True
                self._changed.notify_all()
                if self._is_resting:
                    self._thread = None
                    return False
                self._changed.wait()
        return True

    def _take(self) -> bytes:
        with self._changed:
            batch = b""
            while self._waiting and len(batch) < _BATCH_BYTES:
                batch += self._waiting.popleft()
            return batch

    def _write_or_drop(self, batch: bytes) -> None:
        lost = self._write(batch)
        with self._changed:
            self._waiting_bytes -= len(batch)
            self._drop(lost)

    def _tell_dropped(self) -> None:
        count = self._untold
        is_told = count > 0 and self._write(self._told(count)) == 0
        with self._changed:
            self._is_full = False
            self._untold -= count if is_told else 0

    def _write(self, lines: bytes) -> int:
        """Write them in pieces of whole lines; return how many were lost, because nobody can read
        them any more or the disk is full."""
        written = 0
        try:
            if self._is_torn:
                os.write(self._descriptor, b"\n")
                self._is_torn = False
            while written < len(lines):
                written += self._write_some(lines[written : _end_of_piece(lines, written)])
        except OSError:
            self._is_torn |= written > 0 and lines[written - 1 : written] != b"\n"
        return lines.count(b"\n", written)

    def _write_some(self, piece: bytes) -> int:
        try:
            return os.write(self._descriptor, piece)
        except BlockingIOError:  # somebody who shares the descriptor has made it so
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll()
            return 0

    def _open(self, opener: Callable[[], int]) -> None:
        self._opener = None
        try:
            descriptor, before = opener(), self._descriptor
        except ConfigError as error:
            log.error("%s; the file that is open stays in use", error)
        else:
            self._descriptor = descriptor
            self._is_torn = False
            os.close(before)


def _end_of_piece(lines: bytes, start: int) -> int:
    """The end of the last line that ends within a piece, or of the first if that is longer."""
    return (lines.rfind(b"\n", start, start + _PIECE_BYTES) + 1) or (lines.index(b"\n", start) + 1)


_WRITERS: WeakSet[Writer] = WeakSet()


def _rest_all() -> None:
    for writer in list(_WRITERS):
        writer.rest()


def _begin_all() -> None:
    for writer in list(_WRITERS):
        writer.begin()


# A process forks without these threads. One that hangs is in write(2), and holds no lock.
os.register_at_fork(before=_rest_all, after_in_child=_begin_all)
