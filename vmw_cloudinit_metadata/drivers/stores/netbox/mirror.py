"""Mirror: what NetBox's virtual machines are to the server, by their keys. Bounded; no I/O.

It is written by one thread at a time, in the order in which NetBox was read: so nothing older
follows anything newer. Any thread may look things up. After a change that may count for all, each
entry is in doubt until it is read again.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import NamedTuple

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.store import Key, Record

EVERYTHING = inf  # the last id of a range without an end

MAX_BYTES = 256 * 1024 * 1024
_ABOUT_BYTES = 1000  # of memory: an entry without what follows
_INTERFACE_BYTES = 150  # of an id, in its entry and in the table by interfaces
_VERSION_BYTES = 16


@dataclass(frozen=True, slots=True)
class MirroredVm:
    """A virtual machine: its key, what a record has, and its interfaces, to find it by."""

    key: Key
    label: str
    text: bytes  # instance data in JSON: a mapping would take five times as much
    interfaces: tuple[int, ...] = ()
    name: str = ""

    @property
    def size(self) -> int:
        names = sum(map(sys.getsizeof, (self.label, self.key.value, self.name)))
        interfaces = _INTERFACE_BYTES * len(self.interfaces)
        return _ABOUT_BYTES + len(self.text) + names + interfaces

    @property
    def version(self) -> str:
        """Another one for another record."""
        parts = f"{self.key}\n{self.name}\n{self.label}\n".encode() + self.text
        return hashlib.blake2b(parts, digest_size=_VERSION_BYTES).hexdigest()

    def record(self) -> Record:
        data = json.loads(self.text)
        return Record(self.key, data, self.label, version=self.version, vm_name=self.name)


class Doubt(NamedTuple):
    """The ids of entries that are in doubt, and since which call of `doubt` at the latest."""

    ids: frozenset[int]
    number: int


class FullError(DriverError):
    """There is more than the mirror may hold."""


class Mirror:
    def __init__(self) -> None:
        self._entries: dict[int, MirroredVm] = {}  # by the id of the virtual machine
        self._ids: defaultdict[Key, list[int]] = defaultdict(list)
        self._by_interface: dict[int, int] = {}
        self._bytes = 0
        self._lock = threading.Lock()
        self._is_read = threading.Condition(self._lock)
        self._doubtful: set[int] = set()  # ids
        self._doubts = 0  # calls of `doubt`
        self._is_whole = False

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def last(self) -> int:
        """The greatest id; -1 if there is none."""
        return max(self._entries, default=-1)

    def records(self, keys: Collection[Key]) -> list[Record]:
        with self._lock:
            entries = [self._entries[one] for one in self._numbers(keys)]
        return [entry.record() for entry in entries]

    def _numbers(self, keys: Collection[Key]) -> list[int]:
        return [number for key in keys for number in self._ids.get(key, ())]

    def version_of(self, key: Key) -> str | None:
        """Return the version of the only record of a key, "" if there is none; None if that is in
        doubt, or cannot be told at once."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            numbers = self._ids.get(key, ())
            if not numbers:
                return "" if self._is_whole else None
            if len(numbers) > 1 or numbers[0] in self._doubtful:
                return None
            entry = self._entries[numbers[0]]
        finally:
            self._lock.release()
        return entry.version

    # Doubt

    @property
    def is_whole(self) -> bool:
        """Whether what it has not, NetBox has not."""
        return self._is_whole

    def doubt(self, *, absences: bool = False) -> None:
        """Let each entry be in doubt until it is read again, with `absences` all others too."""
        with self._lock:
            self._doubtful = set(self._entries)
            self._is_whole = self._is_whole and not absences
            self._doubts += 1
            self._is_read.notify_all()

    def has_all(self) -> None:
        """State that there are no others."""
        with self._lock:
            self._is_whole = True
            self._is_read.notify_all()

    def in_doubt(self, keys: Collection[Key]) -> Doubt | None:
        """Return which entries of these keys are in doubt; None if nothing is."""
        with self._lock:
            if self._is_sure(keys):
                return None
            return Doubt(frozenset(self._doubtful.intersection(self._numbers(keys))), self._doubts)

    def some_in_doubt(self, most: int) -> set[int]:
        with self._lock:
            return set(islice(self._doubtful, max(most, 0)))

    def wait(self, keys: Collection[Key], doubt: Doubt, within_s: float) -> None:
        """Wait until nothing of these keys is in doubt, or all is again; at most so long."""
        with self._lock:
            self._is_read.wait_for(
                lambda: self._is_sure(keys) or self._doubts != doubt.number, within_s
            )

    def _is_sure(self, keys: Collection[Key]) -> bool:
        numbers = self._numbers(keys)
        return self._doubtful.isdisjoint(numbers) if numbers else self._is_whole

    # Reading

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
                if before != entry:
                    changed |= {one.key for one in (before, entry) if one}
                    self._set(number, before, entry)
                self._doubtful.discard(number)
            self._is_read.notify_all()
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
