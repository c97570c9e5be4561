"""The tables and views of machines and boots in the fleet's database. Pure.

A server writes rows of its own only, so nothing that it writes late replaces what another one has
written. The view `machines` decides which row is the state of a machine: the newest connection to
a server that runs, else what was changed last.
"""

from __future__ import annotations

from typing import LiteralString

# A server runs if it has sent a heartbeat within 15 s and was not stopped.
MACHINES: LiteralString = """CREATE OR REPLACE VIEW vmw_fleet.machines AS
        SELECT DISTINCT ON (m.key)
            m.key AS id, m.name, m.vc_uuid, m.bios_uuid, m.location_uuid, m.esxi_host,
            m.service_uri, m.direction, m.proof,
            CASE WHEN m.connected_since IS NULL OR s.id IS NOT NULL
                    OR m.state IN ('failed', 'stale', 'broken') THEN m.state
                WHEN m.server_name IN (
                    SELECT name FROM vmw_fleet.servers WHERE stopped IS NULL
                        AND heartbeat > statement_timestamp() - interval '15 s')
                    THEN 'missing'
                ELSE 'gone' END AS state,
            m.connected_since IS NOT NULL AND s.id IS NOT NULL AS connected,
            m.connected_since, m.changed, m.ports, m.problem,
            m.error_time, m.error, m.error_document, m.error_reason,
            m.served_time, m.served_seconds, m.matched_by, m.files, m.documents, m.more_documents,
            m.server_name AS server, m.server AS server_id, m.told, m.about
        FROM vmw_fleet.machine m
        LEFT JOIN vmw_fleet.servers s ON s.id = m.server AND m.connected_since IS NOT NULL
            AND s.stopped IS NULL AND s.heartbeat > statement_timestamp() - interval '15 s'
        ORDER BY m.key, s.id IS NULL,
            CASE WHEN s.id IS NULL THEN m.changed ELSE m.connected_since END DESC, m.server"""

TABLES: tuple[LiteralString, ...] = (
    # What changes is in no index, so that an update needs no new entries of indexes.
    """CREATE TABLE IF NOT EXISTS vmw_fleet.machine (
        key text COLLATE "C" NOT NULL,
        server text COLLATE "C" NOT NULL,
        server_name text NOT NULL,
        number bigint NOT NULL,
        told timestamptz NOT NULL,
        changed timestamptz NOT NULL,
        connected_since timestamptz,
        name text,
        vc_uuid uuid,
        bios_uuid uuid,
        location_uuid uuid,
        esxi_host text,
        service_uri text,
        direction text,
        proof text,
        state text NOT NULL,
        problem text,
        ports integer NOT NULL,
        error_time timestamptz,
        error text,
        error_document text,
        error_reason text,
        served_time timestamptz,
        served_seconds double precision,
        matched_by text,
        files text[],
        documents jsonb,
        more_documents integer,
        about text NOT NULL,
        PRIMARY KEY (key, server)
    ) WITH (fillfactor = 60)""",
    """CREATE TABLE IF NOT EXISTS vmw_fleet.boot (
        server text COLLATE "C" NOT NULL,
        number bigint NOT NULL,
        server_name text NOT NULL,
        key text COLLATE "C" NOT NULL,
        name text,
        vc_uuid uuid,
        esxi_host text,
        identified timestamptz,
        first_request timestamptz NOT NULL,
        ended timestamptz NOT NULL,
        outcome text NOT NULL,
        document text,
        reason text,
        document_count integer NOT NULL,
        document_bytes bigint NOT NULL,
        matched_by text,
        files text[],
        PRIMARY KEY (server, number)
    )""",
    "CREATE INDEX IF NOT EXISTS boot_ended ON vmw_fleet.boot (ended, outcome)",
    "CREATE INDEX IF NOT EXISTS boot_key ON vmw_fleet.boot (key, ended)",
    # What servers ask each other: gone after a crash of the database, when nobody waits for it.
    """CREATE UNLOGGED TABLE IF NOT EXISTS vmw_fleet.story (
        id bigint PRIMARY KEY,
        asked timestamptz NOT NULL DEFAULT clock_timestamp(),
        server text NOT NULL,
        key text NOT NULL,
        asker text NOT NULL,
        process integer NOT NULL,
        answer bytea
    )""",
    MACHINES,
    """CREATE OR REPLACE VIEW vmw_fleet.boots AS
        SELECT ended, outcome, key AS machine_id, name, vc_uuid, esxi_host, server_name AS server,
            identified, first_request,
            extract(epoch FROM ended - first_request)::double precision AS seconds,
            document, reason, document_count, document_bytes, matched_by, files
        FROM vmw_fleet.boot""",
)
