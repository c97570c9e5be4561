"""MetadataServer: listens, serves connections in greenlets, and stops without losing answers."""

from __future__ import annotations

import logging
import secrets
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from socket import socket
from types import MappingProxyType
from typing import Any

import gevent
from gevent.event import Event

from vmw_cloudinit_metadata.drivers import contract
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.preparedanswers import PreparedAnswers
from vmw_cloudinit_metadata.instance.counts import counted
from vmw_cloudinit_metadata.monitoring import gauges
from vmw_cloudinit_metadata.monitoring.counters import CONNECTIONS, Key
from vmw_cloudinit_metadata.monitoring.figures import Figures
from vmw_cloudinit_metadata.monitoring.happenings import Happenings
from vmw_cloudinit_metadata.monitoring.sourcestate import SourceState
from vmw_cloudinit_metadata.process.budget import (
    CONNECTION_BYTES,
    TLS_BYTES,
    Budget,
    Fixed,
    default_bytes,
)
from vmw_cloudinit_metadata.process.listener import listen_on, name_of
from vmw_cloudinit_metadata.protocol.extension import Extension
from vmw_cloudinit_metadata.protocol.identitytoken import Keys
from vmw_cloudinit_metadata.protocol.rate import Rate
from vmw_cloudinit_metadata.protocol.session import Policy, TlsPolicy
from vmw_cloudinit_metadata.protocol.vmotion import (
    MAX_MOVE_RATE,
    KeyedSecrets,
    Moves,
    RandomSecrets,
)
from vmw_cloudinit_metadata.serving.acceptor import Acceptor
from vmw_cloudinit_metadata.serving.admission import (
    MAX_CONNECTION_RATE,
    MAX_HANDSHAKE_RATE,
    MAX_PER_HOST,
    Admission,
    Network,
    connections_by_descriptors,
    descriptor_limit,
    open_descriptors,
)
from vmw_cloudinit_metadata.serving.connection import Connection
from vmw_cloudinit_metadata.serving.entrance import Entrance
from vmw_cloudinit_metadata.serving.health import Health
from vmw_cloudinit_metadata.serving.hooks import Hooks
from vmw_cloudinit_metadata.serving.journey import Journeys
from vmw_cloudinit_metadata.serving.lookup import Lookup
from vmw_cloudinit_metadata.serving.ondisk.answersondisk import AnswersOnDisk
from vmw_cloudinit_metadata.serving.services import Services
from vmw_cloudinit_metadata.serving.timeouts import FAREWELL_S
from vmw_cloudinit_metadata.serving.tls import KeyPair
from vmw_cloudinit_metadata.serving.unsent import Unsent
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.values import DEFAULT_LISTEN, Address

log = logging.getLogger(__name__)

# A certificate that was read; ConfigError: it cannot be used. None: there is none.
Certificate = ssl.SSLContext | ConfigError | None

