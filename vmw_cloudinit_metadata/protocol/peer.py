"""The peer of a session, as all parts of the session see it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from vmw_cloudinit_metadata.protocol import stranger, telnet, vmware
from vmw_cloudinit_metadata.protocol.endpoint import Endpoint
from vmw_cloudinit_metadata.protocol.events import (
    Event,
    NotHypervisor,
    RefusalKind,
    Refused,
    Violation,
)
from vmw_cloudinit_metadata.protocol.phases import (
    FRESH,
    PHASES,
    SILENCE,
    TRANSITIONS,
    Cue,
    SessionPhase,
)
from vmw_cloudinit_metadata.protocol.state import SECONDS, Stateful, one_of
from vmw_cloudinit_metadata.protocol.vmware import Suboption

# The server sends these to every VM, so they are encoded once.
_BARE = {code: telnet.encode_subnegotiation(vmware.suboption(code)) for code in Suboption}


class TelnetPeer(Stateful):
    """What is sent to the peer, the events that report it to the owner, and its phase."""

    __slots__ = ("events", "now_s", "phase", "telnet")
    STATE: ClassVar = {"phase": one_of(PHASES), "now_s": SECONDS}

    def __init__(self, telnet: Endpoint) -> None:
        self.telnet = telnet
        self.events: list[Event] = []
        self.phase: SessionPhase = FRESH
        self.now_s = 0.0  # when the peer last sent something

    def say(self, code: Suboption, argument: bytes = b"") -> None:
        """Send a suboption of VMWARE-TELNET-EXT."""
        if argument:
            self.telnet.subnegotiate(vmware.suboption(code, argument))
        else:
            self.telnet.send_command(_BARE[code])

    def ask(self, questions: Iterable[Suboption]) -> None:
        """Send suboptions that have no argument."""
        self.telnet.send_command(b"".join([_BARE[question] for question in questions]))

    def report(self, event: Event) -> None:
        self.events.append(event)

    def advance(self, cue: Cue) -> None:
        """Go to the next phase."""
        self.phase = TRANSITIONS[self.phase, cue]

    def violation(self, kind: str) -> None:
        self.report(Violation(kind))

    def refuse(self, kind: RefusalKind, reason: str, *, is_attack: bool = False) -> None:
        """Stop serving a peer that is a VM."""
        self.advance(SILENCE)
        self.report(Refused(kind, reason, is_attack))

    def reject(self, what: NotHypervisor) -> None:
        """Stop serving a peer that is not an ESXi host, and send it a line that says so."""
        self.advance(SILENCE)
        self.telnet.send(stranger.GREETING)
        self.report(what)
