"""The HTTP/1.1 side of the admin port: its connections, and what each may hold and for how long.

A connection is in one of three pools. When a pool is full, its oldest connection is closed, so a
newcomer always gets in. The first pool is for connections that have not sent a whole request for
data, and for requests that everyone may make: health, the page's own files, refusals. Their answers
take no time. The other two are for readers of data and for followers of events: however slowly they
read, they take no place from health checks.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import gevent
from gevent import socket

from vmw_cloudinit_metadata.admin import eventstream, request
from vmw_cloudinit_metadata.admin.app import App
from vmw_cloudinit_metadata.admin.request import BadRequest, Request
from vmw_cloudinit_metadata.admin.response import Response, refusal
from vmw_cloudinit_metadata.admin.slices import PAUSE_S
from vmw_cloudinit_metadata.monitoring.counters import ADMIN_SHED, Key
from vmw_cloudinit_metadata.serving.acceptor import Acceptor

log = logging.getLogger(__name__)

MAX_WAITING = 64  # connections that have sent no request for data
MAX_WAITING_EACH = 32  # of them, of one address
MAX_READING = 32  # connections that read an answer
MAX_UNREAD_BYTES = 16 * 1024 * 1024  # of answers that are not read yet, in all

HEAD_S = 10.0  # for a request to arrive
IDLE_S = 60.0  # between two of one connection
ANSWER_S = 30.0  # for an answer, or a piece of the events, to be read
GOODBYE_S = 1.0  # for the sender of an invalid request to read the answer

# For the first bytes of a connection, until which the system keeps it: a health check whose request
# is on its way makes no room for those that come after it.
_UNHEARD_S = 3

_RECEIVED_BYTES = 16 * 1024
_KERNEL_BYTES = 64 * 1024  # what the system holds of an answer, and as much again for itself
_ACCEPTED_TOGETHER = 8  # then VMs have their turn

Address = tuple[Any, ...]


class Pool:
    """At most `limit` connections in the order of their arrival, `each` per address. One more
    closes the oldest, which `shed` counts under `key`."""

    def __init__(self, key: Key, shed: Counter[Key], limit: int, each: int = 1 << 30) -> None:
        self._key = key
        self._shed = shed
        self._limit = limit
        self._each = each
        self._there: dict[Visit, None] = {}
        self._of: Counter[str] = Counter()

    def enter(self, visit: Visit) -> None:
        self._there[visit] = None
        self._of[visit.host] += 1
        if self._of[visit.host] > self._each:
            self.close_oldest(visit.host)
        elif len(self._there) > self._limit:
            self.close_oldest()

    def leave(self, visit: Visit) -> None:
        if visit in self._there:
            del self._there[visit]
            self._of[visit.host] -= 1
            if not self._of[visit.host]:
                del self._of[visit.host]

    def close_oldest(self, host: str = "") -> None:
        oldest = next(visit for visit in self._there if not host or visit.host == host)
        self.leave(oldest)
        self._shed[self._key] += 1
        oldest.close()

    @property
    def unread_bytes(self) -> int:
        return sum(visit.unread_bytes for visit in self._there)


class HttpServer:
    """Serves `app` on the connections of `listener`. `shed` counts the connections that were closed
    to make room, by pool, and those that read too slowly."""

    def __init__(self, listener: Any, app: App, shed: Counter[Key]) -> None:
        self.app = app
        self.shed = shed
        self.waiting = Pool(ADMIN_SHED["waiting"], shed, MAX_WAITING, MAX_WAITING_EACH)
        self.reading = Pool(ADMIN_SHED["readers"], shed, MAX_READING)
        self.following = Pool(ADMIN_SHED["followers"], shed, eventstream.MAX_FOLLOWERS)
        self._visits: set[Visit] = set()
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _UNHEARD_S)
        self._acceptor = Acceptor(
            listener,
            begin=self._begin,
            serve=_in_its_own_greenlet,
            is_welcome=lambda _: True,
            frees_descriptor=lambda: False,
            on_exhausted=self._no_descriptor,
        )
        self._acceptor.max_accept = _ACCEPTED_TOGETHER

    def start(self) -> None:
        self._acceptor.start()

    def stop(self, timeout: float) -> None:
        """End the answers under way, after `timeout` at the latest."""
        self._acceptor.close()
        for visit in [visit for visit in self._visits if visit.is_idle]:
            visit.close()
        greenlets = [visit.greenlet for visit in self._visits]
        gevent.joinall(greenlets, timeout=timeout)
        gevent.killall(greenlets, timeout=timeout)

    @property
    def listening(self) -> int:
        """The descriptor of the listening socket."""
        return int(self._acceptor.socket.fileno())

    def let_go(self) -> None:
        """Close, in a forked child, what belongs to the parent."""
        for sock in (self._acceptor.socket, *(visit.sock for visit in self._visits)):
            if sock.fileno() >= 0:
                os.close(sock.fileno())

    def make_room(self) -> None:
        while self.reading.unread_bytes > MAX_UNREAD_BYTES:
            self.reading.close_oldest()

    def _begin(self, sock: Any, address: Address) -> Visit:
        visit = Visit(self, sock, address)
        self._visits.add(visit)
        visit.greenlet.rawlink(lambda _: self._visits.discard(visit))
        visit.start()
        return visit

    def _no_descriptor(self, host: str) -> None:
        self.shed[ADMIN_SHED["without descriptor"]] += 1
        log.debug("admin: %s: no descriptor is left for its connection", host)


def _in_its_own_greenlet(_sock: Any, _visit: Visit) -> None:
    """Start a visit in a greenlet that can be killed; the acceptor's cannot."""


