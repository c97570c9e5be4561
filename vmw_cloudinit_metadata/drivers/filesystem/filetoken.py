"""Token: the files that an answer depends on, as they looked, and whether they still do."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from itertools import chain
from math import inf

from vmw_cloudinit_metadata.drivers.revisions import Revisions

# A change within one tick of the file system's clock does not show in a time stamp. The coarsest
# ticks are one second, so a file that changed less than two seconds ago is looked at again.
UNSETTLED_NS = 2_000_000_000

# While a directory does not change, files missing in it are still missing. Some network file
# systems report its changes late, so there the files are looked for now and then.
TRUSTED_S = 10.0

# Some changes are not notified (watching.py): so an answer is looked at now and then all the same.
NOTIFIED_S = 60.0

ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}

Signature = tuple[int, ...] | None  # None: no such file
OUTSIDE: Signature = ()  # a link that leads out of the directory
Look = Callable[[str], Signature]


def signature_of(found: os.stat_result) -> Signature:
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


def is_settled(changed_ns: int) -> bool:
    """Return whether the next change will show in the time stamps."""
    return time.time_ns() - changed_ns > UNSETTLED_NS


def status_of(path: str, stat: Callable[[str], os.stat_result]) -> os.stat_result | None:
    """Return the status of a path, None if there is no such file; raise OSError."""
    try:
        return stat(path)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise


def trusted_s(directory: os.stat_result | None) -> float:
    """Return how long an unchanged time stamp proves that a directory has not changed."""
    if directory is None:
        return TRUSTED_S
    if not is_settled(directory.st_ctime_ns):
        return -inf
    # File systems without a block device, such as those of networks, have the major number 0.
    return inf if os.major(directory.st_dev) else TRUSTED_S


def signature_at(path: str) -> Signature:
    found = status_of(path, os.stat)
    return signature_of(found) if found else None


class Looks:
    """Signatures of paths; looks at each once. `revision` is from before these looks."""

    def __init__(self, revision: int | None = None) -> None:
        self.revision = revision
        self._seen: dict[str, Signature] = {}

    def __call__(self, path: str) -> Signature:
        seen = self._seen
        if path not in seen:
            seen[path] = signature_at(path)
        return seen[path]


class Absences:
    """Files missing in one directory; `found` is its status from before they were looked for."""

    def __init__(self, path: str, found: os.stat_result | None) -> None:
        self._path = path
        self.absent: set[str] = set()
        self._trust(found)

    def holds(self, look: Look) -> bool:
        is_trusted = time.monotonic() < self._trusted_until_s
        if is_trusted and look(self._path) == self._signature:
            return True
        self._trust(status_of(self._path, os.stat))
        return all(status_of(path, os.lstat) is None for path in self.absent)

    def joined(self, earlier: Absences) -> Absences:
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
        absences: Iterable[Absences] = (),
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
