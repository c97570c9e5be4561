"""MetadataServer: listens, gives each connection a greenlet, and stops without losing an answer."""

from __future__ import annotations

import logging
import socket as stdlib_socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gevent
from gevent.event import Event
from gevent.server import StreamServer
from gevent.socket import socket

from vmw_cloudinit_metadata.config import DEFAULT_LISTEN, Address
from vmw_cloudinit_metadata.connection import Connection, Shared
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.errors import ConfigError
from vmw_cloudinit_metadata.lookup import Lookup

log = logging.getLogger(__name__)
start_log = logging.getLogger(f"{__name__}.start")  # shown at every log level

# Thousands of VMs dial in the same instant after a power cut. The kernel caps it at somaxconn.
BACKLOG = 4096

# A host that dies without a FIN is found after 300 + 5 * 12 = 360 s, about when ESXi finds a dead
# proxy (serialN.keepIdle).
KEEPALIVE = (
    (stdlib_socket.TCP_KEEPIDLE, 300),
    (stdlib_socket.TCP_KEEPINTVL, 12),
    (stdlib_socket.TCP_KEEPCNT, 5),
)

_POLL_S = 0.02  # while stopping

# How long a peer has, after the last answer, to close its side.
FAREWELL_S = 1.0


class MetadataServer:
    """Serves the machines that `driver` knows on all of `listen`, for the service URIs `uris`.

    Needs gevent's hub, and no monkey-patching. `start` returns at once; `stop` drains.
    """

    def __init__(
        self,
        driver: Driver,
        uris: Iterable[str],
        listen: Sequence[tuple[str, int]] = (DEFAULT_LISTEN,),
        *,
        lookup_pool: int = 32,  # look-ups that run at the same time
        lookup_timeout_s: float = 3.0,  # of one run of the driver
        drain_s: float = 30.0,  # for the answers under way when the server stops
    ) -> None:
        self._driver = driver
        self._listen = [Address(*address) for address in listen]
        self._drain_s = drain_s
        self._lookup = Lookup(driver, lookup_pool, lookup_timeout_s)
        self._shared = Shared(frozenset(uris), self._lookup)
        self._servers: list[StreamServer] = []
        self._connections: set[Connection] = set()
        self._stop_asked = Event()
        self._hurry = Event()

    @property
    def addresses(self) -> list[Address]:
        """Where the server listens, with the real ports."""
        return [Address(*server.socket.getsockname()[:2]) for server in self._servers]

    @property
    def counters(self) -> Counter[str]:
        """What has happened so far, by name."""
        return self._shared.counters

    def start(self) -> None:
        """Listens and accepts; raises ConfigError if an address cannot be had."""
        has_ipv4 = any(":" not in address.host for address in self._listen)
        for address in self._listen:
            server = StreamServer(_listener(address, ipv6_only=has_ipv4), self._serve)
            server.start()
            self._servers.append(server)
        for address in self.addresses:
            start_log.info("listening on %s", address)

    def serve_until_stopped(self) -> None:
        """Starts, waits for `ask_to_stop`, and stops."""
        self.start()
        self._stop_asked.wait()
        self.stop()

    def ask_to_stop(self) -> None:
        """Makes `serve_until_stopped` drain; asked a second time, the drain ends at once."""
        if self._stop_asked.is_set():
            self._hurry.set()
        self._stop_asked.set()

    def stop(self) -> None:
        """Accepts no more, finishes the answers under way, closes connections and driver."""
        for server in self._servers:
            server.close()
        log.info("stopping: %d connections", len(self._connections))
        for connection in list(self._connections):
            connection.drain()
        self._wait_while(self._is_answering, self._drain_s)
        self._wait_while(self._is_connected, FAREWELL_S)
        for connection in list(self._connections):
            connection.close()
        while self._connections:
            gevent.sleep(0.001)
        self._lookup.close()
        self._driver.close()
        counted = ", ".join(f"{name}: {count}" for name, count in sorted(self.counters.items()))
        log.info("stopped; %s", counted or "nothing was asked")

    def _wait_while(self, condition: Callable[[], bool], limit_s: float) -> None:
        """Waits for as long as `condition` is true, for at most `limit_s`, or until in a hurry."""
        end_s = time.monotonic() + limit_s
        while condition() and time.monotonic() < end_s and not self._hurry.is_set():
            self._hurry.wait(_POLL_S)

    def _is_answering(self) -> bool:
        return any(connection.is_busy for connection in self._connections)

    def _is_connected(self) -> bool:
        return bool(self._connections)

    def _serve(self, sock: socket, address: tuple[Any, ...]) -> None:
        connection = Connection(self._shared, sock, address)
        self._connections.add(connection)
        self._shared.counters["connections"] += 1
        try:
            connection.serve()
        finally:
            self._connections.discard(connection)


def _listener(address: Address, ipv6_only: bool) -> socket:
    """A listening socket, whose options the accepted ones inherit."""
    try:
        family, kind, protocol, _, resolved = stdlib_socket.getaddrinfo(
            address.host, address.port, type=stdlib_socket.SOCK_STREAM
        )[0]
        listener = socket(family, kind, protocol)
        listener.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
        listener.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_KEEPALIVE, 1)
        listener.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        for option, value in KEEPALIVE:
            listener.setsockopt(stdlib_socket.IPPROTO_TCP, option, value)
        if family == stdlib_socket.AF_INET6:
            only = stdlib_socket.IPV6_V6ONLY
            listener.setsockopt(stdlib_socket.IPPROTO_IPV6, only, ipv6_only)
        listener.bind(resolved)
        listener.listen(BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from error
    return listener
