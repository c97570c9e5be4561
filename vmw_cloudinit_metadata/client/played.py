"""Play one VM: the connection of its ESXi host and the requests of its guest. Uses gevent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import gevent
from gevent.lock import BoundedSemaphore

from vmw_cloudinit_metadata.client import hypervisor as esxi
from vmw_cloudinit_metadata.client.expectation import LineCut, VmFailure, body_of, server_like
from vmw_cloudinit_metadata.client.hypervisor import ArrivingMove, Hypervisor
from vmw_cloudinit_metadata.client.wire import Destination, TlsMode, Wire
from vmw_cloudinit_metadata.protocol.telnet import IAC
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.settings.identitykeys import NumberedKey

# The longest document is 1.4 MB in base64.
_MAX_LINE_BYTES = 4 * 1024 * 1024

_IAC = bytes([IAC])

_FAILURES: dict[type[esxi.Event], tuple[str, str]] = {
    esxi.ProxyRefused: (
        "refused",
        "the server sent WONT-PROXY: it serves another service URI, or requires TLS (--tls)",
    ),
    esxi.TlsRefused: ("TLS refused", "the server does not negotiate AUTHENTICATION"),
    esxi.PeerRefused: ("move refused", "the server does not know this move (VMOTION-PEER)"),
}

_Event = TypeVar("_Event", bound=esxi.Event)


def with_token(machine: Machine, key: NumberedKey) -> Machine:
    """Return a machine to play, with its identity token in the service URI."""
    uri = key.uri_with_token(machine.service_uri, machine.vc_uuid or "")
    return replace(machine, service_uri=uri)


@dataclass(frozen=True, slots=True)
class Manner:
    """How to play VMs."""

    route: Destination
    pace_s: float | None = None  # between single bytes of the guest; None: write whole requests
    limit_s: float = 60.0  # as the usual guest client allows for one document


@dataclass(slots=True)
class PlayedStage:
    """What a VM is doing, for failure messages; shared by its hosts during a move."""

    name: str = "connect"
    is_cut: bool = False  # the line was cut or refused since the guest was last served
    cut_s: float | None = None  # since when the guest waits because of that
    last_cut: str = ""

    def __str__(self) -> str:
        return self.name


class PlayedVm:
    """A VM with one connection at a time; raises VmFailure for any failure."""

    def __init__(
        self,
        manner: Manner,
        machine: Machine,
        source: str | None = None,
        stage: PlayedStage | None = None,
    ) -> None:
        self._manner = manner
        self._machine = machine
        self._source = source
        self._wire: Wire | None = None
        self._hypervisor: Hypervisor | None = None
        self._sending = BoundedSemaphore()
        self._events: deque[esxi.Event] = deque()
        self._received = bytearray()  # for the guest; not read yet
        self._searched = 0
        self.stage = stage or PlayedStage()
        self.is_greeted = False  # by the server, on this connection

    # The connection

    def connect(self, arrival: ArrivingMove | None = None) -> None:
        """Connect by TCP, with TLS if the destination asks for it."""
        route = self._manner.route
        self.stage.name = "connect"
        self.is_greeted = False
        self._wire = Wire(route, self._source)
        if route.tls is TlsMode.TELNETS:
            self._start_tls(self._wire, arrival)
        else:
            offers_tls = route.tls is TlsMode.AUTHENTICATION
            self._speak(Hypervisor(self._machine, offers_tls=offers_tls, arrival=arrival))
            if offers_tls:
                self.stage.name = "AUTHENTICATION"
                self.wait_for(esxi.TlsAgreed)
                self._start_tls(self._wire, arrival)

    def _start_tls(self, wire: Wire, arrival: ArrivingMove | None) -> None:
        self.stage.name = "TLS handshake"
        wire.start_tls()
        self._speak(Hypervisor(self._machine, arrival=arrival))

    def _speak(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self.flush()

    def flush(self) -> None:
        """Send what the hypervisor has queued."""
        assert self._wire
        assert self._hypervisor
        with self._sending:  # one sender at a time: a send may block halfway
            data = self._hypervisor.data_to_send()
            if data:
                self._wire.send(data)

    def receive(self) -> bytes:
        """Wait for data from the server; return the bytes for the guest."""
        assert self._wire
        assert self._hypervisor
        data = self._wire.receive()
        if not data:
            raise LineCut("closed", f"{self.stage}: the server has closed the connection")
        self._require_telnet(data)
        events = self._hypervisor.receive_data(data)
        self.flush()
        return b"".join(self._sort(event) for event in events)

    def _require_telnet(self, data: bytes) -> None:
        """Raise VmFailure if the server's first bytes are not telnet's."""
        if not self.is_greeted and not data.startswith(_IAC):
            found = server_like(data) or "a server that does not speak telnet"
            raise VmFailure("wrong port", f"wrong port: {self._manner.route.server} is {found}")
        self.is_greeted = True

    def _sort(self, event: esxi.Event) -> bytes:
        if isinstance(event, esxi.SerialData):
            return event.payload
        if isinstance(event, esxi.ServerViolation):
            raise VmFailure("no protocol", f"{self.stage}: {event.kind}")
        if type(event) in _FAILURES:
            kind, message = _FAILURES[type(event)]
            raise VmFailure(kind, f"{self.stage}: {message}")
        self._events.append(event)
        return b""

    def take(self, kind: type[_Event]) -> _Event | None:
        """Return the first event of this kind that was not taken yet, or None."""
        for event in self._events:
            if isinstance(event, kind):
                self._events.remove(event)
                return event
        return None

    def wait_for(self, kind: type[_Event]) -> _Event:
        while (event := self.take(kind)) is None:
            if self.take(esxi.NotNow):
                raise VmFailure("move declined", f"{self.stage}: the server sent VMOTION-NOTNOW")
            self._received += self.receive()
        return event

    def get_ready(self) -> None:
        """Wait until the server has sent WILL-PROXY and asked for the VM's identity."""
        self.stage.name = "WILL-PROXY and identity"
        self.wait_for(esxi.Ready)

    def close(self) -> None:
        if self._wire:
            self._wire.close()

    def hang_up(self) -> None:
        """Close the line, and forget what the guest has received in part; `connect` may follow."""
        self.close()
        self._events.clear()
        self.take_received()

    def reset(self) -> None:
        """Reset the connection, like a host that has lost its power."""
        if self._wire:
            self._wire.reset()

    def send_raw(self, data: bytes) -> None:
        """Send bytes that no hypervisor sends, if it has ever been connected."""
        if self._wire:
            self._wire.send(data)

    # The guest

    def write(self, data: bytes) -> None:
        """Write the guest's data, whole or byte by byte."""
        assert self._hypervisor
        pace_s = self._manner.pace_s
        if pace_s is None:
            self._hypervisor.send_serial(data)
            self.flush()
            return
        for place in range(len(data)):
            self._hypervisor.send_serial(data[place : place + 1])
            self.flush()
            gevent.sleep(pace_s)

    def ask(self, document: str) -> bytes:
        """Request a document and return it; raise VmFailure."""
        self.request(document)
        return self.answer(document)

    def request(self, document: str) -> None:
        self.stage.name = document
        self.write(b"!!REQUEST_%s#\n" % document.encode())

    def answer(self, document: str) -> bytes:
        """Return the document that was requested; raise VmFailure."""
        self.stage.name = document
        return body_of(document, self._line())

    def _line(self) -> bytes:
        while (end := self._received.find(b"\n", self._searched)) < 0:
            self._searched = len(self._received)
            if self._searched > _MAX_LINE_BYTES:
                raise VmFailure("no packet", f"{self.stage}: received a line of more than 4 MB")
            self._received += self.receive()
        line = bytes(self._received[:end]).rstrip(b"\r")
        del self._received[: end + 1]
        self._searched = 0
        return line

    def take_received(self) -> bytes:
        """Return the bytes for the guest that no response has consumed, and forget them."""
        received = bytes(self._received)
        self._received.clear()
        self._searched = 0
        return received

    # vMotion

    def begin_move(self, sequence: bytes) -> None:
        """Send VMOTION-BEGIN: GoAhead or NotNow follows."""
        assert self._hypervisor
        self.stage.name = "VMOTION-BEGIN"
        self._hypervisor.begin_move(sequence)
        self.flush()

    def arrive(self, arrival: ArrivingMove, source: str | None = None) -> PlayedVm:
        """Return the same VM at the target host, connected and known to the server."""
        target = PlayedVm(self._manner, self._machine, source or self._source, self.stage)
        try:
            target.connect(arrival)
            target.stage.name = "VMOTION-PEER"
            target.wait_for(esxi.PeerAccepted)
        except BaseException:
            target.close()
            raise
        return target

    def take_over(self, source: PlayedVm) -> None:
        """Send VMOTION-COMPLETE; a half-received line continues here."""
        assert self._hypervisor
        self._received[:0] = source.take_received()
        self._hypervisor.complete_move()
        self.flush()

    def abort_move(self) -> None:
        assert self._hypervisor
        self._hypervisor.abort_move()
        self.flush()


@contextmanager
def within(limit_s: float, vm: PlayedVm) -> Iterator[None]:
    """Raise VmFailure if the block takes longer."""
    timeout = gevent.Timeout.start_new(limit_s)
    try:
        yield
    except gevent.Timeout as expired:
        if expired is not timeout:
            raise
        message = f"{vm.stage}: no response within {limit_s:g} s"
        raise VmFailure("timeout", message) from None
    finally:
        timeout.close()
