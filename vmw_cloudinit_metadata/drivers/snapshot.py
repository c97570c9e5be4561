"""What was seen of the files that an answer was made of, and whether they still look the same."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from math import inf

from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.root import Anywhere, LeadsOut, Root

# A change within one tick of the file system's clock shows in no time stamp. The coarsest ticks are
# one second, so what changed less than two seconds ago is looked at again.
UNSETTLED_NS = 2_000_000_000

# Of files that are not there their directory tells: it changes when one comes. Some network file
# systems are late with that: so now and then each is looked for, but on a disk of this machine.
TRUSTED_S = 10.0

_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}

_SMALL_BYTES = 16 * 1024

Signature = tuple[int, ...] | None  # None: there is no such file
OUTSIDE: Signature = ()  # of what a link leads to that leads out of the directory
Look = Callable[[str], Signature]

_ANYWHERE = Anywhere()


def signature_of(found: os.stat_result) -> Signature:
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


def trusted_s(directory: os.stat_result | None) -> float:
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
    return signature_of(found)


class Looks:
    """What paths look like: each is looked at once, whoever asks."""

    def __init__(self) -> None:
        self._seen: dict[str, Signature] = {}

    def __call__(self, path: str) -> Signature:
        seen = self._seen
        if path not in seen:
            seen[path] = _seen(path)
        return seen[path]


class _Absences:
    """Whether files that a directory did not have are still not there.

    `found` is what the directory looked like before they were looked for.
    """

    def __init__(self, path: str, found: os.stat_result | None) -> None:
        self._path = path
        self.absent: set[str] = set()
        self._trust(found)

    def holds(self, look: Look) -> bool:
        is_trusted = time.monotonic() < self._trusted_until_s
        if is_trusted and look(self._path) == self._signature:
            return True
        self._trust(_look(self._path))
        return all(_look(path, os.lstat) is None for path in self.absent)

    def joined(self, earlier: _Absences) -> _Absences:
        """What was missing in both, of one directory, as it was at the earlier look."""
        both = copy(earlier)
        both.absent = self.absent | earlier.absent
        return both

    def _trust(self, found: os.stat_result | None) -> None:
        self._signature = signature_of(found) if found else None
        self._trusted_until_s = time.monotonic() + trusted_s(found)


class Token:
    """The files that an answer depends on, as they were, and until when it holds at the longest."""

    __slots__ = ("_absences", "_files", "_until_s")

    def __init__(
        self,
        files: Mapping[str, Signature],
        absences: Iterable[_Absences] = (),
        until_s: float = inf,  # of time.monotonic()
    ) -> None:
        self._files = files
        self._absences = tuple(absences)
        self._until_s = until_s

    def holds(self, look: Look = _seen) -> bool:
        """Stats only; whatever cannot be told does not hold."""
        try:
            for path, seen in self._files.items():
                if look(path) != seen:
                    return False
            for directory in self._absences:
                if not directory.holds(look):
                    return False
        except OSError:
            return False
        return self._until_s == inf or time.monotonic() < self._until_s


class Snapshot:
    """Looks at files, and remembers what it saw.

    Files below `root` are looked for below it; where a link leads out of it, there is a file, which
    cannot be read: LeadsOut. Other paths are the operator's, and are taken as they are.
    """

    def __init__(self, root: Root | None = None) -> None:
        self.root = root
        self._seen: dict[str, Signature] = {}
        self._directories: dict[str, _Absences] = {}
        self._is_settled = True

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.root:
            self.root.close()

    def exists(self, path: str) -> bool:
        """Raises DriverError if that cannot be told."""
        try:
            found = self._found(path)
        except LeadsOut:
            self._seen[path] = OUTSIDE
            return True
        except OSError as error:
            raise cannot_read(path, error) from error
        if found is None:
            return False
        self._record(path, found)
        return True

    def _found(self, path: str) -> os.stat_result | None:
        where = self._where(path)
        place = path[: path.rfind("/") + 1]
        directory = self._directories.get(place)
        if directory is None:
            directory = self._directories[place] = _Absences(place, where.directory(place))
        try:
            entry = where.look_at(path)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            directory.absent.add(path)
            return None
        if not stat.S_ISLNK(entry.st_mode):
            return entry
        found = _look(path, where.look)
        if found is None:  # a link to nowhere: no change of this directory will tell
            self._seen[path] = None
        return found

    def _where(self, path: str) -> Root | Anywhere:
        return self.root if self.root and path.startswith(self.root.prefix) else _ANYWHERE

    def read(self, path: str, limit: int) -> bytes | None:
        """A file's bytes, at most `limit` + 1 of them; None if it is no regular file.

        Raises DriverError if it cannot be read, or changes while it is, and LeadsOut.
        """
        try:
            return self._read(path, limit)
        except LeadsOut:
            self._seen[path] = OUTSIDE
            raise
        except OSError as error:
            raise cannot_read(path, error) from error

    def _read(self, path: str, limit: int) -> bytes | None:
        descriptor = self._where(path).open(path)
        try:
            before = os.fstat(descriptor)
            self._record(path, before)
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

    def _record(self, path: str, found: os.stat_result) -> None:
        self._seen[path] = signature_of(found)
        if not _is_settled(found.st_ctime_ns):  # as of now: to parse it takes some time
            self._is_settled = False

    def include(self, other: Snapshot) -> None:
        """What `other` saw counts as seen by this one too."""
        self._seen.update(other._seen)
        for place, directory in other._directories.items():
            ours = self._directories.get(place)
            if ours is None or directory.absent:
                self._directories[place] = directory.joined(ours or directory)
        self._is_settled = self._is_settled and other._is_settled

    def agrees_with(self, other: Snapshot) -> bool:
        """Looks at all that `other` saw; whether it looks the same.

        Raises DriverError if that cannot be told.
        """
        absent = [path for directory in other._directories.values() for path in directory.absent]
        return not any(map(self.exists, absent)) and all(
            self.exists(path) is (seen is not None) and self._seen.get(path) == seen
            for path, seen in other._seen.items()
        )

    def token(self, until_s: float = inf) -> Token | None:
        """For Driver.still_holds; None if a file changed too short ago to tell the next change."""
        if not self._is_settled:
            return None
        lacking = (directory for directory in self._directories.values() if directory.absent)
        return Token(self._seen, lacking, until_s)

    def is_settled(self) -> bool:
        """Whether the next change of any of the files will show in its time stamps."""
        return self._is_settled

    def mode(self, path: str) -> int:
        """Raises OSError, and LeadsOut."""
        return self._where(path).look(path).st_mode

    def closed(self) -> Snapshot:
        """What it has seen, without what it looked with."""
        seen = Snapshot()
        seen.include(self)
        return seen

    def size_of(self, path: str) -> int:
        """Of a file that was seen; 0 if it was not there."""
        seen = self._seen.get(path)
        return seen[0] if seen else 0

    @property
    def bytes_seen(self) -> int:
        """The size of all files."""
        return sum(seen[0] for seen in self._seen.values() if seen)

    def signature(self, path: str) -> Signature:
        return self._seen.get(path)


def cannot_read(path: str, error: OSError) -> DriverError:
    return DriverError(f"{path}: cannot be read: {error.strerror}")
