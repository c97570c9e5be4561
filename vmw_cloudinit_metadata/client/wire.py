"""A TCP connection to the server, plain or TLS, from a chosen source address. Uses gevent."""

from __future__ import annotations

import errno
import socket as stdlib_socket
import ssl as stdlib_ssl
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import gevent
from gevent import ssl
from gevent.socket import socket

from vmw_cloudinit_metadata.client.expectation import DialRefused, LineCut, VmFailure
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.thumbprint import thumbprint_like
from vmw_cloudinit_metadata.settings.values import Address

_RECEIVE_BYTES = 64 * 1024
_READABLE = 1  # libev's EV_READ

# How a handshake fails when its connection is closed; other SSLErrors are faults of TLS.
_CUT = (stdlib_ssl.SSLEOFError, stdlib_ssl.SSLZeroReturnError)

# Choose the port on connect: otherwise 28,000 ports are shared by connections to all servers.
_IP_BIND_ADDRESS_NO_PORT = 24


class TlsMode(Enum):
    NONE = "none"
    TELNETS = "telnets"  # from the first byte
    AUTHENTICATION = "authentication"  # negotiated in telnet


@dataclass(frozen=True, slots=True)
class Destination:
    """How to reach the server, and how to verify it."""

    server: Address
    tls: TlsMode = TlsMode.NONE
    ca: Path | None = None  # None: accept any certificate, as ESXi does by default
    thumbprint: str | None = None  # SHA-1 or SHA-256 of the certificate, in hexadecimal
    family: int = field(init=False)
    address: tuple[Any, ...] = field(init=False)
    context: ssl.SSLContext | None = field(init=False)

    def __post_init__(self) -> None:
        """Resolve the server's name, once; raise ConfigError."""
        try:
            found = stdlib_socket.getaddrinfo(*self.server, type=stdlib_socket.SOCK_STREAM)
        except OSError as error:
            raise ConfigError(f"--server {self.server}: {error.strerror or error}") from error
        object.__setattr__(self, "family", found[0][0])
        object.__setattr__(self, "address", found[0][4])
        object.__setattr__(
            self, "context", self._context() if self.tls is not TlsMode.NONE else None
        )

    def local_address(self) -> str:
        """The address that this host would connect from; sends nothing."""
        with stdlib_socket.socket(self.family, stdlib_socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(self.address)
            except OSError as error:
                raise ConfigError(f"--server {self.server}: {error.strerror or error}") from error
            return str(probe.getsockname()[0])

    def _context(self) -> ssl.SSLContext:
        if self.ca is None:
            return without_verification()
        context = ssl.SSLContext(stdlib_ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(self.ca)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"--ca: {self.ca}: {error.strerror or error}") from error
        return context


def without_verification() -> ssl.SSLContext:
    """Return a client's context that accepts any certificate."""
    context = ssl.SSLContext(stdlib_ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = stdlib_ssl.CERT_NONE
    return context


class Wire:
    """One connection; raises VmFailure for any failure."""

    def __init__(self, route: Destination, source: str | None = None) -> None:
        self._route = route
        self._is_tls = False
        self._sock: Any = socket(route.family, stdlib_socket.SOCK_STREAM)
        self._readable: Any = None
        try:
            self._connect(source)
        except OSError as error:
            self.close()
            text = f"connect: {route.server}: {error.strerror or error}"
            raise DialRefused(f"connect: {_name_of(error)}", text) from None
        except BaseException:  # a gevent.Timeout
            self.close()
            raise
        self._readable = gevent.get_hub().loop.io(self._sock.fileno(), _READABLE)

    def _connect(self, source: str | None) -> None:
        self._sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        if source:
            self._sock.setsockopt(stdlib_socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            self._sock.bind((source, 0))
        self._sock.connect(self._route.address)

    def start_tls(self) -> None:
        """Do the TLS handshake and verify the server."""
        assert self._route.context
        try:
            self._sock = self._route.context.wrap_socket(
                self._sock, server_hostname=self._route.server.host
            )
        except OSError as error:
            is_cut = isinstance(error, _CUT) or not isinstance(error, stdlib_ssl.SSLError)
            raise (LineCut if is_cut else VmFailure)("TLS", f"TLS: {error}") from None
        self._is_tls = True
        self._check_thumbprint()

    def _check_thumbprint(self) -> None:
        expected = self._route.thumbprint
        if expected is None:
            return
        certificate = self._sock.getpeercert(binary_form=True)
        found = thumbprint_like(expected, certificate)
        if found != expected:
            raise VmFailure(
                "TLS", f"TLS: found a certificate with thumbprint {found}, expected {expected}"
            )

    def receive(self) -> bytes:
        """Wait for bytes; return none if the server has disconnected."""
        try:
            return self._receive()
        except OSError as error:
            raise LineCut(_name_of(error), f"connection lost: {error}") from None

    def _receive(self) -> bytes:
        if self._is_tls:
            return bytes(self._sock.recv(_RECEIVE_BYTES))
        gevent.get_hub().wait(
            self._readable
        )  # cheaper than recv first, which fails most of the time
        return bytes(self._sock.recv(_RECEIVE_BYTES))

    def send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise LineCut(_name_of(error), f"connection lost: {error}") from None

    def reset(self) -> None:
        """Close the connection with RST, like a host that has lost its power."""
        with suppress(OSError):
            at_once = struct.pack("ii", 1, 0)
            self._sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, at_once)
        self.close()

    def close(self) -> None:
        if self._readable:
            self._readable.close()
            self._readable = None
        self._sock.close()


def _name_of(error: OSError) -> str:
    match error:
        case ConnectionRefusedError():
            return "refused"
        case ConnectionResetError() | BrokenPipeError():
            return "reset"
        case TimeoutError():
            return "timed out"
        case _:
            return errno.errorcode.get(error.errno or 0, type(error).__name__)
