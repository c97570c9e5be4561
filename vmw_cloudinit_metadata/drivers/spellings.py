"""Files that are there under another spelling than the one by which a VM's file is looked up.

Of a name such as `ci%2Fbuild-1`, or of one with accents, a file may have any spelling. Not each can
be tried, so the directory is listed; but only for a VM that has no file by the usual spelling.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from math import inf

from vmw_cloudinit_metadata.drivers.filename import (
    is_instance_file,
    nearly_stem,
    stem_in,
    usual_stem,
)
from vmw_cloudinit_metadata.drivers.snapshot import trusted_s

# However often files come and go: listings take a twentieth of a core.
_PAUSES = 20


class Spellings:
    """Names of files, by the stem by which their VM is looked up."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] = ()
        self._until_s = -inf
        self._again_s = -inf
        self._others: dict[str, list[str]] = {}
        self._nearly: dict[str, list[str]] = {}

    def look(self) -> None:
        """List the directory if it has changed; raises OSError."""
        with self._lock:
            found = os.stat(self._directory)
            now_s = time.monotonic()
            seen = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)
            is_same = seen == self._seen and now_s < self._until_s
            if is_same or now_s < self._again_s:
                return
            self._list()
            self._seen, self._until_s = seen, now_s + trusted_s(found)
            ended_s = time.monotonic()
            self._again_s = ended_s + _PAUSES * (ended_s - now_s)

    def _list(self) -> None:
        others, nearly = defaultdict(list), defaultdict(list)
        for name in sorted(os.listdir(self._directory)):
            if is_instance_file(name):
                stem = stem_in(name)
                usual = usual_stem(stem)
                if usual and usual != stem:
                    others[usual].append(name)
            elif meant := nearly_stem(name):
                nearly[usual_stem(meant) or meant].append(name)
        self._others, self._nearly = dict(others), dict(nearly)

    def others(self, stem: str) -> list[str]:
        """The instance files of that name in other spellings, as `look` has found them last."""
        return self._others.get(stem, [])

    def nearly(self, stem: str) -> list[str]:
        """What was most likely meant as its instance file, and is none: `web1.YAML`."""
        return self._nearly.get(stem, [])
