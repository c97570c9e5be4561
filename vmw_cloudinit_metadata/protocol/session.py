"""One VM's serial session: bytes in -> events and bytes out.

The session negotiates telnet, answers VMWARE-TELNET-EXT, learns which VM this is, and finds the
guest's requests in the serial data. A request that comes before the VM is identified waits for the
identity. Whoever owns the session looks the documents up and says `answer`; it hears of a vMotion
what it has to do (hold the answers, let the target's session `take_over`). Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from vmw_cloudinit_metadata.protocol import authentication, packet, stranger, telnet, vmware
from vmw_cloudinit_metadata.protocol.endpoint import Endpoint
from vmw_cloudinit_metadata.protocol.events import (
    Event,
    Fault,
    Identified,
    IdentityAsked,
    IdentityUntold,
    MoveAborted,
    MoveArrived,
    MoveBegun,
    MoveCompleted,
    MoveDeclined,
    RefusalKind,
    Refused,
    Requested,
    Strange,
    TlsAccepted,
)
from vmw_cloudinit_metadata.protocol.identity import Identity
from vmw_cloudinit_metadata.protocol.options import Side
from vmw_cloudinit_metadata.protocol.printable import quoted
from vmw_cloudinit_metadata.protocol.telnet import Option, Verb
from vmw_cloudinit_metadata.protocol.vmotion import Begun, Claim, Declined, Move, Moves
from vmw_cloudinit_metadata.protocol.vmware import Machine, Suboption

# A member of an enumeration takes some time to get at.
_EXTENSION, _AUTHENTICATION = Option.VMWARE_TELNET_EXT, Option.AUTHENTICATION
_HIM = Side.HIM

_OURS = frozenset({Option.BINARY, Option.SGA, Option.ECHO})
_HIS = frozenset({Option.BINARY, Option.SGA, _EXTENSION})
_HIS_WITH_TLS = _HIS | {_AUTHENTICATION}
_GREETING = (
    (Side.US, Option.BINARY),
    (Side.US, Option.SGA),
    (Side.US, Option.ECHO),  # so that ESXi does not echo locally
    (_HIM, Option.BINARY),
    (_HIM, Option.SGA),
)
_OPENING = (_HIM, _EXTENSION)

_SE = bytes([telnet.SE])

# What is said to every VM, encoded once.
_BARE = {code: telnet.encode_subnegotiation(vmware.suboption(code)) for code in Suboption}
_KNOWN_SUBOPTIONS = telnet.encode_subnegotiation(
    vmware.suboption(Suboption.KNOWN_SUBOPTIONS_2, bytes(Suboption))
)

# A guest asks for one document after the other; this is room for one that asks for all of them,
# again and again, while its VM is still being identified.
MAX_WAITING_REQUESTS = 64

# What the VM may send on the target host's connection before it says that it is there: its guest
# does not run there yet.
MAX_EARLY_BYTES = 2 * 1024

# What the VM may say of VMWARE-TELNET-EXT before AUTHENTICATION is settled: who it is, with the
# longest name and service URI. What an event takes beside its payload counts too.
MAX_POSTPONED_BYTES = 4 * 1024
_EVENT_BYTES = 128

# Lines live for months, and VMs are renamed: after this silence the VM is asked again who it is.
SILENCE_S = 60.0


class TlsPolicy(Enum):
    OFF = "off"
    ALLOW = "allow"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True)
class Policy:
    """What is the same for all sessions of a server."""

    uris: frozenset[str]  # the service URIs that it serves
    moves: Moves[Session]
    tls: TlsPolicy = TlsPolicy.OFF


@dataclass(slots=True)
class _Arrival:
    """The move by which the VM of this session comes."""

    proof: Move[Session] | Claim
    is_accepted: bool = False
    is_complete: bool = False

    @property
    def is_over(self) -> bool:
        """Whether the VM is here, and waits to be taken over."""
        return self.is_accepted and self.is_complete

    @property
    def source(self) -> Session | None:
        return self.proof.source if isinstance(self.proof, Move) else None


class Session:
    """The server's side of one connection, or of the TLS in it if it `is_secure`."""

    def __init__(
        self,
        policy: Policy,
        peer_address: str,
        connected_since: datetime,
        *,
        is_secure: bool = False,
    ) -> None:
        self._policy = policy
        self._is_secure = is_secure
        self._can_start_tls = policy.tls is not TlsPolicy.OFF and not is_secure
        self._telnet = (
            Endpoint(_OURS, _HIS_WITH_TLS, _GREETING)
            if self._can_start_tls
            else Endpoint(_OURS, _HIS, (*_GREETING, _OPENING))
        )
        self._lines = packet.LineSplitter()
        self._events: list[Event] = []
        self._now_s = 0.0
        # Before it is known to be telnet
        self._stray: stranger.Watch | None = stranger.Watch()
        # Before TLS is settled
        self._is_open = not self._can_start_tls  # VMWARE-TELNET-EXT was asked for
        self._last: telnet.Event | None = None  # of what was received, if nothing follows it
        self._is_settling = False  # the VM has offered TLS, and has neither begun nor refused it
        self._postponed: list[telnet.Event] = []
        self._postponed_bytes = 0
        # Who it is
        self._identity = Identity(peer_address, connected_since)
        self._waiting: list[str] = []
        self._proxying = False
        self._last_request_s = 0.0
        self.identified = False
        # Where it goes, and where it comes from
        self._departure: Move[Session] | None = None
        self._arrival: _Arrival | None = None
        self._early = b""
        self._behind: list[telnet.Event] = []  # VMOTION-COMPLETE, until `take_over`
        self.is_mute = False  # refused, moved away, or in other hands

    # What its owner says to it

    def receive_data(self, data: bytes, now_s: float = 0.0) -> list[Event]:
        """Returns what these bytes mean, in order. Afterwards `data_to_send` may have something."""
        self._now_s = now_s
        if self._is_of_the_guest(data):
            self._receive_serial(data)
            return self._take_events()
        events = self._telnet.receive_data(data)
        if self._can_start_tls:
            is_last = self._telnet.is_idle and data.endswith(_SE)
            self._last = events[-1] if events and is_last else None
        self._receive(events)
        if not self._is_open and data and self._telnet.is_idle and not self._is_settling:
            self._open()
        return self._take_events()

    def _is_of_the_guest(self, data: bytes) -> bool:
        """Whether nothing but the guest can be meant: a UART's bytes come one by one, and the whole
        way for each costs more than the byte itself."""
        is_settled = self._is_open and self._stray is None and self._arrival is None
        return is_settled and self._telnet.is_plain(data) and not self.is_mute

    def peer_is_silent(self) -> None:
        """The peer waits for us: it does not begin with TLS, nor with AUTHENTICATION."""
        if not self._is_settling:
            self._open()

    def identity_overdue(self) -> list[Event]:
        """The time to tell the identity is over: what decides which VM this is, is asked again."""
        if self.is_moving:
            self._emit(IdentityAsked())  # nothing is said now, and so nothing is judged
        elif not self.is_mute:
            for question in self._identity.overdue():
                self._say(question)
            self._identify()
            self._go_on_waiting()
        return self._take_events()

    def _go_on_waiting(self) -> None:
        if self._identity.is_complete or self.is_mute:
            return
        if not self.is_untold:
            self._emit(IdentityAsked())
            return
        self._emit(IdentityUntold(self._identity.missing, self._identity.is_news))
        self._let_requests_pass()

    @property
    def is_untold(self) -> bool:
        """Whether the host has not told, in all the time it had, what decides which VM this is."""
        return self._proxying and not self.identified and self._identity.is_overdue

    def answer(self, packets: bytes) -> None:
        """Queues serialized packets, or a part of one, for the guest."""
        self._telnet.send(packets)

    def take_over(self) -> list[Event]:
        """Becomes the session of the VM that has moved here, after MoveCompleted."""
        arrival = self._arrival
        if not arrival or self.is_mute or self._refuse_if_over(arrival):
            return self._take_events()
        source = arrival.source
        self._arrival = None
        self._proxying = True
        if source:
            self._inherit(source)
        elif len(self._policy.uris) == 1:  # the target host does not tell
            self._proxied(next(iter(self._policy.uris)), "client")
        self._identify()
        if not self.identified:
            self._wait_anew()
        early, self._early = self._early, b""
        self._receive_serial(early)
        behind, self._behind = self._behind, []
        self._receive(behind)
        return self._take_events()

    def end_move(self) -> None:
        """The move from here is over: completed, aborted, replaced or expired."""
        if self._departure:
            self._policy.moves.end(self._departure)
            self._departure = None

    def abandon_move(self) -> None:
        """The connection is gone, and no target is there to take the VM over."""
        if self._departure:
            self._policy.moves.abandon(self._departure)

    @property
    def machine(self) -> Machine:
        """Who the VM is, as far as it has told."""
        return self._identity.machine

    @property
    def is_proxying(self) -> bool:
        """Whether it has become the session of a VM: by WILL-PROXY, or because one moved here."""
        return self._proxying

    @property
    def is_moving(self) -> bool:
        """Whether nothing may be said to the guest, since its VM is moving away."""
        return self._departure is not None

    @property
    def is_mid_line(self) -> bool:
        """Whether the guest has begun a line, and has not ended it."""
        return self._lines.has_begun

    @property
    def has_waiting_requests(self) -> bool:
        """Whether a request waits for the VM to be identified."""
        return bool(self._waiting)

    def data_to_send(self) -> bytes:
        """Returns, once, what is to be written to the peer."""
        return self._telnet.data_to_send()

    # Telnet

    def _receive(self, events: Iterable[telnet.Event]) -> None:
        for event in events:
            if self.is_mute:
                return
            if self._arrival and self._arrival.is_over:
                self._behind.append(event)
            else:
                _RECEIVERS[type(event)](self, event)

    def _receive_negotiation(self, negotiation: telnet.Negotiation) -> None:
        self._stray = None
        _, option = negotiation
        if option not in _MATTERS:
            self._telnet.negotiate(negotiation)
        elif option == _AUTHENTICATION:
            self._negotiate_authentication(negotiation)
        elif self._is_settling:
            self._postpone(negotiation)
        else:
            self._negotiate_extension(negotiation)

    def _receive_subnegotiation(self, subnegotiation: telnet.Subnegotiation) -> None:
        self._stray = None
        option, payload = subnegotiation
        if option == _AUTHENTICATION:
            self._receive_authentication(subnegotiation)
        elif self._is_settling:
            self._postpone(subnegotiation)
        elif option == _EXTENSION:
            self._receive_suboption(payload)
        else:
            self._fault("unexpected subnegotiation")

    def _receive_malformed(self, malformed: telnet.Malformed) -> None:
        self._stray = None
        self._fault(malformed.fault)

    def _negotiate_extension(self, negotiation: telnet.Negotiation) -> None:
        was_on = self._telnet.is_on(_HIM, _EXTENSION)
        self._telnet.negotiate(negotiation)
        if not was_on and self._telnet.is_on(_HIM, _EXTENSION):
            # At once: a VM may wait for our list before it sends its own.
            self._telnet.say(_KNOWN_SUBOPTIONS)
        elif negotiation.verb is Verb.WONT and not self._proxying:
            self._estrange("a telnet client that refuses VMWARE-TELNET-EXT")

    # Peers that are no hypervisor

    def _receive_payload(self, received: telnet.Data) -> None:
        payload = received.payload
        what = self._stray.receive_data(payload) if self._stray else None
        if what:
            self._estrange(what)
        elif self._arrival:
            self._receive_early(payload)
        else:
            self._receive_serial(payload)

    def _estrange(self, what: str) -> None:
        self.is_mute = True
        self._telnet.send(stranger.GREETING)
        self._emit(Strange(what))

    # TLS by AUTHENTICATION

    def _open(self) -> None:
        """Asks for VMWARE-TELNET-EXT, and takes up what was postponed."""
        if self._is_open or self.is_mute:
            return
        self._is_open = True
        self._telnet.wish(_HIM, _EXTENSION, on=True)
        postponed, self._postponed, self._postponed_bytes = self._postponed, [], 0
        self._receive(postponed)

    def _postpone(self, event: telnet.Event) -> None:
        self._is_open = False
        self._postponed_bytes += len(getattr(event, "payload", b"")) + _EVENT_BYTES
        if self._postponed_bytes <= MAX_POSTPONED_BYTES:
            self._postponed.append(event)
        else:
            self._fault("too much before the end of AUTHENTICATION")

    def _negotiate_authentication(self, negotiation: telnet.Negotiation) -> None:
        was_on = self._telnet.is_on(_HIM, _AUTHENTICATION)
        self._telnet.negotiate(negotiation)
        self._is_settling = self._telnet.is_on(_HIM, _AUTHENTICATION)
        if self._is_settling and not was_on:
            self._telnet.subnegotiate(authentication.SEND)
        elif was_on and not self._is_settling:
            self._open()

    def _receive_authentication(self, subnegotiation: telnet.Subnegotiation) -> None:
        payload = subnegotiation.payload
        modifier = authentication.start_modifier(payload)
        if not self._is_settling or not authentication.is_answer(payload):
            self._fault("unexpected AUTHENTICATION")
        elif modifier is None:  # another type, such as NULL: it goes on without TLS
            self._telnet.wish(_HIM, _AUTHENTICATION, on=False)
            self._is_settling = False
            self._open()
        elif subnegotiation is not self._last:
            # What is there already was said in plain, by whoever is in between.
            reason = "it sends plain bytes behind its START of TLS"
            self._refuse("plain bytes before TLS", reason, is_attack=True)
        else:
            self._telnet.subnegotiate(authentication.accepted(modifier))
            self.is_mute = True
            self._emit(TlsAccepted())

    # VMWARE-TELNET-EXT

    def _say(self, code: Suboption, argument: bytes = b"") -> None:
        if argument:
            self._telnet.subnegotiate(vmware.suboption(code, argument))
        else:
            self._telnet.say(_BARE[code])

    def _receive_suboption(self, payload: bytes) -> None:
        if not payload:
            self._fault("suboption without a code")
            return
        known = _SUBOPTIONS.get(payload[0])
        if known is None:
            self._fault("unknown suboption")
            self._say(Suboption.UNKNOWN_SUBOPTION_RCVD_2, payload[:1])
        else:
            code, handle = known
            handle(self, code, payload[1:])

    def _known_suboptions(self, _code: Suboption, argument: bytes) -> None:
        for question in self._identity.ask(argument):
            self._say(question)
        self._emit(IdentityAsked())
        self._identify()

    def _unknown_suboption(self, _code: Suboption, argument: bytes) -> None:
        self._identity.will_not_hear(argument)
        self._identify()

    def _do_proxy(self, _code: Suboption, argument: bytes) -> None:
        direction = vmware.DIRECTIONS.get(argument[:1])
        is_short = len(argument) <= 1 + vmware.MAX_URI_BYTES
        uri = argument[1:].decode("utf-8", "replace")
        if self._lacks_tls:
            self._say(Suboption.WONT_PROXY)
            self._refuse("without TLS", "the VM speaks no TLS, and this server requires it")
        elif not (direction and is_short and vmware.serves(uri, self._policy.uris)):
            self._say(Suboption.WONT_PROXY)
            ours = " or ".join(sorted(map(repr, self._policy.uris)))
            reason = f"the VM asks for service URI {quoted(uri)}, this server serves {ours}"
            if not is_short:
                reason += f", with a query up to {vmware.MAX_URI_BYTES:,} bytes"
            self._refuse("another service URI", reason)
        elif self._arrival:
            self._fault("unexpected DO-PROXY")
        else:
            self._say(Suboption.WILL_PROXY)
            self._proxying = True
            self._expect_identity()
            self._proxied(uri, direction)

    def _expect_identity(self) -> None:
        """From now on it matters: the time to tell it begins, unless it runs."""
        if not self._identity.is_asked or self._identity.is_late:
            self._wait_anew()

    def _wait_anew(self) -> None:
        self._identity.wait_anew()
        self._emit(IdentityAsked())

    def _proxied(self, service_uri: str, direction: str) -> None:
        was = self.machine if self.identified else None
        self._identity.proxied(service_uri, direction)
        self._changed_from(was)

    @property
    def _lacks_tls(self) -> bool:
        return self._policy.tls is TlsPolicy.REQUIRE and not self._is_secure

    def _refuse(self, kind: RefusalKind, reason: str, *, is_attack: bool = False) -> None:
        self.is_mute = True
        self._emit(Refused(kind, reason, is_attack))

    def _out_of_place(self, code: Suboption, _argument: bytes) -> None:
        self._fault(f"unexpected {vmware.named(code)}")

    # vMotion, at the source

    def _vmotion_begin(self, _code: Suboption, argument: bytes) -> None:
        self.end_move()  # a second one replaces the first
        match self._begin_move(argument):
            case Begun(move, instead_of):
                self._departure = move
                self._say(Suboption.VMOTION_GOAHEAD, argument + move.secret)
                self._emit(MoveBegun(instead_of.source if instead_of else None))
            case Declined(reason, is_of_rate):
                self._say(Suboption.VMOTION_NOTNOW, argument)
                self._emit(MoveDeclined(reason, is_of_rate))

    def _begin_move(self, sequence: bytes) -> Begun[Session] | Declined:
        if not self._proxying:
            return Declined("the line has no WILL-PROXY")
        host, vc_uuid = self.machine.peer_address, self.machine.vc_uuid
        return self._policy.moves.begin(self, host, sequence, vc_uuid, self._now_s)

    def _vmotion_abort(self, code: Suboption, argument: bytes) -> None:
        if not self._departure:
            self._out_of_place(code, argument)
            return
        self.end_move()
        self._emit(MoveAborted())

    # vMotion, at the target

    def _vmotion_peer(self, code: Suboption, argument: bytes) -> None:
        if self._proxying or self._arrival:
            self._say(Suboption.UNKNOWN_SUBOPTION_RCVD_2, bytes([code]))
            self._fault("unexpected VMOTION-PEER")
            return
        if self._lacks_tls:
            self._refuse_peer("the VM moves here without TLS, and this server requires it")
            return
        proof = self._policy.moves.arrive(argument)
        if proof is None:
            self._refuse_peer("VMOTION-PEER of a move that is unknown, over, or used already")
            return
        self._arrival = _Arrival(proof)
        if isinstance(proof, Move):
            self._accept_peer()
            return
        self._expect_identity()
        self._identify()

    def _settle_claim(self, claim: Claim) -> None:
        if not self._identity.is_settled(Suboption.VM_VC_UUID):
            if self._identity.is_overdue:
                self._refuse_peer("VMOTION-PEER of a VM whose host does not tell its VC UUID")
            return
        machine = self.machine
        if self._policy.moves.settle(claim, machine.vc_uuid, machine.peer_address):
            self._accept_peer()
        else:
            self._refuse_peer("VMOTION-PEER with a secret that is not of this VM's move")

    def _accept_peer(self) -> None:
        assert self._arrival
        self._arrival.is_accepted = True
        self._say(Suboption.VMOTION_PEER_OK, self._arrival.proof.sequence)
        self._emit(MoveArrived(self._arrival.source))
        self._complete()

    def _refuse_peer(self, reason: str) -> None:
        self._say(Suboption.UNKNOWN_SUBOPTION_RCVD_2, bytes([Suboption.VMOTION_PEER]))
        self._arrival = None
        self._refuse("VMOTION-PEER", reason)

    def _vmotion_complete(self, code: Suboption, argument: bytes) -> None:
        arrival = self._arrival
        if not arrival or arrival.is_complete or argument != arrival.proof.sequence:
            self._out_of_place(code, argument)
            return
        arrival.is_complete = True
        self._complete()

    def _complete(self) -> None:
        arrival = self._arrival
        if not arrival or not arrival.is_over:
            return
        if not self._refuse_if_over(arrival):
            self._emit(MoveCompleted(arrival.source))

    def _refuse_if_over(self, arrival: _Arrival) -> bool:
        """Refuses a peer that has nothing to complete; whether it is refused."""
        source, here = arrival.source, self.machine.vc_uuid
        if source and source._departure is not arrival.proof:
            self._refuse_peer("VMOTION-COMPLETE of a move that is over")
        elif source and here and source.machine.vc_uuid not in (None, here):
            self._refuse_peer("VMOTION-COMPLETE from a VM with another VC UUID than at the source")
        return self.is_mute

    def _receive_early(self, payload: bytes) -> None:
        if len(self._early) + len(payload) > MAX_EARLY_BYTES:
            self._fault("too much before VMOTION-COMPLETE")
        else:
            self._early += payload

    def _inherit(self, source: Session) -> None:
        """Takes over what the VM was at the source."""
        source.end_move()
        source.is_mute = True
        self._identity.inherit(source._identity)
        self._lines, source._lines = source._lines, self._lines
        self._waiting, source._waiting = source._waiting, []

    # Who the VM is

    def _tells(self, code: Suboption, argument: bytes) -> None:
        was = self.machine if self.identified else None
        if not self._identity.hear(code, argument):
            self._fault(f"unusable {vmware.named(code)}")
        self._changed_from(was)
        if was and not self.identified:  # it has a UUID, and we do not know which
            self._wait_anew()

    def _changed_from(self, was: Machine | None) -> None:
        if was is not None and self.machine != was:
            self._emit(Identified(self.machine))
        self._identify()

    def _identify(self) -> None:
        if self._arrival and isinstance(self._arrival.proof, Claim):
            if not self._arrival.is_accepted:
                self._settle_claim(self._arrival.proof)
            return
        was_identified = self.identified
        self.identified = is_identified = self._proxying and self._identity.is_complete
        if is_identified and not was_identified:
            self._last_request_s = self._now_s
            self._emit(Identified(self.machine))
            self._let_requests_pass()

    def _let_requests_pass(self) -> None:
        for document in self._waiting:
            self._emit(Requested(document))
        self._waiting.clear()

    def _ask_again(self) -> None:
        """The VM is as good as unidentified until it has told again, or does not in time."""
        questions = self._identity.ask_again()
        if not questions:
            return
        self.identified = False
        for question in questions:
            self._say(question)
        self._emit(IdentityAsked(again=True))

    # The serial line

    def _receive_serial(self, payload: bytes) -> None:
        overlong = self._lines.overlong
        for line in self._lines.receive_data(self._telnet.plain(payload)):
            self._receive_line(line)
        for _ in range(self._lines.overlong - overlong):
            self._fault("line too long")

    def _receive_line(self, line: bytes) -> None:
        document = packet.requested(line)
        if document is None:
            self._fault("line that is no request")
            return
        was_silent = self._now_s - self._last_request_s > SILENCE_S
        self._last_request_s = self._now_s
        if self.identified and was_silent and not self.is_moving:
            self._ask_again()
        if self.identified or self.is_untold:
            self._emit(Requested(document))
        elif len(self._waiting) < MAX_WAITING_REQUESTS:
            self._waiting.append(document)
        else:
            self._fault("too many requests before the identity")

    # Events

    def _emit(self, event: Event) -> None:
        self._events.append(event)

    def _fault(self, kind: str) -> None:
        self._emit(Fault(kind))

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events


