"""MetadataServer: listens, serves connections in greenlets, and stops without losing answers."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gevent
from gevent.event import Event

from vmw_cloudinit_metadata.drivers import contract
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.preparedanswers import PreparedAnswers
from vmw_cloudinit_metadata.instance.counts import counted
from vmw_cloudinit_metadata.monitoring import gauges
from vmw_cloudinit_metadata.monitoring.counters import Key
from vmw_cloudinit_metadata.monitoring.figures import Figures
from vmw_cloudinit_metadata.monitoring.happenings import Happenings
from vmw_cloudinit_metadata.monitoring.sourcestate import SourceState
from vmw_cloudinit_metadata.process.budget import (
    Budget,
    Fixed,
    default_bytes,
)
from vmw_cloudinit_metadata.process.collector import collector_off
from vmw_cloudinit_metadata.process.deadlines import RunningClock
from vmw_cloudinit_metadata.process.fleet.fleetlink import FleetLink
from vmw_cloudinit_metadata.process.listener import listen_on, name_of
from vmw_cloudinit_metadata.process.vcenter.vcenterlink import VcenterLink
from vmw_cloudinit_metadata.protocol.identitydocument import IdentityIssuer
from vmw_cloudinit_metadata.protocol.identitytoken import Keys
from vmw_cloudinit_metadata.protocol.policy import Departing
from vmw_cloudinit_metadata.protocol.rate import Rate
from vmw_cloudinit_metadata.protocol.session import Policy, TlsPolicy
from vmw_cloudinit_metadata.protocol.state import State
from vmw_cloudinit_metadata.protocol.vmotion import (
    MAX_MOVE_RATE,
    KeyedSecrets,
    Moves,
    RandomSecrets,
)
from vmw_cloudinit_metadata.serving import serverstate
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
from vmw_cloudinit_metadata.serving.answerregister import ALONE, WorkerRegister
from vmw_cloudinit_metadata.serving.certificate import ServerCertificate
from vmw_cloudinit_metadata.serving.crosscheck import CrossCheck, VcenterCheck
from vmw_cloudinit_metadata.serving.entrance import Entrance
from vmw_cloudinit_metadata.serving.exchange import Exchange
from vmw_cloudinit_metadata.serving.fleetledger import FleetLedger
from vmw_cloudinit_metadata.serving.fleetuses import FleetUses
from vmw_cloudinit_metadata.serving.health import Health
from vmw_cloudinit_metadata.serving.hooks import Hooks
from vmw_cloudinit_metadata.serving.ledger import LATE_S
from vmw_cloudinit_metadata.serving.lookup import Lookup
from vmw_cloudinit_metadata.serving.ondisk.answersondisk import AnswersOnDisk
from vmw_cloudinit_metadata.serving.ondisk.ledgerondisk import LedgerOnDisk
from vmw_cloudinit_metadata.serving.openconnections import OpenConnections
from vmw_cloudinit_metadata.serving.services import Services
from vmw_cloudinit_metadata.serving.timeouts import CLAIM_S, FAREWELL_S, HAND_OVER_S
from vmw_cloudinit_metadata.serving.tls import KeyPair
from vmw_cloudinit_metadata.serving.unsent import Unsent
from vmw_cloudinit_metadata.settings.values import DEFAULT_LISTEN, Address

log = logging.getLogger(__name__)

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
        identity_issuer: IdentityIssuer | None = None,  # None: there are no identity documents
        last_good_dir: Path | None = None,  # of last good answers on disk; None: none are written
        userdata_window_s: float | None = None,  # in which user-data is served; None: always
        ledger: Path | None = None,  # of what VMs have used up; None: only a fleet records it
        fleet: FleetLink | None = None,  # what is shared with other servers
        vcenter: VcenterLink | None = None,  # what vCenter says of VMs
        vcenter_check: VcenterCheck = VcenterCheck.WARN,  # of each VM, where there is a vCenter
        vcenter_wait_s: float = 30.0,  # for vCenter to confirm a VM, where that is required
        reuse_port: bool = False,  # other processes of ours accept on the same addresses
        register: WorkerRegister = ALONE,  # what these have answered
    ) -> None:
        self._driver = driver
        self._listen = [Address(*address) for address in listen]
        self._reuse_port = reuse_port
        self._drain_s = drain_s
        key_pair = key_pair if tls is not TlsPolicy.OFF else None
        if max_connections is None:
            max_connections = connections_by_descriptors()
        moves: Moves[Departing] = Moves(
            max_connections if max_pending_moves is None else max_pending_moves,
            _move_secrets(vmotion_key),
            Rate(max_move_rate),
        )
        asks_claims = bool(fleet and vmotion_key)
        self.budget = Budget(
            default_bytes() if memory_budget is None else memory_budget, self.count
        )
        on_disk = AnswersOnDisk(last_good_dir, driver) if last_good_dir else None
        self._services = Services(
            Policy(frozenset(uris), moves, tls, identity_keys, requires_proof, asks_claims),
            Lookup(driver, lookup_pool, lookup_timeout_s, self.budget, on_disk, register),
            Admission(
                allow,
                proxy_protocol,
                max_connections,
                max_per_host,
                max_connection_rate=max_connection_rate,
                max_handshake_rate=max_handshake_rate,
            ),
            Unsent(self.budget),
            key_pair.load() if key_pair else None,
            CrossCheck(vcenter, vcenter_check, vcenter_wait_s) if vcenter else None,
            identity_issuer,
        )
        self.certificate = ServerCertificate(self._services, key_pair)
        self.budget.add_all(contract.tables(driver, driver.tables()))
        if fleet:
            self.budget.add("fleet", Fixed(lambda: fleet.kept_bytes))
            self._services.uses = FleetUses(fleet)
        self._services.window_s = userdata_window_s or 0.0
        if fleet:
            self._services.ledger.book = FleetLedger(fleet)
        elif ledger:
            self._services.ledger.book = LedgerOnDisk(ledger)
        if vcenter:
            self.budget.add("vcenter", Fixed(lambda: vcenter.kept_bytes))
        exchange = _exchange(fleet, vmotion_key, self._services)
        self.connections = OpenConnections(self._services, exchange)
        self.budget.add("connections", Fixed(lambda: self.connections.kept_bytes))
        self._entrance = Entrance(self._services, self.budget, lambda: len(self.connections))
        self._health = Health(driver)
        self.hooks = Hooks(driver)
        self._servers: list[Acceptor] = []
        # Counters of others.
        self.counted_beside: list[Callable[[], Mapping[Key, int]]] = [
            self._services.lookup.prepared.counted
        ]
        if on_disk:
            self.counted_beside.append(on_disk.counts)
        self.gauged_beside: list[Callable[[], Mapping[gauges.Gauge, float]]] = []  # likewise
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
            gauges.OUTCOME: self._services.outcomes,
        }
        now = {
            gauges.CONNECTIONS: len(self.connections),
            gauges.MAX_CONNECTIONS: self.max_connections,
            gauges.UNIDENTIFIED: len(self._services.admission.unidentified),
            gauges.LOOKUPS_WAITING: lookup.waiting,
            gauges.LOOKUPS_RUNNING: lookup.running,
            gauges.ANSWERS: lookup.waiting + lookup.running + len(self._services.unsent),
            gauges.PREPARED: self.prepared.count if self.prepared else 0,
            gauges.MOVES: len(self._services.policy.moves),
            gauges.DESCRIPTORS: open_descriptors(),
            gauges.MAX_DESCRIPTORS: descriptor_limit(),
            **self.budget.gauges,
            **{key: value for beside in self.gauged_beside for key, value in beside().items()},
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

    def start(self, open_ones: Mapping[str, int] = MappingProxyType({})) -> None:
        """Listen and accept; raise ConfigError if an address is not available. Use the listening
        sockets that the program before an upgrade has left open, by address."""
        for listener in listen_on(self._listen, reuse_port=self._reuse_port, open_ones=open_ones):
            server = Acceptor(
                listener,
                self.connections.begin,
                self.connections.serve,
                self._entrance.admits,
                self._entrance.frees_descriptor,
                self._entrance.refuse_without_descriptor,
            )
            server.start()
            self._servers.append(server)
        self._services.lookup.watch()

    # Upgrade

    def pause(self) -> None:
        """Accept no more, and close the connections with TLS, which cannot go on in another
        program, when their answers under way are finished."""
        for server in self._servers:
            server.stop_accepting()
        for connection in self.connections.with_tls:
            connection.drain()
        self._wait_while(
            lambda: any(one.is_busy for one in self.connections.with_tls), self._drain_s
        )
        self._wait_while(lambda: bool(self.connections.with_tls), FAREWELL_S)
        self.connections.hold_moves()
        ledger = self._services.ledger
        ledger.is_held = True
        self._wait_while(lambda: ledger.book.is_busy, LATE_S)
        self._wait_while(lambda: self.connections.are_asking, CLAIM_S + HAND_OVER_S)

    def go_on(self) -> None:
        """Accept again: there was no upgrade."""
        self.connections.release_moves()
        self._services.ledger.is_held = False
        for server in self._servers:
            server.start_accepting()

    def state(self) -> tuple[State, list[int]]:
        """Return what a server of the next program needs to go on, and the descriptors in it. Call
        it between two turns of the hub."""
        with collector_off():
            state, descriptors = serverstate.state_of(self._services, self.connections)
        listeners = {
            str(address): server.socket.fileno()
            for address, server in zip(self._listen, self._servers, strict=True)
        }
        figures = self.figures.past().pack()
        handed = {"listeners": listeners, "figures": figures, "connections": state}
        return handed, [*listeners.values(), *descriptors]

    def restore(self, state: State) -> tuple[int, int]:
        """Go on from a state, once started; return how many connections do, and how many cannot.
        Raise InvalidState or ValueError."""
        serverstate.take_figures(self._services, Figures.unpack(state["figures"]))
        spawn, connections = self._servers[0].do_handle, state["connections"]
        return serverstate.restore(self._services, self.connections, connections, spawn)

    def change(self, **settings: Any) -> None:
        """Change settings, by the constructor's names; no connection is closed.

        Who may connect, the URIs and the certificate apply to new connections. A new `key_pair` is
        where later certificates are read from; `certificate` puts one into use.
        """
        for name, value in settings.items():
            match name:
                case "memory_budget":
                    self.budget.change(value)
                case "drain_s":
                    self._drain_s = value
                case "key_pair":
                    self.certificate.change(value)
                case _:
                    _change(self._services, name, value)

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
        log.info("stopping: %s", counted(len(self.connections), "connection"))
        self._services.policy.moves.is_draining = True
        self.connections.release_moves()
        for connection in self.connections:
            connection.drain()
        self._wait_while(lambda: self.connections.are_answering, self._drain_s)
        self._wait_while(lambda: bool(self.connections), FAREWELL_S)
        for connection in self.connections:
            connection.close()
        while self.connections:
            gevent.sleep(0.001)
        self._health.stop()
        self.hooks.close()
        if self._services.uses:
            self._services.uses.close()
        self._services.ledger.book.close()
        self._services.deadlines.close()
        self._services.lookup.close()
        log.debug("stopped")

    def _wait_while(self, condition: Callable[[], bool], limit_s: float) -> None:
        """Wait while `condition` is true, for at most `limit_s`, or until a second stop."""
        clock = RunningClock(_POLL_S)
        end_s = clock.now_s() + limit_s
        while condition() and clock.now_s() < end_s and not self._hurry.is_set():
            self._hurry.wait(_POLL_S)


def _move_secrets(key: bytes | None) -> KeyedSecrets | RandomSecrets:
    if key:
        return KeyedSecrets(key, secrets.token_bytes, time.time)
    return RandomSecrets(secrets.token_bytes)


def _exchange(link: FleetLink | None, key: bytes | None, services: Services) -> Exchange | None:
    """Return what connects the moves here with those of other processes, if anything does."""
    if not (link and key):
        return None
    # It needs cryptography, of the extra `fleet`.
    from vmw_cloudinit_metadata.serving.fleetmoves import FleetMoves

    return FleetMoves(link, key, services.deadlines)


def _change(shared: Services, name: str, value: Any) -> None:
    """Change a setting that connections share."""
    admission = shared.admission
    match name:
        case "uris":
            shared.policy = replace(shared.policy, uris=frozenset(value))
        case "identity_keys":
            shared.policy = replace(shared.policy, identity_keys=value)
        case "requires_proof":
            shared.policy = replace(shared.policy, requires_proof=value)
        case "identity_issuer":
            shared.issuer = value
        case "vcenter_check" | "vcenter_wait_s":
            if shared.vcenter:  # else there is no vCenter
                shared.vcenter.change(name, value)
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
        case "max_connection_rate":
            admission.connection_rate.per_s = value
        case "max_handshake_rate":
            admission.handshake_rate.per_s = value
        case "userdata_window_s":
            shared.window_s = value or 0.0
        case "max_move_rate":
            shared.policy.moves.rate.per_s = value
        case "lookup_timeout_s":
            shared.lookup.run_timeout_s = value
        case _:
            raise TypeError(f"{name} cannot be changed while the server runs")
