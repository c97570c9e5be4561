"""The phases of a session, and the table of how it goes from one to the next. Pure.

    FRESH ──COMMAND──> NEGOTIATING ──PEER──> ARRIVING ──COMPLETE──> ARRIVED
                            │                                          │
                          PROXY                                    TAKE_OVER
                            v                                          │
         ┌──AWAITED──> IDENTIFYING <───────────────────────────────────┘
         │              │   │   ^
         │          KNOWN  LATE  AWAITED
         │              │   v   │
         │              │  OVERDUE
         │              │   │
         │              v   v KNOWN
         └──────────── IDENTIFIED

SILENCE leads from every phase to MUTE. Whether a VM is moving away does not change its phase.
"""

from __future__ import annotations


class _Named:
    """A value with a name, one object for each: compare with `is`."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


class SessionPhase(_Named):
    """The state of a session with its peer."""

    __slots__ = ()


class Cue(_Named):
    """A cause for the next phase."""

    __slots__ = ()


FRESH = SessionPhase("FRESH")  # no telnet command has come
NEGOTIATING = SessionPhase("NEGOTIATING")  # the peer speaks telnet; no VM is served yet
ARRIVING = SessionPhase("ARRIVING")  # target of a move: the VM still runs at the source
ARRIVED = SessionPhase("ARRIVED")  # the VM runs here; events wait for `take_over`
IDENTIFYING = SessionPhase("IDENTIFYING")  # the VM's identity is awaited, and requests wait for it
OVERDUE = SessionPhase("OVERDUE")  # its host does not send it: requests are answered `timeout`
IDENTIFIED = SessionPhase("IDENTIFIED")  # requests are answered
MUTE = SessionPhase("MUTE")  # nothing more is sent, and what comes is ignored

COMMAND = Cue("COMMAND")  # the first telnet command
PEER = Cue("PEER")  # VMOTION-PEER, with a secret that may be right
COMPLETE = Cue("COMPLETE")  # VMOTION-COMPLETE, and the secret is right
TAKE_OVER = Cue("TAKE_OVER")  # the owner has called `take_over`
PROXY = Cue("PROXY")  # WILL-PROXY was sent
AWAITED = Cue("AWAITED")  # something of the identity is awaited
LATE = Cue("LATE")  # something of the identity has been awaited for too long
KNOWN = Cue("KNOWN")  # nothing more is awaited of the identity
SILENCE = Cue("SILENCE")  # the peer is refused, starts TLS, or has moved away

PHASES = {
    phase.name: phase
    for phase in (FRESH, NEGOTIATING, ARRIVING, ARRIVED, IDENTIFYING, OVERDUE, IDENTIFIED, MUTE)
}

# A VM is served, by WILL-PROXY or because it has moved here.
PROXIED = frozenset({IDENTIFYING, OVERDUE, IDENTIFIED})

# Data that comes is the guest's.
SERIAL = PROXIED | {NEGOTIATING}

# A request is answered; in other phases it waits.
ANSWERED = frozenset({IDENTIFIED, OVERDUE})

# The peer may be written to.
SPEAKING = SERIAL | {FRESH, ARRIVING, ARRIVED}

TRANSITIONS: dict[tuple[SessionPhase, Cue], SessionPhase] = {
    (FRESH, COMMAND): NEGOTIATING,
    (NEGOTIATING, PROXY): IDENTIFYING,
    (NEGOTIATING, PEER): ARRIVING,
    (ARRIVING, COMPLETE): ARRIVED,
    (ARRIVED, TAKE_OVER): IDENTIFYING,
    (IDENTIFYING, AWAITED): IDENTIFYING,
    (IDENTIFYING, LATE): OVERDUE,
    (IDENTIFYING, KNOWN): IDENTIFIED,
    (OVERDUE, LATE): OVERDUE,
    (OVERDUE, AWAITED): IDENTIFYING,  # the VM has announced other identities, or begins anew
    (OVERDUE, KNOWN): IDENTIFIED,
    (IDENTIFIED, KNOWN): IDENTIFIED,
    (IDENTIFIED, AWAITED): IDENTIFYING,  # the VM was asked again, or has announced more
    **{(phase, PROXY): phase for phase in PROXIED},  # a second DO-PROXY
    **{(phase, SILENCE): MUTE for phase in SPEAKING | {MUTE}},
}
