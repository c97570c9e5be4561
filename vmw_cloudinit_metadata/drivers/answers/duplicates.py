"""Values that no two VMs should have, found in the data of two."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from vmw_cloudinit_metadata.drivers.content.owndata import OwnData
from vmw_cloudinit_metadata.instance.distinct import Value

# Limit of the server's table: about 30,000 files with five values each.
KEPT_BYTES = 32 * 1024 * 1024
_FILE_BYTES = 700  # a file's path and name, and its place in two tables
_VALUE_BYTES = 120  # each of its values: two numbers, and its place in a table
MAX_OF_FILE = 64  # values of one file that are compared

MAX_COMPARED = 2_000_000  # values of all files; about 100 bytes each
_NAMED = 4  # files with one value that are named


@dataclass(slots=True)
class _Owner:
    own: OwnData
    looks: int  # a hash of the signatures of its files
    values: tuple[int, ...]  # those that it owns
    is_owner: bool  # of all its values


class Owners:
    """The first file that had a value, of all files read for VMs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _Owner] = OrderedDict()
        self._owners: dict[int, str] = {}  # by the value's hash

    @property
    def kept_bytes(self) -> int:
        return len(self._files) * _FILE_BYTES + len(self._owners) * _VALUE_BYTES

    def shed(self) -> bool:
        """Forget the file that was read longest ago; return False if there is none."""
        with self._lock:
            return self._forget_oldest()

    def claim(
        self, own: OwnData, values: Callable[[], Iterable[Value]], looks: Callable[[OwnData], int]
    ) -> list[tuple[Value, str]]:
        """Return each value of a VM's data that other data owns, with the label of that.

        `looks` returns a hash of the data and of all that it needs. Data whose hash has changed may
        have other values, so it loses those that it owns.
        """
        path, signature = own.label, looks(own)
        before = self._files.get(path)
        if before and before.is_owner and before.looks == signature:
            return []
        claimed = {hash(value): value for value in islice(values(), MAX_OF_FILE)}
        with self._lock:
            self._forget(path)
            others = {self._owners[h] for h in claimed if h in self._owners}
            seen = [self._files[other] for other in others]
        gone = [other.own.label for other in seen if looks(other.own) != other.looks]
        with self._lock:
            self._forget(path)  # another thread may have read an earlier version of it meanwhile
            for other in gone:
                self._forget(other)
            owned = tuple(h for h in claimed if self._owners.setdefault(h, path) == path)
            self._files[path] = _Owner(own, signature, owned, len(owned) == len(claimed))
            found = [(claimed[h], owner) for h in claimed if (owner := self._owners[h]) != path]
            while self.kept_bytes > KEPT_BYTES and self._forget_oldest():
                pass
        return found

    def _forget_oldest(self) -> bool:
        if not self._files:
            return False
        self._forget(next(iter(self._files)))
        return True

    def _forget(self, path: str) -> None:
        file = self._files.pop(path, None)
        for h in file.values if file else ():
            del self._owners[h]


@dataclass(slots=True)
class Duplicate:
    """A value of several files: their number, and the first of them."""

    value: Value
    files: list[str]
    count: int = 0


@dataclass(slots=True)
class Comparison:
    """Compares the values of all files of a directory."""

    is_complete: bool = True
    _files: list[str] = field(default_factory=list)
    _first: dict[int, int] = field(default_factory=dict)  # file's number, by the value's hash
    _found: dict[int, Duplicate] = field(default_factory=dict)
    _sharing: set[int] = field(default_factory=set)  # numbers of files with such a value

    def add(self, path: str, values: Iterable[Value]) -> None:
        number = len(self._files)
        self._files.append(path)
        for value in dict.fromkeys(values):  # each once
            h = hash(value)
            first = self._first.get(h)
            if first is None and len(self._first) < MAX_COMPARED:
                self._first[h] = number
            elif first is None:
                self.is_complete = False
            else:
                found = self._found.setdefault(h, Duplicate(value, [self._files[first]], 1))
                found.count += 1
                self._sharing |= {first, number}
                if len(found.files) < _NAMED:
                    found.files.append(path)

    def sharing(self) -> list[str]:
        """Return all files with a value that another one has too."""
        return [self._files[number] for number in self._sharing]

    def found(self) -> list[Duplicate]:
        return list(self._found.values())
