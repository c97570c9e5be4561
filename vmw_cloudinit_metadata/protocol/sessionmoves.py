"""vMotion, as one session takes part in it: the source of a move, or its target. Pure."""

from __future__ import annotations

from vmw_cloudinit_metadata.protocol.arrival import Arrival
from vmw_cloudinit_metadata.protocol.events import (
    MoveAborted,
    MoveArrived,
    MoveBegun,
    MoveClaimed,
    MoveCompleted,
    MoveDeclined,
    TakenOver,
)
from vmw_cloudinit_metadata.protocol.identification import Identification
from vmw_cloudinit_metadata.protocol.known import Known
from vmw_cloudinit_metadata.protocol.owed import Heard
from vmw_cloudinit_metadata.protocol.packet import NO_HALF_LINE, LineSplitter
from vmw_cloudinit_metadata.protocol.peer import TelnetPeer
from vmw_cloudinit_metadata.protocol.phases import (
    ARRIVED,
    ARRIVING,
    COMPLETE,
    MUTE,
    NEGOTIATING,
    PEER,
    PROXIED,
    SILENCE,
    TAKE_OVER,
)
from vmw_cloudinit_metadata.protocol.policy import Departing, Policy
from vmw_cloudinit_metadata.protocol.state import InvalidState, State, mapping, octets, written
from vmw_cloudinit_metadata.protocol.vmotion import (
    MAX_SECRET_BYTES,
    MAX_SEQUENCE_BYTES,
    Begun,
    Claim,
    Declined,
    Move,
)
from vmw_cloudinit_metadata.protocol.vmware import Machine, Suboption

_SEQUENCE, _SECRET = octets(MAX_SEQUENCE_BYTES), octets(MAX_SECRET_BYTES)


