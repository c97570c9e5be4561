"""NameScan: names found in all instance files by a scan that parses only changed files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from sys import getsizeof

from vmw_cloudinit_metadata.drivers.driver import DriverError, UnderWay
from vmw_cloudinit_metadata.drivers.files.everyfile import EveryFile
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.filetoken import Token
from vmw_cloudinit_metadata.drivers.filesystem.root import LeadsOut
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot

# A scan counts for this long while the directory stays as it is.
KEPT_S = 10.0

# However often files come and go, scans take a twentieth of a core, except for a short burst; and
# a new name is noticed after KEPT_S in any case.
_SHARE = 1 / 20
_BURST_S = 0.1

# Of all names, and of the files that are remembered: the others are parsed at each scan.
MAX_BYTES = 16 * 1024 * 1024
_ABOUT_BYTES = 100  # a file without its names
MAX_OF_FILE = 10_000  # names in one file

_NEVER = Token({}, until_s=0.0)

Read = Callable[[str, Snapshot], Iterable[str]]


class NameScan:
    """The names that `read` returns for any file of which answers are made."""

    def __init__(self, directory: Directory, every: EveryFile, read: Read) -> None:
        self._directory = directory
        self._every = every
        self._read = read
        self._lock = threading.Lock()
        self._token = _NEVER
        self._of_file: dict[str, tuple[int, frozenset[str]]] = {}  # with the hash of its signature
        self._names: frozenset[str] = frozenset()
        self._left_s = _BURST_S  # for scans
        self._since_s = time.monotonic()

    def names(self) -> frozenset[str]:
        """Return the result of the last scan; scan again if it is too old."""
        with self._lock:
            if not self._token.holds() and self._has_time():
                self._scan()
            return self._names

    def now(self) -> frozenset[str]:
        """Scan, however long ago the last scan was; raise DriverError."""
        with self._lock:
            self._scan()
            return self._names

    def _has_time(self) -> bool:
        now_s = time.monotonic()
        self._left_s = min(self._left_s + _SHARE * (now_s - self._since_s), _BURST_S)
        self._since_s = now_s
        return self._left_s > 0

    def _scan(self) -> None:
        began_s = time.monotonic()
        seen = Snapshot()
        seen.exists(self._directory.path)  # it changes when a file comes or goes
        seen.exists(self._directory.layers_path)
        remembered: dict[str, tuple[int, frozenset[str]]] = {}
        names: set[str] = set()
        size = 0
        for name in self._found(remembered):
            if name not in names and size < MAX_BYTES:
                names.add(name)
                size += getsizeof(name)
        self._names = frozenset(names)
        self._of_file = remembered
        ended_s = time.monotonic()
        self._token = seen.token(ended_s + KEPT_S) or _NEVER
        self._left_s = max(self._left_s - (ended_s - began_s), -_SHARE * KEPT_S)

    def _found(self, remembered: dict[str, tuple[int, frozenset[str]]]) -> Iterator[str]:
        size = 0
        with self._directory.snapshot() as snapshot:
            for path in self._every.paths(snapshot):
                seen = Snapshot(snapshot.root)
                try:
                    signature, names = self._of(path, seen)
                except (DriverError, LeadsOut, UnderWay):
                    continue  # reported when its VM asks
                size += _ABOUT_BYTES + getsizeof(names) + sum(map(getsizeof, names))
                if seen.is_settled() and size <= MAX_BYTES:
                    remembered[path] = signature, names
                yield from names

    def _of(self, path: str, seen: Snapshot) -> tuple[int, frozenset[str]]:
        seen.exists(path)
        signature = hash(seen.signature(path))
        before = self._of_file.get(path)
        if before and before[0] == signature:
            return before
        names = frozenset(islice(self._read(path, seen), MAX_OF_FILE))
        return hash(seen.signature(path)), names
