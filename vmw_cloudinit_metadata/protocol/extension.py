"""VMWARE-TELNET-EXT: what the server does with each suboption that a VM sends (EN-001415). Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from vmw_cloudinit_metadata.protocol import identitytoken, stranger, telnet, vmware
from vmw_cloudinit_metadata.protocol.arrival import Arrival
from vmw_cloudinit_metadata.protocol.events import (
    MoveAborted,
    MoveArrived,
    MoveBegun,
    MoveCompleted,
    MoveDeclined,
    TakenOver,
)
from vmw_cloudinit_metadata.protocol.identification import Identification
from vmw_cloudinit_metadata.protocol.identitytoken import Keys
from vmw_cloudinit_metadata.protocol.packet import LineSplitter
from vmw_cloudinit_metadata.protocol.peer import TelnetPeer
from vmw_cloudinit_metadata.protocol.phases import (
    ARRIVED,
    COMPLETE,
    NEGOTIATING,
    PEER,
    PROXIED,
    PROXY,
    SILENCE,
    TAKE_OVER,
)
from vmw_cloudinit_metadata.protocol.printable import quoted
from vmw_cloudinit_metadata.protocol.telnet import Negotiation, Verb
from vmw_cloudinit_metadata.protocol.telnetoptions import Side
from vmw_cloudinit_metadata.protocol.vmotion import Begun, Declined, Move, Moves
from vmw_cloudinit_metadata.protocol.vmware import Suboption

_KNOWN_SUBOPTIONS = telnet.encode_subnegotiation(
    vmware.suboption(Suboption.KNOWN_SUBOPTIONS_2, bytes(Suboption))
)


class TlsPolicy(Enum):
    OFF = "off"
    ALLOW = "allow"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that all sessions of a server share."""

    uris: frozenset[str]  # the service URIs that it serves
    moves: Moves[Extension]
    tls: TlsPolicy = TlsPolicy.OFF
    identity_keys: Keys = field(default_factory=dict)  # none: no identity is proved
    requires_proof: bool = False  # else a VM without proof is reported, and served


