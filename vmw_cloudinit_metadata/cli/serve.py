"""How `run` serves: in this process, or in several under a parent."""

from __future__ import annotations

import gc
import ipaddress
import logging
import secrets
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gevent

from vmw_cloudinit_metadata.admin.adminport import AdminPort, Serving
from vmw_cloudinit_metadata.monitoring import logs, uncaught
from vmw_cloudinit_metadata.monitoring.audit import Audit
from vmw_cloudinit_metadata.monitoring.counters import Key
from vmw_cloudinit_metadata.monitoring.happenings import Listener
from vmw_cloudinit_metadata.process import notify
from vmw_cloudinit_metadata.process.reload import Reload, Take
from vmw_cloudinit_metadata.process.workers import Parent
from vmw_cloudinit_metadata.serving.reporter import Reporter
from vmw_cloudinit_metadata.serving.server import MetadataServer
from vmw_cloudinit_metadata.settings.running import Change, Configuration
from vmw_cloudinit_metadata.settings.values import Address

log = logging.getLogger(__name__)
start_log = logging.getLogger(f"{__name__}.start")  # shown at every log level

# Makes a server for these addresses, with these settings.
Make = Callable[..., MetadataServer]
Announce = Callable[[Sequence[Address]], None]

_DIVIDED = (
    *("max_connections", "max_per_host", "max_pending_moves"),
    *("max_connection_rate", "max_handshake_rate", "max_move_rate"),
)


def serve_alone(
    make: Make,
    listen: Sequence[Address],
    announce: Announce,
    admin: AdminPort | None,
    configuration: Configuration,
    audit_log: Path | None,
) -> Counter[Key]:
    """Serves until TERM or INT; returns what was counted."""
    server = make(listen, **configuration.settings)
    audit = _audit(audit_log, server)

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

    _obey_signals(stop, Reload(read, begin, notify.reloaded))
    notify.keep_alive()
    if admin:
        admin.keep_within(server.budget)
        _report_to(admin.hear, server)
    _settle_heap()
    _gather_log(server)
    server.start()
    announce(server.addresses)
    with _open(admin, server):
        server.serve_until_stopped()
    if audit:
        audit.flush()
    return server.figures.counters


def serve_by_workers(
    make: Make,
    listen: Sequence[Address],
    announce: Announce,
    admin: AdminPort | None,
    count: int,
    configuration: Configuration,
    audit_log: Path | None,
) -> Counter[Key]:
    """The same, with `count` processes, each of which has its share of the limits."""
    key = configuration.settings["vmotion_key"] or secrets.token_bytes(32)
    make = partial(make, reuse_port=True)
    work = partial(_work, make, configuration, audit_log, count, key, tells_all=admin is not None)
    parent = Parent(
        count,
        listen,
        work,
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

    if admin:
        admin.keep_within(parent.budget)
        parent.is_heard_by(admin.hear, on_end=admin.process_is_gone, let_go=admin.let_go)
    parent.start(Reload(read, notify.reloading, notify.reloaded))
    notify.keep_alive()
    announce(parent.addresses)
    with _open(admin, parent):
        parent.watch()
    return parent.figures.counters


@contextmanager
def _open(admin: AdminPort | None, serving: Serving) -> Iterator[None]:
    """Has the admin port open for as long as VMs are served."""
    if admin is None:
        yield
        return
    admin.start(serving)
    try:
        yield
    finally:
        admin.stop()


def _audit(path: Path | None, server: MetadataServer) -> Audit | None:
    """Has what `server` does in the audit stream, if there is to be one."""
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


def _work(
    make: Make,
    configuration: Configuration,
    audit_log: Path | None,
    count: int,
    vmotion_key: bytes,
    pair: socket.socket,
    addresses: Sequence[Address],
    *,
    tells_all: bool,
) -> int:
    """What a worker does; returns its exit code."""
    uncaught.catch_all()
    settings = configuration.settings | {"vmotion_key": vmotion_key}
    server = make(addresses, **_share(settings, count))
    audit = _audit(audit_log, server)
    reporter = Reporter(pair, server, server.ask_to_stop)
    if tells_all:
        _report_to(reporter.hear, server)

    def read() -> Take:
        change = configuration.read()
        changes = _share(change.changes, count)
        return _change_of(server, configuration, change, changes, is_told=False)  # by the parent

    on_begin = (audit.reopen,) if audit else ()
    _obey_signals(server.ask_to_stop, Reload(read, *on_begin))
    _settle_heap()
    _gather_log(server)
    server.start()
    reporter.start()
    server.serve_until_stopped()
    reporter.stop()
    if audit:
        audit.flush()
    return 0


def _settle_heap() -> None:
    """What is there at the start stays, so the collector, which holds up everybody, need not look
    at it again; and seldom at the rest: connections leave no cycles (`make fuzz` counts)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _share(settings: Mapping[str, Any], count: int) -> dict[str, Any]:
    """One worker's share of what is divided among `count`, rounded up; the rest as it is."""
    return {
        name: -(-value // count) if name in _DIVIDED else value for name, value in settings.items()
    }


def _change_of(
    server: MetadataServer,
    configuration: Configuration,
    change: Change,
    changes: Mapping[str, Any],
    *,
    is_told: bool = True,
) -> Take:
    """Reads the certificate too, and returns what then is to be done in the hub."""
    certificate = server.read_certificate(changes.get("key_pair"))

    def take() -> None:
        configuration.take(change, is_told=is_told)
        server.change(**changes)
        server.take_certificate(certificate)

    return take


def _obey_signals(stop: Callable[[], None], reload: Reload) -> None:
    """HUP too, which is blocked from the first line of the program on (__main__.py)."""
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop)
    gevent.signal_handler(signal.SIGHUP, reload.ask)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])


def tell_who_may_connect(addresses: Sequence[Address], has_allow: bool) -> None:
    if not has_allow and not all(map(_is_loopback, addresses)):
        start_log.warning(
            "EVERYONE who can reach %s may ask for the data of any VM: "
            "name the networks of your ESXi hosts with --allow",
            ", ".join(map(str, addresses)),
        )


def _is_loopback(address: Address) -> bool:
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return address.host == "localhost"
