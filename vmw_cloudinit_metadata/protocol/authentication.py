"""Telnet AUTHENTICATION, option 37 (RFC 2941), as VMware uses it: to begin TLS on the same socket.

The server says SEND with the one type SSL; the VM answers IS, START; the server REPLY, ACCEPTED;
then the TLS handshake begins at once. Pure.
"""

from __future__ import annotations

from vmw_cloudinit_metadata.protocol.telnet import Option, Subnegotiation

_IS, _SEND, _REPLY = 0, 1, 2
_SSL = 7
_START, _ACCEPTED = 1, 2

SEND = Subnegotiation(Option.AUTHENTICATION, bytes([_SEND, _SSL, 0]))


def is_answer(payload: bytes) -> bool:
    """Whether this is an IS: one that does not start SSL refuses it."""
    return payload[:1] == bytes([_IS])


def start_modifier(payload: bytes) -> int | None:
    """The modifier of `IS SSL <modifier> START`; None if the VM says anything else."""
    is_start = payload[:2] == bytes([_IS, _SSL]) and payload[3:] == bytes([_START])
    return payload[2] if is_start else None


def accepted(modifier: int) -> Subnegotiation:
    return Subnegotiation(Option.AUTHENTICATION, bytes([_REPLY, _SSL, modifier, _ACCEPTED]))