class Visit:
    """One connection."""

    def __init__(self, server: HttpServer, sock: Any, address: Address) -> None:
        self._server = server
        self.sock = socket.socket(sock.family, sock.type, sock.proto, sock.detach())
        self.host = str(address[0])
        self.greenlet = gevent.Greenlet(self._run)
        self.greenlet.rawlink(self._end)  # also of one that is closed before it has begun
        self.unread_bytes = 0  # of its answer
        self._received = b""
        self._pool: Pool | None = None

    def start(self) -> None:
        self._move_to(self._server.waiting)
        self.greenlet.start()

    def close(self) -> None:
        self.greenlet.kill(block=False)

    @property
    def is_idle(self) -> bool:
        return self._pool is self._server.waiting and not self.unread_bytes

    def _move_to(self, pool: Pool | None) -> None:
        if self._pool:
            self._pool.leave(self)
        self._pool = pool
        if pool:
            pool.enter(self)

    def _end(self, _: object) -> None:
        self._move_to(None)
        self.sock.close()

    def _run(self) -> None:
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)
            limit_s = HEAD_S
            while self._is_heard(limit_s) and self._is_answered():
                self._move_to(self._server.waiting)
                limit_s = IDLE_S
                gevent.sleep(PAUSE_S)
        except gevent.Timeout:
            log.debug("admin: %s: too slow", self.host)
        except OSError as error:
            log.debug("admin: %s: %s", self.host, error)

    def _is_heard(self, limit_s: float) -> bool:
        """Wait for the first bytes of a request; return whether there are any."""
        if not self._received:
            with gevent.Timeout(limit_s):
                self._received = self.sock.recv(_RECEIVED_BYTES)
        return bool(self._received)

    def _is_answered(self) -> bool:
        """Answer the next request; return whether another one may follow."""
        asked = self._next_request()
        if isinstance(asked, Request):
            return self._answer(asked) and not asked.is_last
        if isinstance(asked, BadRequest):
            log.debug("admin: %s: invalid request: %s", self.host, asked.reason)
            self._send_all(refusal(asked.status, asked.reason), asked.is_head, is_last=True)
            self._part()
        return False

    def _next_request(self) -> Request | BadRequest | None:
        known = 0
        with gevent.Timeout(HEAD_S):
            while not (found := request.read(self._received, known)):
                known = len(self._received)
                data = self.sock.recv(_RECEIVED_BYTES)
                if not data:
                    return None
                self._received += data
            asked, self._received = found
            if isinstance(asked, Request) and asked.body_bytes:
                return self._with_body(asked)
        return asked

    def _with_body(self, asked: Request) -> Request | None:
        received = bytearray(self._received)
        while len(received) < asked.body_bytes:
            data = self.sock.recv(_RECEIVED_BYTES)
            if not data:
                return None
            received += data
        self._received = bytes(received[asked.body_bytes :])
        return replace(asked, body=bytes(received[: asked.body_bytes]))

    def _part(self) -> None:
        """Read on for a moment: closing with unread bytes would discard what was sent."""
        self.sock.shutdown(socket.SHUT_WR)
        with suppress(gevent.Timeout), gevent.Timeout(GOODBYE_S):
            while self.sock.recv(_RECEIVED_BYTES):
                pass

    # Answering

    def _answer(self, asked: Request) -> bool:
        """Send the answer; return whether the client can tell where it ends."""
        app = self._server.app
        response = app.at_the_door(asked)
        if response is None:
            self._move_to(self._server.reading)
            response = app.answer(asked)
        if isinstance(response.body, bytes):
            return self._send_all(response, asked.is_head, is_last=asked.is_last)
        with closing(response.body) as body:
            return self._stream(response, body, asked)

    def _send_all(self, response: Response, is_head: bool, *, is_last: bool) -> bool:
        assert isinstance(response.body, bytes)
        length = ("Content-Length", str(len(response.body)))
        body = b"" if is_head else response.body
        self._send(_head_of(response, length, is_last=is_last) + body)
        return True

    def _stream(self, response: Response, body: Iterable[bytes], asked: Request) -> bool:
        """Send a body of unknown length: in chunks, or, with HTTP/1.0, until the connection
        ends."""
        length = () if asked.is_1_0 else ("Transfer-Encoding", "chunked")
        self._send(_head_of(response, length, is_last=asked.is_last))
        if asked.is_head:
            return True
        self._move_to(self._server.following)
        listener = gevent.spawn(self._await_end)
        try:
            for piece in body:
                self._send(piece if asked.is_1_0 else b"%x\r\n%b\r\n" % (len(piece), piece))
            if not asked.is_1_0:
                self._send(b"0\r\n\r\n")
        except gevent.GreenletExit:
            if not self.unread_bytes and not asked.is_1_0:  # it sees an end, if it reads
                self.sock.settimeout(0)
                with suppress(OSError):
                    self.sock.send(b"0\r\n\r\n")
            raise
        finally:
            listener.kill(block=False)
        return True

    def _await_end(self) -> None:
        """Wait until the follower disconnects; otherwise only the second event after that would
        show it."""
        with suppress(OSError):
            if self.sock.recv(1, socket.MSG_PEEK):
                return  # it asks for something more, and has to wait
        self.close()

    def _send(self, data: bytes) -> None:
        self.unread_bytes = len(data)
        self._server.make_room()
        try:
            with gevent.Timeout(ANSWER_S):
                self.sock.sendall(data)
        except gevent.Timeout:
            self._server.shed[ADMIN_SHED["slow readers"]] += 1
            raise
        self.unread_bytes = 0


def _head_of(response: Response, length: tuple[str, str] | tuple[()], *, is_last: bool) -> bytes:
    headers = [("Date", formatdate(usegmt=True)), *response.all_headers]
    if length:
        headers.append(length)
    if is_last:
        headers.append(("Connection", "close"))
    lines = [f"HTTP/1.1 {response.line}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
