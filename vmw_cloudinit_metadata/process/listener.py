"""Listening sockets. No gevent: the parent of several workers uses them too."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.values import Address

# Thousands of VMs connect at the same instant after a power cut. The kernel caps it at somaxconn.
BACKLOG = 4096

# A host that dies without a FIN is found after 300 + 5 * 12 = 360 s, about when ESXi finds a dead
# proxy (serialN.keepIdle).
KEEPALIVE = (
    (socket.TCP_KEEPIDLE, 300),
    (socket.TCP_KEEPINTVL, 12),
    (socket.TCP_KEEPCNT, 5),
)

# The system takes no more than this beyond what the peer has room for: what a guest reads slowly
# stays here, where a vMotion can hold it back.
_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; not in Python's socket
_NOTSENT_BYTES = 16 * 1024


def listen_on(
    addresses: Sequence[Address],
    *,
    reuse_port: bool = False,
    open_ones: Mapping[str, int] = MappingProxyType({}),
) -> list[socket.socket]:
    """Return listening sockets for all `addresses`; raise ConfigError if one is not available.

    With `reuse_port`, other processes that use it too may listen on the same addresses. `open_ones`
    are those of the program before an upgrade, by address: they are used, or closed.
    """
    has_ipv4 = any(":" not in address.host for address in addresses)
    taken = {address: _taken_over(descriptor) for address, descriptor in open_ones.items()}
    listeners = [
        taken.pop(name)
        if (name := str(address)) in taken
        else _listen(address, has_ipv4, reuse_port)
        for address in addresses
    ]
    for listener in taken.values():
        listener.close()
    return listeners


def _taken_over(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    return listener


def name_of(listener: socket.socket) -> Address:
    """Return the address of a listening socket, with the real port."""
    return Address(*listener.getsockname()[:2])


def _listen(address: Address, ipv6_only: bool, reuse_port: bool) -> socket.socket:
    """Return a listening socket, whose options accepted sockets inherit; raise ConfigError."""
    try:
        family, kind, protocol, _, resolved = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _NOTSENT_BYTES)
        for option, value in KEEPALIVE:
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
        if family == socket.AF_INET6:
            only = socket.IPV6_V6ONLY
            listener.setsockopt(socket.IPPROTO_IPV6, only, ipv6_only)
        listener.bind(resolved)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from error
    return listener
