"""Peers over sockets that are connected from an address of choice."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from tests.process import LIMIT_S
from tests.vm import ALWAYS_KNOWN, BINARY, VC_UUID, Closed, Vm, suboption

OTHER_VC_UUID = "01 23 45 67 89 ab cd ef-fe dc ba 98 00 00 00 02"


class SocketVm(Vm):
    """A VM over a socket that is connected already."""

    def __init__(
        self, connected: socket.socket, vc_uuid: str = VC_UUID, *, header: bytes = b""
    ) -> None:
        self.socket = connected
        self.raw = b""
        known = ALWAYS_KNOWN + bytes([80, 81, 82, 83])
        self.send(
            header
            + (BINARY + b"\xff\xfb\xe8" + suboption(0, known))
            + (suboption(80, vc_uuid.encode()) + suboption(82, b"web1"))
            + suboption(70, b"Cmy-metadata")
        )


def connected(port: int, host: str = "127.0.0.1", to: str = "127.0.0.1") -> socket.socket:
    """A connection from `host`, an address of this machine."""
    return socket.create_connection((to, port), timeout=10, source_address=(host, 0))


def identified(port: int, number: int, host: str = "127.0.0.1") -> SocketVm | None:
    """A VM of this number that the server knows by now; None if it was closed instead."""
    peer = connected(port, host)
    try:
        machine = SocketVm(peer, f"{number:032x}")
        machine.receive_until(suboption(71))
    except (ConnectionError, Closed):
        peer.close()
        return None
    return machine


def is_closed(peer: socket.socket, limit_s: float = LIMIT_S) -> bool:
    """Whether the server closes it without a word; False as soon as the server greets."""
    peer.settimeout(limit_s)
    try:
        return not peer.recv(1, socket.MSG_PEEK)
    except ConnectionError:
        return True
    except TimeoutError:
        raise AssertionError(f"neither closed nor greeted within {limit_s:g} s") from None


def refused_beyond_one_a_second(attempt: Callable[[], bool]) -> int:
    """Makes attempts, of which the server lets one a second pass, and 20 at once; how many it has
    refused, of all, when it had refused some."""
    began_s, passed, refused = time.monotonic(), 0, 0
    while refused < 10:
        if attempt():
            passed += 1
        else:
            refused += 1
            assert passed >= 20
        assert passed <= 21 + time.monotonic() - began_s
    return refused


def is_served(machine: Vm) -> bool:
    return bool(machine.metadata()["instance-id"] == "my-instance")
