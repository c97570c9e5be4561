"""Reads the machines and boots of the fleet, as the API shows them.

Filters are values, never text of a statement. A page looks at all machines, some 25 ms for 10,000:
an index on what each boot changes would make every boot dearer, and one for search needs an
extension.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, LiteralString, NamedTuple

import ujson

from vmw_cloudinit_metadata.monitoring.jsonobject import timestamp
from vmw_cloudinit_metadata.process.fleet import outcomerows
from vmw_cloudinit_metadata.process.fleet.fleetpart import Context, storable
from vmw_cloudinit_metadata.process.fleet.fleetservers import GONE_S
from vmw_cloudinit_metadata.process.fleet.frames import Fields, Reply
from vmw_cloudinit_metadata.process.fleet.machinerows import MAX_NAME, key_text

GONE = "gone"  # connected to a server that is gone
MAX_PER_PAGE = 1000
MAX_WORDS = 8
MAX_NAMESAKES = 100
MAX_BOOTS = 20  # of one machine
MAX_SERVERS = 200
PULSE_S = 10  # each of
PULSES = 90

TROUBLE = ("failed", "stale", "broken")


class Filter(NamedTuple):
    """Which machines a filter of the API lists; None: whatever it is."""

    states: Sequence[str] | None = None
    others: Sequence[str] = ()  # that it does not list
    connected: bool | None = None


GROUPS: Mapping[str, Filter] = {
    "": Filter(),
    "trouble": Filter(TROUBLE),
    "connected": Filter(connected=True),
    "left": Filter(others=("missing", GONE, "test"), connected=False),
}

# The number of machines that match, and the ids of a page.
_CHOSEN: LiteralString = """
    WITH chosen AS MATERIALIZED (
        SELECT id, state IN ('failed', 'stale', 'broken') AS troubled, changed
        FROM vmw_fleet.machines
        WHERE (%s::text[] IS NULL OR state = ANY (%s::text[])) AND state <> ALL (%s::text[])
            AND (%s::boolean IS NULL OR connected = %s) AND (%s::text IS NULL OR server = %s)
            AND (%s::text[] = '{}'
                OR about || ' ' || state || ' ' || lower(server) LIKE ALL (%s::text[])))
    SELECT (SELECT count(*) FROM chosen), ARRAY(
        SELECT id FROM chosen ORDER BY troubled DESC, changed DESC, id LIMIT %s OFFSET %s)"""
_MACHINES: LiteralString = """
    SELECT id, name, vc_uuid, esxi_host, state, connected, ports, server,
        extract(epoch FROM connected_since)::float8, extract(epoch FROM changed)::float8,
        extract(epoch FROM error_time)::float8, error, error_document, error_reason,
        bios_uuid, location_uuid, service_uri, direction, proof, problem,
        matched_by, files, documents, more_documents,
        extract(epoch FROM served_time)::float8, server_id
    FROM vmw_fleet.machines WHERE id = ANY (%s)
    ORDER BY state IN ('failed', 'stale', 'broken') DESC, changed DESC, id"""
_NAMESAKES: LiteralString = """
    SELECT DISTINCT key FROM vmw_fleet.machine WHERE name = %s LIMIT %s"""
_BOOTS: LiteralString = """
    SELECT extract(epoch FROM ended)::float8, outcome, server, esxi_host, seconds, document,
        reason, document_count, document_bytes
    FROM vmw_fleet.boots WHERE machine_id = %s ORDER BY ended DESC LIMIT %s"""
_STATES: LiteralString = """
    SELECT state, problem, count(*), max(told) FROM vmw_fleet.machines GROUP BY state, problem"""
# The starts of servers that run; of each other one the last, if it was heard of within a day.
_SERVERS: LiteralString = f"""
    WITH known AS (
        SELECT *, stopped IS NULL AND heartbeat > now() - interval '{GONE_S:g} s' AS runs
        FROM vmw_fleet.servers),
    connected AS (
        SELECT server, count(*) AS machines FROM vmw_fleet.machine
        WHERE connected_since IS NOT NULL GROUP BY server)
    SELECT DISTINCT ON (name, CASE WHEN runs THEN id ELSE '' END)
        name, CASE WHEN runs THEN 'running' WHEN stopped IS NULL THEN 'gone' ELSE 'stopped' END,
        version, extract(epoch FROM started)::float8, extract(epoch FROM heartbeat)::float8,
        id = %s, CASE WHEN runs THEN coalesce(machines, 0) ELSE 0 END
    FROM known LEFT JOIN connected ON server = id
    WHERE runs OR (heartbeat > now() - interval '1 day'
        AND name NOT IN (SELECT name FROM known WHERE runs))
    ORDER BY name, CASE WHEN runs THEN id ELSE '' END, started DESC LIMIT %s"""
_PULSE: LiteralString = """
    SELECT floor(extract(epoch FROM now() - ended) / %s)::integer AS ago, outcome, count(*)
    FROM vmw_fleet.boot WHERE ended > now() - make_interval(secs => %s) AND ended <= now()
    GROUP BY 1, 2"""


async def page(context: Context, _process: int, fields: Fields, _payload: bytes) -> Reply:
    """Reply the number of machines that match, and a page of them as JSON."""
    ((total, ids),) = await context.slow.run(_CHOSEN, _parameters_of(fields))
    rows = await context.slow.run(_MACHINES, (ids,)) if ids else []
    return Reply({"total": total}, _dumped([_row(row) for row in rows]))


async def machine(context: Context, _process: int, fields: Fields, _payload: bytes) -> Reply:
    """Reply all that is known of the machine with this id, else of those with this name.

    `is_own`: it is one machine, and this server knows more of it.
    """
    asked = str(fields["id"])
    rows = await context.slow.run(_MACHINES, ([key_text(asked)],))
    if not rows:
        named = await context.slow.run(_NAMESAKES, (storable(asked, MAX_NAME), MAX_NAMESAKES))
        rows = await context.slow.run(_MACHINES, ([key for (key,) in named],)) if named else []
        rows = [row for row in rows if row[_CONNECTED]] or rows
    if len(rows) != 1:
        return Reply({"count": len(rows)}, _dumped([_row(row) for row in rows]))
    (row,) = rows
    boots = await context.slow.run(_BOOTS, (row[0], MAX_BOOTS))
    outcomes = await outcomerows.outcomes_of(context, row[0])
    found = _story(row) | {
        "boots": [_boot(boot) for boot in boots],
        "outcome": outcomes[0] if outcomes else None,
        "outcomes": outcomes,
    }
    server = row[-1]
    about = {"count": 1, "server_id": server, "is_own": server == context.server}
    return Reply(about, _dumped(found))


async def summary(context: Context, _process: int, _fields: Fields, _payload: bytes) -> Reply:
    """Reply what the head of the page shows of the fleet."""
    rows = await context.slow.run(_STATES)
    servers = await context.slow.run(_SERVERS, (context.server, MAX_SERVERS))
    pulses = await context.slow.run(_PULSE, (PULSE_S, PULSE_S * PULSES))
    states: dict[str, int] = {}
    problems: dict[str, int] = {}
    for state, problem, number, _told in rows:
        states[state] = states.get(state, 0) + number
        if problem and state in TROUBLE:
            problems[problem] = problems.get(problem, 0) + number
    about = sorted(map(str, rows)), [row[:2] for row in servers]
    found = {
        "machines": states,
        "problems": problems,
        "total": sum(states.values()),
        "revision": zlib.crc32(repr(about).encode()),
        "servers": [_server(row) for row in servers],
        "pulse": _picture(pulses),
    }
    return Reply({}, _dumped(found))


def _parameters_of(fields: Fields) -> Sequence[Any]:
    """Return the parameters of _CHOSEN."""
    state = str(fields.get("state", ""))
    chosen = GROUPS.get(state) or Filter((state,))
    states = None if chosen.states is None else list(chosen.states)
    connected = chosen.connected
    server = storable(str(fields.get("server", "")), MAX_NAME) or None
    words = [like(storable(str(word), MAX_NAME)) for word in fields.get("words", ())[:MAX_WORDS]]
    place = min(int(fields["count"]), MAX_PER_PAGE), int(fields["start"])
    about = list(chosen.others), connected, connected, server, server, words, words
    return (states, states, *about, *place)


def like(word: str) -> str:
    """Return the pattern of LIKE for texts with this word in them."""
    for special in ("\\", "%", "_"):
        word = word.replace(special, f"\\{special}")
    return f"%{word}%"


# The columns of _MACHINES as the API has them.

_CONNECTED, _SERVED = 5, 24


def _row(row: Sequence[Any]) -> dict[str, Any]:
    key, name, vc_uuid, host, state, connected, ports, server, since_s, changed_s, *error = row[:14]
    return {
        "id": key,
        "name": name,
        "vc_uuid": _uuid(vc_uuid),
        "esxi_host": host,
        "state": state,
        "connected": connected,
        "connected_since": _time(since_s) if connected else None,
        "changed": _time(changed_s),
        "ports": ports if connected else 0,
        "last_error": _error(*error),
        "server": server,
        "served": _time(row[_SERVED]),
    }


def _error(at_s: float | None, error: str, document: str, reason: str) -> dict[str, Any] | None:
    if at_s is None:
        return None
    return {"time": _time(at_s), "error": error, "document": document, "reason": reason}


def _story(row: Sequence[Any]) -> dict[str, Any]:
    found = _row(row)
    bios_uuid, location_uuid, service_uri, direction, proof, problem = row[14:20]
    matched_by, files, documents, more_documents = row[20:24]
    port = {
        "connection_id": None,
        "peer": found["esxi_host"],
        "service_uri": service_uri,
        "direction": direction,
        "proof": proof,
        "connected_since": found["connected_since"],
    }
    return found | {
        "bios_uuid": _uuid(bios_uuid),
        "location_uuid": _uuid(location_uuid),
        "left": None if found["connected"] else found["changed"],
        "problem": problem,
        "ports": [port] if found["connected"] else [],
        "asked": [],
        "matched_by": matched_by,
        "files": files or [],
        "documents": documents or {},
        "more_documents": more_documents or 0,
        "moves": [],
        "story": [],
    }


def _boot(row: Sequence[Any]) -> dict[str, Any]:
    ended_s, outcome, server, host, seconds, document, reason, count, size = row
    return {
        "time": _time(ended_s),
        "outcome": outcome,
        "server": server,
        "esxi_host": host,
        "seconds": seconds,
        "document": document,
        "reason": reason,
        "document_count": count,
        "document_bytes": size,
    }


def _server(row: Sequence[Any]) -> dict[str, Any]:
    name, state, version, started_s, heartbeat_s, is_own, connected = row
    return {
        "name": name,
        "state": state,
        "version": version,
        "started": _time(started_s),
        "last_heard": _time(heartbeat_s),
        "is_this": is_own,
        "connected": connected,
    }


def _picture(rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """Return boots and failures as the pulse of one server shows them, the newest last."""
    served, failed = [0] * PULSES, [0] * PULSES
    failures: dict[str, int] = {}
    for ago, outcome, number in rows:
        place = PULSES - 1 - min(max(ago, 0), PULSES - 1)
        if outcome in ("served", "stale"):
            served[place] += number
        else:
            failed[place] += number
            failures[outcome] = failures.get(outcome, 0) + number
    in_order = dict(sorted(failures.items(), key=lambda one: -one[1]))
    return {"seconds_each": PULSE_S, "served": served, "failed": failed, "failures": in_order}


def _time(at_s: float | None) -> str | None:
    return None if at_s is None else timestamp(at_s)


def _uuid(value: object) -> str | None:
    return None if value is None else str(value)


def _dumped(body: Any) -> bytes:
    """Return JSON in UTF-8: escaped, a page of long names would not fit into a frame."""
    return ujson.dumps(body, ensure_ascii=False, escape_forward_slashes=False).encode()
