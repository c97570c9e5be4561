"""What the parts of a session have in common: the peer, the owner's events, and the phase. Pure."""

from __future__ import annotations

from vmw_cloudinit_metadata.protocol import stranger, telnet, vmware
from vmw_cloudinit_metadata.protocol.endpoint import Endpoint
from vmw_cloudinit_metadata.protocol.events import (
    Event,
    NotHypervisor,
    RefusalKind,
    Refused,
    Violation,
)
from vmw_cloudinit_metadata.protocol.phase import FRESH, TRANSITIONS, Cue, Phase
from vmw_cloudinit_metadata.protocol.vmware import Suboption

# The server sends these to every VM, so they are encoded once.
_BARE = {code: telnet.encode_subnegotiation(vmware.suboption(code)) for code in Suboption}


class Link:
    """Through it a part of the session writes to the peer and reports to the owner."""

    __slots__ = ("events", "now_s", "phase", "telnet")

    def __init__(self, telnet: Endpoint) -> None:
        self.telnet = telnet
        self.events: list[Event] = []
        self.phase: Phase = FRESH
        self.now_s = 0.0  # when the peer sent something last

    def say(self, code: Suboption, argument: bytes = b"") -> None:
        """Sends a suboption of VMWARE-TELNET-EXT."""
        if argument:
            self.telnet.subnegotiate(vmware.suboption(code, argument))
        else:
            self.telnet.say(_BARE[code])

    def report(self, event: Event) -> None:
        self.events.append(event)

    def advance(self, cue: Cue) -> None:
        """Goes to the next phase."""
        self.phase = TRANSITIONS[self.phase, cue]

    def violation(self, kind: str) -> None:
        self.report(Violation(kind))

    def refuse(self, kind: RefusalKind, reason: str, *, is_attack: bool = False) -> None:
        """Stops serving a peer that is a VM."""
        self.advance(Cue.SILENCE)
        self.report(Refused(kind, reason, is_attack))

    def reject(self, peer: NotHypervisor) -> None:
        """Stops serving a peer that is no ESXi host, and says so to it."""
        self.advance(Cue.SILENCE)
        self.telnet.send(stranger.GREETING)
        self.report(peer)
