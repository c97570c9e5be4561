"""Writes what a server tells of its machines and boots: one statement each for a batch."""

from __future__ import annotations

import time
from typing import LiteralString

import ujson

from vmw_cloudinit_metadata.process.fleet import machineforgetting, outcomerows
from vmw_cloudinit_metadata.process.fleet.fleetpart import Context
from vmw_cloudinit_metadata.process.fleet.fleetservers import GONE_S
from vmw_cloudinit_metadata.process.fleet.frames import Fields, Reply
from vmw_cloudinit_metadata.process.fleet.machinerows import (
    boot_row,
    boot_row_of,
    boots_of,
    machine_row,
    rows_of,
)

REMOVED_TOGETHER = 2_000

# `number` orders the batches of a server: what was still under way on a connection that is lost
# replaces nothing newer.
_MACHINES: LiteralString = """
    INSERT INTO vmw_fleet.machine AS known (
        key, server, server_name, number, told, changed, connected_since,
        name, vc_uuid, bios_uuid, location_uuid, esxi_host, service_uri, direction, proof,
        state, problem, ports, error_time, error, error_document, error_reason,
        served_time, served_seconds, matched_by, files, documents, more_documents, about)
    SELECT key, %s, %s, %s, now(),
        now() - make_interval(secs => changed_age), now() - make_interval(secs => since_age),
        name, vc_uuid, bios_uuid, location_uuid, esxi_host, service_uri, direction, proof,
        state, problem, ports,
        now() - make_interval(secs => error_age), error, error_document, error_reason,
        now() - make_interval(secs => served_age), served_seconds, matched_by, files, documents,
        more_documents, about
    FROM jsonb_to_recordset(%s::jsonb) AS told (
        key text, changed_age float8, since_age float8, name text, vc_uuid uuid, bios_uuid uuid,
        location_uuid uuid, esxi_host text, service_uri text, direction text, proof text,
        state text, problem text, ports integer, error_age float8, error text,
        error_document text, error_reason text, served_age float8, served_seconds float8,
        matched_by text, files text[], documents jsonb, more_documents integer, about text)"""
# What an operator has forgotten, and what has not changed since.
_NOT_FORGOTTEN: LiteralString = """
    WHERE since_age IS NOT NULL OR NOT EXISTS (
        SELECT FROM vmw_fleet.forgotten WHERE forgotten.key = told.key
            AND forgotten >= now() - make_interval(secs => changed_age))"""
_REPLACE: LiteralString = """
    ORDER BY key
    ON CONFLICT (key, server) DO UPDATE SET
        number = EXCLUDED.number, told = EXCLUDED.told, changed = EXCLUDED.changed,
        connected_since = EXCLUDED.connected_since, name = EXCLUDED.name,
        vc_uuid = EXCLUDED.vc_uuid, bios_uuid = EXCLUDED.bios_uuid,
        location_uuid = EXCLUDED.location_uuid, esxi_host = EXCLUDED.esxi_host,
        service_uri = EXCLUDED.service_uri, direction = EXCLUDED.direction,
        proof = EXCLUDED.proof, state = EXCLUDED.state, problem = EXCLUDED.problem,
        ports = EXCLUDED.ports, error_time = EXCLUDED.error_time, error = EXCLUDED.error,
        error_document = EXCLUDED.error_document, error_reason = EXCLUDED.error_reason,
        served_time = EXCLUDED.served_time, served_seconds = EXCLUDED.served_seconds,
        matched_by = EXCLUDED.matched_by, files = EXCLUDED.files,
        documents = EXCLUDED.documents, more_documents = EXCLUDED.more_documents,
        about = EXCLUDED.about
    WHERE known.number < EXCLUDED.number"""
