"""One VM's serial session: bytes in, events and bytes out.

The session negotiates telnet, answers VMWARE-TELNET-EXT, identifies the VM, and finds the guest's
requests in the serial data. A request that comes before the VM is identified waits. The owner of
the session looks up documents and calls `answer`. phases.py draws the phases of a session. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from vmw_cloudinit_metadata.protocol import packet, stranger, telnet
from vmw_cloudinit_metadata.protocol.endpoint import Endpoint
from vmw_cloudinit_metadata.protocol.events import Event, IdentityAsked, Requested
from vmw_cloudinit_metadata.protocol.extension import Extension, Policy, TlsPolicy
from vmw_cloudinit_metadata.protocol.identification import Identification
from vmw_cloudinit_metadata.protocol.identity import Identity
from vmw_cloudinit_metadata.protocol.peer import TelnetPeer
from vmw_cloudinit_metadata.protocol.phases import (
    ANSWERED,
    ARRIVED,
    COMMAND,
    FRESH,
    IDENTIFIED,
    MUTE,
    SERIAL,
    SILENCE,
    SPEAKING,
    SessionPhase,
)
from vmw_cloudinit_metadata.protocol.starttls import OFFERED, UNDECIDED, StartTls
from vmw_cloudinit_metadata.protocol.telnet import Option
from vmw_cloudinit_metadata.protocol.telnetoptions import Side
from vmw_cloudinit_metadata.protocol.vmware import Machine

__all__ = ["Policy", "Session", "TlsPolicy"]

_NEGOTIATED_SPECIALLY = frozenset({Option.VMWARE_TELNET_EXT, Option.AUTHENTICATION})

_OURS = frozenset({Option.BINARY, Option.SGA, Option.ECHO})
_HIS = frozenset({Option.BINARY, Option.SGA, Option.VMWARE_TELNET_EXT})

# Lines live for months, and VMs are renamed: after this silence the VM is asked again who it is.
SILENCE_S = 60.0


class Session:
    """The server's side of one connection, or of the TLS in it if it `is_secure`.

    The owner writes what `data_to_send` returns, first the greeting. Then it passes on what the
    peer sends (`receive_data`), handles the events in their order, and writes again. It calls
    `peer_is_silent` and `identity_overdue` when time runs out. No method blocks.
    """

    __slots__ = (
        "_extension",
        "_identification",
        "_lines",
        "_peer",
        "_start_tls",
        "_stray",
        "_telnet",
    )

    def __init__(
        self,
        policy: Policy,
        peer_address: str,
        connected_since: datetime,
        *,
        is_secure: bool = False,
    ) -> None:
        can_start_tls = policy.tls is not TlsPolicy.OFF and not is_secure
        self._telnet = (_BEGINS_WITH_TLS if can_start_tls else _BEGINS_IN_PLAIN).copy()
        self._peer = peer = TelnetPeer(self._telnet)
        self._stray: stranger.Watch | None = None
        self._start_tls = StartTls(peer, is_possible=can_start_tls)
        self._lines = packet.LineSplitter()
        self._identification = Identification(
            peer, Identity(peer_address, connected_since, policy.identity_keys)
        )
        self._extension = Extension(
            peer, self._lines, policy, self._identification, is_secure=is_secure
        )

    # What the owner calls

    def receive_data(self, data: bytes, now_s: float = 0.0) -> list[Event]:
        """Handle what the peer has sent; return the events, in order.

        Call it with every piece that arrives, of any size; `now_s` is a monotonic time. Then write
        `data_to_send`. A mute session ignores the data.
        """
        peer = self._peer
        peer.now_s = now_s
        # A UART's bytes come one by one, so what can only be the guest's takes the short way.
        plain = None
        if peer.phase in SERIAL and self._start_tls.stage is not UNDECIDED:
            plain = self._telnet.only_data(data)
        if plain is not None:
            self._receive_serial(plain)
        elif peer.phase in SPEAKING:
            self._receive_telnet(data)
        return self._take_events()

    def peer_is_silent(self) -> None:
        """Go on without TLS, as the peer has started neither TLS nor AUTHENTICATION.

        Call it when nothing has arrived for a while after the greeting. Then write `data_to_send`.
        """
        if self._start_tls.stage is UNDECIDED and self._peer.phase in SPEAKING:
            self._receive(self._start_tls.go_on_in_plain())

    def identity_overdue(self) -> list[Event]:
        """Ask the VM again for what determines its identity; return the events, in order.

        Call it when the time that the last IdentityAsked or IdentityMissing started is over, unless
        Identified came. Then write `data_to_send`. While the VM is not identified, the events start
        the time again with one of the two.
        """
        if self.is_moving:
            self._peer.report(IdentityAsked())  # nothing may be sent now, so nothing is judged
        elif self._peer.phase in SPEAKING:
            self._extension.identity_overdue()
        return self._take_events()

    def answer(self, packets: bytes) -> bytes | None:
        """Encode serialized packets, or a part of one; return the bytes to write to the peer.

        Call it after Requested, in the order of the requests, when the documents are looked up. The
        bytes begin with what `data_to_send` would return. Return None, and encode nothing, unless
        the session `can_speak`.
        """
        if not self.can_speak:
            return None
        return self._telnet.sent_with(packets)

    def data_to_send(self) -> bytes:
        """Return, once, the bytes to write to the peer. Call it after every other method."""
        return self._telnet.data_to_send()

    def take_over(self) -> list[Event]:
        """Become the session of the VM that has moved here.

        Call it after MoveCompleted, once the source's session has received everything that arrived
        there. Return the events, in order: TakenOver first, and the source is mute then; without
        TakenOver, the move had ended. Then write `data_to_send`.
        """
        arrival = self._extension.take_over()
        if arrival:
            self._receive_serial(self._telnet.plain(arrival.early))
            self._receive(arrival.behind)
        return self._take_events()

    def end_move(self) -> None:
        """End the move of this VM to another host. Call it when the move has expired."""
        self._extension.end_move()

    def abandon_move(self) -> None:
        """Let a newer move replace this one. Call it when source and target have disconnected."""
        self._extension.abandon_move()

    def silence(self) -> None:
        """Send and handle nothing more. Call it to keep a connection open without serving it."""
        self._peer.advance(SILENCE)

    # What the owner may ask

    @property
    def phase(self) -> SessionPhase:
        """A phase from phases.py; compare it with `is`."""
        return self._peer.phase

    @property
    def can_speak(self) -> bool:
        """Whether answers may be sent: not while the VM is moving away, nor when mute."""
        return self._extension.departure is None and self._peer.phase in SPEAKING

    @property
    def is_moving(self) -> bool:
        """Whether the VM is moving away."""
        return self._extension.departure is not None

    @property
    def machine(self) -> Machine:
        """The VM's identity, as far as its host has sent it."""
        return self._identification.machine

    @property
    def is_mid_line(self) -> bool:
        """Whether the guest's line is incomplete."""
        return self._lines.has_begun

    @property
    def has_waiting_requests(self) -> bool:
        """Whether a request waits for the VM to be identified."""
        return self._identification.has_waiting_requests

    # The serial line

    def _receive_serial(self, data: bytes) -> None:
        for document in self._lines.requests(data):
            if document is None:
                self._peer.violation("line that is no request")
            else:
                self._receive_request(document)
        while self._lines.overlong:
            self._lines.overlong -= 1
            self._peer.violation("line too long")

    def _receive_request(self, document: str) -> None:
        peer, now_s = self._peer, self._peer.now_s
        was_silent = now_s - self._identification.last_request_s > SILENCE_S
        self._identification.last_request_s = now_s
        if was_silent and peer.phase is IDENTIFIED and not self.is_moving:
            self._identification.ask_again()
        if peer.phase in ANSWERED:
            peer.events.append(Requested(document))
        else:
            self._identification.wait(document)

    # Telnet

    def _receive_telnet(self, data: bytes) -> None:
        events = self._telnet.receive_data(data)
        if self._start_tls.is_possible:
            self._start_tls.note_last(events, data)
        self._receive(events)
        if self._start_tls.stage is UNDECIDED and data and self._telnet.is_idle:
            self.peer_is_silent()

    def _receive(self, events: Iterable[telnet.Event]) -> None:
        for event in events:
            phase = self._peer.phase
            if phase is MUTE:
                return
            if phase is FRESH and not isinstance(event, telnet.Data):
                self._peer.advance(COMMAND)
            if phase is ARRIVED and self._extension.arrival:
                self._extension.arrival.behind.append(event)
            else:
                _RECEIVERS[type(event)](self, event)

    def _receive_payload(self, received: telnet.Data) -> None:
        payload, peer = received.payload, self._peer
        if peer.phase is FRESH:
            self._stray = self._stray or stranger.Watch()
            if what := self._stray.receive_data(payload):
                peer.reject(what)
                return
        if self._extension.arrival:
            if not self._extension.arrival.keep_early(payload):
                peer.violation("too much before VMOTION-COMPLETE")
        else:
            self._receive_serial(self._telnet.plain(payload))

    def _receive_negotiation(self, negotiation: telnet.Negotiation) -> None:
        option = negotiation.option
        if option not in _NEGOTIATED_SPECIALLY:
            self._telnet.negotiate(negotiation)
        elif option == Option.AUTHENTICATION:
            self._receive(self._start_tls.negotiate(negotiation))
        elif self._start_tls.stage is OFFERED:
            self._start_tls.postpone(negotiation)
        else:
            self._extension.negotiate(negotiation)

    def _receive_subnegotiation(self, subnegotiation: telnet.Subnegotiation) -> None:
        option, payload = subnegotiation
        is_offered = self._start_tls.stage is OFFERED
        if option == Option.VMWARE_TELNET_EXT and not is_offered:
            self._extension.receive(payload)
        elif option == Option.AUTHENTICATION:
            self._receive(self._start_tls.receive(subnegotiation))
        elif is_offered:
            self._start_tls.postpone(subnegotiation)
        else:
            self._peer.violation("unexpected subnegotiation")

    def _receive_malformed(self, malformed: telnet.Malformed) -> None:
        self._peer.violation(malformed.kind)

    def _take_events(self) -> list[Event]:
        events, self._peer.events = self._peer.events, []
        return events


_RECEIVERS: dict[type[telnet.Event], Callable[[Session, Any], None]] = {
    telnet.Data: Session._receive_payload,
    telnet.Negotiation: Session._receive_negotiation,
    telnet.Subnegotiation: Session._receive_subnegotiation,
    telnet.Malformed: Session._receive_malformed,
}


def _greeting(endpoint: Endpoint, *his: int) -> Endpoint:
    """Queue the greeting; `his` are further options to ask the peer for."""
    for option in (Option.BINARY, Option.SGA, Option.ECHO):  # ECHO: ESXi must not echo locally
        endpoint.wish(Side.US, option, on=True)
    for option in (Option.BINARY, Option.SGA, *his):
        endpoint.wish(Side.HIM, option, on=True)
    return endpoint


_BEGINS_IN_PLAIN = _greeting(Endpoint(_OURS, _HIS), Option.VMWARE_TELNET_EXT)
_BEGINS_WITH_TLS = _greeting(Endpoint(_OURS, _HIS | {Option.AUTHENTICATION}))
