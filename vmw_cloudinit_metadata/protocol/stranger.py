"""Peers that are not ESXi hosts: how each kind begins, and what to do about it. Pure."""

from __future__ import annotations

from typing import ClassVar

from vmw_cloudinit_metadata.protocol.events import NotHypervisor
from vmw_cloudinit_metadata.protocol.state import Stateful, octets

# ESXi's first byte is IAC. Some stray bytes before it are forgiven; a line of them is not.
MAX_STRAY_BYTES = 256

GREETING = b"vmw-cloudinit-metadata: this port is for the virtual serial ports of VMware VMs.\r\n"

_HTTP = NotHypervisor("an HTTP client")
_PROXY = NotHypervisor(
    "a load balancer with a PROXY protocol header", "add its address to --proxy-protocol"
)
_SSH = NotHypervisor("an SSH client")
_TLS = NotHypervisor(
    "a TLS client",
    "if it is one, this server has no --tls-cert, or --tls is off, or the host was slow to begin",
)
_BEGINNINGS = {
    b"SSH-": _SSH,
    b"PROXY ": _PROXY,
    b"\r\n\r\n\0\r\nQUIT": _PROXY,
    b"\x16\x03": _TLS,
    **{
        f"{method} ".encode(): _HTTP
        for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS", "CONNECT", "DELETE", "PRI")
    },
}
_OTHER = NotHypervisor("a client that does not speak telnet")
TELNET = NotHypervisor("a telnet client that refuses VMWARE-TELNET-EXT")


class Watch(Stateful):
    """Watches what a peer sends before any telnet command."""

    __slots__ = ("_beginning",)
    STATE: ClassVar = {"_beginning": octets(2 * MAX_STRAY_BYTES + 2)}

    def __init__(self) -> None:
        self._beginning = b""

    def receive_data(self, payload: bytes) -> NotHypervisor | None:
        """Return what the peer is, as soon as it is clearly not an ESXi host."""
        self._beginning += payload[: MAX_STRAY_BYTES + 1]
        for known, peer in _BEGINNINGS.items():
            if self._beginning.startswith(known):
                return peer
        is_line = b"\n" in payload or b"\r" in payload
        return _OTHER if is_line or len(self._beginning) > MAX_STRAY_BYTES else None
