"""How a database tells changes: PostgreSQL by NOTIFY, others by a version that is polled."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from psycopg import sql
from sqlalchemy import PoolProxiedConnection

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.store import LAYERS, Changes, Key
from vmw_cloudinit_metadata.drivers.stores.sql import engines
from vmw_cloudinit_metadata.drivers.stores.sql.boundconnections import BoundPostgresql
from vmw_cloudinit_metadata.drivers.stores.sql.rowrecords import TooLargeError

PING_S = 1.0  # from one to the next; the answer has READ_S
SILENCE_S = PING_S + engines.READ_S + 0.5  # a listener that says nothing hangs
POLL_S = 0.25  # between two looks at a version

# A table that is replaced, as by a restore, sends nothing, nor does one whose triggers are off.
_TABLES = """
    SELECT c.oid, t.oid, t.xmin::text FROM unnest(%s::text[]) AS name
    JOIN pg_class AS c ON c.oid = to_regclass(name) LEFT JOIN pg_trigger AS t ON t.tgrelid = c.oid
    ORDER BY c.oid, t.oid"""

Connect = Callable[[], AbstractContextManager[PoolProxiedConnection]]


def listen(connect: Connect, channel: str, tables: Sequence[str], changes: Changes) -> None:
    """Tell what triggers send on a channel: `KIND VALUE`, `layers`, or "" for anything; and that
    anything may have changed, once one of the tables or its triggers are others."""
    with connect() as connection:
        raw = connection.dbapi_connection
        if not isinstance(raw, BoundPostgresql):
            raise DriverError("channel: only PostgreSQL has channels")
        raw.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        seen = _state_of(raw, tables)
        changes.connected(SILENCE_S)
        while not changes.closed.is_set():
            for notification in raw.notifies(timeout=PING_S):
                key = key_in(notification.payload)
                changes.changed([key]) if key else changes.everything()
            now = _state_of(raw, tables)
            # What was sent before comes before the answer.
            for notification in raw.notifies(timeout=0):
                key = key_in(notification.payload)
                changes.changed([key]) if key else changes.everything()
            if now != seen:
                changes.everything()
                seen = now
            changes.alive()


def _state_of(raw: BoundPostgresql, tables: Sequence[str]) -> Sequence[Any]:
    """Return which tables and triggers there are. What is notified meanwhile comes first."""
    try:
        return raw.execute(_TABLES, [list(tables)]).fetchall()
    except TooLargeError:
        raise DriverError("too many notifications at once: all rows are read again") from None


def key_in(payload: str) -> Key | None:
    """Return which records have changed; None: any."""
    if payload == LAYERS.kind:
        return LAYERS
    kind, _, value = payload.partition(" ")
    return Key(kind, value) if value else None


def poll(
    connect: Connect, version: Callable[[PoolProxiedConnection], Hashable], changes: Changes
) -> None:
    """Tell that anything may have changed, whenever `version` returns another value."""
    with connect() as connection:
        seen = version(connection)
        changes.connected(SILENCE_S)
        while not changes.closed.wait(POLL_S):
            now = version(connection)
            if now != seen:
                changes.everything()
                seen = now
            changes.alive()