class SessionMoves:
    """The moves of one session's VM: a Move refers to it as its source."""

    __slots__ = ("_identification", "_lines", "_peer", "_policy", "arrival", "departure")

    def __init__(
        self,
        peer: TelnetPeer,
        lines: LineSplitter,
        policy: Policy,
        identification: Identification,
    ) -> None:
        self._peer = peer
        self._lines = lines
        self._policy = policy
        self._identification = identification
        self.departure: Move[Departing] | None = None
        self.arrival: Arrival[Departing] | None = None

    def state(self) -> State:
        """Return the moves of this VM, from here and to here, for a session that goes on."""
        state: State = {}
        move = self.departure and self._policy.moves.written_move(self.departure)
        if move:
            state["departure"] = move
        if self.arrival and self._peer.phase is not MUTE:
            proof = self.arrival.proof
            secret = [written(proof.sequence), written(proof.secret)]
            is_known = isinstance(proof, Move)
            state["arrival"] = [*secret, is_known, self.arrival.state()]
        return state

    def restore(self, state: object) -> None:
        """Go on from a state, after the source of a move that arrives here; raise InvalidState."""
        match mapping(state):
            case {"departure": move, **further} if not further:
                self.departure = self._policy.moves.restore_move(self, move)
            case {"arrival": [sequence, secret, bool(is_known), arrival], **further} if not further:
                proof = _SEQUENCE.read(sequence), _SECRET.read(secret)
                move = self._policy.moves.taken(*proof) if is_known else Claim(*proof)
                if not move:
                    raise InvalidState("the source of its vMotion is not there")
                self.arrival = Arrival(move)
                self.arrival.restore(arrival)
            case moves if moves:
                raise InvalidState("expected a move from here or to here")

    @property
    def machine(self) -> Machine:
        """The VM's identity, as far as its host has sent it."""
        return self._identification.machine

    # At the source

    def begin(self, argument: bytes) -> None:
        """Handle VMOTION-BEGIN."""
        self.end_move()  # a second one replaces the first
        match self._begin(argument):
            case Begun(move, instead_of):
                self.departure = move
                self._peer.say(Suboption.VMOTION_GOAHEAD, move.token)
                made_room = instead_of.number if instead_of else None
                self._peer.report(MoveBegun(move.number, made_room, move.token))
            case Declined(reason, is_of_rate):
                self._peer.say(Suboption.VMOTION_NOTNOW, argument)
                self._peer.report(MoveDeclined(reason, is_of_rate))

    def _begin(self, sequence: bytes) -> Begun[Departing] | Declined:
        if self._peer.phase not in PROXIED:
            return Declined("this line is not served (it got no WILL-PROXY)")
        machine = self.machine
        host, now_s = machine.peer_address, self._peer.now_s
        return self._policy.moves.begin(self, host, sequence, machine.vc_uuid, now_s, machine.proof)

    def abort(self) -> None:
        """Handle VMOTION-ABORT."""
        if not self.departure:
            self._peer.violation("unexpected VMOTION-ABORT")
            return
        self.end_move()
        self._peer.report(MoveAborted())

    def is_leaving_by(self, number: int) -> bool:
        """Return whether this move is not over."""
        return self.departure is not None and self.departure.number == number

    def hand_over(self) -> tuple[Known, Heard]:
        """End here, and return what the target goes on with. The session is mute then."""
        self.end_move()
        self._peer.advance(SILENCE)
        heard = Heard(self._lines.half_line, self._identification.taken_requests())
        self._lines.resume(NO_HALF_LINE)
        return self._identification.known, heard

    def target_elsewhere(self) -> None:
        """Accept no target here: it has connected to another process."""
        if self.departure:
            self._policy.moves.take(self.departure)

    def end_move(self) -> None:
        """End the move from here: completed, aborted, replaced or expired."""
        if self.departure:
            self._policy.moves.end(self.departure)
            self.departure = None

    def abandon_move(self) -> None:
        """Let a newer move replace the one from here: its source and target have disconnected."""
        if self.departure:
            self._policy.moves.abandon(self.departure)

    # At the target

    def come(self, argument: bytes, *, lacks_tls: bool) -> None:
        """Handle VMOTION-PEER."""
        if self._peer.phase is not NEGOTIATING:
            self._peer.say(Suboption.UNKNOWN_SUBOPTION_RCVD_2, bytes([Suboption.VMOTION_PEER]))
            self._peer.violation("unexpected VMOTION-PEER")
            return
        if lacks_tls:
            self.refuse("the VM moves here without TLS, and this server requires it")
            return
        proof = self._policy.moves.arrive(argument)
        if proof is None:
            self.refuse("VMOTION-PEER of a move that is unknown, over, or used already")
            return
        self.arrival = Arrival(proof)
        self._peer.advance(PEER)
        if self.arrival.move:
            self._accept(self.arrival)
        else:
            self._identification.expect()

    def check_claim(self) -> None:
        """Check the claim of an arrival, once the VC UUID of the VM is known."""
        arrival = self.arrival
        claim = arrival.claim if arrival else None
        if not (arrival and claim):
            return
        if not self._identification.is_settled(Suboption.VM_VC_UUID):
            if self._identification.is_overdue:
                self.refuse("VMOTION-PEER of a VM whose host does not send its VC UUID")
            return
        machine = self.machine
        proof = self._policy.moves.settle(claim, machine.vc_uuid, machine.peer_address)
        if proof is None:
            self.refuse("VMOTION-PEER with a secret that is not of this VM's move")
            return
        arrival.identity_proof = proof
        arrival.is_checked = True
        if self._policy.asks_claims:
            self._peer.report(MoveClaimed(claim.token))
        else:
            self._accept(arrival)

    def settle_claim(self, *, is_first: bool) -> None:
        """End the wait that MoveClaimed or MoveCompleted began."""
        arrival = self.arrival
        if not arrival or self._peer.phase not in (ARRIVING, ARRIVED):
            return
        if not is_first:
            self.refuse("VMOTION-PEER of a move that is over, or used already, on another server")
        elif not arrival.is_accepted:
            self._accept(arrival)

    def _accept(self, arrival: Arrival[Departing]) -> None:
        arrival.is_accepted = True
        self._peer.say(Suboption.VMOTION_PEER_OK, arrival.proof.sequence)
        self._peer.report(MoveArrived(arrival.number))
        self._complete(arrival)

    def refuse(self, reason: str) -> None:
        """Refuse the VM that comes, whose move is wrong or over."""
        self._peer.say(Suboption.UNKNOWN_SUBOPTION_RCVD_2, bytes([Suboption.VMOTION_PEER]))
        self.arrival = None
        self._peer.refuse("VMOTION-PEER", reason)

    def complete(self, argument: bytes) -> None:
        """Handle VMOTION-COMPLETE."""
        if self.arrival and self.arrival.complete(argument):
            self._complete(self.arrival)
        else:
            self._peer.violation("unexpected VMOTION-COMPLETE")

    def _complete(self, arrival: Arrival[Departing]) -> None:
        if arrival.is_over and not self._refuse_if_over(arrival.move):
            self._peer.advance(COMPLETE)
            self._peer.report(MoveCompleted(arrival.number))

    def _refuse_if_over(self, move: Move[Departing] | None) -> bool:
        """Refuse a VM whose move cannot be completed; return whether it did."""
        if not move:
            return False
        if not move.source.is_leaving_by(move.number):
            self.refuse("VMOTION-COMPLETE of a move that is over")
        else:
            self._refuse_other(move.source.machine.vc_uuid)
        return self.arrival is None

    def _refuse_other(self, there: str | None) -> None:
        """Refuse a VM with another VC UUID than at the source."""
        here = self.machine.vc_uuid
        if here and there not in (None, here):
            self.refuse("VMOTION-COMPLETE from a VM with another VC UUID than at the source")

    def take_over(self, handed: tuple[Known, Heard] | None) -> Arrival[Departing] | None:
        """Take over the VM, unless its move has ended; return the arrival, with its early data.

        `handed` is what a source in another process has handed over.
        """
        arrival = self.arrival
        if not arrival or self._peer.phase is not ARRIVED:
            return None
        move = arrival.move
        if self._refuse_if_over(move):
            return None
        if handed:
            self._refuse_other(handed[0].vc_uuid)
            if not self.arrival:
                return None
        self.arrival = None
        self._peer.advance(TAKE_OVER)
        self._peer.report(TakenOver(arrival.number))
        uri = None
        if handed := handed or (move.source.hand_over() if move else None):
            known, heard = handed
            self._identification.inherit(known, heard.requests)
            self._lines.resume(heard.half_line)
        elif len(self._policy.uris) == 1:  # the target host does not send it
            (uri,) = self._policy.uris
        self._identification.begin_at_target(uri, arrival.identity_proof)
        return arrival
