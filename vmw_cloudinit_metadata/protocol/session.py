"""One VM's serial session: bytes in -> events and bytes out.

The session negotiates telnet, answers VMWARE-TELNET-EXT, learns which VM this is, and finds the
guest's requests in the serial data. A request that comes before the VM is identified waits for the
identity. Whoever owns the session looks the documents up and says `answer`. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from vmw_cloudinit_metadata.protocol import packet, telnet, vmware
from vmw_cloudinit_metadata.protocol.options import Options, Side
from vmw_cloudinit_metadata.protocol.telnet import Option
from vmw_cloudinit_metadata.protocol.vmware import Machine, Suboption

_OURS = frozenset({Option.BINARY, Option.SGA, Option.ECHO})
_HIS = frozenset({Option.BINARY, Option.SGA, Option.VMWARE_TELNET_EXT})
_GREETING = (
    (Side.US, Option.BINARY),
    (Side.US, Option.SGA),
    (Side.US, Option.ECHO),  # so that ESXi does not echo locally
    (Side.HIM, Option.BINARY),
    (Side.HIM, Option.SGA),
    (Side.HIM, Option.VMWARE_TELNET_EXT),
)

# A guest asks for one document after the other; this is room for one that asks for all of them,
# again and again, while its VM is still being identified.
MAX_WAITING_REQUESTS = 64


@dataclass(frozen=True, slots=True)
class IdentityAsked:
    """The VM was asked who it is, or should tell by itself; `identity_overdue` ends that."""


@dataclass(frozen=True, slots=True)
class Identified:
    """The VM has told who it is, or has changed it."""

    machine: Machine


@dataclass(frozen=True, slots=True)
class Requested:
    """The guest of the identified VM asks for a document: "METADATA"."""

    document: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The VM asked for a service that is not ours and got WONT-PROXY."""

    service_uri: str


@dataclass(frozen=True, slots=True)
class MoveDeclined:
    """The VM wished to move to another host and got VMOTION-NOTNOW."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The peer sent something that is not the protocol; `kind` is one of a few fixed texts."""

    kind: str


Event = IdentityAsked | Identified | Requested | Refused | MoveDeclined | Fault


