"""Database: asks statements within the time of a look-up, with one retry, and raises DriverError.

While the server hangs, one thread at a time waits for it; all others fail at once, so that their
VMs get their last good answers without a wait.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, PoolProxiedConnection, exc

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.store import NAME, Key
from vmw_cloudinit_metadata.drivers.stores.sql import engines
from vmw_cloudinit_metadata.drivers.stores.sql.boundconnections import Listed
from vmw_cloudinit_metadata.drivers.stores.sql.connections import Connections, Lost
from vmw_cloudinit_metadata.drivers.stores.sql.rowrecords import (
    TooLargeError,
    UnwritableError,
    spellings,
    stored_values,
)
from vmw_cloudinit_metadata.drivers.stores.sql.sqltables import MARIADB, POSTGRESQL, SQLITE
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened
from vmw_cloudinit_metadata.settings.masking import HIDDEN, is_secret_option

LISTING_S = 30.0  # for each answer of the server, while all rows are read
HUNG_S = 1.0  # a failure after that time, with no answer for anybody in it: the server hangs
PAUSE_S = 1.0  # until it is asked again

_OF_DATA = {"DataError", "IntegrityError"}  # of each library: their texts quote what was written
_QUOTED = re.compile(r"(?<!\w)'([^']*)(?:'|$)|\"([^\"]*)(?:\"|$)|`([^`]*)(?:`|$)")


# PostgreSQL: names are compared with a column of numbers, say.
_HINTS = {"22P02": ": are the columns of names and UUIDs texts?"}

# PostgreSQL, MariaDB, MySQL: a column lacks a character of what was asked for.
_UNWRITABLE = {"22P05", "1267", "1270", "1271", "3988"}


class Database:
    """`vocabulary` is what its messages may quote, besides the address."""

    def __init__(self, url: str, password: str | None, connections: int, vocabulary: str) -> None:
        self.kind, self._url = engines.database_of(url, password)
        self._connections = connections
        self.address = engines.address_of(self._url)
        shown = self._url.set(password=None).render_as_string(hide_password=True)
        self._vocabulary = f"{vocabulary} {shown}"
        self._lock = threading.Lock()
        self._closed_until_s = 0.0
        self._answered_s = 0.0
        self._reason = ""

    @property
    def secrets(self) -> list[str]:
        """What no message may quote: the password as the server knows it, too."""
        query = self._url.query.items()
        values = [self._url.password, *(value for name, value in query if is_secret_option(name))]
        return [str(value) for value in values if value]

    @property
    def mark(self) -> str:
        """What stands for a value in a statement."""
        return "?" if self.kind == SQLITE else "%s"

    @property
    def places(self) -> str:
        """What stands in a statement for the values of a key."""
        return ", ".join([self.mark] * len(self.values_of(Key(NAME))))

    def values_of(self, key: Key) -> Sequence[Any]:
        """Return all values that a column may have for a key, always as many."""
        return stored_values(key) if self.kind == SQLITE else spellings(key)

    def quoted(self, name: str) -> str:
        """Return the name of a table or column, whose parts may be `schema.table`."""
        quote = "`" if self.kind == MARIADB else '"'
        parts = name.split(".")
        return ".".join(f"{quote}{part.replace(quote, 2 * quote)}{quote}" for part in parts)

    def file_version(self, connection: PoolProxiedConnection) -> Hashable:
        """Return another value after each change of SQLite's file."""
        file, written = engines.state_of(str(self._url.database))
        if file != connection.info["file"][0]:
            raise DriverError(f"{self.address}: the file was replaced")
        raw: Any = connection.dbapi_connection
        return raw.execute("PRAGMA data_version").fetchone(), written

    def escaped(self, text: str) -> str:
        """Return a part of a statement in which `%` stands for itself."""
        return text if self.kind == SQLITE else text.replace("%", "%%")

    @cached_property
    def _pool(self) -> Connections:
        """Made when it is first used, after the fork."""
        path = str(self._url.database) if self.kind == SQLITE else None
        return Connections(engines.engine_of(self.kind, self._url), self._connections, path)

    def rows(
        self, statement: str, values: Sequence[Any] = ()
    ) -> tuple[Sequence[str], Sequence[Any]]:
        """Return the names of the columns, and all rows; raise DriverError."""
        begun_s = time.monotonic()
        is_trying = self._enter(begun_s)
        try:
            found = self._tried(statement, values, begun_s + engines.LOOK_UP_S)
        except Exception as error:  # of any of the libraries
            told = self._error_of(error)
            if not isinstance(error, exc.TimeoutError):  # it says nothing of the server
                self._judge(told, begun_s)
            raise told from None
        self._answered_s = time.monotonic()
        if is_trying:
            self._leave("")
        return found

    @contextmanager
    def listening(self) -> Iterator[PoolProxiedConnection]:
        """Open a connection for one thread; what it raises is text for operators."""
        engine = engines.engine_of(self.kind, self._url)
        with self._told(), closing(engine.raw_connection()) as connection:
            yield connection

    def every_row(self, statement: str) -> Listed:
        """Yield each row as it comes, at one moment of the database; raise DriverError."""
        engine = engines.engine_of(self.kind, self._url, wait_s=LISTING_S)
        with self._told(), closing(engine.raw_connection()) as connection:
            raw: Any = connection.dbapi_connection
            yield from raw.listed(statement)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction, which is committed if the block ends without an exception."""
        engine = engines.engine_of(
            self.kind, self._url, wait_s=LISTING_S, is_read_only=False
        ).execution_options(isolation_level="SERIALIZABLE")
        with self._told(), engine.begin() as connection:
            yield connection

    def run(self, statements: Sequence[str]) -> None:
        """Run statements that return nothing, in one transaction where the database can."""
        with self.writing() as connection:
            for statement in statements:
                connection.exec_driver_sql(self.escaped(statement))

    def close(self) -> None:
        if "_pool" in self.__dict__:
            self._pool.close()

    def _tried(
        self, statement: str, values: Sequence[Any], until_s: float
    ) -> tuple[Sequence[str], Sequence[Any]]:
        """Ask; once more if the connection was one to a server that has gone."""
        pool = self._pool
        try:
            return pool.rows(statement, values, until_s)
        except Lost:
            if until_s - time.monotonic() < engines.LOOK_UP_S - HUNG_S:
                raise
        return pool.rows(statement, values, until_s)

    def _enter(self, now_s: float) -> bool:
        """Raise DriverError while the server hangs; return whether this thread tries it again."""
        with self._lock:
            if not self._reason:
                return False
            if now_s < self._closed_until_s:
                raise DriverError(self._reason)
            self._closed_until_s = now_s + engines.LOOK_UP_S
            return True

    def _judge(self, error: DriverError, begun_s: float) -> None:
        """Note whether the server hangs: not if somebody has just had an answer."""
        now_s = time.monotonic()
        if isinstance(error, TooLargeError):
            self._answered_s = now_s
            self._leave("")
        elif now_s - begun_s <= HUNG_S:
            self._leave("")
        elif now_s - self._answered_s > HUNG_S:
            self._leave(str(error))

    def _leave(self, reason: str) -> None:
        with self._lock:
            self._reason = reason
            self._closed_until_s = time.monotonic() + PAUSE_S

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what the libraries raise into a DriverError that quotes no value."""
        try:
            yield
        except Exception as error:  # of any of the libraries
            raise self._error_of(error) from None

    def _error_of(self, error: Exception) -> DriverError:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_TOOBIG:
            error = TooLargeError()
        match error:
            case TooLargeError():
                return TooLargeError(f"{self.address}: {error}")
            case DriverError():
                return error
            case Lost(__cause__=Exception() as cause):
                text = self._text_of(cause)
            case exc.TimeoutError():
                text = f"all {self._connections} connections are in use (max_connections)"
            case OSError():
                text = error.strerror or type(error).__name__
            case _:
                text = self._text_of(error)
        code, _ = _code_and_text(self.kind, error)
        kind = UnwritableError if code in _UNWRITABLE else DriverError
        return kind(f"{self.address}: {text}")

    def _text_of(self, error: Exception) -> str:
        """Return what a server or its library says, without values, which it likes to quote."""
        cause = getattr(error, "orig", None) or error
        code, text = _code_and_text(self.kind, cause)
        if {one.__name__ for one in type(cause).__mro__} & _OF_DATA:
            return f"invalid data ({code or type(cause).__name__}){_HINTS.get(code, '')}"
        shown = _QUOTED.sub(self._quote, one_line(shortened(text.partition("\n")[0], 500)))
        return f"{shown} ({code})" if code else shown

    def _quote(self, found: re.Match[str]) -> str:
        quote = found[0][0]
        text = next(part for part in found.groups() if part is not None)
        return found[0] if text in self._vocabulary else f"{quote}{HIDDEN}{quote}"


def _code_and_text(database: str, error: BaseException) -> tuple[str, str]:
    if database == POSTGRESQL:
        diagnosis = getattr(error, "diag", None)
        primary = getattr(diagnosis, "message_primary", None)
        return str(getattr(error, "sqlstate", None) or ""), str(primary or error)
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
        return "", "the query takes too long"
    if database == SQLITE or len(error.args) != 2:
        return "", str(error)
    return str(error.args[0]), str(error.args[1])
