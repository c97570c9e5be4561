"""One VM that is played: its ESXi host's connection, its guest's requests. By gevent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import gevent
from gevent.lock import BoundedSemaphore

from vmw_cloudinit_metadata.client import hypervisor as esxi
from vmw_cloudinit_metadata.client.expectation import VmFailure, body_of
from vmw_cloudinit_metadata.client.hypervisor import ArrivingMove, Hypervisor
from vmw_cloudinit_metadata.client.wire import Destination, TlsMode, Wire
from vmw_cloudinit_metadata.protocol.vmware import Machine

# The base64 of the longest document has 1.4 MB.
_MAX_LINE_BYTES = 4 * 1024 * 1024

_FAILURES: dict[type[esxi.Event], tuple[str, str]] = {
    esxi.ProxyRefused: ("refused", "the server says WONT-PROXY to this service URI"),
    esxi.TlsRefused: ("TLS refused", "the server does not take part in AUTHENTICATION"),
    esxi.PeerRefused: ("move refused", "the server knows no such move (VMOTION-PEER)"),
}

_Event = TypeVar("_Event", bound=esxi.Event)


@dataclass(frozen=True, slots=True)
class Manner:
    """How the VMs are played."""

    route: Destination
    pace_s: float | None = None  # between single bytes of the guest; None: whole requests
    limit_s: float = 60.0  # for one document, in the client that is known in the field


@dataclass(slots=True)
class Stage:
    """What a VM is at: one for all its hosts, since it moves in the middle of things."""

    name: str = "connect"

    def __str__(self) -> str:
        return self.name


class PlayedVm:
    """A VM with one connection at a time; what goes wrong is a VmFailure."""

    def __init__(
        self,
        manner: Manner,
        machine: Machine,
        source: str | None = None,
        step: Stage | None = None,
    ) -> None:
        self._manner = manner
        self._machine = machine
        self._source = source
        self._wire: Wire | None = None
        self._hypervisor: Hypervisor | None = None
        self._sending = BoundedSemaphore()
        self._told: deque[esxi.Event] = deque()
        self._heard = bytearray()  # by the guest; not read yet
        self._searched = 0
        self.step = step or Stage()

    # The connection

    def connect(self, arrival: ArrivingMove | None = None) -> None:
        """TCP, and TLS where that comes first."""
        route = self._manner.route
        self.step.name = "connect"
        self._wire = Wire(route, self._source)
        if route.tls is TlsMode.TELNETS:
            self._start_tls(self._wire, arrival)
        else:
            offers_tls = route.tls is TlsMode.AUTHENTICATION
            self._speak(Hypervisor(self._machine, offers_tls=offers_tls, arrival=arrival))
            if offers_tls:
                self.step.name = "AUTHENTICATION"
                self.wait_for(esxi.TlsAgreed)
                self._start_tls(self._wire, arrival)

    def _start_tls(self, wire: Wire, arrival: ArrivingMove | None) -> None:
        self.step.name = "TLS handshake"
        wire.start_tls()
        self._speak(Hypervisor(self._machine, arrival=arrival))

    def _speak(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self.flush()

    def flush(self) -> None:
        """Sends what the hypervisor has to say."""
        assert self._wire
        assert self._hypervisor
        with self._sending:  # a part of it may wait for room in the socket
            data = self._hypervisor.data_to_send()
            if data:
                self._wire.send(data)

    def receive(self) -> bytes:
        """Waits for something from the server; returns what is for the guest."""
        assert self._wire
        assert self._hypervisor
        data = self._wire.receive()
        if not data:
            raise VmFailure("closed", f"{self.step}: the server has closed the connection")
        events = self._hypervisor.receive_data(data)
        self.flush()
        return b"".join(self._sort(event) for event in events)

    def _sort(self, event: esxi.Event) -> bytes:
        if isinstance(event, esxi.SerialData):
            return event.payload
        if isinstance(event, esxi.ServerViolation):
            raise VmFailure("no protocol", f"{self.step}: {event.kind}")
        if type(event) in _FAILURES:
            kind, message = _FAILURES[type(event)]
            raise VmFailure(kind, f"{self.step}: {message}")
        self._told.append(event)
        return b""

    def take(self, kind: type[_Event]) -> _Event | None:
        """The first event of this kind that was told and not taken yet, or None."""
        for event in self._told:
            if isinstance(event, kind):
                self._told.remove(event)
                return event
        return None

    def wait_for(self, kind: type[_Event]) -> _Event:
        while (event := self.take(kind)) is None:
            if self.take(esxi.NotNow):
                raise VmFailure("move declined", f"{self.step}: the server says VMOTION-NOTNOW")
            self._heard += self.receive()
        return event

    def get_ready(self) -> None:
        """Until the server has said WILL-PROXY and has asked who the VM is."""
        self.step.name = "WILL-PROXY and identity"
        self.wait_for(esxi.Ready)

    def close(self) -> None:
        if self._wire:
            self._wire.close()

    def reset(self) -> None:
        """As a host that has lost its power."""
        if self._wire:
            self._wire.reset()

    def send_raw(self, data: bytes) -> None:
        """Sends bytes that no hypervisor would."""
        assert self._wire
        self._wire.send(data)

    # The guest

    def write(self, data: bytes) -> None:
        """What the guest writes, whole or byte by byte."""
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
        """The document; raises VmFailure."""
        self.request(document)
        return self.answer(document)

    def request(self, document: str) -> None:
        self.step.name = document
        self.write(b"!!REQUEST_%s#\n" % document.encode())

    def answer(self, document: str) -> bytes:
        """The document that was asked for; raises VmFailure."""
        self.step.name = document
        return body_of(document, self._line())

    def _line(self) -> bytes:
        while (end := self._heard.find(b"\n", self._searched)) < 0:
            self._searched = len(self._heard)
            if self._searched > _MAX_LINE_BYTES:
                raise VmFailure("no packet", f"{self.step}: a line of more than 4 MB")
            self._heard += self.receive()
        line = bytes(self._heard[:end]).rstrip(b"\r")
        del self._heard[: end + 1]
        self._searched = 0
        return line

    def take_heard(self) -> bytes:
        """What the guest has heard beside its answers."""
        heard = bytes(self._heard)
        self._heard.clear()
        return heard

    # vMotion

    def begin_move(self, sequence: bytes) -> None:
        """VMOTION-BEGIN: GoAhead or NotNow is to come."""
        assert self._hypervisor
        self.step.name = "VMOTION-BEGIN"
        self._hypervisor.begin_move(sequence)
        self.flush()

    def arrive(self, arrival: ArrivingMove, source: str | None = None) -> PlayedVm:
        """The same VM at the target host, connected and known to the server."""
        target = PlayedVm(self._manner, self._machine, source or self._source, self.step)
        try:
            target.connect(arrival)
            target.step.name = "VMOTION-PEER"
            target.wait_for(esxi.PeerAccepted)
        except BaseException:
            target.close()
            raise
        return target

    def take_over(self, source: PlayedVm) -> None:
        """VMOTION-COMPLETE: what the guest has heard by halves goes on here."""
        assert self._hypervisor
        self._heard[:0] = source._heard
        self._hypervisor.complete_move()
        self.flush()

    def abort_move(self) -> None:
        assert self._hypervisor
        self._hypervisor.abort_move()
        self.flush()


@contextmanager
def within(limit_s: float, vm: PlayedVm) -> Iterator[None]:
    """Raises VmFailure if the block takes longer."""
    timeout = gevent.Timeout.start_new(limit_s)
    try:
        yield
    except gevent.Timeout as expired:
        if expired is not timeout:
            raise
        message = f"{vm.step}: nothing came within {limit_s:g} s"
        raise VmFailure("timeout", message) from None
    finally:
        timeout.close()
