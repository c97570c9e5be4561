"""One TCP connection of an ESXi host: its socket, and the layers between that and a Line.

A greenlet reads; nothing it does with the bytes waits. First may come a PROXY protocol header, then
TLS, at once or when telnet has agreed on it, then a VM's line. All that happens on a connection
happens inside `guarded`.
"""

from __future__ import annotations

import fcntl
import logging
import ssl
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from socket import SHUT_RDWR, SHUT_WR, socket

import gevent

from vmw_cloudinit_metadata.monitoring import counters
from vmw_cloudinit_metadata.monitoring.facts import ConnectionClosed, Fact, PeerRejected
from vmw_cloudinit_metadata.monitoring.happenings import Peer
from vmw_cloudinit_metadata.protocol import proxyheader
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.admission import Refusal, plain_host
from vmw_cloudinit_metadata.serving.line import Line
from vmw_cloudinit_metadata.serving.output import STALLED_S, Output
from vmw_cloudinit_metadata.serving.shared import Shared
from vmw_cloudinit_metadata.serving.tls import HANDSHAKE, Tls

log = logging.getLogger(__name__)

IDENTIFICATION_S = 30.0  # from the first packet to a VM that is identified
TLS_SILENCE_S = 0.5  # so long a peer may leave open whether it begins with TLS
TLS_HANDSHAKE_S = 10.0
MUTE_LINE_S = 60.0  # ESXi redials a closed line: a refused one is kept, mute, for this long
MAX_MUTE_LINES = 4096
FAREWELL_S = 1.0  # a peer that is dismissed has this long to read why

# A turn of a connection: a dozen requests of a busy one are read, and then the others have theirs.
_RECEIVE_BYTES = 256
_REST_TURNS = 256
_PAUSE_S = 0.0005  # between turns that do not wait for the socket

# A UART gives a guest's bytes one by one, at 9,600 baud one each millisecond. To be woken by each
# costs ten times what is done with it: while a line is incomplete, some are waited for.
_GATHER_S = 0.005
_DROP_BYTES = 16  # at most: what comes one by one

_READABLE = 1  # libev's EV_READ


def _hear_nothing(_data: bytes) -> None:
    """Of a connection that has ended: it refers to nothing that refers to it, or the garbage
    collector would have to find it."""


def _unread_bytes(sock: socket) -> int:
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), sys.byteorder)