class Extension:
    """Handles the suboptions of one VM, and its moves: a Move refers to it as its source."""

    __slots__ = (
        *("_is_secure", "_lines", "_peer", "_policy"),
        *("arrival", "departure", "identification"),
    )

    def __init__(
        self,
        peer: TelnetPeer,
        lines: LineSplitter,
        policy: Policy,
        identification: Identification,
        *,
        is_secure: bool,
    ) -> None:
        self._peer = peer
        self._lines = lines
        self._policy = policy
        self._is_secure = is_secure
        self.identification = identification
        self.departure: Move[Extension] | None = None
        self.arrival: Arrival[Extension] | None = None

    def negotiate(self, negotiation: Negotiation) -> None:
        """Answer WILL, WONT, DO or DONT of the option itself."""
        endpoint, option = self._peer.telnet, negotiation.option
        was_on = endpoint.is_on(Side.HIM, option)
        endpoint.negotiate(negotiation)
        if not was_on and endpoint.is_on(Side.HIM, option):
            # At once: a VM may wait for our list before it sends its own.
            endpoint.send_command(_KNOWN_SUBOPTIONS)
        elif negotiation.verb is Verb.WONT and self._peer.phase not in PROXIED:
            self._peer.reject(stranger.TELNET)

    def receive(self, payload: bytes) -> None:
        """Handle the content of a subnegotiation of VMWARE-TELNET-EXT."""
        if not payload:
            self._peer.violation("suboption without a code")
            return
        known = _SUBOPTIONS.get(payload[0])
        if known is None:
            self._peer.violation("unknown suboption")
            self._peer.say(Suboption.UNKNOWN_SUBOPTION_RCVD_2, payload[:1])
        else:
            code, handle = known
            handle(self, code, payload[1:])
            if self.arrival:
                self._settle_claim(self.arrival)

    def _out_of_place(self, code: Suboption, _argument: bytes) -> None:
        self._peer.violation(f"unexpected {vmware.named(code)}")

    # Who the VM is

    def _known_suboptions(self, _code: Suboption, argument: bytes) -> None:
        self.identification.announce(argument)

    def _unknown_suboption(self, _code: Suboption, argument: bytes) -> None:
        self.identification.withdraw(argument)

    def _identity(self, code: Suboption, argument: bytes) -> None:
        self.identification.learn(code, argument)

    def identity_overdue(self) -> None:
        """Handle the end of the time for sending the identity."""
        self.identification.ask_for_missing()
        if self.arrival:
            self._settle_claim(self.arrival)
        self.identification.wait_on()

    def _do_proxy(self, _code: Suboption, argument: bytes) -> None:
        direction = vmware.DIRECTIONS.get(argument[:1])
        is_short = len(argument) <= 1 + vmware.MAX_URI_BYTES
        uri, token = identitytoken.taken_from(argument[1:].decode("utf-8", "replace"))
        if self._lacks_tls:
            self._peer.say(Suboption.WONT_PROXY)
            self._peer.refuse("without TLS", "the VM does not use TLS, and this server requires it")
        elif not (direction and is_short and vmware.serves(uri, self._policy.uris)):
            self._peer.say(Suboption.WONT_PROXY)
            ours = " or ".join(sorted(map(repr, self._policy.uris)))
            reason = f"the VM asks for service URI {quoted(uri)}, this server serves {ours}"
            if not is_short:
                reason += f", with a query up to {vmware.MAX_URI_BYTES:,} bytes"
            self._peer.refuse("another service URI", reason)
        elif self.arrival:
            self._peer.violation("unexpected DO-PROXY")
        else:
            self._peer.say(Suboption.WILL_PROXY)
            self._peer.advance(PROXY)
            self.identification.proxied(uri, direction, token)

    @property
    def _lacks_tls(self) -> bool:
        return self._policy.tls is TlsPolicy.REQUIRE and not self._is_secure

    # vMotion, at the source

    def _vmotion_begin(self, _code: Suboption, argument: bytes) -> None:
        self.end_move()  # a second one replaces the first
        match self._begin_move(argument):
            case Begun(move, instead_of):
                self.departure = move
                self._peer.say(Suboption.VMOTION_GOAHEAD, argument + move.secret)
                made_room = instead_of.number if instead_of else None
                self._peer.report(MoveBegun(move.number, made_room))
            case Declined(reason, is_of_rate):
                self._peer.say(Suboption.VMOTION_NOTNOW, argument)
                self._peer.report(MoveDeclined(reason, is_of_rate))

    def _begin_move(self, sequence: bytes) -> Begun[Extension] | Declined:
        if self._peer.phase not in PROXIED:
            return Declined("this line is not served (it got no WILL-PROXY)")
        machine = self.identification.machine
        host, now_s = machine.peer_address, self._peer.now_s
        return self._policy.moves.begin(self, host, sequence, machine.vc_uuid, now_s, machine.proof)

    def _vmotion_abort(self, code: Suboption, argument: bytes) -> None:
        if not self.departure:
            self._out_of_place(code, argument)
            return
        self.end_move()
        self._peer.report(MoveAborted())

    def end_move(self) -> None:
        """End the move from here: completed, aborted, replaced or expired."""
        if self.departure:
            self._policy.moves.end(self.departure)
            self.departure = None

    def abandon_move(self) -> None:
        """Mark the move from here as abandoned: its source and its target have disconnected."""
        if self.departure:
            self._policy.moves.abandon(self.departure)

    # vMotion, at the target

    def _vmotion_peer(self, code: Suboption, argument: bytes) -> None:
        if self._peer.phase is not NEGOTIATING:
            self._peer.say(Suboption.UNKNOWN_SUBOPTION_RCVD_2, bytes([code]))
            self._peer.violation("unexpected VMOTION-PEER")
            return
        if self._lacks_tls:
            self._refuse_peer("the VM moves here without TLS, and this server requires it")
            return
        proof = self._policy.moves.arrive(argument)
        if proof is None:
            self._refuse_peer("VMOTION-PEER of a move that is unknown, over, or used already")
            return
        self.arrival = Arrival(proof)
        self._peer.advance(PEER)
        if self.arrival.move:
            self._accept_peer(self.arrival)
        else:
            self.identification.expect()

    def _settle_claim(self, arrival: Arrival[Extension]) -> None:
        """Check a claim, once the VC UUID of the VM is known."""
        claim = arrival.claim
        if not claim:
            return
        if not self.identification.is_settled(Suboption.VM_VC_UUID):
            if self.identification.is_overdue:
                self._refuse_peer("VMOTION-PEER of a VM whose host does not send its VC UUID")
            return
        machine = self.identification.machine
        proof = self._policy.moves.settle(claim, machine.vc_uuid, machine.peer_address)
        if proof is not None:
            arrival.identity_proof = proof
            self._accept_peer(arrival)
        else:
            self._refuse_peer("VMOTION-PEER with a secret that is not of this VM's move")

    def _accept_peer(self, arrival: Arrival[Extension]) -> None:
        arrival.is_accepted = True
        self._peer.say(Suboption.VMOTION_PEER_OK, arrival.proof.sequence)
        self._peer.report(MoveArrived(arrival.number))
        self._complete(arrival)

    def _refuse_peer(self, reason: str) -> None:
        self._peer.say(Suboption.UNKNOWN_SUBOPTION_RCVD_2, bytes([Suboption.VMOTION_PEER]))
        self.arrival = None
        self._peer.refuse("VMOTION-PEER", reason)

    def _vmotion_complete(self, code: Suboption, argument: bytes) -> None:
        if self.arrival and self.arrival.complete(argument):
            self._complete(self.arrival)
        else:
            self._out_of_place(code, argument)

    def _complete(self, arrival: Arrival[Extension]) -> None:
        if arrival.is_over and not self._refuse_if_over(arrival.move):
            self._peer.advance(COMPLETE)
            self._peer.report(MoveCompleted(arrival.number))

    def _refuse_if_over(self, move: Move[Extension] | None) -> bool:
        """Refuse a peer whose move cannot be completed; return whether it did."""
        if not move:
            return False
        here = self.identification.machine.vc_uuid
        there = move.source.identification.machine.vc_uuid
        if move.source.departure is not move:
            self._refuse_peer("VMOTION-COMPLETE of a move that is over")
        elif here and there not in (None, here):
            self._refuse_peer("VMOTION-COMPLETE from a VM with another VC UUID than at the source")
        return self.arrival is None

    def take_over(self) -> Arrival[Extension] | None:
        """Take over the VM, unless its move has ended; return the arrival, with its early data."""
        arrival = self.arrival
        if not arrival or self._peer.phase is not ARRIVED:
            return None
        move = arrival.move
        if self._refuse_if_over(move):
            return None
        self.arrival = None
        self._peer.advance(TAKE_OVER)
        self._peer.report(TakenOver(arrival.number))
        uri = None
        if move:
            self._inherit(move.source)
        elif len(self._policy.uris) == 1:  # the target host does not send it
            (uri,) = self._policy.uris
        self.identification.begin_at_target(uri, arrival.identity_proof)
        return arrival

    def _inherit(self, source: Extension) -> None:
        source.end_move()
        source._peer.advance(SILENCE)
        self.identification.inherit(source.identification)
        self._lines.take_over(source._lines)


_HANDLERS: dict[Suboption, Callable[[Extension, Suboption, bytes], None]] = {
    **dict.fromkeys(Suboption, Extension._out_of_place),
    Suboption.KNOWN_SUBOPTIONS_1: Extension._known_suboptions,
    Suboption.UNKNOWN_SUBOPTION_RCVD_1: Extension._unknown_suboption,
    Suboption.VMOTION_BEGIN: Extension._vmotion_begin,
    Suboption.VMOTION_PEER: Extension._vmotion_peer,
    Suboption.VMOTION_COMPLETE: Extension._vmotion_complete,
    Suboption.VMOTION_ABORT: Extension._vmotion_abort,
    Suboption.DO_PROXY: Extension._do_proxy,
    **dict.fromkeys(vmware.IDENTITY.values(), Extension._identity),
}
_SUBOPTIONS = {int(code): (code, handle) for code, handle in _HANDLERS.items()}
