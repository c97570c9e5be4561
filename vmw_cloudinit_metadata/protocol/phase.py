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

from enum import Enum


class Phase(Enum):
    FRESH = "nothing has come but a few stray bytes"
    NEGOTIATING = "the peer speaks telnet, and has named no VM to serve"
    ARRIVING = "target of a move: the VM still runs at the source"
    ARRIVED = "the VM runs here; what comes waits for `take_over`"
    IDENTIFYING = "a VM, whose identity is awaited; its guest's requests wait too"
    OVERDUE = "a VM, whose host does not send its identity; requests are answered `timeout`"
    IDENTIFIED = "a VM, whose requests are answered"
    MUTE = "nothing more is said or heard"

    __hash__ = object.__hash__  # in C; Enum's own is not, and each packet needs it


# A name for each, as a state has in h11: by way of the class it takes 70 ns, twelve times as long.
FRESH, NEGOTIATING, ARRIVING, ARRIVED, IDENTIFYING, OVERDUE, IDENTIFIED, MUTE = Phase


class Cue(Enum):
    """What takes a session to another phase."""

    COMMAND = "the first telnet command"
    PEER = "VMOTION-PEER, with what may be a proof"
    COMPLETE = "VMOTION-COMPLETE, of a move that is proved"
    TAKE_OVER = "the owner has handed over what the source has heard"
    PROXY = "WILL-PROXY"
    KNOWN = "nothing more is awaited of the identity"
    AWAITED = "something of the identity is awaited"
    LATE = "something of the identity has been awaited for too long"
    SILENCE = "the peer is refused, begins TLS, or has moved away"

    __hash__ = object.__hash__


_IDENTITY = {
    Cue.AWAITED: IDENTIFYING,
    Cue.LATE: OVERDUE,
    Cue.KNOWN: IDENTIFIED,
}

# Those of a VM that is served here, by WILL-PROXY or because it has moved here.
PROXIED = frozenset(_IDENTITY.values())

TRANSITIONS = {
    (FRESH, Cue.COMMAND): NEGOTIATING,
    (NEGOTIATING, Cue.PEER): ARRIVING,
    (ARRIVING, Cue.COMPLETE): ARRIVED,
    (ARRIVED, Cue.TAKE_OVER): IDENTIFYING,
    (NEGOTIATING, Cue.PROXY): IDENTIFYING,
    **{(phase, Cue.PROXY): phase for phase in PROXIED},  # once more
    **{(phase, cue): after for phase in PROXIED for cue, after in _IDENTITY.items()},
    **{(phase, Cue.SILENCE): MUTE for phase in Phase},
}

# Data that comes is the guest's.
SERIAL = PROXIED | {NEGOTIATING}

# A request is answered; in the others it waits.
ANSWERED = frozenset({IDENTIFIED, OVERDUE})

# The peer may be written to.
SPEAKING = frozenset(Phase) - {MUTE}
