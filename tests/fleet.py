"""A fleet's database for tests, and fleet processes in this process's hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.process import ServerProcess, run, with_constants
from tests.servers.postgresql import PostgresqlBackend
from tests.waiting import wait_in_hub_until
from vmw_cloudinit_metadata.process.fleet.fleetlink import FleetLink
from vmw_cloudinit_metadata.process.fleet.fleetprocess import FleetProcess, FleetSettings
from vmw_cloudinit_metadata.process.fleet.frames import Fields, Reply


@pytest.fixture(scope="session")
def fleet_backend() -> Iterator[PostgresqlBackend]:
    with PostgresqlBackend() as started:
        yield started


@pytest.fixture
def fleet_database(fleet_backend: PostgresqlBackend) -> PostgresqlBackend:
    """A database that runs, with the schema of the fleet as it is new."""
    with fleet_backend.admin("vms") as db:
        db.execute("DROP SCHEMA IF EXISTS vmw_fleet CASCADE")
    done = run("fleet", "init", "--url", fleet_backend.url)
    assert done.returncode == 0, done.stderr
    return fleet_backend


@contextmanager
def two_servers(
    instances: Path, backend: PostgresqlBackend, *options: str, **constants: float
) -> Iterator[list[ServerProcess]]:
    """Servers of a fleet, which are connected with its database."""
    words, program = ("--fleet", backend.url, *options), with_constants(**constants)
    with ExitStack() as stack:
        servers = []
        for _ in range(2):
            servers.append(ServerProcess(instances, *words, command=program))
            stack.callback(servers[-1].end)
        for server in servers:
            server.wait_for("fleet: connected to")
        yield servers


def rows(backend: PostgresqlBackend, query: str) -> list[tuple[Any, ...]]:
    with backend.admin("vms") as db:
        return db.execute(query.encode()).fetchall()


@contextmanager
def fleet_of(url: str, name: str = "server1") -> Iterator[FleetProcess]:
    process = FleetProcess(FleetSettings(url, name, retention_days=30))
    process.start()
    try:
        yield process
    finally:
        process.stop()


def connects(process: FleetProcess) -> None:
    wait_in_hub_until(lambda: process.link.is_connected)


def asked(
    link: FleetLink,
    kind: str,
    fields: Fields | None = None,
    payload: bytes = b"",
    within_s: float = 5.0,
) -> Reply | None:
    """Ask, and wait for the reply."""
    found: list[Reply | None] = []
    link.ask(kind, fields or {}, payload, within_s, found.append)
    wait_in_hub_until(lambda: found)
    assert len(found) == 1
    return found[0]
