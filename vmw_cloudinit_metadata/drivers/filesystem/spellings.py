"""Files with unusual names: spelled otherwise than the name by which VMs are looked up.

For a VM name such as `ci%2Fbuild-1`, or one with accents, a file may have many spellings. They
cannot all be tried, so the directory is listed; but only for a VM that has no file in the usual
spelling.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import defaultdict
from math import inf

from vmw_cloudinit_metadata.drivers.filesystem.filename import (
    is_instance_file,
    nearly_stem,
    stem_in,
    usual_stem,
)
from vmw_cloudinit_metadata.drivers.filesystem.filetoken import trusted_s

# However often files come and go, listings take a twentieth of a core.
_PAUSES = 20

MAX_BYTES = 16 * 1024 * 1024  # of all names kept
_ABOUT_BYTES = 300  # a name's place in the table


class Spellings:
    """Names of files, by the stem under which their VM is looked up."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] = ()
        self._until_s = -inf
        self._again_s = -inf
        self._others: dict[str, list[str]] = {}
        self._nearly: dict[str, list[str]] = {}
        self.kept_bytes = 0
        self.left_out = 0  # names for which there was no room

    def look(self) -> None:
        """List the directory if it has changed; raise OSError."""
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
        others: dict[str, list[str]] = defaultdict(list)
        nearly: dict[str, list[str]] = defaultdict(list)
        kept_bytes = left_out = 0
        for name in sorted(os.listdir(self._directory)):
            if is_instance_file(name):
                table, stem = others, usual_stem(stem_in(name))
                is_kept = stem is not None and stem != stem_in(name)
            else:
                meant = nearly_stem(name)
                table, stem = nearly, meant and (usual_stem(meant) or meant)
                is_kept = stem is not None
            if not is_kept or stem is None:
                continue
            size = _ABOUT_BYTES + sys.getsizeof(name) + sys.getsizeof(stem)
            if kept_bytes + size > MAX_BYTES:
                left_out += 1
                continue
            kept_bytes += size
            table[stem].append(name)
        self._others, self._nearly = dict(others), dict(nearly)
        self.kept_bytes, self.left_out = kept_bytes, left_out

    def shed(self) -> bool:
        """Drop nothing: look-ups need all of the table."""
        return False

    def others(self, stem: str) -> list[str]:
        """Return the instance files of that name in other spellings, as of the last `look`."""
        return self._others.get(stem, [])

    def nearly(self, stem: str) -> list[str]:
        """Return files probably meant as its instance file: `web1.YAML`."""
        return self._nearly.get(stem, [])
