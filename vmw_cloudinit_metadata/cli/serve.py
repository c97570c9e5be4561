"""Run the server of `run`: in this process, or in workers under a parent."""

from __future__ import annotations

import gc
import logging
import secrets
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gevent

from vmw_cloudinit_metadata.admin.adminport import AdminPort, Serving
from vmw_cloudinit_metadata.drivers.preparedanswers import PreparedKeeper
from vmw_cloudinit_metadata.drivers.warming.preparedlog import PreparedLog
from vmw_cloudinit_metadata.monitoring import gauges, logs, uncaught
from vmw_cloudinit_metadata.monitoring.audit import Audit
from vmw_cloudinit_metadata.monitoring.counters import Key
from vmw_cloudinit_metadata.monitoring.happenings import Listener
from vmw_cloudinit_metadata.process import notify
from vmw_cloudinit_metadata.process.budget import Budget, Fixed
from vmw_cloudinit_metadata.process.hup import Reload, Take
from vmw_cloudinit_metadata.process.workers import Parent
from vmw_cloudinit_metadata.serving.catalogue import Catalogue
from vmw_cloudinit_metadata.serving.preparedfollower import PreparedFollower
from vmw_cloudinit_metadata.serving.reporter import Reporter
from vmw_cloudinit_metadata.serving.server import MetadataServer
from vmw_cloudinit_metadata.serving.surveyprocess import SurveyProcess
from vmw_cloudinit_metadata.settings.reload import Configuration, SettingsChange
from vmw_cloudinit_metadata.settings.values import Address

log = logging.getLogger(__name__)

# Limits that the workers share.
_DIVIDED = (
    *("max_connections", "max_per_host", "max_pending_moves"),
    *("max_connection_rate", "max_handshake_rate", "max_move_rate"),
)


@dataclass(frozen=True, slots=True)
class Service:
    """What to run, in one process or in several."""

    make: Callable[..., MetadataServer]  # makes a server from addresses and settings
    listen: Sequence[Address]
    announce: Callable[[Sequence[Address]], None]  # called when all addresses are listening
    admin: AdminPort | None
    configuration: Configuration
    audit_log: Path | None
    # Makes what surveys the data with so much memory, and prepares answers; None: nothing does.
    survey: Callable[[int, Catalogue, PreparedKeeper | None], SurveyProcess] | None
    prepared_bytes: int  # for prepared answers; 0: none are prepared


def serve(service: Service, workers: int) -> Counter[Key]:
    """Serve until TERM or INT; return the counters."""
    return _serve_alone(service) if workers == 1 else _serve_by_workers(service, workers)


def _serve_alone(service: Service) -> Counter[Key]:
    configuration, admin = service.configuration, service.admin
    server = service.make(service.listen, **configuration.settings)
    audit = _audit(service.audit_log, server)

    def stop() -> None:
        notify.stopping()
        server.ask_to_stop()

    def read() -> Take:
        change = configuration.read()
        return _change_of(server, configuration, change, change.changes)

    def begin() -> None:
        notify.reloading()
        if audit:
            audit.reopen()

    if server.prepared:
        server.prepared.limit_bytes = service.prepared_bytes
    survey = _survey(service, server.budget, server.counted_beside, server.prepared)

    def end_reload() -> None:
        notify.reloaded()
        if survey:
            survey.ask()

    _handle_signals(stop, Reload(read, begin, end_reload))
    notify.keep_alive()
    if admin:
        admin.keep_within(server.budget)
        _report_to(admin.hear, server)
    _freeze_heap()
    _gather_log(server)
    server.start()
    service.announce(server.addresses)
    with _open(admin, server), _surveyed(survey):
        server.serve_until_stopped()
    if audit:
        audit.flush()
    return server.figures.counters


def _serve_by_workers(service: Service, count: int) -> Counter[Key]:
    configuration, admin = service.configuration, service.admin
    vmotion_key = configuration.settings["vmotion_key"] or secrets.token_bytes(32)
    prepared = _prepared_log(service)
    parent = Parent(
        count,
        service.listen,
        partial(_work, service, count, vmotion_key, prepared),
        lambda: float(configuration.settings["drain_s"]),
        memory_budget=configuration.settings["memory_budget"],
    )
    parent.counted_beside.append(logs.shed)

    def read() -> Take:
        change = configuration.read()

        def take() -> None:
            configuration.take(change)
            parent.budget.change(configuration.settings["memory_budget"])
            parent.reload()

        return take

    survey = _survey(service, parent.budget, parent.counted_beside, prepared)
    if prepared:
        parent.budget.add("prepared answers", prepared)
        parent.shared.append(lambda: {gauges.PREPARED: prepared.count})

    def end_reload() -> None:
        notify.reloaded()
        if survey:
            survey.ask()

    if survey:
        parent.lets_go(survey.let_go)
    if admin:
        admin.keep_within(parent.budget)
        parent.lets_go(admin.let_go)
        parent.is_heard_by(admin.hear, on_end=admin.process_is_gone)
    parent.start(Reload(read, notify.reloading, end_reload))
    notify.keep_alive()
    service.announce(parent.addresses)
    with _open(admin, parent), _surveyed(survey):
        parent.watch()
    return parent.figures.counters


