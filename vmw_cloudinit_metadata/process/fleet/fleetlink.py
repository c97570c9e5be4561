"""FleetLink: the way of one process of the server to the fleet process, and so to other servers.

It never blocks the hub. What does not fit into its buffer, or comes while the database is out of
reach, is dropped and counted: VMs are served without it.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import gevent

from vmw_cloudinit_metadata.monitoring.counters import FLEET_DROPPED, Key
from vmw_cloudinit_metadata.process.deadlines import Deadlines
from vmw_cloudinit_metadata.process.fleet import frames
from vmw_cloudinit_metadata.process.fleet.fleetstate import FleetState
from vmw_cloudinit_metadata.process.fleet.frames import (
    Fields,
    Frame,
    FrameReader,
    InvalidFrame,
    Reply,
)
from vmw_cloudinit_metadata.process.peercredentials import credentials_of

log = logging.getLogger(__name__)

RETRY_S = 0.25  # between two attempts to reach the fleet process
MAX_UNSENT_BYTES = 8 * 1024 * 1024
MAX_ASKS = 10_000  # that wait for a reply

_PIECE_BYTES = 64 * 1024  # received in one turn of the hub
_ASK_BYTES = 1024
_TOGETHER = 64  # frames, sent by one call

_READABLE, _WRITABLE = 1, 2  # libev's EV_READ and EV_WRITE

Then = Callable[[Reply | None], None]
Handler = Callable[[Fields, bytes], None]


class FleetLink:
    """Tells, asks, and hears what arrives from other servers. Belongs to the hub of its process."""

    def __init__(self, address: str, what: str = "fleet") -> None:
        """`address` is the name of an abstract socket, without its NUL; `what` begins log lines."""
        self._address = f"\0{address}"
        self._what = what
        self._socket: socket.socket | None = None
        self._watcher: Any = None
        self._write_watcher: Any = None
        self._is_flushing = False  # at the end of this turn
        self._unsent: deque[bytes | memoryview] = deque()
        self._unsent_bytes = 0
        self._reader = FrameReader()
        self._asks: dict[int, tuple[Then, Callable[[], None]]] = {}  # by number; what ends them
        self._deadlines = Deadlines()
        self._number = 0
        self._handlers: dict[str, Handler] = {}
        self._on_state: list[Callable[[FleetState], None]] = []
        self._on_connect: list[Callable[[], None]] = []
        self._counts: Counter[Key] = Counter()
        self.state = FleetState()
        self.epoch = 0  # another number after each connect: what was known before may be worthless
        self.heard_s = 0.0  # by time.monotonic(): the last frame
        self._loop = gevent.get_hub().loop
        self._timer = self._loop.timer(RETRY_S, repeat=RETRY_S)  # runs while there is no connection
        self._is_paused = True

    # What others use

    @property
    def is_connected(self) -> bool:
        """Whether the fleet's database is reached, as far as it is known here."""
        return self.state.is_connected

    def on(self, kind: str, handler: Handler) -> None:
        """Call `handler` in the hub with the fields and payload of each arrival of this kind."""
        assert kind not in self._handlers, kind
        self._handlers[kind] = handler

    def when_connected(self, call: Callable[[], None]) -> None:
        """Call it at the begin of each epoch."""
        self._on_connect.append(call)

    def when_state_changes(self, call: Callable[[FleetState], None]) -> None:
        """Call it with each state that differs from the one before in more than its counts."""
        self._on_state.append(call)

    def tell(self, kind: str, fields: Fields, payload: bytes = b"") -> bool:
        """Send it to the fleet process; return False, and count it, if it is dropped."""
        is_sent = self.is_connected and self._send(kind, fields, payload)
        if not is_sent:
            self._counts[FLEET_DROPPED["tells"]] += 1
        return is_sent

    def ask(self, kind: str, fields: Fields, payload: bytes, within_s: float, then: Then) -> None:
        """Call `then` exactly once: with the reply, or with None at the deadline or as soon as no
        reply can come. It may be called before this returns."""
        self._number += 1
        number = self._number
        until_s = time.monotonic() + within_s
        is_sent = (
            self.is_connected
            and len(self._asks) < MAX_ASKS
            and self._send(kind, fields, payload, number, until_s)
        )
        if not is_sent:
            self._counts[FLEET_DROPPED["asks"]] += 1
            then(None)
            return
        expire = partial(self._expire, number)
        self._asks[number] = (then, expire)
        self._deadlines.start(within_s, expire, partial(_turns, self._receive))

    @property
    def kept_bytes(self) -> int:
        """What waits to be sent, and for replies; at most about MAX_UNSENT_BYTES."""
        return self._unsent_bytes + len(self._asks) * _ASK_BYTES

    def counted(self) -> Counter[Key]:
        return Counter(self._counts)

    # Its life

    def start(self) -> None:
        self._is_paused = False
        self._timer.again(self._connect)
        self._connect()

    def pause(self) -> None:
        """Send what waits, as far as there is room now, and disconnect until `start`; asks that
        wait get None."""
        self._flush()
        self._is_paused = True
        self._timer.stop()
        self._disconnect("")

    def close(self) -> None:
        """Pause, and end."""
        self._on_state.clear()
        self.pause()
        self._timer.close()
        self._deadlines.close()

    def let_go(self) -> None:
        """Close what is the parent's, in a forked child; nothing is called back."""
        self._asks.clear()
        self._on_state.clear()
        self._timer.stop()
        self._timer.close()
        self._deadlines.close()
        self._close_socket()

    def lose(self, reason: str) -> None:
        """The fleet process has ended: say why, and forget what it has counted."""
        self._disconnect(reason)
        self._take_state(replace(self.state, problem=reason, counts={}))

    def _connect(self) -> None:
        """Try once; the timer calls it until there is a connection. Never raises."""
        if self._socket:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(self._address)
            is_ours = credentials_of(sock).user == os.geteuid()
        except OSError:  # not there yet, or its queue is full
            is_ours = False
        if not is_ours:
            sock.close()
            return
        self._timer.stop()
        self._socket = sock
        self._reader = FrameReader()
        self.heard_s = time.monotonic()
        self._watcher = self._loop.io(sock.fileno(), _READABLE)
        self._watcher.start(self._receive)
        self._write_watcher = self._loop.io(sock.fileno(), _WRITABLE)

    def _disconnect(self, reason: str) -> None:
        self._close_socket()
        if not self._is_paused:
            self._timer.again(self._connect)
        if self.state.is_connected:
            now_s = time.time()
            self._take_state(replace(self.state, is_connected=False, since_s=now_s, problem=reason))
        for number in list(self._asks):
            self._reply(number, None)

    def _close_socket(self) -> None:
        for watcher in filter(None, (self._watcher, self._write_watcher)):
            watcher.stop()
            watcher.close()
        self._watcher = self._write_watcher = None
        if self._socket:
            self._socket.close()
        self._socket = None
        self._unsent.clear()
        self._unsent_bytes = 0

    # Sending

    def _send(
        self, kind: str, fields: Fields, payload: bytes, ask: int | None = None, until_s: float = 0
    ) -> bool:
        try:
            frame = frames.encode_told(kind, fields, payload, ask, until_s)
        except InvalidFrame as error:
            log.warning("%s: %s is dropped: %s", self._what, kind, error)
            return False
        if not self._socket or self._unsent_bytes + len(frame) > MAX_UNSENT_BYTES:
            return False
        self._unsent.append(frame)
        self._unsent_bytes += len(frame)
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.run_callback(self._flush)
        return True

    def _flush(self) -> None:
        self._is_flushing = False
        while self._unsent and self._socket:
            some = [self._unsent[i] for i in range(min(_TOGETHER, len(self._unsent)))]
            try:
                sent = self._socket.sendmsg(some)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.ENOBUFS):
                    self._write_watcher.start(self._flush)
                else:
                    self._disconnect("the fleet process has closed the connection")
                return
            self._forget_sent(sent)
        if self._write_watcher:
            self._write_watcher.stop()

    def _forget_sent(self, sent: int) -> None:
        self._unsent_bytes -= sent
        while sent:
            first = self._unsent.popleft()
            if sent < len(first):
                self._unsent.appendleft(memoryview(first)[sent:])
                return
            sent -= len(first)

    # Receiving

    def _receive(self) -> bool:
        """Receive one piece; return False if there is none. Never raises: gevent would stop to
        watch the socket."""
        if not self._socket:
            return False
        try:
            piece = self._socket.recv(_PIECE_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            piece = b""
        if not piece:
            self._disconnect("the fleet process has ended")
            return False
        self.heard_s = time.monotonic()
        try:
            for frame in self._reader.receive(piece):
                self._take(frame)
                if not self._socket:
                    return False
        except InvalidFrame as error:
            log.error("%s: its process sent %s", self._what, error)
            self._disconnect("the fleet process sent what it should not")
        return True

    def _take(self, frame: Frame) -> None:
        match frame.head:
            case {"state": packed}:
                try:
                    state = FleetState.unpack(packed)
                except ValueError as error:
                    raise InvalidFrame(str(error)) from error
                self._take_state(state)
            case {"reply": int(number), "fields": None}:
                self._counts[FLEET_DROPPED["asks"]] += number in self._asks
                self._reply(number, None)
            case {"reply": int(number), "fields": dict(fields)}:
                self._reply(number, Reply(fields, frame.payload))
            case {"kind": str(kind), "fields": dict(fields)}:
                if handler := self._handlers.get(kind):
                    _called(handler, fields, frame.payload)
            case _:
                raise InvalidFrame("neither a state, a reply nor an arrival")

    def _take_state(self, state: FleetState) -> None:
        before, self.state = self.state, state
        if _without_counts(state) != _without_counts(before):
            for call in self._on_state:
                _called(call, state)
        if state.is_connected and (state.epoch != before.epoch or not before.is_connected):
            self.epoch += 1
            for begin in self._on_connect:
                _called(begin)

    def _expire(self, number: int) -> None:
        self._counts[FLEET_DROPPED["asks late"]] += 1
        self._reply(number, None)

    def _reply(self, number: int, reply: Reply | None) -> None:
        if number not in self._asks:
            return  # its deadline is over
        then, expire = self._asks.pop(number)
        self._deadlines.cancel(expire)
        _called(then, reply)


def _without_counts(state: FleetState) -> Mapping[str, Any]:
    return {**state.pack(), "counts": None}


def _turns(receive: Callable[[], bool]) -> Iterator[None]:
    """Receive until nothing is there, a turn at each piece."""
    while receive():
        yield


def _called(call: Callable[..., None], *arguments: Any) -> None:
    try:
        call(*arguments)
    except Exception:  # a watcher's callback: gevent would stop the watcher
        log.exception("fleet: internal error when something was heard")
