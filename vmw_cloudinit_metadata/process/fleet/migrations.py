"""The schema of the fleet in PostgreSQL, as a row for each of its versions. Pure.

A migration only adds: servers of the version before and of the one after work on one schema. Its
statements may be run twice, and lock no table that serves for longer than a moment: no column is
added with what rewrites the table, and an index on a table that exists is made CONCURRENTLY.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from vmw_cloudinit_metadata.process.fleet import (
    fleetservers,
    ledgerrows,
    machineforgetting,
    machinetables,
    moverows,
    outcomerows,
    userows,
)
from vmw_cloudinit_metadata.process.fleet.fleetpart import SCHEMA


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    text: str  # what it does
    statements: Sequence[LiteralString]
    is_concurrent: bool = False  # its statements cannot be run in a transaction


MIGRATIONS: Sequence[Migration] = (
    Migration(
        1,
        "the tables of the servers",
        fleetservers.TABLES,
    ),
    Migration(
        2,
        "the tables and views of machines and boots",
        machinetables.TABLES,
    ),
    Migration(
        3,
        "the tables of the moves of VMs, and of what several VMs use",
        (*moverows.TABLES, *userows.TABLES),
    ),
    Migration(
        4,
        "the table of the machines that operators have forgotten",
        machineforgetting.TABLES,
    ),
    Migration(
        5,
        "the tables of what VMs have used up, and of how boots have ended",
        (*ledgerrows.TABLES, *outcomerows.TABLES, machinetables.MACHINES),
    ),
)

NEWEST = MIGRATIONS[-1].version  # what this program is made for
NEIGHBOURS = 1  # versions of the schema, older and newer, on which it works too

# What `init` makes before the first migration.
BEGIN: Sequence[LiteralString] = (
    "CREATE SCHEMA IF NOT EXISTS vmw_fleet",
    """CREATE TABLE IF NOT EXISTS vmw_fleet.schema_version (
        version integer PRIMARY KEY,
        applied timestamptz NOT NULL DEFAULT clock_timestamp(),
        by_program text NOT NULL
    )""",
)


class WrongSchemaError(Exception):
    """The schema is missing, made for another version of the program, or in a database that cannot
    have it; says what to do."""


def check(version: int | None) -> int:
    """Return the version of a schema on which this program works; raise WrongSchemaError."""
    if version is None:
        raise WrongSchemaError(
            f"the database has no schema {SCHEMA}: run vmw-cloudinit-metadata fleet init"
        )
    if version < NEWEST - NEIGHBOURS:
        raise WrongSchemaError(
            f"the schema {SCHEMA} has version {version}, this program needs {NEWEST}: run "
            "vmw-cloudinit-metadata fleet migrate"
        )
    if version > NEWEST + NEIGHBOURS:
        raise WrongSchemaError(
            f"the schema {SCHEMA} has version {version}, this program knows versions up to "
            f"{NEWEST + NEIGHBOURS}: upgrade this server"
        )
    return version


def check_encoding(encoding: str) -> None:
    """Raise WrongSchemaError for a database that cannot have each VM's name."""
    if encoding != "UTF8":
        raise WrongSchemaError(
            f"the database has the encoding {encoding}, expected UTF8: make another one with "
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


def grants_for(quoted_user: str) -> list[str]:
    """Return the statements that let a user serve, and nothing else; `quoted_user` is an
    identifier of SQL."""
    rights = "SELECT, INSERT, UPDATE, DELETE"
    defaults = f"ALTER DEFAULT PRIVILEGES IN SCHEMA {SCHEMA} GRANT"
    return [
        f"GRANT USAGE ON SCHEMA {SCHEMA} TO {quoted_user}",
        f"GRANT {rights} ON ALL TABLES IN SCHEMA {SCHEMA} TO {quoted_user}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {SCHEMA} TO {quoted_user}",
        f"REVOKE INSERT, UPDATE, DELETE ON {SCHEMA}.schema_version FROM {quoted_user}",
        # For the tables of later migrations, which the same owner makes.
        f"{defaults} {rights} ON TABLES TO {quoted_user}",
        f"{defaults} USAGE ON SEQUENCES TO {quoted_user}",
    ]
