"""RecordNames: the documents beyond the standard ones that any record has."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from math import inf

from vmw_cloudinit_metadata.drivers.content.layer import FileLayer
from vmw_cloudinit_metadata.drivers.driver import DriverError

MAX_NAMES = 1000

# However long it takes to list all records, it takes a twentieth of the time.
KEPT_S = 10.0
_PAUSES = 20

_NAME = re.compile("[A-Z]{1,32}")  # a guest can ask for no other


class RecordNames:
    """Those of the records that were read for VMs, and of `every`, if that can be listed."""

    def __init__(self, every: Callable[[], Iterable[FileLayer]]) -> None:
        self._every = every
        self._lock = threading.Lock()
        self._read: set[str] = set()
        self._listed: frozenset[str] = frozenset()
        self._again_s = -inf

    def note(self, file: FileLayer) -> None:
        names = file.mapping.get("documents")
        if isinstance(names, dict) and len(self._read) < MAX_NAMES:
            self._read |= _codes(names)

    def all(self) -> frozenset[str]:
        """Return the names, as guests request them."""
        with self._lock:
            began_s = time.monotonic()
            if began_s > self._again_s:
                self._listed = self._names()
                ended_s = time.monotonic()
                self._again_s = ended_s + max(KEPT_S, _PAUSES * (ended_s - began_s))
            return self._listed.union(self._read)

    def _names(self) -> frozenset[str]:
        found: set[str] = set()
        try:
            for file in self._every():
                names = file.mapping.get("documents")
                if isinstance(names, dict) and len(found) < MAX_NAMES:
                    found |= _codes(names)
        except DriverError:
            return self._listed  # reported when a VM asks
        return frozenset(found)


def _codes(names: Iterable[object]) -> set[str]:
    codes = (str(name).upper() for name in names)
    return set(filter(_NAME.fullmatch, codes))
