"""Who is at the other end of a unix socket, by SO_PEERCRED: an abstract name belongs to nobody."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

_FORMAT = struct.Struct("3i")


class PeerCredentials(NamedTuple):
    process: int
    user: int
    group: int


def credentials_of(sock: socket.socket) -> PeerCredentials:
    """Return those of the process that has connected, or that listened; raise OSError."""
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _FORMAT.size)
    return PeerCredentials(*_FORMAT.unpack(found))
