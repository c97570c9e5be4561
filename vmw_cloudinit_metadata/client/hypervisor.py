"""The ESXi side of one connection: bytes in -> events and bytes out.

The counterpart of the server's protocol/session.py: negotiates telnet, offers TLS by
AUTHENTICATION, answers VMWARE-TELNET-EXT, and carries the guest's bytes. Like a recorded ESXi host,
it sends WILL AUTHENTICATION first, and negotiates VMWARE-TELNET-EXT only when the server asks for
it. Follows VMware's EN-001415. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vmw_cloudinit_metadata.protocol import authentication, telnet, vmware
from vmw_cloudinit_metadata.protocol.endpoint import Endpoint
from vmw_cloudinit_metadata.protocol.telnet import Option, Subnegotiation, Verb
from vmw_cloudinit_metadata.protocol.telnetoptions import Options, Side
from vmw_cloudinit_metadata.protocol.vmware import Machine, Suboption

_SE = bytes([telnet.SE])

_OURS = frozenset({Option.BINARY, Option.SGA, Option.VMWARE_TELNET_EXT})
_HIS = frozenset({Option.BINARY, Option.SGA, Option.ECHO})

_DIRECTIONS = {direction: code for code, direction in vmware.DIRECTIONS.items()}

# RFC 2941: IS; SEND; type SSL, any modifier, START
_IS, _SEND, _SSL, _MODIFIER, _START = 0, 1, 7, 0, 1
_START_TLS = Subnegotiation(Option.AUTHENTICATION, bytes([_IS, _SSL, _MODIFIER, _START]))
_TLS_ACCEPTED = authentication.accepted(_MODIFIER)


@dataclass(frozen=True, slots=True)
class ArrivingMove:
    """The vMotion that brings the VM to this host: what the server sent to the source host."""

    sequence: bytes
    secret: bytes


@dataclass(frozen=True, slots=True)
class SerialData:
    """Bytes for the guest."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """The server has sent WILL-PROXY and has asked for the VM's identity."""


@dataclass(frozen=True, slots=True)
class ProxyRefused:
    """The server does not serve this service URI, or requires TLS for it."""


@dataclass(frozen=True, slots=True)
class TlsAgreed:
    """The TLS handshake follows; this object is done, and a new one speaks inside TLS."""


@dataclass(frozen=True, slots=True)
class TlsRefused:
    """The server does not negotiate AUTHENTICATION; this object is done."""


@dataclass(frozen=True, slots=True)
class GoAhead:
    """The server has sent everything for the guest: the move may start."""

    arrival: ArrivingMove


@dataclass(frozen=True, slots=True)
class NotNow:
    """The server declines the move: the VM stays where it is."""


@dataclass(frozen=True, slots=True)
class PeerAccepted:
    """The server knows the arriving VM; call `complete_move` next."""


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """The server does not know this move."""


@dataclass(frozen=True, slots=True)
class ServerViolation:
    """The server broke the protocol; `kind` is one of a few fixed texts."""

    kind: str


Event = (
    SerialData
    | Ready
    | ProxyRefused
    | TlsAgreed
    | TlsRefused
    | GoAhead
    | NotNow
    | PeerAccepted
    | PeerRefused
    | ServerViolation
)


