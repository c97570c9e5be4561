"""What VMs have used up, in the database: each row is a claim, and the first one counts.

Unlike what others tell, it is worth keeping: the table is written to the database's log.
"""

from __future__ import annotations

import re
from typing import LiteralString

from vmw_cloudinit_metadata.process.fleet.fleetpart import Context, FleetPart
from vmw_cloudinit_metadata.process.fleet.frames import Fields, Reply

_HEX = re.compile("(?:[0-9a-f]{2}){1,32}", re.ASCII)
_MAX_VM = 64
_DOCUMENT = re.compile("[A-Z]{0,32}", re.ASCII)

TABLES: tuple[LiteralString, ...] = (
    """CREATE TABLE IF NOT EXISTS vmw_fleet.ledger (
        vm text NOT NULL CHECK (length(vm) <= 64),
        instance bytea NOT NULL CHECK (octet_length(instance) <= 32),
        document text NOT NULL CHECK (length(document) <= 32),
        claimant bytea NOT NULL CHECK (octet_length(claimant) <= 32),
        at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (vm, instance, document)
    )""",
)

# One statement: of two at the same time, the second waits for the first, and finds its row. A row
# that was inserted has an xmax of 0; one that was there has not.
CLAIM: LiteralString = """
    INSERT INTO vmw_fleet.ledger AS known (vm, instance, document, claimant)
    VALUES (%s, %s, %s, %s)
    ON CONFLICT (vm, instance, document) DO UPDATE SET
        claimant = CASE WHEN known.at < clock_timestamp() - %s::float8 * interval '1 s'
            THEN excluded.claimant ELSE known.claimant END,
        at = CASE WHEN known.at < clock_timestamp() - %s::float8 * interval '1 s'
            THEN clock_timestamp() ELSE known.at END
    RETURNING claimant = %s, extract(epoch FROM clock_timestamp() - at)::float8,
        EXISTS (SELECT FROM vmw_fleet.ledger AS other WHERE (other.vm, other.instance,
            other.document) = (known.vm, known.instance, 'USERDATA')),
        known.xmax = 0 AND EXISTS (SELECT FROM vmw_fleet.ledger AS other WHERE (other.vm,
            other.instance, other.document) = (known.vm, known.instance, 'window reopened'))"""
_GIVE_BACK: LiteralString = """
    DELETE FROM vmw_fleet.ledger WHERE (vm, instance, document, claimant) = (%s, %s, %s, %s)"""

REOPENED = "window reopened"  # instead of a document: an operator has reopened the window
REOPEN: LiteralString = """
    WITH gone AS (
        DELETE FROM vmw_fleet.ledger WHERE (vm, document) = (%s, '') RETURNING *)
    INSERT INTO vmw_fleet.ledger (vm, instance, document, claimant)
    SELECT vm, instance, 'window reopened', claimant FROM gone
    ON CONFLICT (vm, instance, document) DO UPDATE SET at = excluded.at"""


async def _claim(context: Context, _process: int, fields: Fields, _payload: bytes) -> Reply:
    row = _row_of(fields)
    lasts_s = fields.get("lasts_s")
    if not isinstance(lasts_s, float):
        lasts_s = None  # no time is before NULL
    found = await context.quick.run(CLAIM, (*row, lasts_s, lasts_s, row[3]))
    ((is_first, age_s, had, reopened),) = found
    about = {"had_in_window": had, "was_reopened": reopened}
    return Reply({"is_first": is_first, "age_s": age_s, **about})


async def _give_back(context: Context, _process: int, fields: Fields, _payload: bytes) -> Reply:
    await context.quick.run(_GIVE_BACK, _row_of(fields))
    return Reply({})


def _row_of(fields: Fields) -> tuple[str, bytes, str, bytes]:
    """Check a claim; raise ValueError."""
    match fields:
        case {
            "vm": str(vm),
            "instance": str(instance),
            "document": str(document),
            "claimant": str(claimant),
        } if len(vm) <= _MAX_VM and _DOCUMENT.fullmatch(document):
            if _HEX.fullmatch(instance) and _HEX.fullmatch(claimant):
                return vm, bytes.fromhex(instance), document, bytes.fromhex(claimant)
    raise ValueError("not a claim")


PART = FleetPart(asks={"claim": _claim, "claim back": _give_back}, since=5)
