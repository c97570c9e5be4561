"""Telnet AUTHENTICATION, option 37 (RFC 2941), as VMware uses it: to start TLS on the same socket.

The server sends SEND with the only type SSL, the VM answers IS, START, and the server answers
REPLY, ACCEPTED. Then the TLS handshake starts at once. Pure.
"""

from __future__ import annotations

from vmw_cloudinit_metadata.protocol.telnet import Option, Subnegotiation

_IS, _SEND, _REPLY = 0, 1, 2
_SSL = 7
_START, _ACCEPTED = 1, 2

SEND = Subnegotiation(Option.AUTHENTICATION, bytes([_SEND, _SSL, 0]))


def is_answer(payload: bytes) -> bool:
    """Return whether this is an IS. One that does not start SSL refuses TLS."""
    return payload[:1] == bytes([_IS])


def start_modifier(payload: bytes) -> int | None:
    """Return the modifier of `IS SSL <modifier> START`, or None for any other payload."""
    is_start = payload[:2] == bytes([_IS, _SSL]) and payload[3:] == bytes([_START])
    return payload[2] if is_start else None


def accepted(modifier: int) -> Subnegotiation:
    return Subnegotiation(Option.AUTHENTICATION, bytes([_REPLY, _SSL, modifier, _ACCEPTED]))
