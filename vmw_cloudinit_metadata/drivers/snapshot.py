"""What was seen of the files that an answer was made of, and whether they still look the same."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from vmw_cloudinit_metadata.errors import DriverError

# A change within one tick of the file system's clock shows in no time stamp. The coarsest ticks are
# one second, so what changed less than two seconds ago is looked at again.
UNSETTLED_NS = 2_000_000_000

_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}

Signature = tuple[int, ...] | None  # None: there is no such file


def _signature(found: os.stat_result) -> Signature:
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


def _written(found: os.stat_result) -> tuple[int, int]:
    """What a write changes; a file that is replaced by another one keeps it."""
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True, slots=True)
class Token:
    """The files that an answer depends on, as they were, and until when it holds at the longest."""

    files: Mapping[str, Signature]
    until_s: float = inf  # of time.monotonic()

    def holds(self) -> bool:
        """Stats only; whatever cannot be told does not hold."""
        try:
            return all(_look(path) == seen for path, seen in self.files.items()) and (
                self.until_s == inf or time.monotonic() < self.until_s
            )
        except OSError:
            return False


def _look(path: str) -> Signature:
    try:
        return _signature(os.stat(path))
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise


class Snapshot:
    """Looks at files, and remembers what it saw."""

    def __init__(self) -> None:
        self._seen: dict[str, Signature] = {}
        self._changed_ns = 0

    def exists(self, path: str) -> bool:
        """Raises DriverError if that cannot be told."""
        try:
            self.record(path, os.stat(path))
        except OSError as error:
            if error.errno not in _ABSENT:
                raise cannot_read(path, error) from error
            self._seen[path] = None
        return self._seen[path] is not None

    def read(self, path: str, limit: int) -> bytes | None:
        """A file's bytes, at most `limit` + 1 of them; None if it is no regular file.

        Raises DriverError if it cannot be read, or changes while it is.
        """
        try:
            return self._read(path, limit)
        except OSError as error:
            raise cannot_read(path, error) from error

    def _read(self, path: str, limit: int) -> bytes | None:
        # Not blocking: an open FIFO would hold up this thread for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            before = os.fstat(descriptor)
            self.record(path, before)
            if not stat.S_ISREG(before.st_mode):
                return None
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(limit + 1)
            if _written(before) != _written(os.fstat(descriptor)):
                raise DriverError(f"{path}: the file is being written just now")
            return content
        finally:
            os.close(descriptor)

    def record(self, path: str, found: os.stat_result) -> None:
        self._seen[path] = _signature(found)
        self._changed_ns = max(self._changed_ns, found.st_ctime_ns)

    def token(self, until_s: float = inf) -> Token | None:
        """For Driver.still_holds; None if a file changed too short ago to tell the next change."""
        return Token(self._seen, until_s) if self.is_settled() else None

    def is_settled(self) -> bool:
        """Whether the next change of any of the files will show in its time stamps."""
        return time.time_ns() - self._changed_ns > UNSETTLED_NS

    def signature(self, path: str) -> Signature:
        return self._seen[path]


def cannot_read(path: str, error: OSError) -> DriverError:
    return DriverError(f"{path}: cannot be read: {error.strerror}")
