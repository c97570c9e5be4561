"""How boots have ended, as their guests have reported it, in the fleet's database; and known hosts.

The last outcome of each machine stays as long as its machine: its host keys count until then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString, NamedTuple

import ujson

from vmw_cloudinit_metadata.monitoring.jsonobject import timestamp
from vmw_cloudinit_metadata.process.fleet.fleetpart import Context, FleetPart, Round, storable
from vmw_cloudinit_metadata.process.fleet.fleetservers import GONE_S
from vmw_cloudinit_metadata.process.fleet.frames import Fields, Reply
from vmw_cloudinit_metadata.process.fleet.machinerows import (
    MAX_NAME,
    MAX_REASON,
    MAX_WORD,
    Row,
    age,
    key_text,
    optional_text,
    uuid_or_none,
)

SCHEMA_VERSION = 5  # the first with its table
KNOWN_HOSTS = "known hosts"
MAX_TOGETHER = 200  # machines of one reply
MAX_OUTCOMES = 20  # of one machine
_MAX_PARTS = 24  # errors, stages, hosts, keys
_MAX_PART = 4000  # characters of one
_MAX_SECONDS = 1e9
_MAX_NUMBER = 2**63 - 1
_REMOVED_TOGETHER = 2_000

TABLES: tuple[LiteralString, ...] = (
    """CREATE TABLE IF NOT EXISTS vmw_fleet.outcome (
        server text COLLATE "C" NOT NULL,
        number bigint NOT NULL,
        server_name text NOT NULL,
        key text COLLATE "C" NOT NULL,
        name text,
        vc_uuid uuid,
        esxi_host text,
        reported timestamptz NOT NULL,
        seconds double precision NOT NULL,
        status text NOT NULL,
        instance_id text NOT NULL,
        boot_id text,
        errors text[] NOT NULL,
        stages jsonb NOT NULL,
        hosts text[] NOT NULL,
        host_keys text[] NOT NULL,
        proof text NOT NULL,
        PRIMARY KEY (server, number)
    )""",
    "CREATE INDEX IF NOT EXISTS outcome_key ON vmw_fleet.outcome (key, reported)",
    "CREATE INDEX IF NOT EXISTS outcome_reported ON vmw_fleet.outcome (reported)",
    """CREATE OR REPLACE VIEW vmw_fleet.outcomes AS
        SELECT reported, status, key AS machine_id, name, vc_uuid, esxi_host,
            server_name AS server, seconds, instance_id, boot_id, errors, stages, hosts, host_keys,
            proof
        FROM vmw_fleet.outcome""",
)

_WRITE: LiteralString = """
    INSERT INTO vmw_fleet.outcome (
        server, number, server_name, key, name, vc_uuid, esxi_host, reported, seconds, status,
        instance_id, boot_id, errors, stages, hosts, host_keys, proof)
    SELECT %s, number, %s, key, name, vc_uuid, esxi_host, now() - make_interval(secs => age),
        seconds, status, instance_id, boot_id, errors, stages, hosts, host_keys, proof
    FROM jsonb_to_recordset(%s::jsonb) AS told (
        number bigint, key text, name text, vc_uuid uuid, esxi_host text, age float8,
        seconds float8, status text, instance_id text, boot_id text, errors text[], stages jsonb,
        hosts text[], host_keys text[], proof text)
    ON CONFLICT (server, number) DO NOTHING"""
_OF_MACHINE: LiteralString = """
    SELECT extract(epoch FROM reported)::float8, server, esxi_host, status, errors, stages, seconds,
        instance_id, boot_id, hosts, host_keys
    FROM vmw_fleet.outcomes WHERE machine_id = %s ORDER BY reported DESC LIMIT %s"""
# The last of each machine. One that an operator has forgotten is no machine any more.
_KNOWN_HOSTS: LiteralString = f"""
    SELECT key, hosts, host_keys, proof,
        EXISTS (SELECT FROM vmw_fleet.machine m JOIN vmw_fleet.servers s ON s.id = m.server
            WHERE m.key = o.key AND m.connected_since IS NOT NULL AND s.stopped IS NULL
                AND s.heartbeat > now() - interval '{GONE_S:g} s'),
        EXISTS (SELECT FROM vmw_fleet.machine m WHERE m.key = o.key)
    FROM (SELECT DISTINCT ON (key) key, hosts, host_keys, proof FROM vmw_fleet.outcome
        WHERE key > %s AND host_keys <> '{{}}' ORDER BY key, reported DESC LIMIT %s) o
    ORDER BY key"""
_FORGET: LiteralString = """
    DELETE FROM vmw_fleet.outcome WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM vmw_fleet.outcome old
        WHERE reported < now() - make_interval(days => %s)
            AND (EXISTS (SELECT FROM vmw_fleet.outcome newer
                    WHERE newer.key = old.key AND newer.reported > old.reported
                        AND (newer.host_keys <> '{}' OR old.host_keys = '{}'))
                OR NOT EXISTS (SELECT FROM vmw_fleet.machine WHERE machine.key = old.key))
        LIMIT %s FOR UPDATE SKIP LOCKED))
    RETURNING 1"""


class ToldOutcome(NamedTuple):
    """What a guest has reported of a boot. Times are seconds since 1970."""

    number: int  # no other boot or outcome of this server has it
    key: str
    name: str | None
    vc_uuid: str | None
    esxi_host: str
    at_s: float
    seconds: float  # since its meta-data
    status: str
    instance_id: str
    boot_id: str
    errors: Sequence[str]
    stages: dict[str, float]
    hosts: Sequence[str]
    host_keys: Sequence[str]
    proof: str


def outcome_row(packed: Sequence[Any], now_s: float) -> Row:
    """Return a row of the table; raise ValueError or TypeError for anything else than a
    ToldOutcome."""
    told = ToldOutcome(*packed)
    stages = list(told.stages.items())[:_MAX_PARTS]
    return {
        "number": min(int(told.number), _MAX_NUMBER),
        "key": key_text(told.key),
        "name": optional_text(told.name, MAX_NAME),
        "vc_uuid": uuid_or_none(told.vc_uuid),
        "esxi_host": storable(told.esxi_host, MAX_WORD) or None,
        "age": age(told.at_s, now_s),
        "seconds": min(max(0.0, float(told.seconds)), _MAX_SECONDS),
        "status": storable(told.status, MAX_WORD),
        "instance_id": storable(told.instance_id, MAX_REASON),
        "boot_id": storable(told.boot_id, MAX_WORD) or None,
        "errors": _parts(told.errors),
        "stages": {
            storable(name, MAX_WORD): min(float(seconds), _MAX_SECONDS) for name, seconds in stages
        },
        "hosts": _parts(told.hosts),
        "host_keys": _parts(told.host_keys),
        "proof": storable(told.proof, MAX_WORD),
    }


def _parts(texts: Sequence[str]) -> list[str]:
    return [storable(text, _MAX_PART) for text in list(texts)[:_MAX_PARTS]]


async def write(context: Context, rows: Sequence[Row]) -> None:
    """Write a batch, if the schema has the table."""
    if context.schema >= SCHEMA_VERSION:
        await context.slow.run(_WRITE, (context.server, context.name, ujson.dumps(list(rows))))


async def outcomes_of(context: Context, key: str) -> list[dict[str, Any]]:
    """Return the last outcomes of a machine, the newest first, as the API has them."""
    if context.schema < SCHEMA_VERSION:
        return []
    rows = await context.slow.run(_OF_MACHINE, (key, MAX_OUTCOMES))
    return [_outcome(row) for row in rows]


def _outcome(row: Sequence[Any]) -> dict[str, Any]:
    reported_s, server, host, status, errors, stages, seconds, instance_id, boot_id, *known = row
    hosts, host_keys = known
    return {
        "time": timestamp(reported_s),
        "server": server,
        "esxi_host": host,
        "status": status,
        "errors": errors,
        "stages": stages,
        "seconds": seconds,
        "instance_id": instance_id,
        "boot_id": boot_id,
        "hosts": hosts,
        "host_keys": host_keys,
    }


async def known_hosts(context: Context, _process: int, fields: Fields, _payload: bytes) -> Reply:
    """Reply the host keys of some machines, in the order of their keys, behind the one `after`: a
    list of [key, hosts, host keys, proof, whether it is connected]. `last` is the last key; "" if
    there are no more."""
    found = await context.slow.run(_KNOWN_HOSTS, (str(fields["after"]), MAX_TOGETHER))
    known = [row[:-1] for row in found if row[-1]]
    last = found[-1][0] if len(found) == MAX_TOGETHER else ""
    return Reply({"last": last}, ujson.dumps(known, ensure_ascii=False).encode())


async def forget(context: Context) -> None:
    """Delete outcomes that are older than the retention, few at a time."""
    while await context.slow.run(_FORGET, (context.retention_days, _REMOVED_TOGETHER)):
        pass


PART = FleetPart(
    asks={KNOWN_HOSTS: known_hosts},
    rounds=(Round("forget outcomes", 60.0, forget, is_alone=True),),
    since=SCHEMA_VERSION,
)
