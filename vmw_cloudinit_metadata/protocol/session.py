"""One VM's serial session: bytes in, events and bytes out.

The session negotiates telnet, answers VMWARE-TELNET-EXT, identifies the VM, and finds the guest's
requests in the serial data. A request that comes before the VM is identified waits. The owner of
the session looks up documents and calls `answer`. phases.py draws the phases of a session. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

from vmw_cloudinit_metadata.protocol import packet, stranger, telnet
from vmw_cloudinit_metadata.protocol.endpoint import Endpoint
from vmw_cloudinit_metadata.protocol.events import Event, IdentityAsked
from vmw_cloudinit_metadata.protocol.extension import Extension
from vmw_cloudinit_metadata.protocol.identification import Identification
from vmw_cloudinit_metadata.protocol.identity import Identity
from vmw_cloudinit_metadata.protocol.known import Known
from vmw_cloudinit_metadata.protocol.nearrequest import NearRequest
from vmw_cloudinit_metadata.protocol.owed import Heard
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
from vmw_cloudinit_metadata.protocol.policy import Policy, TlsPolicy
from vmw_cloudinit_metadata.protocol.sessionmoves import SessionMoves
from vmw_cloudinit_metadata.protocol.starttls import OFFERED, UNDECIDED, StartTls
from vmw_cloudinit_metadata.protocol.state import State
from vmw_cloudinit_metadata.protocol.telnet import Option
from vmw_cloudinit_metadata.protocol.telnetoptions import Options, Side, wished
from vmw_cloudinit_metadata.protocol.vmware import Machine

__all__ = ["Policy", "Session", "TlsPolicy"]

_OURS = frozenset({Option.BINARY, Option.SGA, Option.ECHO})
_HIS = frozenset({Option.BINARY, Option.SGA, Option.VMWARE_TELNET_EXT})

# Lines live for months, and VMs are renamed: after this silence the VM is asked again who it is.
SILENCE_S = 60.0


class HasState(Protocol):
    """A part of a session, with a state."""

    def state(self) -> State: ...

    def restore(self, state: object) -> None: ...


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
        "_stray",
        "_telnet",
        "data_to_send",
        "identity",
        "moves",
        "start_tls",
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
        self._telnet = Endpoint(*(_BEGINS_WITH_TLS if can_start_tls else _BEGINS_IN_PLAIN))
        # Returns, once, the bytes to write to the peer. Call it after every other method.
        self.data_to_send = self._telnet.data_to_send
        self._peer = peer = TelnetPeer(self._telnet)
        self._stray: stranger.Watch | None = None
        self.start_tls = StartTls(peer, is_possible=can_start_tls)
        self._lines = packet.LineSplitter()
        self.identity = Identity(peer_address, connected_since, policy.identity_keys)
        self._identification = Identification(peer, self.identity)
        self.moves = SessionMoves(peer, self._lines, policy, self._identification)
        self._extension = Extension(
            peer, policy, self._identification, self.moves, is_secure=is_secure
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
        is_plain = telnet.IAC not in data and self.start_tls.stage is not UNDECIDED
        if is_plain and peer.phase in SERIAL:
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
        if self.start_tls.stage is UNDECIDED and self._peer.phase in SPEAKING:
            self._receive(self.start_tls.go_on_in_plain())

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

        Call it after GuestRequest, in the order of the requests, when the documents are looked up.
        The bytes begin with what `data_to_send` would return. Return None, and encode nothing,
        while the VM is moving away, and when the session is mute.
        """
        if self.moves.departure or self._peer.phase not in SPEAKING:
            return None
        return self._telnet.sent_with(packets)

    def settle_claim(self, *, is_first: bool) -> list[Event]:
        """Go on after MoveClaimed.

        If not `is_first`, refuse the VM, also after MoveCompleted: elsewhere its move is over, or
        the secret was used before. Return the events, in order. Then write `data_to_send`.
        """
        self.moves.settle_claim(is_first=is_first)
        return self._take_events()

    def take_over(self, handed: tuple[Known, Heard] | None = None) -> list[Event]:
        """Become the session of the VM that has moved here.

        Call it after MoveCompleted, once the source's session has received everything that arrived
        there; `handed` is what a source in another process has handed over. Return the events, in
        order: TakenOver first, and the source is mute then; without TakenOver, the move had ended.
        Then write `data_to_send`.
        """
        arrival = self.moves.take_over(handed)
        if arrival:
            self._receive_serial(self._telnet.plain(arrival.early))
            self._receive(arrival.behind)
        return self._take_events()

    def silence(self) -> None:
        """Send and handle nothing more. Call it to keep a connection open without serving it."""
        self._peer.advance(SILENCE)

    # What the owner may ask

    def parts(self, *, is_fresh: bool) -> Mapping[str, HasState]:
        """The parts that have a state, by name; `is_fresh` if the phase is FRESH, or was."""
        parts: dict[str, HasState] = {
            "peer": self._peer,
            "telnet": self._telnet,
            "start_tls": self.start_tls,
            "identification": self._identification,
            "moves": self.moves,
        }
        if is_fresh:
            parts["stray"] = self._stray = self._stray or stranger.Watch()
        return parts

    @property
    def phase(self) -> SessionPhase:
        """A phase from phases.py; compare it with `is`."""
        return self._peer.phase

    @property
    def is_moving(self) -> bool:
        """Whether the VM is moving away."""
        return self.moves.departure is not None

    @property
    def machine(self) -> Machine:
        """The VM's identity, as far as its host has sent it."""
        return self._identification.machine

    @property
    def is_mid_line(self) -> bool:
        """Whether the guest's line is incomplete."""
        return self._lines.has_begun

    @property
    def heard(self) -> Heard:
        """What was received of the guest and is not in an event yet."""
        return Heard(self._lines.half_line, self._identification.waiting_requests)

    @property
    def known(self) -> Known:
        """Who the VM is, for a session elsewhere."""
        return self._identification.known

    def resume(self, heard: Heard) -> None:
        """Go on with what another session has heard. Call it before this one hears the guest."""
        self._lines.resume(heard.half_line)
        self._identification.resume(heard.requests)

    # The serial line

    def _receive_serial(self, data: bytes) -> None:
        for asked in self._lines.requests(data):
            match asked:
                case packet.GuestRequest():
                    self._receive_request(asked)
                case NearRequest():
                    self._peer.violation("line that is almost a request")
                    self._peer.report(asked)
                case None:
                    self._peer.violation("line that is no request")
        while self._lines.overlong:
            self._lines.overlong -= 1
            self._peer.violation("line too long")

    def _receive_request(self, request: packet.GuestRequest) -> None:
        peer, now_s = self._peer, self._peer.now_s
        was_silent = now_s - self._identification.last_request_s > SILENCE_S
        self._identification.last_request_s = now_s
        if was_silent and peer.phase is IDENTIFIED and not self.is_moving:
            self._identification.ask_again()
        if peer.phase in ANSWERED:
            peer.events.append(request)
        else:
            self._identification.wait(request)

    # Telnet

    def _receive_telnet(self, data: bytes) -> None:
        events = self._telnet.receive_data(data)
        if self.start_tls.is_possible:
            self.start_tls.note_last(events, data)
        self._receive(events)
        if self.start_tls.stage is UNDECIDED and data and self._telnet.is_idle:
            self.peer_is_silent()

    def _receive(self, events: Iterable[telnet.Event]) -> None:
        for event in events:
            phase = self._peer.phase
            if phase is MUTE:
                return
            if phase is FRESH and type(event) is not telnet.Data:
                self._peer.advance(COMMAND)
            if phase is ARRIVED and self.moves.arrival:
                if not self.moves.arrival.keep_behind(event):
                    self._peer.violation("too much behind VMOTION-COMPLETE")
            else:
                _RECEIVERS[type(event)](self, event)

    def _receive_payload(self, received: telnet.Data) -> None:
        payload, peer = received.payload, self._peer
        if peer.phase is FRESH:
            self._stray = self._stray or stranger.Watch()
            if what := self._stray.receive_data(payload):
                peer.reject(what)
                return
        if self.moves.arrival:
            if not self.moves.arrival.keep_early(payload):
                peer.violation("too much before VMOTION-COMPLETE")
        else:
            self._receive_serial(self._telnet.plain(payload))

    def _receive_negotiation(self, negotiation: telnet.Negotiation) -> None:
        option = negotiation.option
        if option == Option.VMWARE_TELNET_EXT:
            if self.start_tls.stage is OFFERED:
                self.start_tls.postpone(negotiation)
            else:
                self._extension.negotiate(negotiation)
        elif option == Option.AUTHENTICATION and self.start_tls.is_possible:
            self._receive(self.start_tls.negotiate(negotiation))
        else:
            self._telnet.negotiate(negotiation)

    def _take_events(self) -> list[Event]:
        events, self._peer.events = self._peer.events, []
        return events