class Hypervisor:
    """The serial port of `machine` on one connection, or inside its TLS.

    With `arrival`, plays the target host of a move: sends VMOTION-PEER instead of DO-PROXY.
    """

    def __init__(
        self, machine: Machine, *, offers_tls: bool = False, arrival: ArrivingMove | None = None
    ) -> None:
        self._do_proxy = _DIRECTIONS[machine.direction] + machine.service_uri.encode()
        self._identity = {
            Suboption.VM_VC_UUID: _uuid_text(machine.vc_uuid),
            Suboption.VM_NAME: (machine.name or "").encode(),
            Suboption.VM_BIOS_UUID: _uuid_text(machine.bios_uuid),
            Suboption.VM_LOCATION_UUID: _uuid_text(machine.location_uuid),
        }
        self._arrival = arrival
        self._is_settling = offers_tls  # AUTHENTICATION is not decided yet
        self._sequence = b""  # of the move from here that is under way
        self._is_proxied = self._is_asked = self.is_ready = False
        self.is_mute = False
        self._events: list[Event] = []
        ours = _OURS | {Option.AUTHENTICATION} if offers_tls else _OURS
        self._telnet = Endpoint(Options(us=ours, him=_HIS))
        first = Option.AUTHENTICATION if offers_tls else Option.BINARY
        self._telnet.wish(Side.US, first, on=True)

    # Called by the owner

    def receive_data(self, data: bytes) -> list[Event]:
        """Return the events in these bytes, in order. Send `data_to_send` afterwards."""
        events = self._telnet.receive_data(data)
        for place, event in enumerate(events, 1):
            if self.is_mute:
                break
            is_last = place == len(events) and self._telnet.is_idle and data.endswith(_SE)
            self._receive(event, is_last=is_last)
        events_out, self._events = self._events, []
        return events_out

    def data_to_send(self) -> bytes:
        """Return the bytes for the server that were queued since the last call."""
        return self._telnet.data_to_send()

    def send_serial(self, data: bytes) -> None:
        """Queue bytes that the guest has written."""
        self._telnet.send(data)

    def begin_move(self, sequence: bytes) -> None:
        """Start a move away from this host: GoAhead or NotNow follows."""
        self._sequence = sequence
        self._say(Suboption.VMOTION_BEGIN, sequence)

    def abort_move(self) -> None:
        """Abort the move: the VM stays here."""
        self._say(Suboption.VMOTION_ABORT)

    def complete_move(self) -> None:
        """Complete the move to this host; call it after PeerAccepted."""
        assert self._arrival
        self.is_ready = True
        self._say(Suboption.VMOTION_COMPLETE, self._arrival.sequence)

    # Telnet

    def _receive(self, event: telnet.Event, *, is_last: bool) -> None:
        match event:
            case telnet.Data(payload):
                self._emit(SerialData(self._telnet.plain(payload)))
            case telnet.Negotiation():
                self._receive_negotiation(event)
            case Subnegotiation(Option.AUTHENTICATION):
                self._receive_authentication(event, is_last)
            case Subnegotiation(Option.VMWARE_TELNET_EXT, payload) if payload:
                self._receive_suboption(payload)
            case Subnegotiation():
                self._emit(ServerViolation("unexpected subnegotiation"))
            case telnet.Malformed(fault):
                self._emit(ServerViolation(fault))

    def _receive_negotiation(self, negotiation: telnet.Negotiation) -> None:
        is_extension = negotiation.option == Option.VMWARE_TELNET_EXT
        if is_extension and self._is_settling:
            return  # negotiated again inside TLS
        was_on = self._extension_is_on
        self._telnet.negotiate(negotiation)
        if self._extension_is_on and not was_on:
            self._introduce()
        elif negotiation == telnet.Negotiation(Verb.DONT, Option.AUTHENTICATION):
            self._settle(TlsRefused())

    @property
    def _extension_is_on(self) -> bool:
        return self._telnet.is_on(Side.US, Option.VMWARE_TELNET_EXT)

    # TLS by AUTHENTICATION

    def _receive_authentication(self, event: Subnegotiation, is_last: bool) -> None:
        if not self._is_settling:
            self._emit(ServerViolation("unexpected AUTHENTICATION"))
        elif event.payload[:1] == bytes([_SEND]) and _SSL in event.payload[1::2]:
            self._telnet.subnegotiate(_START_TLS)
        elif event != _TLS_ACCEPTED:
            self._settle(TlsRefused())
        elif is_last:
            self._settle(TlsAgreed())
        else:
            self._settle(ServerViolation("plain bytes before TLS"))

    def _settle(self, event: Event) -> None:
        if self._is_settling:
            self.is_mute = True
            self._emit(event)

    # VMWARE-TELNET-EXT

    def _say(self, code: Suboption, argument: bytes = b"") -> None:
        self._telnet.subnegotiate(vmware.suboption(code, argument))

    def _introduce(self) -> None:
        self._say(Suboption.KNOWN_SUBOPTIONS_1, _known_suboptions(self._identity))
        if self._arrival:
            self._say(Suboption.VMOTION_PEER, self._arrival.sequence + self._arrival.secret)
        else:
            self._say(Suboption.DO_PROXY, self._do_proxy)

    def _receive_suboption(self, payload: bytes) -> None:
        code = payload[0]
        if code in _SUBOPTIONS:
            _SUBOPTIONS[Suboption(code)](self, payload[1:])
        elif code in vmware.IDENTITY:
            self._answer(Suboption(code))
        else:
            self._emit(ServerViolation("unknown suboption"))
            self._say(Suboption.UNKNOWN_SUBOPTION_RCVD_1, payload[:1])

    def _receive_known_suboptions(self, _argument: bytes) -> None:
        pass  # every server knows the suboptions that we send

    def _answer(self, question: Suboption) -> None:
        answer = vmware.IDENTITY[question]
        value = self._identity[answer]
        if value:
            self._say(answer, value)
        else:
            self._say(Suboption.UNKNOWN_SUBOPTION_RCVD_1, bytes([question]))
        self._is_asked = True
        self._become_ready()

    def _will_proxy(self, _argument: bytes) -> None:
        self._is_proxied = True
        self._become_ready()

    def _become_ready(self) -> None:
        if self._is_proxied and self._is_asked and not self.is_ready:
            self.is_ready = True
            self._emit(Ready())

    def _wont_proxy(self, _argument: bytes) -> None:
        self._emit(ProxyRefused())

    def _unknown_suboption(self, argument: bytes) -> None:
        if argument[:1] == bytes([Suboption.VMOTION_PEER]):
            self._emit(PeerRefused())
        else:
            self._emit(ServerViolation("server does not know a required suboption"))

    # vMotion

    def _vmotion_goahead(self, argument: bytes) -> None:
        sequence = self._sequence
        if sequence and argument.startswith(sequence):
            self._emit(GoAhead(ArrivingMove(sequence, argument[len(sequence) :])))
        else:
            self._emit(ServerViolation("GOAHEAD of another move"))

    def _vmotion_notnow(self, _argument: bytes) -> None:
        self._emit(NotNow())

    def _vmotion_peer_ok(self, argument: bytes) -> None:
        if self._arrival and argument == self._arrival.sequence:
            self._emit(PeerAccepted())
        else:
            self._emit(ServerViolation("PEER-OK of another move"))

    def _emit(self, event: Event) -> None:
        self._events.append(event)


