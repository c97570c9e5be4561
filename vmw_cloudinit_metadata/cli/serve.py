"""Run the server of `run`: in this process, or in workers under a parent."""

from __future__ import annotations

import gc
import logging
import secrets
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

from vmw_cloudinit_metadata.admin.adminport import AdminPort, AdminSettings, Serving
from vmw_cloudinit_metadata.cli import upgrading
from vmw_cloudinit_metadata.cli.upgrading import (
    Alone,
    Children,
    OneWorker,
    WholeParent,
    WorkerState,
)
from vmw_cloudinit_metadata.drivers.preparedanswers import PreparedKeeper
from vmw_cloudinit_metadata.drivers.warming.preparedlog import PreparedLog
from vmw_cloudinit_metadata.monitoring import gauges, logs, uncaught
from vmw_cloudinit_metadata.monitoring.audit import Audit
from vmw_cloudinit_metadata.monitoring.counters import Key
from vmw_cloudinit_metadata.monitoring.happenings import Listener
from vmw_cloudinit_metadata.process import notify, upgradecheck, upgradereport
from vmw_cloudinit_metadata.process.budget import Budget, Fixed
from vmw_cloudinit_metadata.process.fleet.fleetlink import FleetLink
from vmw_cloudinit_metadata.process.fleet.fleetprocess import FleetProcess, FleetSettings
from vmw_cloudinit_metadata.process.hup import Reload, Take
from vmw_cloudinit_metadata.process.signals import STOPPING, Signals
from vmw_cloudinit_metadata.process.upgrade import Upgradable, Upgrade
from vmw_cloudinit_metadata.process.upgradefile import Handed
from vmw_cloudinit_metadata.process.upgradereport import UPGRADE, UpgradeOutcome
from vmw_cloudinit_metadata.process.vcenter.vcenterlink import VcenterLink
from vmw_cloudinit_metadata.process.vcenter.vcenterprocess import VcenterProcess, VcenterSettings
from vmw_cloudinit_metadata.process.workers import Parent, free_addresses, run_worker
from vmw_cloudinit_metadata.serving.answerregister import AnswerRegister
from vmw_cloudinit_metadata.serving.catalogue import Catalogue
from vmw_cloudinit_metadata.serving.preparedfollower import PreparedFollower
from vmw_cloudinit_metadata.serving.reporter import Reporter
from vmw_cloudinit_metadata.serving.server import MetadataServer
from vmw_cloudinit_metadata.serving.surveyprocess import SurveyProcess
from vmw_cloudinit_metadata.settings.errors import ConfigError
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
    admin: AdminSettings | None
    configuration: Configuration
    audit_log: Path | None
    # Makes what surveys the data with so much memory, and prepares answers; None: nothing does.
    survey: Callable[[int, Catalogue, PreparedKeeper | None], SurveyProcess] | None
    prepared_bytes: int  # for prepared answers; 0: none are prepared
    fleet: FleetSettings | None  # None: the server is alone
    vcenter: VcenterSettings | None  # None: nothing is read of any vCenter
    before: Handed | None = None  # what the program before an upgrade has left


