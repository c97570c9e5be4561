"""What was seen of the files that an answer was made of, and whether they still look the same."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from math import inf

from vmw_cloudinit_metadata.errors import DriverError

# A change within one tick of the file system's clock shows in no time stamp. The coarsest ticks are
# one second, so what changed less than two seconds ago is looked at again.
UNSETTLED_NS = 2_000_000_000

# Of files that are not there their directory tells: it changes when one comes. Some network file
# systems are late with that: so now and then each is looked for, but on a disk of this machine.
TRUSTED_S = 10.0

_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}

_SMALL_BYTES = 16 * 1024

Signature = tuple[int, ...] | None  # None: there is no such file
Look = Callable[[str], Signature]


def _signature(found: os.stat_result) -> Signature:
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


def _written(found: os.stat_result) -> tuple[int, int]:
    """What a write changes; a file that is replaced by another one keeps it."""
    return found.st_size, found.st_mtime_ns


def _is_settled(changed_ns: int) -> bool:
    """Whether the next change will show in the time stamps of a file that changed then."""
    return time.time_ns() - changed_ns > UNSETTLED_NS


def _look(path: str, stat: Callable[[str], os.stat_result] = os.stat) -> os.stat_result | None:
    try:
        return stat(path)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise


def _trusted_s(directory: os.stat_result | None) -> float:
    """For how long no change of its time stamps means no change."""
    if directory is None:
        return TRUSTED_S
    if not _is_settled(directory.st_ctime_ns):
        return -inf
    # Without a block device, as those of networks are, a file system's major number is 0.
    return inf if os.major(directory.st_dev) else TRUSTED_S


def _seen(path: str) -> Signature:
    try:
        found = os.stat(path)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    return _signature(found)


class Looks:
    """What paths look like: each is looked at once in a moment, whoever asks."""

    def __init__(self) -> None:
        self._moment: object = None
        self._seen: dict[str, Signature] = {}

    def at(self, moment: object, path: str) -> Signature:
        if moment != self._moment:
            self._moment, self._seen = moment, {}
        seen = self._seen
        if path not in seen:
            seen[path] = _seen(path)
        return seen[path]


class _Directory:
    """Whether files that a directory did not have are still not there."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._absent: set[str] = set()
        self._look()

    def lacks(self, path: str) -> None:
        """Remembers that it has no entry of this path."""
        self._absent.add(path)

    @property
    def lacks_any(self) -> bool:
        return bool(self._absent)

    def holds(self, look: Look) -> bool:
        is_trusted = time.monotonic() < self._trusted_until_s
        if is_trusted and look(self._path) == self._signature:
            return True
        self._look()
        return all(_look(path, os.lstat) is None for path in self._absent)

    def _look(self) -> None:
        found = _look(self._path)
        self._signature = _signature(found) if found else None
        self._trusted_until_s = time.monotonic() + _trusted_s(found)


class Token:
    """The files that an answer depends on, as they were, and until when it holds at the longest."""

    __slots__ = ("_absences", "_files", "_until_s")

    def __init__(
        self,
        files: Mapping[str, Signature],
        absences: Iterable[_Directory] = (),
        until_s: float = inf,  # of time.monotonic()
    ) -> None:
        self._files = files
        self._absences = tuple(absences)
        self._until_s = until_s

    def holds(self, look: Look = _seen) -> bool:
        """Stats only; whatever cannot be told does not hold. `look` is asked for directories."""
        try:
            for path, seen in self._files.items():
                if _seen(path) != seen:
                    return False
            for directory in self._absences:
                if not directory.holds(look):
                    return False
        except OSError:
            return False
        return self._until_s == inf or time.monotonic() < self._until_s


class Snapshot:
    """Looks at files, and remembers what it saw."""

    def __init__(self) -> None:
        self._seen: dict[str, Signature] = {}
        self._directories: dict[str, _Directory] = {}
        self._changed_ns = 0

    def exists(self, path: str) -> bool:
        """Raises DriverError if that cannot be told."""
        try:
            return self._exists(path)
        except OSError as error:
            raise cannot_read(path, error) from error

    def _exists(self, path: str) -> bool:
        place = path[: path.rfind("/") + 1]
        if place not in self._directories:
            self._directories[place] = _Directory(place)
        entry = _look(path, os.lstat)
        if entry is None:
            self._directories[place].lacks(path)
            return False
        found = _look(path) if stat.S_ISLNK(entry.st_mode) else entry
        if found is None:  # a link to nowhere: no change of this directory will tell
            self._seen[path] = None
        else:
            self.record(path, found)
        return found is not None

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
            size = max(before.st_size, _SMALL_BYTES) + 1  # some files say that they have none
            content = b""
            while piece := os.read(descriptor, min(size, limit + 1 - len(content))):
                content += piece
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
        if not self.is_settled():
            return None
        lacking = (directory for directory in self._directories.values() if directory.lacks_any)
        return Token(self._seen, lacking, until_s)

    def is_settled(self) -> bool:
        """Whether the next change of any of the files will show in its time stamps."""
        return _is_settled(self._changed_ns)

    def signature(self, path: str) -> Signature:
        return self._seen.get(path)


def cannot_read(path: str, error: OSError) -> DriverError:
    return DriverError(f"{path}: cannot be read: {error.strerror}")
