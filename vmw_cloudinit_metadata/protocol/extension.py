"""VMWARE-TELNET-EXT: what the server does with each suboption that a VM sends (EN-001415). Pure."""

from __future__ import annotations

from collections.abc import Callable

from vmw_cloudinit_metadata.protocol import identitytoken, stranger, telnet, vmware
from vmw_cloudinit_metadata.protocol.identification import Identification
from vmw_cloudinit_metadata.protocol.peer import TelnetPeer
from vmw_cloudinit_metadata.protocol.phases import PROXIED, PROXY
from vmw_cloudinit_metadata.protocol.policy import Policy, TlsPolicy
from vmw_cloudinit_metadata.protocol.printable import quoted
from vmw_cloudinit_metadata.protocol.sessionmoves import SessionMoves
from vmw_cloudinit_metadata.protocol.telnet import Negotiation, Verb
from vmw_cloudinit_metadata.protocol.telnetoptions import Side
from vmw_cloudinit_metadata.protocol.vmware import Suboption

_KNOWN_SUBOPTIONS = telnet.encode_subnegotiation(
    vmware.suboption(Suboption.KNOWN_SUBOPTIONS_2, bytes(Suboption))
)


class Extension:
    """Handles the suboptions of one VM."""

    __slots__ = ("_identification", "_lacks_tls", "_peer", "_policy", "moves")

    def __init__(
        self,
        peer: TelnetPeer,
        policy: Policy,
        identification: Identification,
        moves: SessionMoves,
        *,
        is_secure: bool,
    ) -> None:
        self._peer = peer
        self._policy = policy
        self._lacks_tls = policy.tls is TlsPolicy.REQUIRE and not is_secure
        self._identification = identification
        self.moves = moves

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
        if payload[0] not in _SUBOPTIONS:
            self._peer.violation("unknown suboption")
            self._peer.say(Suboption.UNKNOWN_SUBOPTION_RCVD_2, payload[:1])
            return
        code, handle = _SUBOPTIONS[payload[0]]
        handle(self, code, payload[1:])
        if self.moves.arrival:
            self.moves.check_claim()

    def _out_of_place(self, code: Suboption, _argument: bytes) -> None:
        self._peer.violation(f"unexpected {vmware.named(code)}")

    # Who the VM is

    def _known_suboptions(self, _code: Suboption, argument: bytes) -> None:
        self._identification.announce(argument)

    def _unknown_suboption(self, _code: Suboption, argument: bytes) -> None:
        self._identification.withdraw(argument)

    def _identity(self, code: Suboption, argument: bytes) -> None:
        self._identification.learn(code, argument)

    def identity_overdue(self) -> None:
        """Handle the end of the time for sending the identity."""
        self._identification.ask_for_missing()
        self.moves.check_claim()
        self._identification.wait_on()

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
        elif self.moves.arrival:
            self._peer.violation("unexpected DO-PROXY")
        else:
            self._peer.say(Suboption.WILL_PROXY)
            self._peer.advance(PROXY)
            self._identification.proxied(uri, direction, token)

    # vMotion

    def _vmotion_begin(self, _code: Suboption, argument: bytes) -> None:
        self.moves.begin(argument)

    def _vmotion_abort(self, _code: Suboption, _argument: bytes) -> None:
        self.moves.abort()

    def _vmotion_peer(self, _code: Suboption, argument: bytes) -> None:
        self.moves.come(argument, lacks_tls=self._lacks_tls)

    def _vmotion_complete(self, _code: Suboption, argument: bytes) -> None:
        self.moves.complete(argument)


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
