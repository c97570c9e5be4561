"""One TCP connection of an ESXi host: its socket, and the layers above it, up to a VM's line.

A greenlet reads; handling the bytes never waits. Everything that happens on a connection runs
inside `guarded`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from socket import SHUT_RDWR, SHUT_WR, socket

from vmw_cloudinit_metadata.monitoring import counters
from vmw_cloudinit_metadata.monitoring.facts import ConnectionClosed
from vmw_cloudinit_metadata.serving import intake
from vmw_cloudinit_metadata.serving.admission import Refusal
from vmw_cloudinit_metadata.serving.journey import Journeys
from vmw_cloudinit_metadata.serving.line import Line
from vmw_cloudinit_metadata.serving.output import Output
from vmw_cloudinit_metadata.serving.services import Services
from vmw_cloudinit_metadata.serving.standing import Standing
from vmw_cloudinit_metadata.serving.timeouts import STALLED_S
from vmw_cloudinit_metadata.serving.transport import (
    CLOSED,
    FirstByteLayer,
    HeaderLayer,
    Layer,
    Outgoing,
    TlsLayer,
)

log = logging.getLogger(__name__)

_REST_TURNS = 256


class Connection:
    """Serves one non-blocking socket, which the caller closes when `serve` returns. Call `enter`
    first."""

    __slots__ = (
        "_journeys",
        "_services",
        "_since",
        "_sock",
        "is_over",
        "layer",
        "output",
        "standing",
    )

    def __init__(
        self, services: Services, journeys: Journeys, sock: socket, host: str, port: int
    ) -> None:
        self._services = services
        self._journeys = journeys
        self._sock = sock
        self.standing = Standing(services, self, host, port)
        self.output = Output(
            sock,
            services.turn,
            services.deadlines,
            services.unsent,
            services.counters,
            on_empty=self._all_is_sent,
            on_stalled=self._stalled,
            on_shed=self.give_up,
        )
        self.layer: Layer = CLOSED
        self.is_over = False
        self._since = datetime.now(UTC)

    # Life cycle

    def enter(self) -> None:
        """Take a place among the connections, or be refused; call it once, before `serve`."""
        self.guarded(self.standing.enter)

    def serve(self) -> None:
        """Read until the end of the stream."""
        log.debug("%s: connected", self.standing.peer)
        try:
            if not self.is_over:
                self.guarded(self._run)
        finally:
            self._end()

    def _run(self) -> None:
        if self.layer is CLOSED:  # else it goes on after an upgrade
            self.standing.start_deadline()
            if self.standing.begins_with_header:
                self.layer = HeaderLayer(self)
            else:
                self.begin()
        intake.run(self._sock, self._services.counters, self)

    def _end(self) -> None:
        self.is_over = True
        self._replace_layer(CLOSED)
        self.output.close()
        self.standing.leave()
        log.debug("%s: disconnected", self.standing.peer)

    def drain(self) -> None:
        """Finish the answers under way, then end the stream."""
        self.guarded(self.layer.drain)

    @property
    def is_busy(self) -> bool:
        """Whether an answer is under way."""
        return not self.is_over and bool(self.output.waiting_bytes or self.layer.is_busy)

    @property
    def is_deaf(self) -> bool:
        """Whether arriving bytes need not be received."""
        return self.standing.has_made_room

    def close(self) -> None:
        """End the connection: its reader sees the end of the stream."""
        self.is_over = True
        self.output.end()
        self.output.send()
        with suppress(OSError):  # the peer was faster
            self._sock.shutdown(SHUT_RDWR)

    def finish(self) -> None:
        """End the stream when all is sent; ignore further bytes of the peer."""
        if self.is_over:
            return
        self.is_over = True
        self.output.put(self.layer.goodbye())
        self.output.end()
        if self.output.waiting_bytes:
            self.output.await_empty()
        else:
            self._send_end()

    def _send_end(self) -> None:
        self._sock.shutdown(SHUT_WR)

    def guarded(self, step: Callable[[], None]) -> None:
        """Run `step`; an error in it ends this connection and no other."""
        try:
            step()
        except OSError as error:
            log.debug("%s: connection lost: %s", self.standing.peer, error)
            self.close()
        except Exception:  # a callback of the hub: a bug must not cost the other connections
            self._services.counters[counters.INTERNAL_ERRORS] += 1
            log.exception("%s: internal error; the connection is closed", self.standing.peer)
            self.close()

    # Receiving

    def receive(self, data: bytes) -> None:
        """Let the present layer receive `data`."""
        if not self.is_over:
            self.layer.receive(data)

    def hear(self) -> Iterator[None]:
        """Receive, a turn at each step, what the socket has now and no more."""
        return intake.hear(self._sock, self._services.counters, self)

    def hear_all(self) -> None:
        """Receive, at once, what the socket has now."""
        for _ in islice(self.hear(), _REST_TURNS):
            pass

    # The layers

    def begin(self) -> None:
        """Go on after the PROXY protocol header, if there is one."""
        if self._services.tls:
            layer = FirstByteLayer(self._services, self)
            self._replace_layer(layer)
            layer.start_deadline()
        else:
            self.start_line()

    def start_line(self) -> Line:
        """Go on with a serial line, without TLS."""
        line = self._new_line(self.output, is_secure=False)
        self._replace_layer(line)
        line.flush()
        return line

    def resume_line(self) -> Line:
        """Go on with a serial line of the program before an upgrade: nothing is sent."""
        self.layer = line = self._new_line(self.output, is_secure=False)
        return line

    def open_line(self, wire: Outgoing) -> Line:
        """Return a serial line that is inside TLS."""
        line = self._new_line(wire, is_secure=True)
        line.flush()
        return line

    def start_tls(self) -> None:
        """Go on with TLS; forget everything received before."""
        assert self._services.tls
        rate = self._services.admission.handshake_rate
        if not rate.passes(self.standing.peer.host, time.monotonic()):
            text = f"it begins TLS more than {rate.per_s} times a second (--max-handshake-rate)"
            self.standing.refuse(Refusal("handshake rate", text))
            return
        self.standing.start_over()
        layer = TlsLayer(self._services, self, self._services.tls)
        self._replace_layer(layer)
        layer.start_deadline()

    def _new_line(self, wire: Outgoing, *, is_secure: bool) -> Line:
        since = self._since
        return Line(self._services, self._journeys, self, wire, since, is_secure=is_secure)

    def _replace_layer(self, layer: Layer) -> None:
        before, self.layer = self.layer, layer
        before.close()

    # Sending

    def _all_is_sent(self) -> None:
        self.guarded(self._send_end if self.is_over else self.layer.proceed)

    def _stalled(self) -> None:
        reason = counters.CLOSED["stalled"]
        self._services.counters[reason] += 1
        text = f"closed: it has not read for {STALLED_S:g} s"
        self.layer.report(ConnectionClosed(text, reason))
        self.close()

    def give_up(self) -> None:
        """Close the connection: the peer does not read, and the memory of its data is needed."""
        text = "closed: it does not read, and the memory budget is used up (--memory-budget)"
        self.standing.warn(ConnectionClosed, counters.CLOSED["memory budget"], text)
        self.close()
