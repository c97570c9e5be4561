"""The state of a session as JSON has it, with which a session of the next program goes on. Pure.

What the session has heard of its guest is not in it: that is a value of its own (owed.py).
"""

from __future__ import annotations

from vmw_cloudinit_metadata.protocol.phases import FRESH
from vmw_cloudinit_metadata.protocol.session import Session
from vmw_cloudinit_metadata.protocol.starttls import PLAIN
from vmw_cloudinit_metadata.protocol.state import InvalidState, State, mapping


def state_of(session: Session) -> State:
    """Return the state. Call it when nothing is left to be sent or handled."""
    parts = session.parts(is_fresh=session.phase is FRESH)
    return {name: part.state() for name, part in parts.items()}


def restore(session: Session, state: object) -> None:
    """Let a new session go on from a state; raise InvalidState. Call it for the source of a move
    before its target. The session sends no greeting: that was sent."""
    written, can_start_tls = mapping(state), session.start_tls.is_possible
    parts = session.parts(is_fresh="stray" in written)
    if written.keys() != parts.keys():
        raise InvalidState("a session has other parts")
    for name, part in parts.items():
        part.restore(written[name])
    if session.start_tls.stage is not PLAIN and not can_start_tls:
        raise InvalidState("it may still begin TLS, which is off now")
