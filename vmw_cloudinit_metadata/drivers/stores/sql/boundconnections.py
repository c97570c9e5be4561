"""Connections of each library, bounded: the bytes of an answer, and the time of waiting for it.

No library bounds either: libpq waits for ever for an answer of a server that is stopped, and all
of them take a row of any size.
"""

from __future__ import annotations

import io
import socket
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from math import inf
from typing import Any, TypeVar

import psycopg
import pymysql  # type: ignore[import-untyped]
from psycopg import waiting
from psycopg.abc import PQGen
from psycopg.types.string import TextLoader
from pymysql.cursors import SSCursor  # type: ignore[import-untyped]

from vmw_cloudinit_metadata.drivers.stores.sql.meter import Meter
from vmw_cloudinit_metadata.drivers.stores.sql.rowrecords import MAX_ANSWER_BYTES, TooLargeError

_STEPS = 10_000  # of SQLite's machine, from one look at the clock to the next: 0.1 ms
_LEAST_S = 0.001

T = TypeVar("T")

Listed = Iterator[tuple[Sequence[str], Sequence[Any]]]  # names and values of each row


class BoundPostgresql(psycopg.Connection[Any]):
    """Waits for an answer until `until_s` of time.monotonic(), or `wait_s` for each answer."""

    until_s = inf
    wait_s = inf
    meter: Meter

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        if timeout is not None:  # of `notifies`, which returns then
            return self._passed(gen, interval, timeout)
        left_s = min(self.until_s - time.monotonic(), self.wait_s)
        try:
            return self._passed(gen, interval, max(left_s, _LEAST_S))
        except TooLargeError:
            self.pgconn.finish()
            raise
        except psycopg.Error as error:
            is_active = self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE
            if is_active and error.sqlstate is None:  # no error of the server
                self.pgconn.finish()  # the answer may come later: nothing may be sent before it
                raise psycopg.OperationalError("the server does not answer in time") from None
            raise

    def _passed(self, gen: PQGen[T], interval: float, timeout: float) -> T:
        steps = self.meter.passing(gen)
        return waiting.wait(steps, self.meter.server.fileno(), interval=interval, timeout=timeout)

    def close(self) -> None:
        super().close()
        self.meter.close()

    def listed(self, statement: str) -> Listed:
        with self.cursor() as cursor:
            names: Sequence[str] = ()
            for row in cursor.stream(statement, ()):
                names = names or names_of(cursor)
                yield names, row


class PaddedLoader(TextLoader):
    """Returns a `char(n)` without the blanks that fill it up, and do not count for PostgreSQL."""

    def load(self, data: Any) -> Any:
        found = super().load(data)
        return found.rstrip(" ") if isinstance(found, str) else found


class BoundMariadb(pymysql.Connection):  # type: ignore[misc]
    """The same for MariaDB and MySQL, but `wait_s` is for each part of an answer."""

    until_s = inf
    wait_s = inf
    _left_bytes = MAX_ANSWER_BYTES

    def connect(self, sock: socket.socket | None = None) -> None:
        super().connect(sock)
        self._rfile.close()
        self._rfile: Any = io.BufferedReader(_Received(self))

    def receive_into(self, buffer: memoryview) -> int:
        left_s = min(self.until_s - time.monotonic(), self.wait_s)
        self._current_timeout = max(left_s, _LEAST_S)  # as the library notes it
        self._sock.settimeout(self._current_timeout)
        return int(self._sock.recv_into(buffer))

    def _execute_command(self, command: int, sql: str | bytes) -> None:
        self._left_bytes = MAX_ANSWER_BYTES
        super()._execute_command(command, sql)

    def _read_bytes(self, num_bytes: int) -> bytes:
        self._left_bytes -= num_bytes
        if self._left_bytes < 0:
            self._drop()
            raise TooLargeError
        return bytes(super()._read_bytes(num_bytes))

    def listed(self, statement: str) -> Listed:
        cursor = self.cursor(SSCursor)
        cursor.execute(statement, ())
        names = names_of(cursor)
        try:
            while (row := cursor.fetchone()) is not None:
                yield names, row
                self._left_bytes = MAX_ANSWER_BYTES
        finally:
            self._drop()

    def _drop(self) -> None:
        """Close without the rest of an answer, which the library would read."""
        if self._result is not None:
            self._result.unbuffered_active = False
        self._force_close()


class _Received(io.RawIOBase):
    """What a connection receives; a packet may come in many parts."""

    def __init__(self, connection: BoundMariadb) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._connection.receive_into(buffer)


class BoundSqlite(sqlite3.Connection):
    """Interrupts a statement at `until_s` of time.monotonic(): it would run as long as it takes.

    A text that is not UTF-8 stays bytes, which is a fault of its own row alone.
    """

    until_s = inf

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.set_progress_handler(lambda: time.monotonic() > self.until_s, _STEPS)
        self.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_ANSWER_BYTES)  # of each value
        self.text_factory = _text_in

    def listed(self, statement: str) -> Listed:
        with closing(self.cursor()) as cursor:
            cursor.execute(statement)
            names = names_of(cursor)
            for row in cursor:
                yield names, row


def _text_in(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def names_of(cursor: Any) -> list[str]:
    return [str(column[0]) for column in cursor.description]


def fetched(cursor: Any) -> list[Sequence[Any]]:
    """Return the rows that are left; raise TooLargeError."""
    rows = []
    left_bytes = MAX_ANSWER_BYTES
    for row in cursor:
        left_bytes -= sum(len(value) for value in row if isinstance(value, str | bytes))
        if left_bytes < 0:
            raise TooLargeError
        rows.append(row)
    return rows