class Connection:
    """Serves one non-blocking socket, which the caller closes when `serve` returns; `str` is the
    peer. First it has to `enter`."""

    def __init__(self, shared: Shared, sock: socket, host: str, port: int) -> None:
        self._shared = shared
        self._id = shared.happenings.connection_id()
        self._sock = sock
        self.output = Output(
            sock,
            shared.turn,
            shared.deadlines,
            shared.unsent,
            on_empty=self._all_is_sent,
            on_stalled=self._stalled,
            on_shed=self.give_up,
        )
        self._tls: Tls | None = None
        self._line: Line | None = None
        self._header = b""
        self._counted_host: str | None = None
        self._is_over = False
        self._has_made_room = False
        self._is_quiet = False
        self._has_more = False  # TLS has more plain bytes than fit into a turn
        self._receive: Callable[[bytes], None] = self._receive_header
        self.since = datetime.now(UTC)
        self._become(host, port)

    def __str__(self) -> str:
        return self.peer.name

    # The life of a connection

    def enter(self) -> None:
        """Takes its place among the others, or is refused; to be called once, before `serve`."""
        self.guarded(self._enter)

    def _enter(self) -> None:
        if self._shared.admission.is_proxy(self.host):
            self._is_quiet = True  # until it speaks for somebody: health checks come and go
            self._shared.admission.unidentified.add(self.host, self)
        else:
            self._is_admitted()

    def serve(self) -> None:
        log.debug("%s: connected", self)
        self._shared.deadlines.start(IDENTIFICATION_S, self._unidentified, self.hear)
        try:
            if not self._is_over:
                self.guarded(self._receive_all)
        finally:
            self._end()

    def drain(self) -> None:
        """Finishes the answers under way, then tells the peer that no more will come."""
        self.guarded(self._line.drain if self._line else self.finish)

    @property
    def is_busy(self) -> bool:
        """Whether an answer is under way."""
        waits = self.output.waiting_bytes or (self._line and self._line.is_busy)
        return not self._is_over and bool(waits)

    def close(self) -> None:
        """Ends the connection: its reader sees the end of the stream."""
        self._is_over = True
        self.output.send()
        with suppress(OSError):  # the peer was faster
            self._sock.shutdown(SHUT_RDWR)

    def finish(self) -> None:
        """Tells the peer that nothing more comes; what it still says is not heard."""
        if self._is_over:
            return
        self._is_over = True
        if self._tls and self._tls.is_up:
            self._tls.say_goodbye()
            self.output.put(self._tls.data_to_send())
        if self.output.waiting_bytes:
            self.output.is_awaited = True
        else:
            self._say_end()

    def _say_end(self) -> None:
        self._sock.shutdown(SHUT_WR)

    def guarded(self, step: Callable[[], None]) -> None:
        """Runs one step; whatever goes wrong in it ends this connection and no other."""
        try:
            step()
        except OSError as error:
            log.debug("%s: connection lost: %s", self, error)
            self.close()
        except Exception:
            self._shared.counters[counters.INTERNAL_ERRORS] += 1
            log.exception("%s: an error of the server; the connection is closed", self)
            self.close()

    def _end(self) -> None:
        self._is_over = True
        if self._line:
            self._line.close()
            self._line = None
        self._receive = _hear_nothing
        self.output.close()
        self._shared.tls_connections -= self._tls is not None
        self._shared.deadlines.cancel(
            self._unidentified,
            self._move_overdue,
            self._peer_is_silent,
            self._handshake_overdue,
            self.close,
        )
        self._leave_host()
        self._shared.mute.pop(self, None)
        if self._has_made_room:
            self._shared.leaving -= 1
        log.debug("%s: disconnected", self)

    def _receive_all(self) -> None:
        hub = gevent.get_hub()
        readable = hub.loop.io(self._sock.fileno(), _READABLE)
        try:
            self._begin()
            wake = gevent.getcurrent().switch
            readable.start(wake)
            while True:
                hub.switch()  # until it is readable: before each turn, so that others have theirs
                try:
                    data = self._sock.recv(_RECEIVE_BYTES)
                except BlockingIOError:
                    continue
                if not data:
                    return
                self._shared.counters[counters.RECEIVED_BYTES] += len(data)
                if not self._is_over:
                    self._receive(data)
                elif self._has_made_room:  # what else is there need not be heard
                    return
                is_drop = len(data) <= _DROP_BYTES and self._is_mid_line
                del data  # an idle line would keep it
                if self._has_more or is_drop:
                    readable.stop()
                    self._pause(_GATHER_S if is_drop else 0.0)
                    readable.start(wake)
        finally:
            readable.stop()
            readable.close()

    @property
    def _is_mid_line(self) -> bool:
        return self._line is not None and self._line.is_mid_line

    def _pause(self, seconds: float) -> None:
        """Gives others their turn while TLS has more, and a UART the time for some bytes."""
        while self._has_more and not self._is_over:
            gevent.sleep(_PAUSE_S)
            self._receive(b"")
        if seconds:
            gevent.sleep(seconds)

    def receive_what_is_there(self) -> None:
        """Takes in, from the side, what the socket has."""
        for _ in islice(self.hear(), _REST_TURNS):
            pass

    def hear(self) -> Iterator[None]:
        """Takes in, from the side, a turn at each step, what the socket has now and no more."""
        for _ in range(0, 0 if self._is_over else _unread_bytes(self._sock), _RECEIVE_BYTES):
            self.guarded(self._receive_turn)
            yield
            if self._is_over:
                return

    def _receive_turn(self) -> None:
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        if not data:
            return
        self._shared.counters[counters.RECEIVED_BYTES] += len(data)
        self._receive(data)
        while self._has_more and not self._is_over:
            self._receive(b"")

    # Who it is, and how long that may take

    def _become(self, host: str, port: int) -> None:
        self.host = plain_host(host)
        name = f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"
        self.peer = Peer(name, self.host, self._id)

    def _is_admitted(self) -> bool:
        """Counts the connection as one of its host, if that may have one more."""
        refusal = self._shared.admission.enter(self.host)
        if refusal is None:
            self._counted_host = self.host
            self._shared.admission.unidentified.add(self.host, self)
            return True
        self._refuse(refusal)
        return False

    def _refuse(self, refusal: Refusal) -> None:
        text = f"connection refused: {refusal.reason}"
        self._warn(PeerRejected, counters.REFUSED[refusal.kind], text)
        self._receive = _hear_nothing
        self.close()

    def _leave_host(self) -> None:
        """Another connection may have its place."""
        self._shared.admission.unidentified.discard(self.host, self)
        if self._counted_host:
            self._shared.admission.leave(self._counted_host)
            self._counted_host = None

    def make_room(self) -> None:
        """Closes the connection, whose VM is not served, for the sake of another one."""
        text = "closed to make room for another connection: it has named no VM, or was refused"
        self._warn(ConnectionClosed, counters.CLOSED["made room"], text)
        self._leave_host()
        self._has_made_room = True
        self._shared.leaving += 1
        self.close()

    def report(self, fact: Fact, machine: Machine | None = None) -> None:
        """Report what happens to this connection."""
        self._shared.happenings.report(fact, self.peer, machine)

    def _warn(
        self,
        kind: type[PeerRejected] | type[ConnectionClosed],
        reason: counters.Key,
        text: str,
    ) -> None:
        """Count what goes wrong, and report it at most once a minute for each host."""
        self._shared.counters[reason] += 1
        untold = None if self._is_quiet else self._shared.throttle.passes(reason, self.host)
        if untold is not None:
            self.report(kind(f"{text}{untold}", reason))

    def accept(self, within_s: float | None = None) -> None:
        """Takes the peer for an ESXi host whose VM is served, or will be within this time."""
        self._shared.deadlines.cancel(self._unidentified, self._move_overdue)
        self._shared.admission.unidentified.discard(self.host, self)
        if within_s is not None:
            self._shared.deadlines.start(within_s, self._move_overdue, self.hear)

    def _unidentified(self) -> None:
        text = f"closed: it named no VM within {IDENTIFICATION_S:g} s"
        self._warn(ConnectionClosed, counters.CLOSED["unidentified"], text)
        self.close()

    def _move_overdue(self) -> None:
        reason = "closed: the vMotion to it was not completed in time"
        self._warn(ConnectionClosed, counters.MOVES["overdue"], reason)
        self.close()

    def _stalled(self) -> None:
        reason = counters.CLOSED["stalled"]
        self._shared.counters[reason] += 1
        about = self._line or self
        about.report(ConnectionClosed(f"closed: it has not read for {STALLED_S:g} s", reason))
        self.close()

    def give_up(self) -> None:
        """The peer does not read, and the memory of what waits for it is needed."""
        text = "closed: it does not read, and the memory budget is used up (--memory-budget)"
        self._warn(ConnectionClosed, counters.CLOSED["memory budget"], text)
        self.close()

    def keep_mute(self) -> None:
        """Keeps the connection, unserved, for the peer to close: but not for ever."""
        self.accept()
        if not self._is_over:
            self._shared.admission.unidentified.add(self.host, self)
        mute = self._shared.mute
        mute[self] = None
        if len(mute) > MAX_MUTE_LINES:
            oldest = next(iter(mute))
            del mute[oldest]
            oldest.close()
        self._shared.deadlines.start(MUTE_LINE_S, self.close, self.hear)

    def dismiss(self, reason: str) -> None:
        """The peer is no hypervisor: it may read what was said, and is closed."""
        text = f"closed: no hypervisor, but {reason}"
        self._warn(ConnectionClosed, counters.CLOSED["strangers"], text)
        self.finish()
        self._shared.deadlines.start(FAREWELL_S, self.close)

    # The layers: each receives until it knows which is the next one

    def _begin(self) -> None:
        if self._is_quiet:
            self._receive = self._receive_header
        else:
            self._begin_telnet_or_tls()

    def _receive_header(self, data: bytes) -> None:
        self._header += data
        header = proxyheader.parse(self._header)
        if header is proxyheader.Incomplete:
            return
        if not isinstance(header, proxyheader.Header):
            self._is_quiet = False
            reason = "closed: it begins with no PROXY protocol header"
            self._warn(PeerRejected, counters.REFUSED["PROXY header"], reason)
            self.close()
            return
        rest, self._header = self._header[header.length :], b""
        self._shared.admission.unidentified.discard(self.host, self)  # it counted as the balancer's
        if header.address:
            self._become(*header.address)
            # With version 1 a balancer's own health checks look like this.
            self._is_quiet = self._shared.admission.is_proxy(self.host)
        if refusal := self._shared.admission.hurries(self.host, time.monotonic()):
            self._refuse(refusal)
        elif self._is_admitted():
            self._begin_telnet_or_tls()
            if rest:
                self._receive(rest)

    def _begin_telnet_or_tls(self) -> None:
        if self._shared.tls:
            self._receive = self._receive_first
            self._shared.deadlines.start(TLS_SILENCE_S, self._peer_is_silent, self.hear)
        else:
            self._open_line()

    def _receive_first(self, data: bytes) -> None:
        self._shared.deadlines.cancel(self._peer_is_silent)
        if data[0] == HANDSHAKE:
            self.start_tls()
        else:
            self._open_line()
        self._receive(data)

    def _peer_is_silent(self) -> None:
        self.guarded(lambda: self._open_line().peer_is_silent())

    def _open_line(self) -> Line:
        line = self._line = Line(self._shared, self, is_secure=self._tls is not None)
        if not self._tls:
            self._receive = line.receive
        line.flush()
        return line

    # TLS

    def start_tls(self) -> None:
        """From now on everything is TLS; what was said before is forgotten."""
        assert self._shared.tls
        rate = self._shared.admission.handshake_rate
        if not rate.passes(self.host, time.monotonic()):
            text = f"it begins TLS more than {rate.per_s} times a second (--max-handshake-rate)"
            self._refuse(Refusal("handshake rate", text))
            return
        if self._line:
            self._line.close()
            self._line = None
        self._tls = Tls(self._shared.tls)
        self._shared.tls_connections += 1
        self._receive = self._receive_tls
        self._shared.deadlines.start(TLS_HANDSHAKE_S, self._handshake_overdue, self.hear)

    def _receive_tls(self, data: bytes) -> None:
        assert self._tls
        try:
            self._tls.feed(data)
            if self._tls.is_up:
                self._tls_is_up(self._tls)
                self._receive_plain(self._tls)
        except ssl.SSLError as error:
            self._tls_failed(error.reason or str(error))
            return
        self._send_tls(self._tls)

    def _tls_is_up(self, tls: Tls) -> None:
        if not self._line:
            self._shared.counters[counters.tls_handshake(tls.version)] += 1
            self._shared.deadlines.cancel(self._handshake_overdue)
            self._open_line()

    def _receive_plain(self, tls: Tls) -> None:
        """Hands one turn of what TLS has to the line; a record can hold many."""
        plain = tls.read(_RECEIVE_BYTES)
        self._has_more = len(plain) == _RECEIVE_BYTES
        if plain and self._line:
            self._line.receive(plain)
        if tls.is_closed:
            self.finish()
            self.close()

    def _send_tls(self, tls: Tls) -> None:
        """Sends what TLS itself has to say; a peer that makes it talk, and does not read, goes."""
        data = tls.data_to_send()
        if data and not self.output.write(data):
            self.close()

    def _handshake_overdue(self) -> None:
        self._tls_failed(f"no handshake within {TLS_HANDSHAKE_S:g} s")

    def _tls_failed(self, reason: str) -> None:
        assert self._tls
        self._warn(ConnectionClosed, counters.CLOSED["TLS failed"], f"closed: TLS failed: {reason}")
        self.output.put(self._tls.data_to_send())  # the alert
        self.close()

    # What is to be sent

    def write(self, data: bytes) -> bool:
        """Sends all of it, in time; False if there is no room for it."""
        if self._is_over:
            return True
        if self._tls:
            if not self.output.has_room:  # what TLS has encrypted cannot be left out
                return False
            self._tls.send(data)
            data = self._tls.data_to_send()
        is_written = self.output.write(data)
        if is_written:
            self._shared.counters[counters.SENT_BYTES] += len(data)
        return is_written

    def _all_is_sent(self) -> None:
        if self._is_over:
            self.guarded(self._say_end)
        elif self._line:
            self.guarded(self._line.proceed)
