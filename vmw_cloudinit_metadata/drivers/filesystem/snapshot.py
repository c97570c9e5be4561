"""Snapshot: the files that make an answer, looked at and read, and remembered as they were."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from itertools import chain
from math import inf
from pathlib import PurePath

from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.drivererror import ChangedMeanwhile
from vmw_cloudinit_metadata.drivers.filesystem.filetoken import (
    ABSENT,
    OUTSIDE,
    Absences,
    Signature,
    Token,
    is_settled,
    signature_at,
    signature_of,
    status_of,
)
from vmw_cloudinit_metadata.drivers.filesystem.root import Anywhere, LeadsOut, Root

_SMALL_BYTES = 16 * 1024

_ANYWHERE = Anywhere()


def _written(found: os.stat_result) -> tuple[int, int]:
    """Return what changes when a file is written, but not when another one replaces it."""
    return found.st_size, found.st_mtime_ns


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
        self._directories: dict[str, Absences] = {}
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
            directory = self._directories[place] = Absences(place, where.directory(place))
        try:
            entry = where.look_at(path)
        except OSError as error:
            if error.errno not in ABSENT:
                raise
            directory.absent.add(path)
            return None
        if not stat.S_ISLNK(entry.st_mode):
            return entry
        self._is_plain = False  # what it leads to may lie elsewhere
        found = status_of(path, where.look)
        if found is None:  # the link may have been replaced, and then what it had led to removed
            found = status_of(path, where.look)
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
            self._directories[place] = Absences(place, self.root.status)
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
        except FileNotFoundError as error:  # callers have seen it: a link may have been replaced
            raise ChangedMeanwhile(str(cannot_read(path, error))) from error
        except OSError as error:
            raise cannot_read(path, error) from error
        self._seen[path] = signature_of(found)
        self._is_settled = self._is_settled and is_settled(found.st_ctime_ns)
        self._is_plain = self._is_plain and not has_links
        return names

    def is_still(self, path: str) -> bool:
        """Return whether another look at the path shows the same as before."""
        try:
            return self._seen.get(path) == OUTSIDE or self._seen.get(path) == signature_at(path)
        except OSError as error:
            raise cannot_read(path, error) from error

    def include_unchanged(self, other: Snapshot) -> bool:
        """Include what `other` has seen, if one look at each path shows the same; return whether.

        Raises DriverError if a path cannot be looked at.
        """
        try:
            if any(signature_at(path) != seen for path, seen in other._seen.items()):
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
        if not is_settled(found.st_ctime_ns):  # now, not after parsing
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


def require_reachable(path: str) -> None:
    """Raise DriverError if a directory above the path cannot be entered: it may be there or not."""
    try:
        os.stat(path)
    except PermissionError as error:
        raise cannot_read(path, error) from error
    except OSError:
        return  # the caller says what is there instead


def cannot_read(path: str, error: OSError) -> DriverError:
    if error.errno != errno.EACCES:
        return DriverError(f"{path}: cannot be read: {error.strerror}")
    remedy = f"chmod or chgrp it, so that user {os.geteuid()} can read it"
    return DriverError(f"{_closed(path)}: cannot be read: {error.strerror}: {remedy}")


def _closed(path: str) -> str:
    """Return the first directory above that this user cannot enter, else the path itself."""
    for parent in reversed(PurePath(path).parents):
        if not os.access(parent, os.X_OK, effective_ids=True):
            return str(parent)
    return path
