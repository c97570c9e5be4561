"""Connections: those that look-ups use in turn, without what SQLAlchemy does for each statement.

Its own way costs 80 µs more a look-up, as much as PostgreSQL's whole answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Engine, exc

from vmw_cloudinit_metadata.drivers.stores.sql import engines
from vmw_cloudinit_metadata.drivers.stores.sql.boundconnections import fetched, names_of


class Lost(Exception):  # noqa: N818 - what has happened
    """The server has gone, as its cause says: another connection may help."""


class Connections:
    """At most `size` at a time, from an engine that keeps none. The last one used is used next."""

    def __init__(self, engine: Engine, size: int, path: str | None) -> None:
        self._engine = engine
        self._path = path  # of SQLite's file
        self._free: list[tuple[Any, float]] = []  # with the time at which each was made
        self._places = threading.BoundedSemaphore(size)
        self._broken_s = 0.0  # those made before are of no use
        self.is_closed = False

    def rows(
        self, statement: str, values: Sequence[Any], until_s: float
    ) -> tuple[Sequence[str], Sequence[Any]]:
        """Return the names of columns, and all rows; raise Lost, and what the library raises."""
        with self._one() as connection:
            raw = connection.dbapi_connection
            raw.until_s = until_s
            cursor = raw.cursor()
            try:
                cursor.execute(statement, values)
                return names_of(cursor), fetched(cursor)
            finally:
                cursor.close()

    @contextmanager
    def _one(self) -> Iterator[Any]:
        if not self._places.acquire(timeout=engines.POOL_S):
            raise exc.TimeoutError
        try:
            connection, made_s = self._taken()
            try:
                yield connection
            except Exception as error:  # whatever it is, the connection may be in any state
                is_lost = self._is_lost(error, connection)
                _close(connection)
                if is_lost:
                    self._broken_s = time.monotonic()
                    raise Lost from error
                raise
            if self.is_closed:
                _close(connection)
            else:
                self._free.append((connection, made_s))
        finally:
            self._places.release()

    def _is_lost(self, error: Exception, connection: Any) -> bool:
        dialect = self._engine.dialect
        library: Any = dialect.loaded_dbapi
        return isinstance(error, library.Error) and dialect.is_disconnect(
            error, connection.dbapi_connection, None
        )

    def _taken(self) -> tuple[Any, float]:
        while True:
            try:
                connection, made_s = self._free.pop()
            except IndexError:
                break
            if made_s > self._broken_s and self._is_of_file(connection):
                return connection, made_s
            _close(connection)
        made_s = time.monotonic()
        return self._engine.raw_connection(), made_s

    def _is_of_file(self, connection: Any) -> bool:
        """Return whether the file at SQLite's path is what was opened."""
        if self._path is None:
            return True
        with suppress(OSError):  # it is away, as whoever opens it says
            return bool(connection.info["file"] == engines.state_of(self._path))
        return False

    def close(self) -> None:
        self.is_closed = True
        with suppress(IndexError):
            while True:
                _close(self._free.pop()[0])


def _close(connection: Any) -> None:
    with suppress(Exception):  # of any library: the connection may be broken
        connection.close()