def _known_suboptions(identity: Mapping[Suboption, bytes]) -> bytes:
    """List the suboptions of this VM: without questions for which it has no value."""
    unanswered = {
        code for pair in vmware.IDENTITY.items() if not identity[pair[1]] for code in pair
    }
    return bytes(code for code in Suboption if code not in unanswered)


def _uuid_text(uuid: str | None) -> bytes:
    """Format a UUID as VMware does: `01 23 45 67 89 ab cd ef-fe dc ba 98 00 00 00 00`."""
    if uuid is None:
        return b""
    digits = uuid.replace("-", "")
    pairs = [digits[place : place + 2] for place in range(0, 32, 2)]
    return f"{' '.join(pairs[:8])}-{' '.join(pairs[8:])}".encode()


_SUBOPTIONS: dict[Suboption, Callable[[Hypervisor, bytes], None]] = {
    Suboption.KNOWN_SUBOPTIONS_2: Hypervisor._receive_known_suboptions,
    Suboption.UNKNOWN_SUBOPTION_RCVD_2: Hypervisor._unknown_suboption,
    Suboption.VMOTION_GOAHEAD: Hypervisor._vmotion_goahead,
    Suboption.VMOTION_NOTNOW: Hypervisor._vmotion_notnow,
    Suboption.VMOTION_PEER_OK: Hypervisor._vmotion_peer_ok,
    Suboption.WILL_PROXY: Hypervisor._will_proxy,
    Suboption.WONT_PROXY: Hypervisor._wont_proxy,
}
