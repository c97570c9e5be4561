"""The phases of a session, and how it goes from one to the next: one table. Pure.

FRESH ─────────────── bytes that are no telnet ────────────────────────┐
  │ the first telnet command                                           │
  v                                                                    v
NEGOTIATING ──────────── refused: another URI, no TLS, a bad secret ─> MUTE
  │   │ VMOTION-PEER                                                   ^
  │   v                                                                │
  │ ARRIVING ────────────── refused ───────────────────────────────────┤
  │   │ VMOTION-COMPLETE, and the move is proved                       │
  │   v                                                                │
  │ ARRIVED                                                            │
  │   │ take_over                                                      │
  v   v               the host is late           moved away, refused,  │
IDENTIFYING <─────────────────────────> OVERDUE ──── or ended ─────────┤
    ^    │      a new list, DO-PROXY       │                           │
    │    │ all is known                    │ all is known              │
    │    v                                 │                           │
    └─ IDENTIFIED <────────────────────────┘ ──────────────────────────┘
 asked again
"""

from __future__ import annotations


class _Named:
    """One object for each name: compare with `is`."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


class SessionPhase(_Named):
    """What a session is doing."""

    __slots__ = ()


class Cue(_Named):
    """What takes a session to another phase."""

    __slots__ = ()


FRESH = SessionPhase("FRESH")  # nothing has come but a few stray bytes
NEGOTIATING = SessionPhase("NEGOTIATING")  # the peer speaks telnet, and has named no VM to serve
ARRIVING = SessionPhase("ARRIVING")  # target of a move: the VM still runs at the source
ARRIVED = SessionPhase("ARRIVED")  # the VM runs here; what comes waits for `take_over`
IDENTIFYING = SessionPhase("IDENTIFYING")  # the VM's identity is awaited, and requests wait for it
OVERDUE = SessionPhase("OVERDUE")  # its host does not send it: requests are answered `timeout`
IDENTIFIED = SessionPhase("IDENTIFIED")  # requests are answered
MUTE = SessionPhase("MUTE")  # nothing more is said or heard

COMMAND = Cue("COMMAND")  # the first telnet command
PEER = Cue("PEER")  # VMOTION-PEER, with what may be a proof
COMPLETE = Cue("COMPLETE")  # VMOTION-COMPLETE, of a move that is proved
TAKE_OVER = Cue("TAKE_OVER")  # the owner has handed over what the source has heard
PROXY = Cue("PROXY")  # WILL-PROXY
AWAITED = Cue("AWAITED")  # something of the identity is awaited
LATE = Cue("LATE")  # something of the identity has been awaited for too long
KNOWN = Cue("KNOWN")  # nothing more is awaited of the identity
SILENCE = Cue("SILENCE")  # the peer is refused, begins TLS, or has moved away

_IDENTITY = {AWAITED: IDENTIFYING, LATE: OVERDUE, KNOWN: IDENTIFIED}

# Those of a VM that is served here, by WILL-PROXY or because it has moved here.
PROXIED = frozenset(_IDENTITY.values())

# Data that comes is the guest's.
SERIAL = PROXIED | {NEGOTIATING}

# A request is answered; in the others it waits.
ANSWERED = frozenset({IDENTIFIED, OVERDUE})

# The peer may be written to.
SPEAKING = SERIAL | {FRESH, ARRIVING, ARRIVED}

TRANSITIONS: dict[tuple[SessionPhase, Cue], SessionPhase] = {
    (FRESH, COMMAND): NEGOTIATING,
    (NEGOTIATING, PEER): ARRIVING,
    (ARRIVING, COMPLETE): ARRIVED,
    (ARRIVED, TAKE_OVER): IDENTIFYING,
    (NEGOTIATING, PROXY): IDENTIFYING,
    **{(phase, PROXY): phase for phase in PROXIED},  # once more
    **{(phase, cue): after for phase in PROXIED for cue, after in _IDENTITY.items()},
    **{(phase, SILENCE): MUTE for phase in SPEAKING | {MUTE}},
}
