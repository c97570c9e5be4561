"""Forgets machines of the fleet: those that an operator dismisses, and those in trouble that have
disconnected long ago.

A server that was away from the database tells all its machines again. So what an operator forgets
is a row: a machine that has not changed since then is not written, and each server that runs is
notified, and forgets it too.
"""

from __future__ import annotations

import secrets
from typing import LiteralString

from vmw_cloudinit_metadata.process.fleet.fleetpart import (
    Context,
    FleetPart,
    Round,
    notice_of,
    storable,
)
from vmw_cloudinit_metadata.process.fleet.fleetservers import GONE_S
from vmw_cloudinit_metadata.process.fleet.frames import Fields, Reply
from vmw_cloudinit_metadata.process.fleet.machinerows import MAX_NAME, key_text

FORGET = "forget"
SCHEMA_VERSION = 4  # the first with its table
_ID_BITS = 56  # as many as a notice has digits for

TABLES: tuple[LiteralString, ...] = (
    """CREATE TABLE IF NOT EXISTS vmw_fleet.forgotten (
        key text COLLATE "C" PRIMARY KEY,
        id bigint NOT NULL,
        forgotten timestamptz NOT NULL
    )""",
)

_RUNS: LiteralString = f"stopped IS NULL AND heartbeat > now() - interval '{GONE_S:g} s'"
_FOUND: LiteralString = """
    SELECT id, connected AND state NOT IN ('failed', 'stale', 'broken') FROM vmw_fleet.machines
    WHERE id = %s OR name = %s ORDER BY id <> %s LIMIT 100"""
_FORGET: LiteralString = f"""
    WITH noted AS (
        INSERT INTO vmw_fleet.forgotten AS known (key, id, forgotten) VALUES (%s, %s, now())
        ON CONFLICT (key) DO UPDATE SET id = EXCLUDED.id, forgotten = EXCLUDED.forgotten
        RETURNING id),
    removed AS (
        DELETE FROM vmw_fleet.machine m WHERE key = %s AND (connected_since IS NULL
            OR NOT EXISTS (SELECT FROM vmw_fleet.servers s WHERE s.id = m.server AND {_RUNS})))
    SELECT pg_notify('vmw_fleet_' || s.id, %s) FROM vmw_fleet.servers s, noted WHERE {_RUNS}"""
_FORGOTTEN: LiteralString = "SELECT key FROM vmw_fleet.forgotten WHERE id = %s"
_FORGET_NOTES: LiteralString = """
    DELETE FROM vmw_fleet.forgotten WHERE forgotten < now() - make_interval(days => %s)"""
# All rows of a machine whose state is such a one: another row would be its state next.
_AGE: LiteralString = """
    DELETE FROM vmw_fleet.machine WHERE ctid = ANY (ARRAY(
        SELECT m.ctid FROM vmw_fleet.machine m JOIN vmw_fleet.machines state ON state.id = m.key
        WHERE state.state IN ('failed', 'stale', 'broken', 'test') AND NOT state.connected
            AND state.changed < now() - make_interval(secs => %s)
        LIMIT 2000 FOR UPDATE OF m SKIP LOCKED))
    RETURNING 1"""


async def forget(context: Context, _process: int, fields: Fields, _payload: bytes) -> Reply:
    """Forget the machine with this id, else the one with this name; reply how many there are, and
    whether it `is_calm`: connected and not in trouble, so that there is nothing to forget."""
    asked = str(fields["id"])
    key = key_text(asked)
    rows = await context.slow.run(_FOUND, (key, storable(asked, MAX_NAME), key))
    if rows and rows[0][0] == key:
        del rows[1:]  # names of other machines
    if len(rows) != 1:
        return Reply({"count": len(rows), "is_calm": False, "id": ""})
    ((key, is_calm),) = rows
    if not is_calm:
        number = secrets.randbits(_ID_BITS)
        await context.slow.run(_FORGET, (key, number, key, notice_of(FORGET, number)))
    return Reply({"count": 1, "is_calm": is_calm, "id": key})


async def forgotten(context: Context, number: int) -> Reply | None:
    """Return which machine another server has forgotten."""
    rows = await context.slow.run(_FORGOTTEN, (number,))
    return Reply({"id": rows[0][0]}) if rows else None


async def forget_notes(context: Context) -> None:
    await context.slow.run(_FORGET_NOTES, (context.retention_days,))


async def age(context: Context) -> None:
    """Delete machines in trouble, and tests, that have disconnected long ago, few at a time."""
    while await context.slow.run(_AGE, (context.forget_failed_s,)):
        pass


PART = FleetPart(
    asks={FORGET: forget},
    notices={FORGET: forgotten},
    rounds=(Round("forget notes", 600.0, forget_notes, is_alone=True),),
    since=SCHEMA_VERSION,
)