def _receive_subnegotiation(session: Session, subnegotiation: telnet.Subnegotiation) -> None:
    option, payload = subnegotiation
    is_offered = session.start_tls.stage is OFFERED
    if option == Option.VMWARE_TELNET_EXT and not is_offered:
        session._extension.receive(payload)
    elif option == Option.AUTHENTICATION:
        session._receive(session.start_tls.receive(subnegotiation))
    elif is_offered:
        session.start_tls.postpone(subnegotiation)
    else:
        session._peer.violation("unexpected subnegotiation")


def _receive_malformed(session: Session, malformed: telnet.Malformed) -> None:
    session._peer.violation(malformed.kind)


_RECEIVERS: dict[type[telnet.Event], Callable[[Session, Any], None]] = {
    telnet.Data: Session._receive_payload,
    telnet.Negotiation: Session._receive_negotiation,
    telnet.Subnegotiation: _receive_subnegotiation,
    telnet.Malformed: _receive_malformed,
}


def _begun(options: Options, *his: int) -> tuple[Options, bytes]:
    """Return the options after the greeting, and the greeting; `his` are further options to ask
    the peer for."""
    ours = (Option.BINARY, Option.SGA, Option.ECHO)  # ECHO: ESXi must not echo locally
    wishes = [(Side.US, option) for option in ours]
    wishes += [(Side.HIM, option) for option in (Option.BINARY, Option.SGA, *his)]
    greeting = b""
    for side, option in wishes:
        options, request = wished(options, side, option, on=True)
        greeting += telnet.encode_negotiation(request) if request else b""
    return options, greeting


_BEGINS_IN_PLAIN = _begun(Options(_OURS, _HIS), Option.VMWARE_TELNET_EXT)
_BEGINS_WITH_TLS = _begun(Options(_OURS, _HIS | {Option.AUTHENTICATION}))