class Runnable(Protocol):
    """A part of the server that runs beside it."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


def serve(service: Service, workers: int) -> Counter[Key]:
    """Serve until TERM or INT; return the counters. After an upgrade, processes keep their
    roles."""
    before = service.before
    if before and "worker" in before:
        go_on_as_worker(service, before)
    is_alone = "parent" not in before if before else workers == 1
    if is_alone and workers > 1:
        log.warning("upgrade: a change of --workers takes effect at the next start")
    return _serve_alone(service) if is_alone else _serve_by_workers(service, workers)


def _serve_alone(service: Service) -> Counter[Key]:
    configuration = service.configuration
    fleet, vcenter = _fleet_process(service), _vcenter_process(service)
    server = service.make(
        service.listen,
        fleet=fleet.link if fleet else None,
        vcenter=vcenter.link if vcenter else None,
        **configuration.settings,
    )
    admin = _admin_port(service)  # the memory of its list is not the program's (Budget)
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
    survey = _survey(service, admin, server.budget, server.counted_beside, server.prepared)
    children = Children(survey, fleet, vcenter)
    children.join(server.counted_beside, server.gauged_beside)

    def end_reload() -> None:
        notify.reloaded()
        children.read_again()

    signals = Signals(service.before["signals"] if service.before else None)
    whole = Alone(server, admin, children, audit)
    upgrade = _upgrade(service, whole, signals, fleet)
    _handle_signals(signals, stop, Reload(read, begin, end_reload))
    signals.handle({UPGRADE: upgrade.ask})
    notify.keep_alive()
    if admin:
        admin.keep_within(server.budget)
        admin.vcenter = vcenter
        if fleet:
            admin.join(fleet)
        _report_to(admin.hear, server)
    _freeze_heap()
    _gather_log(server)
    taken_over = upgrading.begin(server, service.before)
    service.announce(server.addresses)
    with _running(fleet), _running(vcenter), _open(admin, server), _running(survey):
        if taken_over:
            upgrading.report(taken_over)
        server.serve_until_stopped()
    if audit:
        audit.flush()
    return server.figures.counters


def _serve_by_workers(service: Service, count: int) -> Counter[Key]:
    configuration, before = service.configuration, service.before
    about = _worker_state(service, count)
    prepared = _prepared_log(service, about)
    fleet, vcenter = _fleet_process(service), _vcenter_process(service, about.vcenter)
    added = about.added(fleet, vcenter) if before else ""
    about = replace(
        about,
        prepared=prepared.followed if prepared else None,
        fleet=fleet.address if fleet else None,
        vcenter=vcenter.address if vcenter else None,
    )
    parent = Parent(
        about.count,
        about.addresses,
        lambda pair, number: _work(service, replace(about, pair=pair, number=number)),
        lambda: float(configuration.settings["drain_s"]),
        memory_budget=configuration.settings["memory_budget"],
    )
    parent.counted_beside.append(logs.shed)
    admin = _admin_port(service)  # the memory of its list is not the program's (Budget)

    def read() -> Take:
        change = configuration.read()

        def take() -> None:
            configuration.take(change)
            parent.budget.change(configuration.settings["memory_budget"])
            parent.reload()

        return take

    survey = _survey(service, admin, parent.budget, parent.counted_beside, prepared)
    if prepared:
        parent.budget.add("prepared answers", prepared)
        parent.shared.append(lambda: {gauges.PREPARED: prepared.count})

    children = Children(survey, fleet, vcenter)
    children.join(parent.counted_beside, parent.shared)
    parent.lets_go(children.let_go)

    def end_reload() -> None:
        notify.reloaded()
        children.read_again()

    if fleet:
        parent.budget.add("fleet", Fixed(lambda: fleet.link.kept_bytes))
    if vcenter:
        parent.budget.add("vcenter", Fixed(lambda: vcenter.link.kept_bytes))
    if admin:
        admin.keep_within(parent.budget)
        admin.vcenter = vcenter
        if fleet:
            admin.join(fleet)
        parent.lets_go(admin.let_go)
        parent.is_heard_by(admin.hear, on_end=admin.process_is_gone)
    if before:
        parent.adopt(before["parent"])
    whole = WholeParent(
        parent,
        admin,
        children,
        about,
        lambda: float(configuration.settings["drain_s"]),
    )
    signals = Signals(before["signals"] if before else None)
    upgrade = _upgrade(service, whole, signals, fleet)
    with _running(fleet), _running(vcenter):
        parent.start(Reload(read, notify.reloading, end_reload), upgrade, signals)
        notify.keep_alive()
        service.announce(parent.addresses)
        with _open(admin, parent), _running(survey):
            if before:
                go_on = f"{len(parent.workers)} workers go on"
                upgrading.report(f"{upgrading.from_to(before)}: {go_on}{added}")
            parent.watch()
    return parent.figures.counters


def _worker_state(service: Service, count: int) -> WorkerState:
    """Return what `count` workers are started with, or those of the program before an upgrade."""
    if service.before:
        about = WorkerState.read(service.before["parent"])
        for option in about.changed(count, service.listen):
            log.warning("upgrade: a change of %s takes effect at the next start", option)
        return about
    addresses, vmotion_key = free_addresses(service.listen), secrets.token_bytes(32)
    return WorkerState(count, addresses, vmotion_key, _register_of(count))


def go_on_as_worker(service: Service, before: Handed) -> NoReturn:
    """Serve as a worker that was upgraded; `before` is what the program before has left."""
    about = WorkerState.read(before["worker"])
    assert about.pair
    run_worker(about.pair, lambda pair: _work(service, replace(about, pair=pair)))


def _work(service: Service, about: WorkerState) -> int:
    """Serve as a worker; return the exit code."""
    assert about.pair
    uncaught.catch_all()
    configuration, count = service.configuration, about.count
    settings = dict(configuration.settings)
    settings["vmotion_key"] = settings["vmotion_key"] or about.vmotion_key
    settings["register"] = about.register.of_worker(about.number)
    settings["fleet"] = link = FleetLink(about.fleet) if about.fleet else None
    vcenter = VcenterLink(about.vcenter) if service.vcenter and about.vcenter else None
    settings["vcenter"] = vcenter
    is_first = about.number == 0  # it says what is true of all
    server = service.make(
        about.addresses, reuse_port=True, is_first=is_first, **_share(settings, count)
    )
    audit = _audit(service.audit_log, server)
    reporter = Reporter(about.pair, server, server.ask_to_stop, lambda: upgrade.ask())
    if service.admin:
        _report_to(reporter.hear, server)

    def read() -> Take:
        change = configuration.read()
        changes = _share(change.changes, count)
        # The parent logs the changes.
        return _change_of(server, configuration, change, changes, is_logged=False)

    on_begin = (audit.reopen,) if audit else ()
    one = OneWorker(server, reporter, audit, about)
    before = service.before if service.before and "worker" in service.before else None
    signals = Signals(before["signals"] if before else None)
    upgrade = Upgrade(one, signals, reporter.tell_upgrade, check=None)
    # Its parent upgrades it. The signal, from elsewhere, would do so without a check.
    signal.signal(UPGRADE, signal.SIG_IGN)
    _handle_signals(signals, server.ask_to_stop, Reload(read, *on_begin))
    _freeze_heap()
    _gather_log(server)
    taken_over = upgrading.begin(server, before)
    reporter.start()
    if before:
        log.info("%s", taken_over)
        reporter.tell_upgrade(UpgradeOutcome(is_done=True, text=taken_over))
    if link:
        server.counted_beside.append(link.counted)
        link.start()
    reached = closing(link) if link else nullcontext()
    with reached, _running(vcenter), _running(_follower(about, server)):
        server.serve_until_stopped()
    reporter.stop()
    if audit:
        audit.flush()
    return 0


def _admin_port(service: Service) -> AdminPort | None:
    before = service.before.get("admin") if service.before else None
    return AdminPort(service.admin, before) if service.admin else None


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


def _fleet_process(service: Service) -> FleetProcess | None:
    """Make what reaches the fleet; workers that go on after an upgrade find it where it was."""
    if service.fleet is None:
        return None
    before: Mapping[str, Any] = service.before or {}
    if "parent" in before and "fleet" not in before:
        log.warning("upgrade: workers take part in the fleet at the next start")
    return FleetProcess(service.fleet, before.get("fleet"))


def _vcenter_process(service: Service, address: str | None = None) -> VcenterProcess | None:
    """Make what reads vCenter; workers that go on after an upgrade find it where it was."""
    if service.vcenter is None:
        return None
    if service.before and "parent" in service.before and address is None:
        log.warning("upgrade: workers ask vCenter at the next start")
    return VcenterProcess(service.vcenter, address)


@contextmanager
def _running(part: Runnable | None) -> Iterator[None]:
    """Let a part of the server run while VMs are served."""
    if part is None:
        yield
        return
    part.start()
    try:
        yield
    finally:
        part.stop()


def _survey(
    service: Service,
    admin: AdminPort | None,
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
    if admin:
        admin.show(catalogue)
    return survey


def _prepared_log(service: Service, about: WorkerState) -> PreparedLog | None:
    """Make what workers share of what is prepared, before they are forked. After an upgrade there
    is only the log that they follow."""
    followed = about.prepared
    if service.survey is None or not service.prepared_bytes or (service.before and not followed):
        return None
    try:
        return PreparedLog(service.prepared_bytes, followed.file if followed else None)
    except OSError as error:
        log.warning("no answers are prepared: no memory can be shared: %s", error.strerror)
        return None


def _register_of(workers: int) -> AnswerRegister:
    """Make the register of answers, before the workers are forked; raise ConfigError."""
    try:
        return AnswerRegister.of(workers)
    except OSError as error:
        text = f"--workers {workers}: no memory for the register of answers: {error.strerror}"
        raise ConfigError(text) from error


def _follower(about: WorkerState, server: MetadataServer) -> PreparedFollower | None:
    """Return what lets a worker give what was prepared, if its driver can."""
    if about.prepared is None or server.prepared is None:
        return None
    return PreparedFollower(about.prepared, server.prepared)


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
    certificate = server.certificate.read(changes.get("key_pair"))

    def take() -> None:
        configuration.take(change, is_logged=is_logged)
        server.change(**changes)
        server.certificate.take(certificate)

    return take


def _upgrade(
    service: Service, whole: Upgradable, signals: Signals, fleet: FleetProcess | None
) -> Upgrade:
    """Return what upgrades this process when the operator asks for it."""
    listening = [str(address) for address in service.listen]

    def check(command: Sequence[str]) -> str:
        found = upgradecheck.check(command, listening)
        if fleet:
            fleet.is_leaving = not found.has_fleet
        return found.version

    return Upgrade(whole, signals, upgradereport.tell, check)


def _handle_signals(signals: Signals, stop: Callable[[], None], reload: Reload) -> None:
    """Handle TERM, INT, and HUP, which was blocked until now (__main__.py)."""
    signals.handle({**dict.fromkeys(STOPPING, stop), signal.SIGHUP: reload.ask})