def _work(
    service: Service,
    count: int,
    vmotion_key: bytes,
    prepared: PreparedLog | None,
    pair: socket.socket,
    addresses: Sequence[Address],
) -> int:
    """Serve as one of `count` workers; return the exit code."""
    uncaught.catch_all()
    configuration = service.configuration
    settings = configuration.settings | {"vmotion_key": vmotion_key}
    server = service.make(addresses, reuse_port=True, **_share(settings, count))
    audit = _audit(service.audit_log, server)
    reporter = Reporter(pair, server, server.ask_to_stop)
    if service.admin:
        _report_to(reporter.hear, server)

    def read() -> Take:
        change = configuration.read()
        changes = _share(change.changes, count)
        # The parent logs the changes.
        return _change_of(server, configuration, change, changes, is_logged=False)

    on_begin = (audit.reopen,) if audit else ()
    _handle_signals(server.ask_to_stop, Reload(read, *on_begin))
    _freeze_heap()
    _gather_log(server)
    server.start()
    reporter.start()
    with _followed(prepared, server):
        server.serve_until_stopped()
    reporter.stop()
    if audit:
        audit.flush()
    return 0


@contextmanager
def _open(admin: AdminPort | None, serving: Serving) -> Iterator[None]:
    """Keep the admin port open while VMs are served."""
    if admin is None:
        yield
        return
    admin.start(serving)
    try:
        yield
    finally:
        admin.stop()


def _survey(
    service: Service,
    budget: Budget,
    counted_beside: list[Callable[[], Mapping[Key, int]]],
    prepared: PreparedKeeper | None,
) -> SurveyProcess | None:
    """Make the process that surveys the data, and what shows its findings."""
    if service.survey is None:
        return None
    catalogue = Catalogue()
    survey = service.survey(budget.limit_bytes, catalogue, prepared)
    budget.add("catalogue", Fixed(lambda: catalogue.kept_bytes))
    counted_beside.append(survey.counted)
    if service.admin:
        service.admin.show(catalogue)
    return survey


@contextmanager
def _surveyed(survey: SurveyProcess | None) -> Iterator[None]:
    """Survey the data while VMs are served."""
    if survey is None:
        yield
        return
    survey.start()
    try:
        yield
    finally:
        survey.stop()


def _prepared_log(service: Service) -> PreparedLog | None:
    """Make what workers share of what is prepared, before they are forked."""
    if service.survey is None or not service.prepared_bytes:
        return None
    try:
        return PreparedLog(service.prepared_bytes)
    except OSError as error:
        log.warning("no answers are prepared: no memory can be shared: %s", error.strerror)
        return None


@contextmanager
def _followed(prepared: PreparedLog | None, server: MetadataServer) -> Iterator[None]:
    """Let a worker give what was prepared, if its driver can."""
    if prepared is None or server.prepared is None:
        yield
        return
    follower = PreparedFollower(prepared, server.prepared)
    follower.start()
    try:
        yield
    finally:
        follower.stop()


def _audit(path: Path | None, server: MetadataServer) -> Audit | None:
    """Write an audit log for `server`, if the settings name one."""
    if path is None:
        return None
    audit = Audit(path)
    server.happenings.listeners.append(audit.hear)
    server.counted_beside.append(audit.shed)
    return audit


def _gather_log(server: MetadataServer) -> None:
    logs.gather(server.happenings)
    server.counted_beside.append(logs.shed)


def _report_to(listener: Listener, server: MetadataServer) -> None:
    server.happenings.listeners.append(listener)
    server.watch_driver()


def _freeze_heap() -> None:
    """Exempt all present objects from garbage collection, and collect the rest rarely.

    A collection stops every VM. Closed connections leave no cycles (`make fuzz` counts them).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _share(settings: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Divide shared limits by the number of workers, rounding up; return all settings."""
    return {
        name: -(-value // count) if name in _DIVIDED else value for name, value in settings.items()
    }


def _change_of(
    server: MetadataServer,
    configuration: Configuration,
    change: SettingsChange,
    changes: Mapping[str, Any],
    *,
    is_logged: bool = True,
) -> Take:
    """Read the certificate too; return the function that applies the change in the hub."""
    certificate = server.read_certificate(changes.get("key_pair"))

    def take() -> None:
        configuration.take(change, is_logged=is_logged)
        server.change(**changes)
        server.take_certificate(certificate)

    return take


def _handle_signals(stop: Callable[[], None], reload: Reload) -> None:
    """Handle TERM, INT and HUP; HUP was blocked until now (__main__.py)."""
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop)
    gevent.signal_handler(signal.SIGHUP, reload.ask)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
