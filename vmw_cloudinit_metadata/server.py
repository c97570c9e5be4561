"""MetadataServer: listens, gives each connection a greenlet, and stops without losing an answer."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from socket import socket
from typing import Any

import gevent
from gevent.event import Event

from vmw_cloudinit_metadata.acceptor import Acceptor
from vmw_cloudinit_metadata.admission import (
    MAX_PER_HOST,
    Admission,
    Network,
    connections_by_descriptors,
    descriptor_limit,
    open_descriptors,
    plain_host,
)
from vmw_cloudinit_metadata.config import DEFAULT_LISTEN, Address
from vmw_cloudinit_metadata.connection import Connection
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.errors import ConfigError
from vmw_cloudinit_metadata.figures import Figures
from vmw_cloudinit_metadata.happenings import Happenings, Peer
from vmw_cloudinit_metadata.health import Health
from vmw_cloudinit_metadata.listener import listen_on, name_of
from vmw_cloudinit_metadata.lookup import Lookup
from vmw_cloudinit_metadata.protocol.session import Policy, Session, TlsPolicy
from vmw_cloudinit_metadata.protocol.vmotion import KeyedSecrets, Moves, RandomSecrets
from vmw_cloudinit_metadata.shared import Shared
from vmw_cloudinit_metadata.tls import KeyPair

log = logging.getLogger(__name__)

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
        allow: Sequence[Network] = (),  # who may connect; empty: everyone
        proxy_protocol: Sequence[Network] = (),  # whose connections begin with a PROXY header
        max_connections: int | None = None,  # None: what the limit of descriptors has room for
        max_per_host: int = MAX_PER_HOST,
        max_pending_moves: int | None = None,  # None: as many as connections
        tls: TlsPolicy = TlsPolicy.OFF,
        key_pair: KeyPair | None = None,  # where tls is not OFF
        vmotion_key: bytes | None = None,  # None: only this process knows its moves
        reuse_port: bool = False,  # other processes of ours accept on the same addresses
    ) -> None:
        self._driver = driver
        self._listen = [Address(*address) for address in listen]
        self._reuse_port = reuse_port
        self._drain_s = drain_s
        self._key_pair = key_pair if tls is not TlsPolicy.OFF else None
        if max_connections is None:
            max_connections = connections_by_descriptors()
        moves: Moves[Session] = Moves(
            max_connections if max_pending_moves is None else max_pending_moves,
            KeyedSecrets(vmotion_key, secrets.token_bytes, time.time)
            if vmotion_key
            else RandomSecrets(secrets.token_bytes),
        )
        self._shared = Shared(
            Policy(frozenset(uris), moves, tls),
            Lookup(driver, lookup_pool, lookup_timeout_s),
            Admission(allow, proxy_protocol, max_connections, max_per_host),
            self._key_pair.load() if self._key_pair else None,
        )
        self._health = Health(driver)
        self._servers: list[Acceptor] = []
        self._connections: set[Connection] = set()
        self._accepted = 0  # connections; some may not have begun yet
        self._stop_asked = Event()
        self._hurry = Event()

    @property
    def addresses(self) -> list[Address]:
        """Where the server listens, with the real ports."""
        return [name_of(server.socket) for server in self._servers]

    @property
    def max_connections(self) -> int:
        return self._shared.admission.max_connections

    @property
    def counters(self) -> Counter[str]:
        """What has happened so far, by name; a copy."""
        return Counter(self._shared.counters)

    def count(self, name: str) -> None:
        """Counts one more of what happens to be told by this name."""
        self._shared.counters[name] += 1

    @property
    def happenings(self) -> Happenings:
        return self._shared.happenings

    @property
    def figures(self) -> Figures:
        """What was counted and measured so far, and what there is now."""
        lookup = self._shared.lookup
        timings = {
            "look-up waited": lookup.queued,
            "look-up ran": lookup.ran,
            "boot": self._shared.boots,
        }
        gauges = {
            "connections": self._accepted,
            "connections at most": self.max_connections,
            "look-ups waiting": lookup.waiting,
            "look-ups running": lookup.running,
            "vMotions under way": len(self._shared.policy.moves),
            "descriptors": open_descriptors(),
            "descriptors at most": descriptor_limit(),
        }
        return Figures(self.counters, timings, gauges)

    @property
    def problem(self) -> str:
        """Why the driver cannot be used now, or ""; `watch_driver` keeps it true."""
        return self._health.problem

    @property
    def is_stopping(self) -> bool:
        return self._stop_asked.is_set()

    def watch_driver(self) -> None:
        """Asks the driver every second, from now on, whether it can be used."""
        self._health.start()

    def start(self) -> None:
        """Listens and accepts; raises ConfigError if an address cannot be had."""
        for listener in listen_on(self._listen, reuse_port=self._reuse_port):
            server = Acceptor(listener, self._serve, self._is_welcome, self._no_descriptor)
            server.start()
            self._servers.append(server)

    def reload(self) -> None:
        """Reads the certificate and its key again, for connections from now on. One that cannot be
        used changes nothing, and is told in the log."""
        if not self._key_pair:
            log.info("reload: there is no certificate to read again")
            return
        try:
            self._shared.tls = self._key_pair.load()
        except ConfigError as error:
            log.error("reload: %s; the certificate that was read before stays in use", error)
        else:
            log.info("reload: certificate read from %s", self._key_pair.certificate)

    def change(self, **settings: Any) -> None:
        """Gives settings other values, by the constructor's names; no connection is closed.

        Who may connect, the URIs and the certificate are looked at when a connection begins. A new
        `key_pair` is taken by `reload`.
        """
        shared, admission = self._shared, self._shared.admission
        for name, value in settings.items():
            match name:
                case "uris":
                    shared.policy = replace(shared.policy, uris=frozenset(value))
                case "allow":
                    admission.allow = value
                case "proxy_protocol":
                    admission.proxies = value
                case "max_connections":
                    admission.max_connections = value
                case "max_per_host":
                    admission.max_per_host = value
                case "max_pending_moves":
                    shared.policy.moves.limit = value
                case "lookup_timeout_s":
                    shared.lookup.run_timeout_s = value
                case "drain_s":
                    self._drain_s = value
                case "key_pair":
                    self._key_pair = value
                case _:
                    raise TypeError(f"{name} cannot be changed while the server runs")

    def serve_until_stopped(self) -> None:
        """Waits for `ask_to_stop`, and stops."""
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
        self._shared.policy.moves.is_draining = True
        for connection in list(self._connections):
            connection.drain()
        self._wait_while(self._is_answering, self._drain_s)
        self._wait_while(self._is_connected, FAREWELL_S)
        for connection in list(self._connections):
            connection.close()
        while self._connections:
            gevent.sleep(0.001)
        self._health.stop()
        self._shared.deadlines.close()
        self._shared.lookup.close()
        log.debug("stopped")

    def _wait_while(self, condition: Callable[[], bool], limit_s: float) -> None:
        """Waits for as long as `condition` is true, for at most `limit_s`, or until in a hurry."""
        end_s = time.monotonic() + limit_s
        while condition() and time.monotonic() < end_s and not self._hurry.is_set():
            self._hurry.wait(_POLL_S)

    def _is_answering(self) -> bool:
        return any(connection.is_busy for connection in self._connections)

    def _is_connected(self) -> bool:
        return bool(self._connections)

    def _is_welcome(self, host: str) -> bool:
        """Whether there is room for one more connection, which then counts."""
        limit = self._shared.admission.max_connections
        if self._accepted >= limit:
            self._refuse(host, f"there are {limit} connections already (--max-connections)")
            return False
        self._accepted += 1
        return True

    def _no_descriptor(self, host: str) -> None:
        self._refuse(host, "the system has no descriptor left for it")

    def _refuse(self, host: str, reason: str) -> None:
        self._shared.counters["refused: full"] += 1
        untold = self._shared.throttle.passes("full", host)
        if untold is not None:
            host = plain_host(host)
            text = f"connection refused: {reason}{untold}"
            peer = Peer(host, host)
            self._shared.happenings.tell("refused", text, peer, reason="refused: full")

    def _serve(self, sock: socket, address: tuple[Any, ...]) -> None:
        self._shared.counters["connections"] += 1
        try:
            connection = Connection(self._shared, sock, str(address[0]), int(address[1]))
            self._connections.add(connection)
            try:
                connection.serve()
            finally:
                self._connections.discard(connection)
        finally:
            sock.close()
            self._accepted -= 1
