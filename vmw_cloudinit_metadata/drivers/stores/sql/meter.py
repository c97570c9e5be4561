"""Meter: stands between libpq and the server, and ends an answer that has too many bytes.

libpq reads a row of any size: one call of it was seen to take 127 MB. So it gets one end of a pair
of sockets in place of its connection, and the meter passes on what comes, a piece at a time.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import termios
from contextlib import suppress
from typing import TypeVar

from psycopg.abc import PQGen
from psycopg.waiting import Ready, Wait

from vmw_cloudinit_metadata.drivers.stores.sql.rowrecords import MAX_ANSWER_BYTES, TooLargeError

_PIECE_BYTES = 64 * 1024

T = TypeVar("T")


class Meter:
    """Passes on bytes where psycopg would wait; psycopg still does the waiting, for `server`."""

    def __init__(self, descriptor: int) -> None:
        """Take the place of the server at libpq's descriptor."""
        self._libpq = descriptor
        self.server = socket.socket(fileno=os.dup(descriptor))
        self._ours, theirs = socket.socketpair()
        for end in (self.server, self._ours, theirs):
            end.setblocking(False)
        os.dup2(theirs.fileno(), descriptor, inheritable=False)
        theirs.close()
        self._received = b""  # and not passed on yet

    def passing(self, steps: PQGen[T]) -> PQGen[T]:
        """Take the steps of psycopg until it has an answer; raise TooLargeError."""
        left_bytes = MAX_ANSWER_BYTES
        try:
            wanted = next(steps)
            while True:
                yield from self._send()
                if wanted & Wait.R and self._has_unread():
                    ready = int(Ready.R)
                else:
                    ready = yield wanted
                    if ready & Ready.R:
                        left_bytes -= self._receive()
                        if left_bytes < 0:
                            raise TooLargeError
                self._pass_on()
                wanted = steps.send(ready)
        except StopIteration as end:
            yield from self._send()
            found: T = end.value
            return found

    def close(self) -> None:
        """Send libpq's last words, if the server takes them; close all but libpq's descriptor."""
        next(self._send(), None)
        self.server.close()
        self._ours.close()

    def _send(self) -> PQGen[None]:
        """Send what libpq has written. If the server has gone, libpq notices when it reads."""
        with suppress(OSError):  # of TCP, which gives up in time, too
            while data := self._ours.recv(_PIECE_BYTES):
                while data:
                    try:
                        data = data[self.server.send(data) :]
                    except BlockingIOError:
                        yield Wait.W

    def _has_unread(self) -> bool:
        """Return whether libpq has not read yet all that was received."""
        unread = array.array("i", [0])
        fcntl.ioctl(self._libpq, termios.FIONREAD, unread)
        return bool(self._received or unread[0])

    def _receive(self) -> int:
        """Receive a piece, and return its size; tell libpq if it was the last one."""
        piece = b""
        with suppress(OSError):
            piece = self.server.recv(_PIECE_BYTES)
        if not piece:
            self._ours.shutdown(socket.SHUT_WR)
        self._received += piece
        return len(piece)

    def _pass_on(self) -> None:
        if self._received:
            with suppress(BlockingIOError):
                self._received = self._received[self._ours.send(self._received) :]