class Session:
    """The server's side of one connection. `uris` are the service URIs that it serves."""

    def __init__(self, uris: frozenset[str], peer_address: str, connected_since: datetime) -> None:
        self._uris = uris
        self._decoder = telnet.Decoder()
        self._nvt = telnet.NvtDecoder()
        self._options = Options(us=_OURS, him=_HIS)
        self._lines = packet.LineSplitter()
        self._out: list[bytes] = []
        self._events: list[Event] = []
        self._told: dict[Suboption, str] = {}
        self._unanswered: set[Suboption] = set()  # what the VM was asked and has not told
        self._asked = False
        self._waiting: list[str] = []
        self._proxying = False
        self.identified = False
        self.refused = False
        self.machine = Machine(peer_address=peer_address, connected_since=connected_since)
        for side, option in _GREETING:
            self._negotiate(self._options.wish(side, option, on=True))

    # What its owner says to it

    def receive_data(self, data: bytes) -> list[Event]:
        """Returns what these bytes mean, in order. Afterwards `data_to_send` may have something."""
        for event in self._decoder.receive_data(data):
            if self.refused:
                break
            match event:
                case telnet.Data(payload):
                    self._receive_serial(payload)
                case telnet.Negotiation():
                    self._receive_negotiation(event)
                case telnet.Subnegotiation(Option.VMWARE_TELNET_EXT, payload):
                    self._receive_suboption(payload)
                case telnet.Subnegotiation():
                    self._fault("unexpected subnegotiation")
                case telnet.Malformed(fault):
                    self._fault(fault)
        return self._take_events()

    def identity_overdue(self) -> list[Event]:
        """The time to tell the identity is over: what was not told counts as absent."""
        self._unanswered.clear()
        self._asked = True
        self._identify()
        return self._take_events()

    def answer(self, packets: bytes) -> None:
        """Queues serialized packets for the guest."""
        binary = self._options.is_on(Side.US, Option.BINARY)
        self._out.append(telnet.encode_data(packets, binary=binary))

    @property
    def has_waiting_requests(self) -> bool:
        """Whether a request waits for the VM to be identified."""
        return bool(self._waiting)

    def data_to_send(self) -> bytes:
        """Returns, once, what is to be written to the peer."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    # Telnet

    def _receive_negotiation(self, negotiation: telnet.Negotiation) -> None:
        had = self._options.is_on(Side.HIM, Option.VMWARE_TELNET_EXT)
        self._negotiate(self._options.receive(negotiation))
        if not had and self._options.is_on(Side.HIM, Option.VMWARE_TELNET_EXT):
            # At once: a VM may wait for our list before it sends its own.
            self._say(Suboption.KNOWN_SUBOPTIONS_2, bytes(Suboption))

    def _negotiate(self, negotiation: telnet.Negotiation | None) -> None:
        if negotiation:
            self._out.append(telnet.encode_negotiation(negotiation))

    # VMWARE-TELNET-EXT

    def _say(self, code: Suboption, argument: bytes = b"") -> None:
        self._out.append(telnet.encode_subnegotiation(vmware.suboption(code, argument)))

    def _receive_suboption(self, payload: bytes) -> None:
        if not payload:
            self._fault("suboption without a code")
        elif payload[0] in _SUBOPTIONS:
            code = Suboption(payload[0])
            _SUBOPTIONS[code](self, code, payload[1:])
        else:
            self._fault("unknown suboption")
            self._say(Suboption.UNKNOWN_SUBOPTION_RCVD_2, payload[:1])

    def _known_suboptions(self, _code: Suboption, argument: bytes) -> None:
        for question, answer in vmware.IDENTITY.items():
            if question in argument:
                self._say(question)
                if answer not in self._told:
                    self._unanswered.add(answer)
        self._asked = True
        self._emit(IdentityAsked())
        self._identify()

    def _unknown_suboption(self, _code: Suboption, argument: bytes) -> None:
        answers = [vmware.IDENTITY[q] for q in vmware.IDENTITY if q in argument]
        self._unanswered.difference_update(answers)
        self._identify()

    def _do_proxy(self, _code: Suboption, argument: bytes) -> None:
        direction = vmware.DIRECTIONS.get(argument[:1])
        uri = argument[1:].decode("utf-8", "replace")
        if direction is None or not vmware.serves(uri, self._uris):
            self._say(Suboption.WONT_PROXY)
            self.refused = True
            self._emit(Refused(uri))
            return
        self._say(Suboption.WILL_PROXY)
        self._proxying = True
        if not self._asked:
            self._emit(IdentityAsked())
        self._become(replace(self.machine, service_uri=uri, direction=direction))

    def _identity(self, code: Suboption, argument: bytes) -> None:
        told = vmware.parse_identity(code, argument)
        self._unanswered.discard(code)
        if told is None:
            self._fault(f"unusable {code.name.replace('_', '-')}")
            self._identify()
            return
        self._told[code] = told
        self._become(
            replace(
                self.machine,
                vc_uuid=self._told.get(Suboption.VM_VC_UUID),
                name=self._told.get(Suboption.VM_NAME),
                bios_uuid=self._told.get(Suboption.VM_BIOS_UUID),
                location_uuid=self._told.get(Suboption.VM_LOCATION_UUID),
            )
        )

    def _vmotion_begin(self, _code: Suboption, argument: bytes) -> None:
        self._say(Suboption.VMOTION_NOTNOW, argument)
        self._emit(MoveDeclined())

    def _vmotion_peer(self, code: Suboption, _argument: bytes) -> None:
        self._say(Suboption.UNKNOWN_SUBOPTION_RCVD_2, bytes([code]))
        self._fault("VMOTION-PEER of an unknown move")

    def _out_of_place(self, code: Suboption, _argument: bytes) -> None:
        self._fault(f"unexpected {code.name.replace('_', '-')}")

    # Who the VM is

    def _become(self, machine: Machine) -> None:
        changed = machine != self.machine
        self.machine = machine
        if self.identified and changed:
            self._emit(Identified(machine))
        self._identify()

    def _identify(self) -> None:
        if self.identified or not self._proxying or not self._asked or self._unanswered:
            return
        self.identified = True
        self._emit(Identified(self.machine))
        for document in self._waiting:
            self._emit(Requested(document))
        self._waiting.clear()

    # The serial line

    def _receive_serial(self, payload: bytes) -> None:
        if not self._options.is_on(Side.HIM, Option.BINARY):
            payload = self._nvt.receive_data(payload)
        overlong = self._lines.overlong
        for line in self._lines.receive_data(payload):
            self._receive_line(line)
        for _ in range(self._lines.overlong - overlong):
            self._fault("line too long")

    def _receive_line(self, line: bytes) -> None:
        received = packet.parse(line)
        document = received.requests if received else None
        if document is None:
            self._fault("line that is no request")
        elif self.identified:
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


_SUBOPTIONS: dict[Suboption, Callable[[Session, Suboption, bytes], None]] = {
    **dict.fromkeys(Suboption, Session._out_of_place),
    Suboption.KNOWN_SUBOPTIONS_1: Session._known_suboptions,
    Suboption.UNKNOWN_SUBOPTION_RCVD_1: Session._unknown_suboption,
    Suboption.VMOTION_BEGIN: Session._vmotion_begin,
    Suboption.VMOTION_PEER: Session._vmotion_peer,
    Suboption.DO_PROXY: Session._do_proxy,
    **dict.fromkeys(vmware.IDENTITY.values(), Session._identity),
}
