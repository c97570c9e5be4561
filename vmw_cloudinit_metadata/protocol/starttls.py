"""How a session comes to TLS by telnet AUTHENTICATION, or goes on without (RFC 2941). Pure.

    UNDECIDED ── WILL AUTHENTICATION ──> OFFERED ── IS, SSL START ──> TLS; the session is mute
        │                                 │   ^
        │ anything else,                  │   │ WILL AUTHENTICATION
        │ or silence                      v   │
        └──────────────────────────────> PLAIN
                    WONT AUTHENTICATION, IS of another type

The server asks for VMWARE-TELNET-EXT when PLAIN is reached. What the VM sends of it while TLS is
OFFERED is postponed until then: if TLS starts, it must not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import ClassVar

from vmw_cloudinit_metadata.protocol import authentication, telnet
from vmw_cloudinit_metadata.protocol.events import TlsAccepted
from vmw_cloudinit_metadata.protocol.peer import TelnetPeer
from vmw_cloudinit_metadata.protocol.phases import SILENCE
from vmw_cloudinit_metadata.protocol.state import COUNT, FLAG, Stateful, listed, one_of
from vmw_cloudinit_metadata.protocol.telnet import Option
from vmw_cloudinit_metadata.protocol.telnetoptions import Side

# What the VM may send of VMWARE-TELNET-EXT before AUTHENTICATION is settled: its identity, with the
# longest name and service URI. The memory of an event counts, as well as its payload.
MAX_POSTPONED_BYTES = 4 * 1024
_EVENT_BYTES = 128

_SE = bytes([telnet.SE])


class Stage(Enum):
    UNDECIDED = "the peer has not shown yet whether it offers TLS"
    OFFERED = "the VM has offered TLS, and has neither begun nor refused it"
    PLAIN = "the session goes on without TLS"


UNDECIDED, OFFERED, PLAIN = Stage


class StartTls(Stateful):
    """Negotiates whether TLS starts on this connection; it never does unless it `is_possible`."""

    __slots__ = (
        "_asks",
        "_last",
        "_peer",
        "_postponed",
        "_postponed_bytes",
        "is_possible",
        "stage",
    )
    STATE: ClassVar = {
        "is_possible": FLAG.always,
        "stage": one_of({stage.name: stage for stage in Stage}),
        "_asks": FLAG.always,
        "_postponed": listed(telnet.EVENT, MAX_POSTPONED_BYTES // _EVENT_BYTES),
        "_postponed_bytes": COUNT,
    }

    def __init__(self, peer: TelnetPeer, *, is_possible: bool) -> None:
        self._peer = peer
        self.is_possible = is_possible
        self.stage = UNDECIDED if is_possible else PLAIN
        self._asks = is_possible  # for VMWARE-TELNET-EXT, when PLAIN is reached
        self._last: telnet.Event | None = None
        self._postponed: Sequence[telnet.Event] = ()
        self._postponed_bytes = 0

    def note_last(self, events: Sequence[telnet.Event], data: bytes) -> None:
        """Note the last of the received events; call it before any of them is handled."""
        is_last = self._peer.telnet.is_idle and data.endswith(_SE)
        self._last = events[-1] if events and is_last else None

    def postpone(self, event: telnet.Event) -> None:
        """Keep an event of VMWARE-TELNET-EXT until AUTHENTICATION is settled."""
        self._asks = True
        self._postponed_bytes += len(getattr(event, "payload", b"")) + _EVENT_BYTES
        if self._postponed_bytes <= MAX_POSTPONED_BYTES:
            self._postponed = [*self._postponed, event]
        else:
            self._peer.violation("too much before the end of AUTHENTICATION")

    def negotiate(self, negotiation: telnet.Negotiation) -> Sequence[telnet.Event]:
        """Answer a negotiation of AUTHENTICATION; return the postponed events if that settles
        it."""
        was_offered = self.stage is OFFERED
        self._peer.telnet.negotiate(negotiation)
        if self._peer.telnet.options.is_on(Side.HIM, Option.AUTHENTICATION):
            self.stage = OFFERED
            if not was_offered:
                self._peer.telnet.subnegotiate(authentication.SEND)
        elif was_offered:
            return self.go_on_in_plain()
        return ()

    def receive(self, subnegotiation: telnet.Subnegotiation) -> Sequence[telnet.Event]:
        """Handle a subnegotiation of AUTHENTICATION; return the postponed events if that settles
        it."""
        payload = subnegotiation.payload
        modifier = authentication.start_modifier(payload)
        if self.stage is not OFFERED or not authentication.is_answer(payload):
            self._peer.violation("unexpected AUTHENTICATION")
        elif modifier is None:  # another type, such as NULL
            self._peer.telnet.wish(Side.HIM, Option.AUTHENTICATION, on=False)
            return self.go_on_in_plain()
        elif subnegotiation is not self._last:
            # Bytes behind START came in plain: somebody in between may have added them.
            reason = "the VM sends plain bytes behind its START of TLS"
            self._peer.refuse("plain bytes before TLS", reason, is_attack=True)
        else:
            self._peer.telnet.subnegotiate(authentication.accepted(modifier))
            self._peer.advance(SILENCE)
            self._peer.report(TlsAccepted())
        return ()

    def go_on_in_plain(self) -> Sequence[telnet.Event]:
        """Ask for VMWARE-TELNET-EXT, unless that is done; return the postponed events."""
        self.stage = PLAIN
        if self._asks:
            self._asks = False
            self._peer.telnet.wish(Side.HIM, Option.VMWARE_TELNET_EXT, on=True)
        postponed, self._postponed, self._postponed_bytes = self._postponed, (), 0
        return postponed
