"""LedgerFile: the file of --ledger, in which claims are recorded. Does file I/O, and blocks.

It is SQLite's. Several processes of one machine may share it; what is recorded is on the disk.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from vmw_cloudinit_metadata.monitoring.ownfile import of_another_user, open_own
from vmw_cloudinit_metadata.process.fleet.ledgerrows import REOPENED
from vmw_cloudinit_metadata.serving.ledger import IN_WINDOW, Claimed, Unrecorded, Use, Verdict
from vmw_cloudinit_metadata.settings.errors import ConfigError

MAX_BYTES = 256 * 1024 * 1024  # some two million claims
BUSY_S = 2.0  # for another process that writes

_APPLICATION = 0x764D4C31  # says whose file it is
_PAGE_BYTES = 4096
# https://www.sqlite.org/fileformat.html, 1.3: the header, and the two bytes of the page size in it.
_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100

_WHOSE = "SELECT application_id, (SELECT count(*) FROM sqlite_schema) FROM pragma_application_id"
# An entry of the log is on the disk when its transaction has ended.
_SETTINGS = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL")
_TABLE = """CREATE TABLE IF NOT EXISTS uses (
    vm TEXT NOT NULL,
    instance BLOB NOT NULL,
    document TEXT NOT NULL,
    claimant BLOB NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (vm, instance, document)
) WITHOUT ROWID"""
_CLAIM = "INSERT INTO uses VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_CLAIM_AGAIN = """UPDATE uses SET (claimant, at) = (?, ?)
    WHERE (vm, instance, document) = (?, ?, ?) AND at < ?"""
_OF_INSTANCE = """EXISTS (SELECT 1 FROM uses AS other
    WHERE (other.vm, other.instance, other.document) = (uses.vm, uses.instance, '{}'))"""
_FIRST = f"""SELECT claimant, at,
    {_OF_INSTANCE.format(IN_WINDOW)}, {_OF_INSTANCE.format(REOPENED)}
    FROM uses WHERE (vm, instance, document) = (?, ?, ?)"""
_NOTE_REOPENED = f"""INSERT INTO uses SELECT vm, instance, '{REOPENED}', claimant, ? FROM uses
    WHERE (vm, document) = (?, '') ON CONFLICT DO UPDATE SET at = excluded.at"""
_REOPEN = "DELETE FROM uses WHERE (vm, document) = (?, '')"
_GIVE_BACK = "DELETE FROM uses WHERE (vm, instance, document, claimant) = (?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What is to be recorded: a claim, or that it is given back."""

    use: Use
    claimant: bytes
    is_claim: bool = True


class LedgerFile:
    """Belongs to one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Make the file if there is none; raise ConfigError."""
        self.path = path
        self._connection: sqlite3.Connection | None = None
        try:
            os.close(open_own(path, os.O_RDWR | os.O_CREAT))
            self._file = _identity(path)
            with closing(_opened(path)) as connection:
                _make_table(connection)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"--ledger: {path}: {_text_of(error)}") from error

    def record(self, entries: Sequence[LedgerEntry]) -> list[Verdict]:
        """Record all, and return what is recorded of each, or why nothing is."""
        try:
            if _identity(self.path) != self._file:
                raise OSError("another file has taken its place: restart the server")
            with self._open():  # commits, or rolls back
                return [self._record(entry) for entry in entries]
        except (OSError, sqlite3.Error) as error:
            self.close()
            return [Unrecorded(f"--ledger: {self.path}: {_text_of(error)}")] * len(entries)

    def close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if not self._connection:
            self._connection = _opened(self.path)
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def _record(self, entry: LedgerEntry) -> Verdict:
        assert self._connection
        key = (entry.use.vm, entry.use.instance, entry.use.document)
        if not entry.is_claim:
            self._connection.execute(_GIVE_BACK, (*key, entry.claimant))
            return Claimed(is_first=False)
        now_s, lasts_s = time.time(), entry.use.lasts_s
        is_new = self._connection.execute(_CLAIM, (*key, entry.claimant, now_s)).rowcount == 1
        if lasts_s is not None and not is_new:
            self._connection.execute(_CLAIM_AGAIN, (entry.claimant, now_s, *key, now_s - lasts_s))
        found = self._connection.execute(_FIRST, key).fetchone()
        claimant, at_s, had_in_window, is_reopened = found
        is_first, was_reopened = claimant == entry.claimant, is_new and bool(is_reopened)
        return Claimed(is_first, now_s - at_s, bool(had_in_window), was_reopened)


def reopen(path: Path, vm: str) -> int:
    """Forget the windows of a VM; return how many there were. Raise ConfigError."""
    try:
        _identity(path)
        with closing(_opened(path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_NOTE_REOPENED, (time.time(), vm))
            count = connection.execute(_REOPEN, (vm,)).rowcount
            connection.execute("COMMIT")
            return count
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"--ledger: {path}: {_text_of(error)}") from error


def _identity(path: Path) -> tuple[int, int]:
    """Return which file it is; raise OSError, also if it is not the server's own.

    Without opening it: with a descriptor that is closed, this process would lose all its locks of
    the file (fcntl(2)), and another one that ends would delete the log under it.
    """
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError("not a regular file")
    if found.st_uid != os.geteuid():
        raise of_another_user(found.st_uid)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError("other users may write to it: chmod 600 it")
    return found.st_dev, found.st_ino


def _opened(path: Path) -> sqlite3.Connection:
    """Raise OSError, and change nothing, if it is something else, or another program's database."""
    _require_database(path)
    connection = sqlite3.connect(
        path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )
    application, tables = connection.execute(_WHOSE).fetchone()
    if tables and application != _APPLICATION:
        connection.close()
        raise OSError("a database of another program: name another file")
    for setting in _SETTINGS:
        connection.execute(setting)
    connection.execute(f"PRAGMA max_page_count = {MAX_BYTES // _PAGE_BYTES}")
    return connection


def _require_database(path: Path) -> None:
    """Raise OSError unless the file is empty, or has a page at least: SQLite takes anything shorter
    for a new database, and overwrites it. This process has no lock of the file yet that closing it
    would end."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
        size = os.fstat(file.fileno()).st_size
    page_bytes = int.from_bytes(head[16:18], "big")
    if head and not (head.startswith(_MAGIC) and size >= max(page_bytes, _HEADER_BYTES)):
        raise OSError("neither empty nor a whole database: name another file")


def _make_table(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    connection.execute(_TABLE)
    connection.execute("COMMIT")


def _text_of(error: OSError | sqlite3.Error) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    text = str(error)
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return f"{text}: it has {MAX_BYTES // 1024**2} MiB, or its file system is full"
    return text
