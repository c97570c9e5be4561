"""Peers that are no hypervisor: what gives them away, and what the operator is told. Pure."""

from __future__ import annotations

# ESXi's first byte is IAC. Some stray bytes before it are forgiven; a line of them is not.
MAX_STRAY_BYTES = 256

GREETING = b"vmw-cloudinit-metadata: this port is for the virtual serial ports of VMware VMs.\r\n"

# How it begins -> what it is, and what can be done about it.
_BEGINNINGS = {
    b"SSH-": "an SSH client",
    b"PROXY ": "a PROXY protocol header: name where it comes from in --proxy-protocol",
    b"\r\n\r\n\0\r\nQUIT": "a PROXY protocol header: name where it comes from in --proxy-protocol",
    b"\x16\x03": "TLS: this server has no --tls-cert, or --tls is off, or the peer was slow",
    **{
        f"{method} ".encode(): "an HTTP client"
        for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS", "CONNECT", "DELETE", "PRI")
    },
}


_OTHER = "bytes that are no telnet"


class Watch:
    """Watches what a peer sends before any telnet command."""

    def __init__(self) -> None:
        self._beginning = b""

    def receive_data(self, payload: bytes) -> str | None:
        """What the peer is, as soon as it is clear that it is no hypervisor."""
        self._beginning += payload[: MAX_STRAY_BYTES + 1]
        for known, what in _BEGINNINGS.items():
            if self._beginning.startswith(known):
                return what
        is_line = b"\n" in payload or b"\r" in payload
        return _OTHER if is_line or len(self._beginning) > MAX_STRAY_BYTES else None
