"""Mirror: what NetBox's virtual machines are to the server, by their keys. Bounded; no I/O.

It is written by one thread at a time, in the order in which NetBox was read: so nothing older
follows anything newer. Any thread may look things up.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.store import Key, Record

EVERYTHING = inf  # the last id of a range without an end

MAX_BYTES = 256 * 1024 * 1024
_ABOUT_BYTES = 1000  # of memory: an entry without what follows
_INTERFACE_BYTES = 150  # of an id, in its entry and in the table by interfaces


@dataclass(frozen=True, slots=True)
class MirroredVm:
    """A virtual machine: its key, what a record has, and its interfaces, to find it by."""

    key: Key
    label: str
    text: bytes  # instance data in JSON: a mapping would take five times as much
    interfaces: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        names = sys.getsizeof(self.label) + sys.getsizeof(self.key.value)
        interfaces = _INTERFACE_BYTES * len(self.interfaces)
        return _ABOUT_BYTES + len(self.text) + names + interfaces

    def record(self) -> Record:
        return Record(self.key, json.loads(self.text), self.label)


class FullError(DriverError):
    """There is more than the mirror may hold."""


class Mirror:
    def __init__(self) -> None:
        self._entries: dict[int, MirroredVm] = {}  # by the id of the virtual machine
        self._ids: defaultdict[Key, list[int]] = defaultdict(list)
        self._by_interface: dict[int, int] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def records(self, keys: Collection[Key]) -> list[Record]:
        with self._lock:
            entries = [self._entries[one] for key in keys for one in self._ids.get(key, ())]
        return [entry.record() for entry in entries]

    def all(self) -> Iterator[Record]:
        with self._lock:
            numbers = sorted(self._entries)
        for number in numbers:
            entry = self._entries.get(number)
            if entry:
                yield entry.record()

    def vms_of(self, interfaces: Iterable[int]) -> set[int]:
        """Return the ids of the virtual machines that have, or had, these interfaces."""
        found = (self._by_interface.get(one) for one in interfaces)
        return {one for one in found if one is not None}

    def put_range(self, first: int, last: float, found: Mapping[int, MirroredVm]) -> set[Key]:
        """Set all that NetBox has from one id to another, both included; return changed keys."""
        gone = [one for one in self._entries if first <= one <= last and one not in found]
        return self._put(gone, found)

    def put(self, asked: Collection[int], found: Mapping[int, MirroredVm]) -> set[Key]:
        """Set those of these ids that NetBox has; return the keys of what has changed."""
        return self._put([one for one in asked if one not in found], found)

    def _put(self, gone: Iterable[int], found: Mapping[int, MirroredVm]) -> set[Key]:
        changed: set[Key] = set()
        with self._lock:
            for number, entry in [*dict.fromkeys(gone).items(), *found.items()]:
                before = self._entries.get(number)
                if before == entry:
                    continue
                changed |= {one.key for one in (before, entry) if one}
                self._set(number, before, entry)
        return changed

    def _set(self, number: int, before: MirroredVm | None, entry: MirroredVm | None) -> None:
        grows = (entry.size if entry else 0) - (before.size if before else 0)
        if grows > 0 and self._bytes + grows > MAX_BYTES:
            raise FullError(f"more than {MAX_BYTES:,} bytes of virtual machines: set filter")
        self._bytes += grows
        if before:
            self._ids[before.key].remove(number)
            if not self._ids[before.key]:
                del self._ids[before.key]
            for one in before.interfaces:
                if self._by_interface.get(one) == number:  # else it has moved
                    del self._by_interface[one]
            del self._entries[number]
        if entry:
            self._entries[number] = entry
            self._ids[entry.key].append(number)
            self._by_interface |= dict.fromkeys(entry.interfaces, number)
