"""The servers of a fleet, in the database: a row for each start, with a heartbeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

from vmw_cloudinit_metadata import __version__
from vmw_cloudinit_metadata.monitoring.jsonobject import timestamp
from vmw_cloudinit_metadata.process.fleet.fleetpart import Context, FleetPart, Lane, Round
from vmw_cloudinit_metadata.process.fleet.frames import Fields, Reply

HEARTBEAT_S = 4.0
GONE_S = 15.0  # without a heartbeat; the view `machines` has it too: to change it, add a migration
MAX_SHOWN = 200  # servers

TABLES: tuple[LiteralString, ...] = (
    """CREATE TABLE IF NOT EXISTS vmw_fleet.servers (
        id text PRIMARY KEY,
        name text NOT NULL,
        version text NOT NULL,
        started timestamptz NOT NULL,
        heartbeat timestamptz NOT NULL,
        stopped timestamptz
    )""",
)

_BEAT: LiteralString = """
    INSERT INTO vmw_fleet.servers AS known (id, name, version, started, heartbeat)
    VALUES (%s, %s, %s, clock_timestamp() - make_interval(secs => %s), clock_timestamp())
    ON CONFLICT (id) DO UPDATE SET heartbeat = EXCLUDED.heartbeat,
        -- The server may have been upgraded in place.
        name = EXCLUDED.name, version = EXCLUDED.version,
        stopped = NULL  -- it may have gone on: its upgrade has failed
    -- One that has ended, and was started again as this one, beats no more since.
    -- What is selected is as it was before this statement.
    RETURNING (SELECT extract(epoch FROM min(other.started))::float8
        FROM vmw_fleet.servers AS other
        WHERE other.name = known.name AND other.id <> known.id AND other.stopped IS NULL
            AND other.started <= known.started
            AND other.heartbeat > greatest(
                known.started, clock_timestamp() - make_interval(secs => %s))),
        (SELECT extract(epoch FROM mine.heartbeat)::float8
            FROM vmw_fleet.servers AS mine WHERE mine.id = known.id),
        extract(epoch FROM known.heartbeat)::float8"""
_STOP: LiteralString = """
    UPDATE vmw_fleet.servers SET stopped = clock_timestamp(), heartbeat = clock_timestamp()
    WHERE id = %s"""
# Those that run, and of each other name the last start.
_LIST: LiteralString = """
    SELECT id, name, version,
        extract(epoch FROM started)::float8, extract(epoch FROM heartbeat)::float8, state
    FROM (
        SELECT *, row_number() OVER (PARTITION BY name ORDER BY started DESC, id) AS nth,
            CASE WHEN stopped IS NOT NULL THEN 'stopped'
                 WHEN heartbeat < clock_timestamp() - make_interval(secs => %s) THEN 'gone'
                 ELSE 'running' END AS state
        FROM vmw_fleet.servers
    ) AS every WHERE nth = 1 OR state = 'running' ORDER BY name, started DESC, id LIMIT %s"""
_FORGET: LiteralString = """
    DELETE FROM vmw_fleet.servers WHERE id IN (
        SELECT id FROM vmw_fleet.servers
        WHERE heartbeat < clock_timestamp() - make_interval(days => %s) LIMIT 1000)"""


def shown_in(connection: Any) -> list[tuple[str, str, str, str, str]]:
    """List servers for a person: name, version, start, last heartbeat, state."""
    rows = connection.execute(_LIST, (GONE_S, MAX_SHOWN)).fetchall()
    return [
        (name, version, timestamp(started_s), timestamp(heartbeat_s), state)
        for _, name, version, started_s, heartbeat_s, state in rows
    ]


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat that is written; times are seconds since 1970, by the database's clock."""

    namesake: str  # since when an older server of the name runs too, or ""
    before_s: float | None  # the heartbeat in its place
    at_s: float


async def beat(lane: Lane, server: str, name: str, running_s: float) -> Beat:
    """Say that a server runs, for the first time or again."""
    (row,) = await lane.run(_BEAT, (server, name, __version__, running_s, GONE_S))
    since_s, before_s, at_s = row
    return Beat("" if since_s is None else timestamp(since_s), before_s, at_s)


async def stop(context: Context) -> None:
    """Say that the server has been stopped, as its operator wanted."""
    await context.quick.run(_STOP, (context.server,))


async def listed(context: Context, _process: int, _fields: Fields, _payload: bytes) -> Reply:
    """List servers by their names; times are seconds since 1970, by the database's clock."""
    rows = await context.slow.run(_LIST, (GONE_S, MAX_SHOWN))
    return Reply({"servers": [_shown(row) for row in rows]})


def _shown(row: tuple[Any, ...]) -> dict[str, Any]:
    names = ("id", "name", "version", "started", "heartbeat", "state")
    return dict(zip(names, row, strict=True))


async def _forget(context: Context) -> None:
    await context.slow.run(_FORGET, (context.retention_days,))


PART = FleetPart(
    asks={"servers": listed},
    rounds=(Round("forget servers", 600.0, _forget, is_alone=True),),
)
