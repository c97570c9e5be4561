"""Connections of the fleet process to PostgreSQL, each with a deadline for whatever it waits for.

libpq waits for ever for an answer of a server that is stopped, and so does psycopg.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import waiting
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import ReadOnlySqlTransaction
from psycopg.pq import TransactionStatus

CONNECT_S = 2  # for each host of the URL; the least that libpq knows
WAIT_S = 2.5  # for an answer: of the listener, and of what a VM or a move waits for
SLOW_WAIT_S = 15.0  # likewise, of batches, pages and retention
CONNECT_ALL_S = 30.0  # for all hosts, with their names

# The database gives a statement up earlier than its client does, which would close the connection.
_STATEMENT_SHARE = 0.8
_LOCK_S = 1.0  # for a lock
_LIMITS: LiteralString = """
    SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false),
        set_config('timezone', 'UTC', false)"""

T = TypeVar("T")


class BoundedConnection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """Waits for each answer at most `wait_s`, and is of no use afterwards: the answer may come
    later, and nothing may be sent before it."""

    wait_s = WAIT_S

    async def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        limit_s = self.wait_s if timeout is None else timeout  # `notifies` has one of its own
        try:
            return await waiting.wait_async(gen, self.pgconn.socket, interval, limit_s)
        except BaseException as error:  # also of a task that is cancelled
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            self.pgconn.finish()
            if isinstance(error, psycopg.Error):
                raise psycopg.OperationalError("the database does not answer in time") from None
            raise


class DatabaseLane:
    """Runs statements one after the other. Calls `count` for each, and `fail` once the connection
    is of no use."""

    def __init__(
        self,
        connection: BoundedConnection,
        count: Callable[[], None],
        fail: Callable[[psycopg.Error], None],
    ) -> None:
        self._connection = connection
        self._count = count
        self._fail = fail
        self._turn = asyncio.Lock()

    async def run(
        self, statement: LiteralString, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        async with self._turn:
            self._count()
            try:
                cursor = await self._connection.execute(statement, parameters or None)
                return await cursor.fetchall() if cursor.description else []
            except psycopg.Error as error:
                # A primary that has become a standby: another host of the URL may be the primary.
                if self._connection.closed or isinstance(error, ReadOnlySqlTransaction):
                    self._fail(error)
                raise


@asynccontextmanager
async def connected(url: str, wait_s: float = WAIT_S) -> AsyncIterator[BoundedConnection]:
    """Connect to the first host of the URL that takes writes; raise psycopg.Error or
    TimeoutError."""
    async with asyncio.timeout(CONNECT_ALL_S):
        connection = await BoundedConnection.connect(url, autocommit=True, **parameters(wait_s))
    connection.wait_s = wait_s
    try:
        await connection.execute(_LIMITS, (_ms(wait_s * _STATEMENT_SHARE), _ms(_LOCK_S)))
        yield connection
    finally:
        connection.pgconn.finish()  # which waits for nothing


def _ms(seconds: float) -> str:
    return f"{int(1000 * seconds)}ms"


def parameters(wait_s: float) -> Mapping[str, Any]:
    """Return what is asked of libpq beside the URL."""
    return {
        "connect_timeout": CONNECT_S,
        "target_session_attrs": "read-write",
        "tcp_user_timeout": int(1000 * wait_s),
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "client_encoding": "UTF8",
        "application_name": "vmw-cloudinit-metadata fleet",
    }


def place_of(url: str) -> str:
    """Return where the database is, without user and password; raise psycopg.Error for an URL that
    libpq does not take."""
    found = conninfo_to_dict(url)
    hosts = str(found.get("host") or found.get("hostaddr") or "local socket").split(",")
    ports = str(found.get("port") or "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    named = (f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=False))
    return f"{','.join(named)}/{found.get('dbname') or found.get('user') or ''}"
