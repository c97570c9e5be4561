"""Names that instance files hold: found by a scan of all files, which parses what has changed.

The names of further documents, and of the files that are user-data.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from itertools import islice

from vmw_cloudinit_metadata.drivers.snapshot import Snapshot, Token

# What a scan has found counts for so long while the directory stays as it is.
KEPT_S = 10.0

# However often files come and go: scans take a twentieth of a core, but for a first little while;
# and a new name is noticed after KEPT_S, whatever that takes.
_SHARE = 1 / 20
_BURST_S = 0.1

MAX_NAMES = 10_000
MAX_REMEMBERED = 50_000  # files, about 300 bytes each; those beyond are parsed at each scan

_NAME = re.compile("[A-Z]{1,32}")  # no other one can be asked for

_NEVER = Token({}, until_s=0.0)


def code_of(name: object) -> str | None:
    """What a further document is asked for by; None if it cannot be asked for."""
    code = str(name).upper()
    return code if _NAME.fullmatch(code) else None


class DocumentNames:
    """The names that the last scan found, of those that `accept` returns as they are to be told."""

    def __init__(self, directory: str, accept: Callable[[object], str | None] = code_of) -> None:
        self._accept = accept
        self._directory = directory
        self._lock = threading.Lock()
        self._token = _NEVER
        self._of_file: dict[str, tuple[int, frozenset[str]]] = {}  # with the hash of its signature
        self._next: dict[str, tuple[int, frozenset[str]]] = {}
        self._names: frozenset[str] = frozenset()
        self._left_s = _BURST_S  # for scans
        self._since_s = time.monotonic()

    def get(self, scan: Callable[[], Iterable[str]]) -> frozenset[str]:
        """What `scan` yields, now or a while ago."""
        with self._lock:
            if not self._token.holds() and self._has_time():
                self._scan(scan)
            return self._names

    def _has_time(self) -> bool:
        now_s = time.monotonic()
        self._left_s = min(self._left_s + _SHARE * (now_s - self._since_s), _BURST_S)
        self._since_s = now_s
        return self._left_s > 0

    def _scan(self, scan: Callable[[], Iterable[str]]) -> None:
        began_s = time.monotonic()
        seen = Snapshot()
        seen.exists(self._directory)  # it changes when a file comes or goes
        self._next = {}
        self._names = frozenset(islice(scan(), MAX_NAMES))
        self._of_file = self._next
        ended_s = time.monotonic()
        self._token = seen.token(ended_s + KEPT_S) or _NEVER
        self._left_s = max(self._left_s - (ended_s - began_s), -_SHARE * KEPT_S)

    def of_file(
        self, path: str, seen: Snapshot, read: Callable[[str, Snapshot], Iterable[object]]
    ) -> Iterable[str]:
        """While it scans: what `read` returned for the file when it changed last."""
        seen.exists(path)
        signature = hash(seen.signature(path))
        before = self._of_file.get(path)
        if before and before[0] == signature:
            names = before[1]
        else:
            found = map(self._accept, read(path, seen))
            names = frozenset(islice((name for name in found if name), MAX_NAMES))
            signature = hash(seen.signature(path))
        if seen.is_settled() and len(self._next) < MAX_REMEMBERED:
            self._next[path] = signature, names
        return names
