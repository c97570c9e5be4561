"""What processes use, in the database: serial ports of VMs, and data. So two users of one are seen.

A row says that VMs of a process use something; another table says which processes live. Nothing of
this is worth keeping: after a crash of the database, all processes tell it anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import LiteralString

import ujson

from vmw_cloudinit_metadata.process.fleet.fleetpart import Context, FleetPart, Round, storable
from vmw_cloudinit_metadata.process.fleet.frames import Fields, Reply

MAX_USES = 1000  # told at a time
MAX_FOUND = 200
NAMED = 3  # of the others
SETTLED_S = 3.0  # a VM that changes the server is counted twice for a moment
SEEN_S = 30.0  # a process that says nothing for so long has ended
QUIET_S = 60.0  # between two reports of one thing
_FORGOTTEN_EVERY_S = 30.0
REMOVED_TOGETHER = 5_000
_MAX_NAME = 100

TABLES: tuple[LiteralString, ...] = (
    """CREATE UNLOGGED TABLE IF NOT EXISTS vmw_fleet.uses (
        what text NOT NULL,
        used_by text NOT NULL,
        server text NOT NULL,
        process bigint NOT NULL,
        since timestamptz NOT NULL,
        is_judged boolean NOT NULL DEFAULT false,
        PRIMARY KEY (what, used_by, server, process)
    )""",
    "CREATE INDEX IF NOT EXISTS uses_of_process ON vmw_fleet.uses (server, process, is_judged)",
    """CREATE UNLOGGED TABLE IF NOT EXISTS vmw_fleet.processes (
        server text NOT NULL,
        process bigint NOT NULL,
        seen timestamptz NOT NULL,
        PRIMARY KEY (server, process)
    )""",
    """CREATE UNLOGGED TABLE IF NOT EXISTS vmw_fleet.reports (
        about text PRIMARY KEY,
        reported timestamptz NOT NULL,
        held_back integer NOT NULL DEFAULT 0,
        held_back_before integer NOT NULL DEFAULT 0
    )""",
)

_BEGIN_ANEW: LiteralString = "DELETE FROM vmw_fleet.uses WHERE (server, process) = (%s, %s)"
_TELL: LiteralString = """
    WITH told AS (
        SELECT * FROM unnest(%s::text[], %s::text[], %s::float8[]) AS t (what, used_by, age)
    ), seen AS (
        INSERT INTO vmw_fleet.processes (server, process, seen)
        VALUES (%s, %s, clock_timestamp())
        ON CONFLICT (server, process) DO UPDATE SET seen = EXCLUDED.seen
    ), ended AS (
        DELETE FROM vmw_fleet.uses AS known USING told
        WHERE age IS NULL AND known.what = told.what AND known.used_by = told.used_by
            AND (server, process) = (%s, %s)
    )
    INSERT INTO vmw_fleet.uses (what, used_by, server, process, since)
    SELECT what, used_by, %s, %s, clock_timestamp() - make_interval(secs => age)
    FROM told WHERE age IS NOT NULL
    ON CONFLICT DO NOTHING"""
# Of a serial port, the newer user is told of the older ones; of data, whoever comes second. When a
# process dies, its VMs connect to others: so one that was not seen since may be dead, and what it
# uses is judged later.
_JUDGE: LiteralString = """
    WITH mine AS (
        SELECT what, used_by, since FROM vmw_fleet.uses
        WHERE (server, process) = (%s, %s) AND NOT is_judged
            AND since < clock_timestamp() - make_interval(secs => %s)
    ), others AS (
        SELECT mine.what, mine.used_by, other.used_by AS other,
            coalesce(known.name, other.server) AS name, seen > mine.since AS is_alive
        FROM mine JOIN vmw_fleet.uses AS other USING (what)
        JOIN vmw_fleet.processes AS lives
            ON (lives.server, lives.process) = (other.server, other.process)
            AND seen > clock_timestamp() - make_interval(secs => %s)
        LEFT JOIN vmw_fleet.servers AS known ON known.id = other.server
        WHERE (other.server, other.process) <> (%s, %s) AND known.stopped IS NULL
            AND CASE WHEN mine.used_by = ''
            THEN other.since < mine.since ELSE other.used_by <> mine.used_by END
    ), judged AS (
        UPDATE vmw_fleet.uses AS known SET is_judged = true FROM mine
        WHERE (known.server, known.process) = (%s, %s)
            AND (known.what, known.used_by) = (mine.what, mine.used_by)
            AND (mine.what, mine.used_by) NOT IN (
                SELECT what, used_by FROM others WHERE NOT is_alive)
        RETURNING known.what, known.used_by
    )
    SELECT what, used_by, count(*),
        (array_agg(other ORDER BY name, other))[1:%s],
        (array_agg(name ORDER BY name, other))[1:%s]
    FROM others JOIN judged USING (what, used_by) GROUP BY what, used_by LIMIT %s"""
# Those that were not made within a minute; the others are counted for the next one.
_REPORT: LiteralString = """
    WITH passed AS (
        INSERT INTO vmw_fleet.reports AS known (about, reported)
        SELECT about, statement_timestamp() FROM unnest(%s::text[]) AS about
        ON CONFLICT (about) DO UPDATE SET
            reported = CASE
                WHEN known.reported < EXCLUDED.reported - make_interval(secs => %s)
                THEN EXCLUDED.reported ELSE known.reported END,
            held_back = CASE
                WHEN known.reported < EXCLUDED.reported - make_interval(secs => %s)
                THEN 0 ELSE known.held_back + 1 END,
            held_back_before = known.held_back
        RETURNING about, reported, held_back_before
    )
    SELECT about, held_back_before FROM passed WHERE reported = statement_timestamp()"""
# Few at a time; rows that others lock are left for the next time, as they are in use again.
_FORGET: Sequence[LiteralString] = (
    f"""DELETE FROM vmw_fleet.processes
        WHERE seen < clock_timestamp() - make_interval(secs => {4 * SEEN_S})""",
    f"""DELETE FROM vmw_fleet.uses WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM vmw_fleet.uses AS known WHERE NOT EXISTS (
            SELECT FROM vmw_fleet.processes AS lives
            WHERE (lives.server, lives.process) = (known.server, known.process))
        LIMIT {REMOVED_TOGETHER} FOR UPDATE SKIP LOCKED)) RETURNING 1""",
    f"""DELETE FROM vmw_fleet.reports WHERE about = ANY (ARRAY(
        SELECT about FROM vmw_fleet.reports
        WHERE reported < clock_timestamp() - make_interval(secs => {4 * QUIET_S})
        LIMIT {REMOVED_TOGETHER} FOR UPDATE SKIP LOCKED)) RETURNING 1""",
)


async def _tell(context: Context, process: int, fields: Fields, payload: bytes) -> Reply:
    """Write what a process uses and uses no more; reply whom it shares something with."""
    here = (context.server, process)
    if fields.get("is_anew") is True:
        await context.slow.run(_BEGIN_ANEW, here)
    told = ujson.loads(payload)
    uses = [_use(*row) for row in told["uses"][:MAX_USES]]
    reports = [storable(name, _MAX_NAME) for name in told["reports"][:MAX_USES]]
    columns = [list(column) for column in zip(*uses, strict=True)] or [[], [], []]
    await context.slow.run(_TELL, (*columns, *here, *here, *here))
    limits = (NAMED, NAMED, MAX_FOUND)
    found = await context.slow.run(_JUDGE, (*here, SETTLED_S, SEEN_S, *here, *here, *limits))
    passed = await _reported(context, {*reports, *(what for what, *_ in found)})
    answer = {
        "found": [(*row, passed.get(row[0])) for row in found],
        "passed": [(name, passed[name]) for name in reports if name in passed],
    }
    return Reply({}, ujson.dumps(answer).encode())


async def _reported(context: Context, names: Collection[str]) -> Mapping[str, int]:
    """Return the reports that may be made now, with the number of those that might not before."""
    if not names:
        return {}
    return dict(await context.slow.run(_REPORT, (sorted(names), QUIET_S, QUIET_S)))


def _use(what: str, user: str, age_s: float | None) -> tuple[str, str, float | None]:
    """Check what is used, by whom, and for how many seconds; None: no more."""
    return storable(what, _MAX_NAME), storable(user, _MAX_NAME), age_s


async def _forget(context: Context) -> None:
    for statement in _FORGET:
        while await context.slow.run(statement):
            pass


PART = FleetPart(
    asks={"uses": _tell},
    rounds=(Round("forget uses", _FORGOTTEN_EVERY_S, _forget, is_alone=True),),
    since=3,
)