_POLL_S = 0.02  # while stopping


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
        memory_budget: int | None = None,  # bytes; None: by the cgroup, else the machine
        max_connection_rate: float = MAX_CONNECTION_RATE,  # of one host, a second; 0: no limit
        max_handshake_rate: float = MAX_HANDSHAKE_RATE,  # likewise
        max_move_rate: float = MAX_MOVE_RATE,  # likewise
        tls: TlsPolicy = TlsPolicy.OFF,
        key_pair: KeyPair | None = None,  # where tls is not OFF
        vmotion_key: bytes | None = None,  # None: only this process knows its moves
        identity_keys: Keys = MappingProxyType({}),  # of identity tokens, by number
        requires_proof: bool = False,  # of the identity; with keys
        last_good_dir: Path | None = None,  # of last good answers on disk; None: none are written
        reuse_port: bool = False,  # other processes of ours accept on the same addresses
    ) -> None:
        self._driver = driver
        self._listen = [Address(*address) for address in listen]
        self._reuse_port = reuse_port
        self._drain_s = drain_s
        self._key_pair = key_pair if tls is not TlsPolicy.OFF else None
        if max_connections is None:
            max_connections = connections_by_descriptors()
        moves: Moves[Extension] = Moves(
            max_connections if max_pending_moves is None else max_pending_moves,
            KeyedSecrets(vmotion_key, secrets.token_bytes, time.time)
            if vmotion_key
            else RandomSecrets(secrets.token_bytes),
            Rate(max_move_rate),
        )
        self.budget = Budget(
            default_bytes() if memory_budget is None else memory_budget, self.count
        )
        on_disk = AnswersOnDisk(last_good_dir, driver) if last_good_dir else None
        self._services = Services(
            Policy(frozenset(uris), moves, tls, identity_keys, requires_proof),
            Lookup(driver, lookup_pool, lookup_timeout_s, self.budget, on_disk),
            Admission(
                allow,
                proxy_protocol,
                max_connections,
                max_per_host,
                max_connection_rate=max_connection_rate,
                max_handshake_rate=max_handshake_rate,
            ),
            Unsent(self.budget),
            self._key_pair.load() if self._key_pair else None,
        )
        self.budget.add_all(contract.tables(driver, driver.tables()))
        self.budget.add("connections", Fixed(self._connection_bytes))
        self._journeys = Journeys(self._services)
        self._entrance = Entrance(self._services, self.budget, lambda: len(self._connections))
        self._health = Health(driver)
        self.hooks = Hooks(driver)
        self._servers: list[Acceptor] = []
        self._connections: set[Connection] = set()
        # Counters of others.
        self.counted_beside: list[Callable[[], Mapping[Key, int]]] = [
            self._services.lookup.prepared.counted
        ]
        if on_disk:
            self.counted_beside.append(on_disk.counts)
        self._stop_asked = Event()
        self._hurry = Event()

    @property
    def prepared(self) -> PreparedAnswers | None:
        """What takes the answers that a SurveyProcess prepares, if the driver can use them."""
        return self._driver.prepared

    @property
    def addresses(self) -> list[Address]:
        """The addresses of the listening sockets, with the real ports."""
        return [name_of(server.socket) for server in self._servers]

    @property
    def max_connections(self) -> int:
        return self._services.admission.max_connections

    @property
    def counters(self) -> Counter[str]:
        """The counters so far, by name; a copy."""
        return Counter(dict[str, int](self._counted.items()))

    @property
    def _counted(self) -> Counter[Key]:
        beside = (Counter(count()) for count in self.counted_beside)
        return sum(beside, Counter(self._services.counters))

    def count(self, key: Key) -> None:
        self._services.counters[key] += 1

    @property
    def happenings(self) -> Happenings:
        return self._services.happenings

    @property
    def figures(self) -> Figures:
        """The counters and timings so far, and the present gauges."""
        lookup = self._services.lookup
        timings = {
            gauges.LOOKUP_WAITED: lookup.queued,
            gauges.LOOKUP_RAN: lookup.ran,
            gauges.BOOT: self._services.boots,
        }
        now = {
            gauges.CONNECTIONS: len(self._connections),
            gauges.MAX_CONNECTIONS: self.max_connections,
            gauges.UNIDENTIFIED: len(self._services.admission.unidentified),
            gauges.LOOKUPS_WAITING: lookup.waiting,
            gauges.LOOKUPS_RUNNING: lookup.running,
            gauges.PREPARED: self.prepared.count if self.prepared else 0,
            gauges.MOVES: len(self._services.policy.moves),
            gauges.DESCRIPTORS: open_descriptors(),
            gauges.MAX_DESCRIPTORS: descriptor_limit(),
            **self.budget.gauges,
        }
        return Figures(self._counted, timings, now)

    @property
    def problem(self) -> str:
        """Why the driver cannot be used now, or ""; kept current by `watch_driver`."""
        return self._health.problem

    @property
    def source(self) -> SourceState:
        """Where data comes from, and since when the driver cannot be used; like `problem`."""
        return self._health.source

    @property
    def is_stopping(self) -> bool:
        return self._stop_asked.is_set()

    def watch_driver(self) -> None:
        """Check every second, from now on, whether the driver can be used."""
        self._health.start()

    def start(self) -> None:
        """Listen and accept; raise ConfigError if an address is not available."""
        for listener in listen_on(self._listen, reuse_port=self._reuse_port):
            server = Acceptor(
                listener,
                self._begin,
                self._serve,
                self._entrance.admits,
                self._entrance.frees_descriptor,
                self._entrance.refuse_without_descriptor,
            )
            server.start()
            self._servers.append(server)
        self._services.lookup.watch()

    def read_certificate(self, key_pair: KeyPair | None = None) -> Certificate:
        """Read the certificate and its key again, or those of `key_pair`, for `take_certificate`.

        Blocks while it reads files; may be called in any thread."""
        if not self._key_pair:
            return None
        try:
            return (key_pair or self._key_pair).load()
        except ConfigError as error:
            return error

    def take_certificate(self, found: Certificate) -> None:
        """Use the certificate for new connections. If it is unusable, log that, and keep the
        present one."""
        match found:
            case None:
                log.info("reload: there is no certificate to read again")
            case ConfigError() as error:
                log.error("reload: %s; the previous certificate stays in use", error)
            case context:
                self._services.tls = context
                assert self._key_pair
                log.info("reload: certificate read from %s", self._key_pair.certificate)

    def change(self, **settings: Any) -> None:
        """Change settings, by the constructor's names; no connection is closed.

        Who may connect, the URIs and the certificate apply to new connections. A new `key_pair` is
        where later certificates are read from; `take_certificate` puts one into use.
        """
        shared, admission = self._services, self._services.admission
        for name, value in settings.items():
            match name:
                case "uris":
                    shared.policy = replace(shared.policy, uris=frozenset(value))
                case "identity_keys":
                    shared.policy = replace(shared.policy, identity_keys=value)
                case "requires_proof":
                    shared.policy = replace(shared.policy, requires_proof=value)
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
                case "memory_budget":
                    self.budget.change(value)
                case "max_connection_rate":
                    admission.connection_rate.per_s = value
                case "max_handshake_rate":
                    admission.handshake_rate.per_s = value
                case "max_move_rate":
                    shared.policy.moves.rate.per_s = value
                case "lookup_timeout_s":
                    shared.lookup.run_timeout_s = value
                case "drain_s":
                    self._drain_s = value
                case "key_pair":
                    self._key_pair = value if self._key_pair else None  # else TLS is off
                case _:
                    raise TypeError(f"{name} cannot be changed while the server runs")

    def serve_until_stopped(self) -> None:
        """Wait for `ask_to_stop`, and stop."""
        self._stop_asked.wait()
        self.stop()

    def ask_to_stop(self) -> None:
        """Make `serve_until_stopped` drain; a second call ends the drain at once."""
        if self._stop_asked.is_set():
            self._hurry.set()
        self._stop_asked.set()

    def stop(self) -> None:
        """Accept no more, finish the answers under way, close connections and driver."""
        for server in self._servers:
            server.close()
        log.info("stopping: %s", counted(len(self._connections), "connection"))
        self._services.policy.moves.is_draining = True
        for connection in list(self._connections):
            connection.drain()
        self._wait_while(self._is_answering, self._drain_s)
        self._wait_while(lambda: bool(self._connections), FAREWELL_S)
        for connection in list(self._connections):
            connection.close()
        while self._connections:
            gevent.sleep(0.001)
        self._health.stop()
        self.hooks.close()
        self._services.deadlines.close()
        self._services.lookup.close()
        log.debug("stopped")

    def _connection_bytes(self) -> int:
        return (
            len(self._connections) * CONNECTION_BYTES + self._services.tls_connections * TLS_BYTES
        )

    def _wait_while(self, condition: Callable[[], bool], limit_s: float) -> None:
        """Wait while `condition` is true, for at most `limit_s`, or until a second stop."""
        end_s = time.monotonic() + limit_s
        while condition() and time.monotonic() < end_s and not self._hurry.is_set():
            self._hurry.wait(_POLL_S)

    def _is_answering(self) -> bool:
        return any(connection.is_busy for connection in self._connections)

    def _begin(self, sock: socket, address: tuple[Any, ...]) -> Connection:
        self._services.counters[CONNECTIONS] += 1
        connection = Connection(
            self._services, self._journeys, sock, str(address[0]), int(address[1])
        )
        self._connections.add(connection)
        connection.enter()
        return connection

    def _serve(self, sock: socket, connection: Connection) -> None:
        try:
            connection.serve()
        finally:
            sock.close()
            self._connections.discard(connection)
