"""The guest's side of a bridge: a raw serial byte stream on a socket or a pty. Uses gevent."""

from __future__ import annotations

import os
import socket as stdlib_socket
import tty
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
from gevent import os as gevent_os
from gevent.socket import socket

from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.values import Address

RECONNECT_S = 0.2

_READ_BYTES = 4096


class Stream:
    """Reads and writes a non-blocking descriptor; `owner` closes it."""

    def __init__(self, descriptor: int, owner: Any) -> None:
        self._descriptor = descriptor
        self._owner = owner

    def read(self) -> bytes:
        """Wait for bytes; return none if the guest has disconnected."""
        try:
            return bytes(gevent_os.nb_read(self._descriptor, _READ_BYTES))
        except OSError:
            return b""

    def write(self, data: bytes) -> None:
        """Write all of it. A disconnect is ignored here: `read` reports it."""
        with suppress(OSError):
            while data:
                data = data[gevent_os.nb_write(self._descriptor, data) :]

    def close(self) -> None:
        self._owner.close()


@dataclass(frozen=True, slots=True)
class GuestAddress:
    """`unix:PATH` or `tcp:HOST:PORT`."""

    family: int
    address: Any
    text: str

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> GuestAddress:
        """Parse an address; raise ConfigError."""
        kind, _, rest = text.partition(":")
        if kind == "unix" and rest:
            return cls(stdlib_socket.AF_UNIX, rest, text)
        if kind != "tcp":
            raise ConfigError(f"found {text!r}, expected unix:PATH or tcp:HOST:PORT")
        address = Address.parse(rest)
        try:
            found = stdlib_socket.getaddrinfo(*address, type=stdlib_socket.SOCK_STREAM)
        except OSError as error:
            raise ConfigError(f"{text}: {error.strerror or error}") from error
        return cls(found[0][0], found[0][4], text)

    def connected(self) -> socket:
        sock = socket(self.family, stdlib_socket.SOCK_STREAM)
        try:
            sock.connect(self.address)
        except OSError:
            sock.close()
            raise
        return sock

    def listening(self) -> socket:
        """Listen on the address, replacing a stale unix socket; raise ConfigError."""
        sock = socket(self.family, stdlib_socket.SOCK_STREAM)
        try:
            if self.family == stdlib_socket.AF_UNIX:
                if Path(self.address).is_socket():
                    Path(self.address).unlink()
            else:
                sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
            sock.bind(self.address)
        except OSError as error:
            raise ConfigError(f"--listen {self}: {error.strerror or error}") from error
        sock.listen(1)
        return sock


Report = Callable[[str], None]


def connected(address: GuestAddress, report: Report) -> Iterator[Stream]:
    """Connect to a guest that listens, such as QEMU with `server=on`; reconnect when it returns."""
    is_reported = False
    while True:
        try:
            sock = address.connected()
        except OSError as error:
            if not is_reported:
                report(f"waiting for the guest: {address}: {error.strerror or error}")
            is_reported = True
            gevent.sleep(RECONNECT_S)
            continue
        is_reported = False
        report(f"the guest connected: {address}")
        yield Stream(sock.fileno(), sock)


def accepted(address: GuestAddress, report: Report) -> Iterator[Stream]:
    """Accept guests that connect, such as QEMU with `server=off`, one after the other."""
    listener = address.listening()
    shown = address.text
    if address.family != stdlib_socket.AF_UNIX:
        shown = "tcp:" + str(Address(*listener.getsockname()[:2]))
    report(f"listening for the guest on {shown}")
    while True:
        sock, _ = listener.accept()
        report("the guest connected")
        yield Stream(sock.fileno(), sock)


class _Pty:
    """Both ends of a pty. Holding the guest's end open keeps the line when the guest closes it."""

    def __init__(self) -> None:
        self.descriptor, self.guests = os.openpty()
        tty.setraw(self.guests)
        gevent_os.make_nonblocking(self.descriptor)

    def close(self) -> None:
        os.close(self.descriptor)
        os.close(self.guests)


def pty(report: Report) -> Iterator[Stream]:
    """Create a pseudo-terminal for the guest to open."""
    pair = _Pty()
    report(f"the guest's serial port is {os.ttyname(pair.guests)}")
    yield Stream(pair.descriptor, pair)
