"""The reading side of a socket: it receives in turns, so that other connections get theirs.

A UART delivers a guest's bytes one by one, at 9,600 baud one per millisecond. Waking for each costs
ten times its handling, so while a line is incomplete, several bytes are gathered.
"""

from __future__ import annotations

import fcntl
import sys
import termios
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from socket import socket
from typing import Protocol

import gevent

from vmw_cloudinit_metadata.monitoring.counters import RECEIVED_BYTES, Key

TURN_BYTES = 256  # a dozen requests
_PAUSE_S = 0.0005  # between turns that do not wait for the socket
_GATHER_S = 0.005
_DROP_BYTES = 16  # at most: what arrives byte by byte

_READABLE = 1  # libev's EV_READ


class _Receiver(Protocol):
    """The present layer of a connection."""

    @property
    def has_more(self) -> bool: ...

    @property
    def is_mid_line(self) -> bool: ...

    def receive(self, data: bytes) -> None: ...


class Consumer(Protocol):
    """The part of a connection that the intake uses."""

    @property
    def layer(self) -> _Receiver: ...

    @property
    def is_over(self) -> bool:
        """Whether received bytes need not be handled any more."""

    @property
    def is_deaf(self) -> bool:
        """Whether bytes need not even be received."""

    def guarded(self, step: Callable[[], None]) -> None:
        """Run `step`; an error in it ends this connection and no other."""


Counters = defaultdict[Key, int]


def run(sock: socket, counters: Counters, consumer: Consumer) -> None:
    """Receive until the end of the stream, in the present greenlet."""
    hub = gevent.get_hub()
    readable = hub.loop.io(sock.fileno(), _READABLE)
    try:
        wake = gevent.getcurrent().switch
        readable.start(wake)
        while True:
            hub.switch()  # until it is readable: before each turn, so that others have theirs
            try:
                data = sock.recv(TURN_BYTES)
            except BlockingIOError:
                continue
            if not data:
                return
            size = len(data)
            counters[RECEIVED_BYTES] += size
            if not consumer.is_over:
                consumer.layer.receive(data)
            elif consumer.is_deaf:
                return
            is_drop = size <= _DROP_BYTES and consumer.layer.is_mid_line
            del data  # an idle line would keep it
            if is_drop or consumer.layer.has_more:
                readable.stop()
                _pause(consumer, _GATHER_S if is_drop else 0.0)
                readable.start(wake)
    finally:
        readable.stop()
        readable.close()


def _pause(consumer: Consumer, seconds: float) -> None:
    """Let others have their turn while TLS has more; give a UART the time for several bytes."""
    while consumer.layer.has_more and not consumer.is_over:
        gevent.sleep(_PAUSE_S)
        consumer.layer.receive(b"")
    if seconds:
        gevent.sleep(seconds)


def hear(sock: socket, counters: Counters, consumer: Consumer) -> Iterator[None]:
    """Receive, a turn at each step, what the socket has now and no more; in any greenlet."""
    for _ in range(0, 0 if consumer.is_over else _unread_bytes(sock), TURN_BYTES):
        consumer.guarded(partial(_receive_turn, sock, counters, consumer))
        yield
        if consumer.is_over:
            return


def _receive_turn(sock: socket, counters: Counters, consumer: Consumer) -> None:
    try:
        data = sock.recv(TURN_BYTES)
    except BlockingIOError:
        return
    if not data:
        return
    counters[RECEIVED_BYTES] += len(data)
    consumer.layer.receive(data)
    while consumer.layer.has_more and not consumer.is_over:
        consumer.layer.receive(b"")


def _unread_bytes(sock: socket) -> int:
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), sys.byteorder)
