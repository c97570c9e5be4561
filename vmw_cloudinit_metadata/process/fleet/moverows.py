"""The moves of VMs between processes, in the database: who may claim them, and what is handed over.

A row of `moves` has the name of a move, which tells nobody its secret, its source and its target.
It stays for a while when the move has ended, so that its secret is used once in the whole fleet. A
row of `handovers` is there for some milliseconds, and is written to no log of the database.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import LiteralString

from vmw_cloudinit_metadata.process.fleet.fleetpart import Batch, Context, FleetPart, Round, Row
from vmw_cloudinit_metadata.process.fleet.frames import Fields, Reply

TOLD_EVERY_S = 0.05
_FORGOTTEN_EVERY_S = 15.0
_ENDED_S = 300  # a secret is valid for 60 s, by clocks that may differ
_UNDER_WAY_S = 7200  # a target is closed after an hour
_HANDED_S = 15

_NAME = re.compile("[0-9a-f]{32}", re.ASCII)

TABLES: tuple[LiteralString, ...] = (
    """CREATE TABLE IF NOT EXISTS vmw_fleet.moves (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        move text NOT NULL UNIQUE CHECK (move ~ '^[0-9a-f]{32}$'),
        source text,
        source_process bigint,
        target text,
        target_process bigint,
        is_ended boolean NOT NULL DEFAULT false,
        is_over boolean NOT NULL DEFAULT false,
        wanted bytea CHECK (octet_length(wanted) < 1024),
        changed timestamptz NOT NULL DEFAULT clock_timestamp()
    )""",
    """CREATE UNLOGGED TABLE IF NOT EXISTS vmw_fleet.handovers (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        move text NOT NULL CHECK (move ~ '^[0-9a-f]{32}$'),
        sealed bytea NOT NULL CHECK (octet_length(sealed) < 4000000),
        made timestamptz NOT NULL DEFAULT clock_timestamp()
    )""",
)

# `is_ended`: nobody hands the VM over. `is_over`: its target is refused. A source that announces a
# move again, after its link was cut, hears again what it may have missed.
_TELL: LiteralString = """
    WITH told AS (
        SELECT * FROM unnest(
            %s::text[], %s::bigint[], %s::boolean[], %s::boolean[], %s::boolean[], %s::boolean[]
        ) AS t (move, process, is_begun, is_used, is_ended, is_over)
    ), kept AS (
        INSERT INTO vmw_fleet.moves AS known
            (move, source, source_process, target, target_process, is_ended, is_over)
        SELECT move,
            CASE WHEN is_begun THEN %s END, CASE WHEN is_begun THEN process END,
            CASE WHEN is_used THEN %s END, CASE WHEN is_used THEN process END,
            is_ended, is_over
        FROM told ORDER BY move
        ON CONFLICT (move) DO UPDATE SET
            source = coalesce(known.source, EXCLUDED.source),
            source_process = coalesce(known.source_process, EXCLUDED.source_process),
            target = coalesce(known.target, EXCLUDED.target),
            target_process = coalesce(known.target_process, EXCLUDED.target_process),
            is_ended = known.is_ended OR EXCLUDED.is_ended,
            is_over = known.is_over OR EXCLUDED.is_over,
            changed = clock_timestamp()
        RETURNING *
    )
    SELECT pg_notify('vmw_fleet_' || source, source_process || notice || id)
    FROM kept JOIN told USING (move) CROSS JOIN LATERAL (
        SELECT ' move_target ' WHERE target IS NOT NULL
            AND (target, target_process) <> (source, source_process)
        UNION ALL SELECT ' move_wanted ' WHERE wanted IS NOT NULL
    ) AS missed (notice)
    WHERE is_begun AND NOT kept.is_ended"""
_LEFT: LiteralString = """
    SELECT pg_notify('vmw_fleet_' || source, source_process || ' move_left ' || id)
    FROM vmw_fleet.moves
    WHERE move = ANY (%s) AND source IS NOT NULL AND target = %s AND NOT is_ended"""

# One statement: of two that claim a move at the same time, the second finds the first one's row.
_CLAIM: LiteralString = """
    WITH claimed AS (
        INSERT INTO vmw_fleet.moves AS known (move, target, target_process) VALUES (%s, %s, %s)
        ON CONFLICT (move) DO UPDATE SET
            target = EXCLUDED.target, target_process = EXCLUDED.target_process,
            changed = clock_timestamp()
        WHERE known.target IS NULL AND NOT known.is_over
        RETURNING *
    )
    SELECT CASE WHEN source IS NOT NULL AND NOT is_ended
        THEN pg_notify('vmw_fleet_' || source, source_process || ' move_target ' || id)::text END
    FROM claimed"""
_WANT: LiteralString = """
    WITH asked AS (
        UPDATE vmw_fleet.moves
        SET wanted = %s, target = %s, target_process = %s, changed = clock_timestamp()
        WHERE move = %s AND source IS NOT NULL AND NOT is_ended
            AND (target IS NULL OR (target, target_process) = (%s, %s))
        RETURNING id, source, source_process
    )
    SELECT asked.id IS NOT NULL, is_ended, is_over, CASE WHEN asked.id IS NOT NULL
        THEN pg_notify(
            'vmw_fleet_' || asked.source, asked.source_process || ' move_wanted ' || asked.id
        )::text END
    FROM vmw_fleet.moves AS known LEFT JOIN asked USING (id) WHERE move = %s"""
_HAND: LiteralString = """
    WITH handed AS (
        INSERT INTO vmw_fleet.handovers (move, sealed) VALUES (%s, %s) RETURNING id, move
    )
    SELECT pg_notify('vmw_fleet_' || target, target_process || ' move_handed ' || handed.id)
    FROM handed JOIN vmw_fleet.moves USING (move) WHERE target IS NOT NULL"""

_MOVE: LiteralString = "SELECT move, wanted FROM vmw_fleet.moves WHERE id = %s"
_TAKE: LiteralString = "DELETE FROM vmw_fleet.handovers WHERE id = %s RETURNING move, sealed"
# Rows that others lock are left for the next time: two that wait for each other would lose a batch.
_FORGET: Sequence[LiteralString] = (
    f"""DELETE FROM vmw_fleet.handovers WHERE id = ANY (ARRAY(
        SELECT id FROM vmw_fleet.handovers
        WHERE made < clock_timestamp() - make_interval(secs => {_HANDED_S})
        LIMIT 5000 FOR UPDATE SKIP LOCKED))""",
    f"""DELETE FROM vmw_fleet.moves WHERE id = ANY (ARRAY(
        SELECT id FROM vmw_fleet.moves WHERE changed < clock_timestamp() - make_interval(
            secs => CASE WHEN is_ended THEN {_ENDED_S} ELSE {_UNDER_WAY_S} END)
        LIMIT 5000 FOR UPDATE SKIP LOCKED))""",
)

# What a source or a target tells: whether the move is begun, used, ended, over.
_NOW = {
    "begun": (True, False, False, False),
    "used": (False, True, False, False),  # by a target in the source's process
    "gone": (False, False, True, False),
    "over": (False, False, True, True),
}
_LEFT_NOW = "left"


async def _tell(context: Context, rows: Sequence[Row]) -> None:
    """Write what has happened to moves; of one move all at once."""
    told: dict[str, tuple[int, list[bool]]] = {}
    left = []
    for row in rows:
        move, now = _name_in(row.fields), str(row.fields.get("now"))
        if now == _LEFT_NOW:
            left.append(move)
        elif now in _NOW:
            _, flags = told.setdefault(move, (row.process, [False] * 4))
            flags[:] = map(bool.__or__, flags, _NOW[now])
    if told:
        processes = [process for process, _ in told.values()]
        flags_of = zip(*(flags for _, flags in told.values()), strict=True)
        columns = (list(told), processes, *map(list, flags_of))
        await context.quick.run(_TELL, (*columns, context.server, context.server))
    if left:
        await context.quick.run(_LEFT, (left, context.server))


async def _claim(context: Context, process: int, fields: Fields, _payload: bytes) -> Reply:
    rows = await context.quick.run(_CLAIM, (_name_in(fields), context.server, process))
    return Reply({"is_first": bool(rows)})


async def _want(context: Context, process: int, fields: Fields, payload: bytes) -> Reply:
    move, here = _name_in(fields), (context.server, process)
    rows = await context.quick.run(_WANT, (payload, *here, move, *here, move))
    is_asked, is_ended, is_over = rows[0][:3] if rows else (False, False, False)
    return Reply({"is_asked": is_asked, "is_ended": is_ended, "is_over": is_over})


async def _hand(context: Context, _process: int, fields: Fields, payload: bytes) -> Reply:
    rows = await context.quick.run(_HAND, (_name_in(fields), payload))
    return Reply({"is_handed": bool(rows)})


async def _fetch_move(context: Context, row: int) -> Reply | None:
    rows = await context.quick.run(_MOVE, (row,))
    return Reply({"move": rows[0][0]}, rows[0][1] or b"") if rows else None


async def _take(context: Context, row: int) -> Reply | None:
    rows = await context.quick.run(_TAKE, (row,))
    return Reply({"move": rows[0][0]}, rows[0][1]) if rows else None


async def _forget(context: Context) -> None:
    for statement in _FORGET:
        await context.slow.run(statement)


def _name_in(fields: Fields) -> str:
    """Return the name of the move, as one of our processes sends it."""
    name = fields.get("move")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("not the name of a move")
    return name


PART = FleetPart(
    asks={"move_claim": _claim, "move_wanted": _want, "move_handed": _hand},
    tells={"move": Batch(_tell, every_s=TOLD_EVERY_S)},
    notices={
        "move_target": _fetch_move,
        "move_left": _fetch_move,
        "move_wanted": _fetch_move,
        "move_handed": _take,
    },
    rounds=(Round("forget moves", _FORGOTTEN_EVERY_S, _forget, is_alone=True),),
    since=3,
)
