"""Snapshot: the files that made an answer, as they were; Token: whether they have changed."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from itertools import chain
from math import inf

from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.drivererror import ChangedMeanwhile
from vmw_cloudinit_metadata.drivers.filesystem.root import Anywhere, LeadsOut, Root
from vmw_cloudinit_metadata.drivers.revisions import Revisions

# A change within one tick of the file system's clock does not show in a time stamp. The coarsest
# ticks are one second, so a file that changed less than two seconds ago is looked at again.
UNSETTLED_NS = 2_000_000_000

# While a directory does not change, files missing in it are still missing. Some network file
# systems report its changes late, so there the files are looked for now and then.
TRUSTED_S = 10.0

# Some changes are not notified (watching.py): so an answer is looked at now and then all the same.
NOTIFIED_S = 60.0

_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}

_SMALL_BYTES = 16 * 1024

Signature = tuple[int, ...] | None  # None: no such file
OUTSIDE: Signature = ()  # a link that leads out of the directory
Look = Callable[[str], Signature]

_ANYWHERE = Anywhere()


def signature_of(found: os.stat_result) -> Signature:
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


def _written(found: os.stat_result) -> tuple[int, int]:
    """Return what changes when a file is written, but not when another one replaces it."""
    return found.st_size, found.st_mtime_ns


def _is_settled(changed_ns: int) -> bool:
    """Return whether the next change will show in the time stamps."""
    return time.time_ns() - changed_ns > UNSETTLED_NS


def _look(path: str, stat: Callable[[str], os.stat_result] = os.stat) -> os.stat_result | None:
    try:
        return stat(path)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise


def trusted_s(directory: os.stat_result | None) -> float:
    """Return how long an unchanged time stamp proves that a directory has not changed."""
    if directory is None:
        return TRUSTED_S
    if not _is_settled(directory.st_ctime_ns):
        return -inf
    # File systems without a block device, such as those of networks, have the major number 0.
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
    """Signatures of paths; looks at each once. `revision` is from before these looks."""

    def __init__(self, revision: int | None = None) -> None:
        self.revision = revision
        self._seen: dict[str, Signature] = {}

    def __call__(self, path: str) -> Signature:
        seen = self._seen
        if path not in seen:
            seen[path] = _seen(path)
        return seen[path]


class _Absences:
    """Files missing in one directory; `found` is its status from before they were looked for."""

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
        """Return the files missing at both looks, with the directory's status at the earlier
        one."""
        both = copy(earlier)
        both.absent = self.absent | earlier.absent
        return both

    def _trust(self, found: os.stat_result | None) -> None:
        self._signature = signature_of(found) if found else None
        self._trusted_until_s = time.monotonic() + trusted_s(found)


class Token:
    """The files that an answer depends on, as they were, and when it expires.

    With a `revision`, all of them are in one directory whose changes are counted.
    """

    __slots__ = (
        "_absences",
        "_files",
        "_looked_s",
        "_prefix_length",
        "_revision",
        "_until_s",
    )

    def __init__(
        self,
        files: Mapping[str, Signature],
        absences: Iterable[_Absences] = (),
        until_s: float = inf,  # of time.monotonic()
        revision: int | None = None,
        prefix: str = "",  # of the paths; what follows is the key of a change
    ) -> None:
        self._prefix_length = len(prefix)
        self._files = files
        self._absences = tuple(absences)
        self._until_s = until_s
        self._revision = revision
        self._looked_s = time.monotonic()

    def holds(self, looks: Looks | None = None) -> bool:
        """Return whether all files look the same; False if one cannot be looked at."""
        look = looks or Looks()
        try:
            for path, seen in self._files.items():
                if look(path) != seen:
                    return False
            for directory in self._absences:
                if not directory.holds(look):
                    return False
        except OSError:
            return False
        if self._revision is not None and look.revision is not None:
            self._revision, self._looked_s = look.revision, time.monotonic()
        return self._until_s == inf or time.monotonic() < self._until_s

    def held_at(self, changes: Revisions, time_s: float) -> bool:
        """Return whether notifications alone show that nothing had changed at that time."""
        if self._revision is None or time_s - self._looked_s > NOTIFIED_S:
            return False
        return changes.held_at(self._revision, self._names(), time_s)

    def _names(self) -> Iterator[str]:
        for path in chain(self._files, *(directory.absent for directory in self._absences)):
            yield path[self._prefix_length :]


class Snapshot:
    """Looks at files and remembers their status.

    Files below `root` must stay below it: a link that leads out counts as a file that cannot be
    read (LeadsOut). Other paths are the operator's, and are used as they are.
    """

    kept_bytes = 0  # of content

    def __init__(self, root: Root | None = None, revision: int | None = None) -> None:
        self.root = root
        self._revision = revision  # of Revisions, from before the first look
        self._is_plain = True  # all are watched, and no links
        self._seen: dict[str, Signature] = {}
        self._directories: dict[str, _Absences] = {}
        self._is_settled = True

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.root:
            self.root.close()

    def exists(self, path: str) -> bool:
        """Return whether there is such a file; raise DriverError if the path cannot be looked
        at."""
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
            if self.root is None or place != self.root.prefix:
                self._is_plain = False
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
        self._is_plain = False  # what it leads to may lie elsewhere
        found = _look(path, where.look)
        if found is None:  # the link may have been replaced, and then what it had led to removed
            found = _look(path, where.look)
        if found is None:  # a dangling link: its directory will not change when its target appears
            self._seen[path] = None
        return found

    def confirm(self) -> None:
        """Raise ChangedMeanwhile if the path of the root leads to another directory now.

        The one that is open may be removed already, and then lacks files.
        """
        if self.root is None:
            return
        try:
            found = os.stat(self.root.prefix)
        except OSError:
            return  # the next look-up reports it
        if not os.path.samestat(found, self.root.status):
            raise ChangedMeanwhile(f"{self.root.prefix}: the directory was replaced")

    def apart(self) -> Snapshot:
        """Return a snapshot of the same root that has seen nothing yet."""
        return Snapshot(self.root)

    def lacks(self, paths: Iterable[str]) -> None:
        """Count entries of the root as looked for and missing, as of the root's status."""
        assert self.root
        place = self.root.prefix
        if place not in self._directories:
            self._directories[place] = _Absences(place, self.root.status)
        self._directories[place].absent.update(paths)

    def names(self, path: str) -> list[str]:
        """The entries of a directory in the root that is watched too, in their order.

        Raises DriverError if it cannot be listed, and LeadsOut.
        """
        assert self.root
        try:
            found, names, has_links = self.root.names(path)
        except LeadsOut:
            self._seen[path] = OUTSIDE
            raise
        except OSError as error:
            raise cannot_read(path, error) from error
        self._seen[path] = signature_of(found)
        self._is_settled = self._is_settled and _is_settled(found.st_ctime_ns)
        self._is_plain = self._is_plain and not has_links
        return names

    def is_still(self, path: str) -> bool:
        """Return whether another look at the path shows the same as before."""
        try:
            return self._seen.get(path) == OUTSIDE or self._seen.get(path) == _seen(path)
        except OSError as error:
            raise cannot_read(path, error) from error

    def include_unchanged(self, other: Snapshot) -> bool:
        """Include what `other` has seen, if one look at each path shows the same; return whether.

        Raises DriverError if a path cannot be looked at.
        """
        try:
            if any(_seen(path) != seen for path, seen in other._seen.items()):
                return False
        except OSError as error:
            raise cannot_read(str(error.filename), error) from error
        self.include(other)
        return True

    def _where(self, path: str) -> Root | Anywhere:
        return self.root if self.root and path.startswith(self.root.prefix) else _ANYWHERE

    def read(self, path: str, limit: int) -> bytes | None:
        """Return at most `limit` + 1 bytes of a file; None for anything but a regular file.

        Raise DriverError if it cannot be read or is being written, and LeadsOut.
        """
        try:
            return self._read(path, limit)
        except LeadsOut:
            self._seen[path] = OUTSIDE
            raise
        except FileNotFoundError as error:  # callers have seen it
            raise ChangedMeanwhile(str(cannot_read(path, error))) from error
        except OSError as error:
            raise cannot_read(path, error) from error

    def _read(self, path: str, limit: int) -> bytes | None:
        descriptor = self._where(path).open(path)
        try:
            before = os.fstat(descriptor)
            self._record(path, before)
            if not stat.S_ISREG(before.st_mode):
                return None
            size = max(before.st_size, _SMALL_BYTES) + 1  # some files report size 0
            content = b""
            while piece := os.read(descriptor, min(size, limit + 1 - len(content))):
                content += piece
                if len(content) == before.st_size:
                    break  # the end, unless somebody is writing: the next look shows that
            if _written(before) != _written(os.fstat(descriptor)):
                raise ChangedMeanwhile(f"{path}: the file is being written")
            return content
        finally:
            os.close(descriptor)

    def _record(self, path: str, found: os.stat_result) -> None:
        self._seen[path] = signature_of(found)
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            # it may be written by another name
            self._is_plain = False
        if not _is_settled(found.st_ctime_ns):  # now, not after parsing
            self._is_settled = False

    def include(self, other: Snapshot) -> None:
        """Add everything that `other` has seen."""
        self._seen.update(other._seen)
        for place, directory in other._directories.items():
            ours = self._directories.get(place)
            if ours is None or directory.absent:
                self._directories[place] = directory.joined(ours or directory)
        self._is_settled = self._is_settled and other._is_settled
        self._is_plain = self._is_plain and other._is_plain

    def agrees_with(self, other: Snapshot) -> bool:
        """Look at everything that `other` has seen; return whether it looks the same.

        Raise DriverError if a path cannot be looked at.
        """
        absent = [path for directory in other._directories.values() for path in directory.absent]
        return not any(map(self.exists, absent)) and all(
            self.exists(path) is (seen is not None) and self._seen.get(path) == seen
            for path, seen in other._seen.items()
        )

    def token(self, until_s: float = inf) -> Token | None:
        """Return a token for Driver.still_holds; None if time stamps might not show the next
        change."""
        if not self._is_settled:
            return None
        lacking = (directory for directory in self._directories.values() if directory.absent)
        revision = self._revision if self._is_plain and until_s == inf else None
        prefix = self.root.prefix if self.root else ""
        return Token(self._seen, lacking, until_s, revision, prefix)

    def names_told(self) -> list[str] | None:
        """Return the names, in the root, of all that was looked at; None if changes of some are
        not notified."""
        if not self._is_plain or self.root is None:
            return None
        absent = (directory.absent for directory in self._directories.values())
        prefix = self.root.prefix
        return [path.removeprefix(prefix) for path in chain(self._seen, *absent)]

    def is_settled(self) -> bool:
        """Return whether the next change of any file will show in its time stamps."""
        return self._is_settled

    def mode(self, path: str) -> int:
        """Return the file's mode; raise OSError, and LeadsOut."""
        return self._where(path).look(path).st_mode

    def closed(self) -> Snapshot:
        """Return a copy without the open root."""
        seen = Snapshot()
        seen.include(self)
        return seen

    def size_of(self, path: str) -> int:
        """Return the size of a file that was looked at; 0 if it is missing."""
        seen = self._seen.get(path)
        return seen[0] if seen else 0

    @property
    def bytes_seen(self) -> int:
        """The size of all files together."""
        return sum(seen[0] for seen in self._seen.values() if seen)

    def signature(self, path: str) -> Signature:
        return self._seen.get(path)


def cannot_read(path: str, error: OSError) -> DriverError:
    return DriverError(f"{path}: cannot be read: {error.strerror}")