_BOOTS: LiteralString = """
    INSERT INTO vmw_fleet.boot (
        server, number, server_name, key, name, vc_uuid, esxi_host, identified, first_request,
        ended, outcome, document, reason, document_count, document_bytes, matched_by, files)
    SELECT %s, number, %s, key, name, vc_uuid, esxi_host,
        now() - make_interval(secs => identified_age), now() - make_interval(secs => first_age),
        now() - make_interval(secs => age), outcome, document, reason,
        document_count, document_bytes, matched_by, files
    FROM jsonb_to_recordset(%s::jsonb) AS told (
        number bigint, key text, name text, vc_uuid uuid, esxi_host text, identified_age float8,
        first_age float8, age float8, outcome text, document text, reason text,
        document_count integer, document_bytes bigint, matched_by text, files text[])
    ON CONFLICT (server, number) DO NOTHING"""

_LEAVE: LiteralString = """
    UPDATE vmw_fleet.machine SET connected_since = NULL, ports = 0, changed = now(), told = now(),
        state = CASE WHEN state IN ('failed', 'stale', 'broken') THEN state ELSE 'left' END
    WHERE server = %s AND number < %s AND connected_since IS NOT NULL"""

_FORGET_BOOTS: LiteralString = """
    DELETE FROM vmw_fleet.boot WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM vmw_fleet.boot
        WHERE ended < now() - make_interval(days => %s)
        ORDER BY ended LIMIT %s FOR UPDATE SKIP LOCKED))
    RETURNING 1"""
# Machines of which another row is the state, and those that nobody has seen for long. A machine
# that is connected to a server that runs has a row that stays.
_FORGET_MACHINES: LiteralString = f"""
    DELETE FROM vmw_fleet.machine WHERE ctid = ANY (ARRAY(
        SELECT m.ctid FROM vmw_fleet.machine m
        JOIN vmw_fleet.machines state ON state.id = m.key
        WHERE NOT (state.connected AND m.server = state.server_id)
            AND (m.connected_since IS NULL OR NOT EXISTS (
                SELECT FROM vmw_fleet.servers s WHERE s.id = m.server AND s.stopped IS NULL
                    AND s.heartbeat > now() - interval '{GONE_S:g} s'))
            AND (m.server <> state.server_id OR m.changed < now() - make_interval(days => %s))
        LIMIT %s FOR UPDATE OF m SKIP LOCKED))
    RETURNING 1"""


async def record(context: Context, _process: int, fields: Fields, payload: bytes) -> Reply:
    """Write a batch; reply how many of its rows were invalid, which none of this program is.

    `announced`: with this batch the server has told all of its machines, with higher numbers.
    """
    told, now_s = ujson.loads(payload), time.time()
    machines, bad_machines = rows_of(told.get("machines"), machine_row, now_s)
    boots, bad_boots = rows_of(told.get("boots"), boot_row, now_s)
    outcomes, bad_outcomes = rows_of(told.get("outcomes"), outcomerows.outcome_row, now_s)
    with_machines, bad_ends = rows_of(boots_of(told.get("machines")), boot_row_of, now_s)
    boots += with_machines
    about = (context.server, context.name)
    if machines:
        number = int(fields["number"])
        knows_forgotten = context.schema >= machineforgetting.SCHEMA_VERSION
        statement = _MACHINES + (_NOT_FORGOTTEN if knows_forgotten else "") + _REPLACE
        await context.slow.run(statement, (*about, number, ujson.dumps(machines)))
    if boots:
        await context.slow.run(_BOOTS, (*about, ujson.dumps(boots)))
    if outcomes:
        await outcomerows.write(context, outcomes)
    if announced := int(fields["announced"]):
        await context.slow.run(_LEAVE, (context.server, announced))
    invalid = bad_machines + bad_boots + bad_ends + bad_outcomes
    return Reply({"invalid": invalid})


async def forget_boots(context: Context) -> None:
    """Delete boots that are older than the retention, few at a time."""
    days = context.retention_days
    while await context.slow.run(_FORGET_BOOTS, (days, REMOVED_TOGETHER)):
        pass


async def forget_machines(context: Context) -> None:
    """Delete rows of machines that count no more, few at a time."""
    days = context.retention_days
    while await context.slow.run(_FORGET_MACHINES, (days, REMOVED_TOGETHER)):
        pass