# What is told at once, and what may have to wait for the end of AUTHENTICATION.
_MATTERS = frozenset({_EXTENSION, _AUTHENTICATION})

_RECEIVERS: dict[type[telnet.Event], Callable[[Session, Any], None]] = {
    telnet.Data: Session._receive_payload,
    telnet.Negotiation: Session._receive_negotiation,
    telnet.Subnegotiation: Session._receive_subnegotiation,
    telnet.Malformed: Session._receive_malformed,
}

_HANDLERS: dict[Suboption, Callable[[Session, Suboption, bytes], None]] = {
    **dict.fromkeys(Suboption, Session._out_of_place),
    Suboption.KNOWN_SUBOPTIONS_1: Session._known_suboptions,
    Suboption.UNKNOWN_SUBOPTION_RCVD_1: Session._unknown_suboption,
    Suboption.VMOTION_BEGIN: Session._vmotion_begin,
    Suboption.VMOTION_PEER: Session._vmotion_peer,
    Suboption.VMOTION_COMPLETE: Session._vmotion_complete,
    Suboption.VMOTION_ABORT: Session._vmotion_abort,
    Suboption.DO_PROXY: Session._do_proxy,
    **dict.fromkeys(vmware.IDENTITY.values(), Session._tells),
}
_SUBOPTIONS = {int(code): (code, handle) for code, handle in _HANDLERS.items()}
