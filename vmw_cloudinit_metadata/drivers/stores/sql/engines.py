"""Engines of SQLAlchemy for each database, whose connections are bounded in bytes and seconds."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Engine, create_engine, event, exc
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.stores.sql.boundconnections import (
    BoundMariadb,
    BoundPostgresql,
    BoundSqlite,
    PaddedLoader,
)
from vmw_cloudinit_metadata.drivers.stores.sql.meter import Meter
from vmw_cloudinit_metadata.drivers.stores.sql.sqltables import MARIADB, POSTGRESQL, SQLITE
from vmw_cloudinit_metadata.protocol.printable import one_line

CONNECT_S = 2  # the least that libpq knows
LOOK_UP_S = 2.5  # for all of one look-up: connect, read and a retry. The server gives up after 3 s
POOL_S = 0.5  # of these, until a connection is free
READ_S = LOOK_UP_S - POOL_S  # until an answer comes

# The library of each kind of URL.
_SCHEMES = {
    "postgresql": (POSTGRESQL, "postgresql+psycopg"),
    "mysql": (MARIADB, "mysql+pymysql"),
    "mariadb": (MARIADB, "mariadb+pymysql"),
    "sqlite": (SQLITE, "sqlite+pysqlite"),
}
_EXPECTED = "postgresql://, mariadb://, mysql:// or sqlite:///"

# Parameters of an URL that would have no effect, as they are set here; but for the encoding's.
_OURS = {
    POSTGRESQL: {
        *("connect_timeout", "tcp_user_timeout", "client_encoding", "application_name"),
        *("keepalives_idle", "keepalives_interval", "keepalives_count"),
    },
    MARIADB: {"connect_timeout", "read_timeout", "write_timeout", "autocommit", "charset"},
}
_ENCODINGS = {("client_encoding", "utf8"), ("charset", "utf8mb4")}


def parsed(url: str) -> tuple[str, URL]:
    """Return which database an URL is of, and the URL; raise DriverError, which quotes nothing."""
    try:
        found = make_url(str.__str__(url))
    except (exc.ArgumentError, ValueError):
        raise DriverError(f"url: found something else than a URL, expected {_EXPECTED}") from None
    scheme = found.drivername
    if scheme not in _SCHEMES:
        raise DriverError(f"url: found another scheme, expected {_EXPECTED}")
    database, drivername = _SCHEMES[scheme]
    return database, found.set(drivername=drivername)


def database_of(url: str, password: str | None = None) -> tuple[str, URL]:
    """Return the same for an URL by which a database can be reached."""
    database, found = parsed(url)
    if database == SQLITE and found.database in (None, "", ":memory:"):
        raise DriverError("url: found no path, expected sqlite:////ABSOLUTE/PATH")
    _refuse_useless(database, found)
    if password is None:
        return database, found
    if database == SQLITE:
        raise DriverError("password: SQLite has none: remove it")
    if found.password is not None:
        raise DriverError("password: the URL has one too: remove one")
    return database, found.set(password=password)


def _refuse_useless(database: str, url: URL) -> None:
    """Raise DriverError for a parameter that would have no effect."""
    for name, value in url.query.items():
        if database == SQLITE:
            raise DriverError(f"url: SQLite takes no parameters here: remove {one_line(name)}")
        if name in _OURS[database] and (name, str(value).lower()) not in _ENCODINGS:
            raise DriverError(f"url: {name} is set by the server: remove it")


def address_of(url: URL) -> str:
    """Return where the database is, without user and password."""
    if url.get_backend_name() == SQLITE:
        return str(url.database)
    port = f":{url.port}" if url.port else ""
    return f"{url.get_backend_name()}://{url.host or ''}{port}/{url.database or ''}"


def engine_of(
    database: str, url: URL, *, wait_s: float = READ_S, is_read_only: bool = True
) -> Engine:
    """Return an engine that makes a connection each time.

    Each statement is a transaction of its own, and each answer of the server must come in `wait_s`.
    """
    known: dict[str, Any] = {
        "hide_parameters": True,
        "isolation_level": "AUTOCOMMIT",
        "poolclass": NullPool,
        "pool_reset_on_return": None,
    }
    if database == SQLITE:
        engine = create_engine(url, connect_args={"timeout": wait_s}, **known)
        if is_read_only:
            event.listen(engine, "do_connect", _sqlite(str(url.database), wait_s))
    elif database == POSTGRESQL:
        engine = create_engine(url, use_native_hstore=False, connect_args=_patient(wait_s), **known)
        event.listen(engine, "do_connect", _postgresql(wait_s))
    else:
        limits = {"connect_timeout": CONNECT_S, "read_timeout": wait_s, "write_timeout": wait_s}
        engine = create_engine(url, connect_args={**limits, "charset": "utf8mb4"}, **known)
        event.listen(engine, "do_connect", _mariadb(wait_s))
    return engine


def _patient(wait_s: float) -> Mapping[str, Any]:
    return {
        "connect_timeout": CONNECT_S,
        "tcp_user_timeout": int(1000 * wait_s),
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "application_name": "vmw-cloudinit-metadata",
        # A database in SQL_ASCII has bytes otherwise, and one in LATIN1 not each name of a VM.
        "client_encoding": "utf8",
    }


def _postgresql(wait_s: float) -> Any:
    def connect(_dialect: Any, _record: Any, cargs: Any, cparams: Any) -> BoundPostgresql:
        connection = BoundPostgresql.connect(*cargs, **cparams)
        connection.meter = Meter(connection.pgconn.socket)
        connection.wait_s = wait_s
        connection.adapters.register_loader("bpchar", PaddedLoader)
        return connection

    return connect


def _mariadb(wait_s: float) -> Any:
    def connect(_dialect: Any, _record: Any, cargs: Any, cparams: Any) -> BoundMariadb:
        connection = BoundMariadb(*cargs, **cparams)
        connection.wait_s = wait_s
        return connection

    return connect


def _sqlite(path: str, wait_s: float) -> Any:
    """Open a file that must exist; nothing is written."""
    place = f"file:{quote(os.path.abspath(path))}?mode=ro"

    def connect(_dialect: Any, record: Any, _cargs: Any, _cparams: Any) -> BoundSqlite:
        # Noted before it is opened: what replaces it meanwhile must not be taken for it.
        record.info["file"] = state_of(path) if os.path.exists(path) else None
        return sqlite3.connect(
            place, uri=True, timeout=wait_s, check_same_thread=False, factory=BoundSqlite
        )

    return connect


def state_of(path: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return which file is at that path, and when it was written; raise OSError if there is none.

    A copy of another database over the file may have SQLite's own count of changes.
    """
    found = os.stat(path)
    return (found.st_dev, found.st_ino), (found.st_mtime_ns, found.st_size)
