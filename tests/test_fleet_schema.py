"""Migrations of the fleet's schema, while its tables are in use."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.fleet import rows
from tests.process import Constants
from tests.servers.postgresql import PostgresqlBackend
from tests.waiting import wait_until
from vmw_cloudinit_metadata.process.fleet import fleetschema
from vmw_cloudinit_metadata.process.fleet.migrations import MIGRATIONS, Migration

pytestmark = pytest.mark.slow

NEXT = len(MIGRATIONS) + 1
COLUMN = Migration(NEXT, "a column", ["ALTER TABLE vmw_fleet.servers ADD COLUMN more text"])
INDEX = Migration(
    NEXT + 1,
    "an index",
    ["CREATE INDEX CONCURRENTLY IF NOT EXISTS servers_by_name ON vmw_fleet.servers (name)"],
    is_concurrent=True,
)
LONGEST_S = 0.45  # that a writer may wait: LOCK_S, and its own time on a busy machine


@pytest.fixture
def further(constants: Constants) -> None:
    constants(process__fleet__migrations__MIGRATIONS=(*MIGRATIONS, COLUMN, INDEX))


@contextmanager
def written_to(url: str) -> Iterator[list[float]]:
    """Write heartbeats all the time; the list has how long each took."""
    took: list[float] = []
    is_over = threading.Event()

    def write() -> None:
        with psycopg.connect(url, autocommit=True) as db:
            while not is_over.is_set():
                begun_s = time.monotonic()
                db.execute("UPDATE vmw_fleet.servers SET heartbeat = clock_timestamp()")
                took.append(time.monotonic() - begun_s)
                time.sleep(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield took
    finally:
        is_over.set()
        writer.join()


def put_server(backend: PostgresqlBackend) -> None:
    with backend.admin("vms") as db:
        db.execute("INSERT INTO vmw_fleet.servers VALUES ('id', 'server1', '1', now(), now())")


def applied(url: str) -> list[int]:
    with fleetschema.connected(url) as connection:
        return [migration.version for migration in fleetschema.migrate(connection)]


@pytest.mark.usefixtures("further")
def test_migration_holds_no_server_up(fleet_database: PostgresqlBackend) -> None:
    """Although a transaction has the table locked against it, at first."""
    put_server(fleet_database)
    with written_to(fleet_database.url) as took:
        with psycopg.connect(fleet_database.url) as long:
            long.execute("LOCK TABLE vmw_fleet.servers IN ROW SHARE MODE")
            timer = threading.Timer(1.5, long.commit)
            timer.start()
            begun_s = time.monotonic()
            assert applied(fleet_database.url) == [COLUMN.version, INDEX.version]
            assert time.monotonic() - begun_s > 1.0
            timer.join()
        wait_until(lambda: len(took) > 100)
        assert max(took) < LONGEST_S
    assert applied(fleet_database.url) == []


@pytest.mark.usefixtures("further")
def test_lock_that_is_never_free_leaves_all_as_it_was(
    fleet_database: PostgresqlBackend, constants: Constants
) -> None:
    constants(process__fleet__fleetschema__TRIES=2)
    with psycopg.connect(fleet_database.url) as long:
        long.execute("LOCK TABLE vmw_fleet.servers IN ROW SHARE MODE")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            applied(fleet_database.url)
    found = rows(fleet_database, "SELECT max(version) FROM vmw_fleet.schema_version")
    assert found == [(NEXT - 1,)]
    assert applied(fleet_database.url) == [COLUMN.version, INDEX.version]


@pytest.mark.usefixtures("further")
def test_index_that_an_interruption_has_left_is_made_again(
    fleet_database: PostgresqlBackend,
) -> None:
    put_server(fleet_database)
    with fleet_database.admin("vms") as db, psycopg.connect(fleet_database.url) as long:
        long.execute("UPDATE vmw_fleet.servers SET name = 'other'")  # which the index waits for
        db.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            db.execute(INDEX.statements[0])
    invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
    assert rows(fleet_database, invalid) == [(1,)]
    assert applied(fleet_database.url) == [COLUMN.version, INDEX.version]
    assert rows(fleet_database, invalid) == [(0,)]
