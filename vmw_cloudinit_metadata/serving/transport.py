"""The layers between a socket and the serial line of a VM.

A connection has one layer at a time. It begins with `HeaderLayer` or `FirstByteLayer`, may go on
with `TlsLayer`, and ends with the serial line, alone or inside TLS; at last it is CLOSED.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from typing import Protocol

from vmw_cloudinit_metadata.monitoring import counters
from vmw_cloudinit_metadata.monitoring.facts import ConnectionClosed, Fact
from vmw_cloudinit_metadata.protocol import proxyheader
from vmw_cloudinit_metadata.serving.intake import TURN_BYTES
from vmw_cloudinit_metadata.serving.output import Output
from vmw_cloudinit_metadata.serving.services import Services
from vmw_cloudinit_metadata.serving.standing import Standing
from vmw_cloudinit_metadata.serving.timeouts import TLS_HANDSHAKE_S, TLS_SILENCE_S
from vmw_cloudinit_metadata.serving.tls import HANDSHAKE, Tls


class Layer(Protocol):
    """A receiver of a connection's bytes."""

    @property
    def has_more(self) -> bool:
        """Whether `receive(b"")` has more, without the socket."""

    @property
    def is_mid_line(self) -> bool:
        """Whether the guest's line is incomplete."""

    @property
    def is_busy(self) -> bool:
        """Whether an answer is under way."""

    def receive(self, data: bytes) -> None: ...

    def report(self, fact: Fact) -> None:
        """Report a happening of the VM, or of the connection if there is no VM yet."""

    def proceed(self) -> None:
        """Go on: everything written is sent."""

    def drain(self) -> None:
        """Finish the answers under way, and then end the connection."""

    def goodbye(self) -> bytes:
        """Return the last bytes to send before the end of the stream."""

    def close(self) -> None:
        """Clean up, once, when the connection has ended or another layer follows."""


class Outgoing(Protocol):
    """The serial line's way to the peer: the output, or the TLS in between."""

    @property
    def waiting_bytes(self) -> int: ...

    @property
    def is_clear(self) -> bool:
        """Whether what is written now will be sent with this turn."""

    def write(self, data: bytes) -> bool:
        """Queue all or nothing; return False if the buffer is full."""

    def await_empty(self) -> None:
        """Call `proceed`, once, when no bytes wait any more."""


class SerialLayer(Layer, Protocol):
    def peer_is_silent(self) -> None:
        """Go on: the peer waits for us to begin."""


class Stack(Protocol):
    """The part of its connection that a layer uses."""

    standing: Standing
    output: Output

    def receive(self, data: bytes) -> None:
        """Let the present layer receive `data`."""

    def begin(self) -> None:
        """Go on after the PROXY protocol header, if there is one."""

    def start_tls(self) -> None: ...

    def start_line(self) -> SerialLayer:
        """Go on with a serial line, without TLS."""

    def open_line(self, wire: Outgoing) -> SerialLayer:
        """Return a serial line that is inside TLS."""

    def hear(self) -> Iterator[None]:
        """Receive what has arrived, a turn at each step."""

    def guarded(self, step: Callable[[], None]) -> None:
        """Run `step`; an error in it ends this connection and no other."""

    def finish(self) -> None: ...

    def close(self) -> None: ...


class ClosedLayer:
    """Receiver of a closed connection; avoids a reference cycle."""

    has_more = False
    is_mid_line = False
    is_busy = False

    def receive(self, data: bytes) -> None: ...

    def report(self, fact: Fact) -> None: ...

    def proceed(self) -> None: ...

    def drain(self) -> None: ...

    def goodbye(self) -> bytes:
        return b""

    def close(self) -> None: ...


CLOSED = ClosedLayer()


class EarlyLayer(ClosedLayer):
    """A layer below the serial line."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def report(self, fact: Fact) -> None:
        self._stack.standing.report(fact)

    def drain(self) -> None:
        self._stack.finish()


class HeaderLayer(EarlyLayer):
    """Receives the PROXY protocol header of a balancer."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.header = b""

    def receive(self, data: bytes) -> None:
        self.header += data
        header = proxyheader.parse(self.header)
        if header is proxyheader.Incomplete:
            return
        if not isinstance(header, proxyheader.Header):
            self._stack.standing.refuse_header()
        elif self._stack.standing.speak_for(header.address):
            self._stack.begin()
            if rest := self.header[header.length :]:
                self._stack.receive(rest)


