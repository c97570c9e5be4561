"""The versions of the schema in a database: read by servers, made by `fleet init` and `migrate`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.errors import LockNotAvailable

from vmw_cloudinit_metadata import __version__
from vmw_cloudinit_metadata.process.fleet import fleetdatabase, migrations
from vmw_cloudinit_metadata.process.fleet.fleetpart import SCHEMA, Lane
from vmw_cloudinit_metadata.process.fleet.migrations import MIGRATIONS, Migration

COMMAND_S = 60.0  # that TCP may be without an answer; an index may take longer
# A statement that waits for a lock holds up all servers behind it: it gives up, and tries again.
LOCK_S = 0.2
AGAIN_S = 0.3  # after that
TRIES = 40

_HAS_VERSIONS = """
    SELECT to_regclass('vmw_fleet.schema_version') IS NOT NULL,
        current_setting('server_encoding')"""
_VERSION = "SELECT max(version) FROM vmw_fleet.schema_version"
_ONE_AT_A_TIME = "SELECT pg_advisory_lock(hashtext('vmw_fleet'), hashtext('migrations'))"
_LOCK_TIMEOUT = "SELECT set_config('lock_timeout', %s, true)"  # until the transaction ends
_INVALID_INDEXES = """
    SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE NOT indisvalid AND relnamespace = to_regnamespace('vmw_fleet')"""

Connection = psycopg.Connection[tuple[object, ...]]


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """Connect for a command of an operator; raise psycopg.Error."""
    with psycopg.connect(url, autocommit=True, **fleetdatabase.parameters(COMMAND_S)) as connection:
        connection.execute("SET timezone = 'UTC'")
        yield connection


async def version_in(lane: Lane) -> int | None:
    """Return the version of the schema; None: there is none. Raise WrongSchemaError."""
    ((has_versions, encoding),) = await lane.run(_HAS_VERSIONS)
    migrations.check_encoding(encoding)
    if not has_versions:
        return None
    ((version,),) = await lane.run(_VERSION)
    return int(version) if version is not None else None


def version_of(connection: Connection) -> int | None:
    """The same for a command."""
    found = connection.execute(_HAS_VERSIONS).fetchone()
    migrations.check_encoding(str(found and found[1]))
    if not found or not found[0]:
        return None
    found = connection.execute(_VERSION).fetchone()
    return int(str(found[0])) if found and found[0] is not None else None


def begin(connection: Connection) -> None:
    """Make the schema, if there is none; raise WrongSchemaError."""
    version_of(connection)
    for statement in migrations.BEGIN:
        connection.execute(statement)


def migrate(connection: Connection) -> Iterator[Migration]:
    """Apply what the schema lacks, and yield each migration once it is applied. The connection is
    in autocommit mode. Raises psycopg.Error; what was applied stays, and the rest can be run again.
    """
    connection.execute(_ONE_AT_A_TIME)
    _drop_invalid_indexes(connection)
    version = version_of(connection) or 0
    for migration in MIGRATIONS:
        if migration.version > version:
            _apply(connection, migration)
            yield migration


def grant(connection: Connection, user: str) -> list[str]:
    """Let a user of the database serve, and return the statements."""
    statements = migrations.grants_for(quoted(user))
    with connection.transaction():
        for statement in statements:
            connection.execute(statement.encode())
    return statements


def quoted(user: str) -> str:
    return sql.Identifier(user).as_string()


def script_for(user: str | None) -> str:
    """Return all that `init` does, as SQL."""
    every = [*migrations.BEGIN]
    for migration in MIGRATIONS:
        every += [*migration.statements, _noted(migration).as_string()]
    every += migrations.grants_for(quoted(user)) if user else []
    return "".join(f"{statement.strip()};\n" for statement in every)


def _apply(connection: Connection, migration: Migration) -> None:
    if migration.is_concurrent:  # which waits for transactions, and holds nobody up
        _run(connection, migration)
        return
    for left in reversed(range(TRIES)):
        try:
            with connection.transaction():
                connection.execute(_LOCK_TIMEOUT, (f"{int(1000 * LOCK_S)}ms",))
                _run(connection, migration)
            return
        except LockNotAvailable:
            if not left:
                raise
            time.sleep(AGAIN_S)


def _run(connection: Connection, migration: Migration) -> None:
    for statement in migration.statements:
        connection.execute(statement)
    connection.execute(_noted(migration))


def _noted(migration: Migration) -> sql.Composed:
    return sql.SQL(
        "INSERT INTO vmw_fleet.schema_version (version, by_program) VALUES ({}, {}) "
        "ON CONFLICT (version) DO NOTHING"
    ).format(sql.Literal(migration.version), sql.Literal(__version__))


def _drop_invalid_indexes(connection: Connection) -> None:
    """Remove what an interrupted CREATE INDEX CONCURRENTLY has left, so that it is made again."""
    for (name,) in connection.execute(_INVALID_INDEXES).fetchall():
        drop = sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}")
        connection.execute(drop.format(sql.Identifier(SCHEMA, str(name))))