class FirstByteLayer(EarlyLayer):
    """Finds out by the first byte whether the peer begins with TLS."""

    def __init__(self, services: Services, stack: Stack) -> None:
        super().__init__(stack)
        self._services = services

    def start_deadline(self) -> None:
        hear = self._stack.hear
        self._services.deadlines.start(TLS_SILENCE_S, self._peer_is_silent, hear)

    def receive(self, data: bytes) -> None:
        if data[0] == HANDSHAKE:
            self._stack.start_tls()
        else:
            self._stack.start_line()
        self._stack.receive(data)

    def close(self) -> None:
        self._services.deadlines.cancel(self._peer_is_silent)

    def _peer_is_silent(self) -> None:
        self._stack.guarded(lambda: self._stack.start_line().peer_is_silent())


class TlsLayer:
    """TLS; after the handshake, with a serial line inside. Also an `Outgoing`."""

    def __init__(self, services: Services, stack: Stack, context: ssl.SSLContext) -> None:
        self._services = services
        self._stack = stack
        self._tls = Tls(context)
        self._inner: Layer = EarlyLayer(stack)
        self.has_more = False
        services.tls_connections += 1

    def start_deadline(self) -> None:
        hear = self._stack.hear
        self._services.deadlines.start(TLS_HANDSHAKE_S, self._handshake_overdue, hear)

    def receive(self, data: bytes) -> None:
        was_up = self._tls.is_up
        try:
            self._tls.feed(data)
            if self._tls.is_up:
                if not was_up:
                    self._handshake_complete()
                self._receive_plain()
        except ssl.SSLError as error:
            self._failed(error.reason or str(error))
            return
        self._send()

    def _handshake_complete(self) -> None:
        self._services.counters[counters.tls_handshake(self._tls.version)] += 1
        self._services.deadlines.cancel(self._handshake_overdue)
        self._inner = self._stack.open_line(self)

    def _receive_plain(self) -> None:
        """Give the line one turn of the decrypted bytes; a record can hold many."""
        plain = self._tls.read(TURN_BYTES)
        self.has_more = len(plain) == TURN_BYTES
        if plain:
            self._inner.receive(plain)
        if self._tls.is_closed:
            self._stack.finish()
            self._stack.close()

    def _send(self) -> None:
        """Send TLS's own messages; close a peer that causes them and does not read."""
        data = self._tls.data_to_send()
        if data and not self._stack.output.write(data):
            self._stack.close()

    def _handshake_overdue(self) -> None:
        self._failed(f"no handshake within {TLS_HANDSHAKE_S:g} s")

    def _failed(self, reason: str) -> None:
        text = f"closed: TLS failed: {reason}"
        self._stack.standing.warn(ConnectionClosed, counters.CLOSED["TLS failed"], text)
        self._stack.output.put(self._tls.data_to_send())  # the alert
        self._stack.close()

    # The layer

    @property
    def is_mid_line(self) -> bool:
        return self._inner.is_mid_line

    @property
    def is_busy(self) -> bool:
        return self._inner.is_busy

    def proceed(self) -> None:
        self._inner.proceed()

    def drain(self) -> None:
        self._inner.drain()

    def report(self, fact: Fact) -> None:
        self._inner.report(fact)

    def goodbye(self) -> bytes:
        if not self._tls.is_up:
            return b""
        self._tls.say_goodbye()
        return self._tls.data_to_send()

    def close(self) -> None:
        self._services.deadlines.cancel(self._handshake_overdue)
        self._services.tls_connections -= 1
        self._inner.close()
        self._inner = CLOSED

    # The wire

    @property
    def waiting_bytes(self) -> int:
        return self._stack.output.waiting_bytes

    @property
    def is_clear(self) -> bool:
        return self._stack.output.is_clear

    def await_empty(self) -> None:
        self._stack.output.await_empty()

    def write(self, data: bytes) -> bool:
        if not self._stack.output.has_room:  # what TLS has encrypted cannot be left out
            return False
        self._tls.send(data)
        return self._stack.output.write(self._tls.data_to_send())
