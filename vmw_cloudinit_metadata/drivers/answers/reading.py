"""Readings: parsed instance files, kept if parsing them again would cost too much.

Kept are files that are invalid, took long to parse, or were requested by other threads meanwhile.
None is kept that has the value of a secret.

Only one thread parses a large file at a time, and memory bounds how many are parsed at once. Other
threads do not wait: their look-ups are repeated afterwards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Generic

from cachetools import LRUCache

from vmw_cloudinit_metadata.drivers.answers.source import V, View
from vmw_cloudinit_metadata.drivers.driver import UnderWay, Work
from vmw_cloudinit_metadata.drivers.shedding import shed_one
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData
from vmw_cloudinit_metadata.instance.model import InstanceData

KEPT_BYTES = 32 * 1024 * 1024  # of all readings
_FAULTS_BYTES = 256 * 1024  # of one
_ABOUT_BYTES = 4096  # a reading, without what is counted below
_BYTES_PER_BYTE = 8  # memory of a value, for each byte of its file
_LONG_S = 0.01  # of CPU
_LARGE_BYTES = 32 * 1024
_UNDER_WAY_BYTES = 1024 * 1024  # of large files; parsing takes 50 times the size of a file


@dataclass(frozen=True, slots=True)
class Reading:
    """A parsed file, merged over the defaults: an instance, or its faults."""

    instance: InstanceData | None
    faults: tuple[Fault, ...] = ()
    duplicates: tuple[str, ...] = ()  # values that other files have too
    bios_uuid: object = None  # in its `match`, as written
    is_legible: bool = True  # whether any key could be read
    is_of_machine: bool = False  # it has values of the machine that it was read for
    is_like_user_data: bool = False  # begins like user-data, and has no key of an instance file

    def served(self) -> InstanceData:
        """Return the instance; raise InvalidInstanceData."""
        if self.instance is None:
            raise InvalidInstanceData(self.faults)
        return self.instance


Key = tuple[Hashable, ...]


class Readings(Generic[V]):
    """Readings by what they are of, each valid while its files look the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: LRUCache[Key, tuple[Reading, V]] = LRUCache(KEPT_BYTES, getsizeof=_size)
        self._under_way: dict[Key, tuple[Work, int]] = {}  # with the size of the file

    def of(
        self,
        key: Key,
        who: Key,
        size: int,
        view: V,
        read: Callable[[V], Reading],
        *,
        keep: bool = False,
    ) -> Reading:
        """What `read` returns, or has returned and was kept; `keep` it in any case.

        `key` is what is read, `who` the machine for which, and `size` that of its own file.
        Raises what `read` raises, and UnderWay if another thread is reading this large file, or
        others are reading too many. `view` counts as having seen all that the reading needs.
        """
        kept = None
        if self._kept.currsize:
            with self._lock:
                kept = self._kept.get(key) or self._kept.get((*key, *who))
        if kept and view.agrees_with(kept[1]):
            return kept[0]
        work = self._begin(key, size)
        seen = view.apart()
        reading = None
        began_s = time.thread_time()
        try:
            reading = _short(read(seen))
        finally:
            took_long = time.thread_time() - began_s > _LONG_S
            with self._lock:
                if self._under_way.get(key, (None, 0))[0] is work:
                    del self._under_way[key]
                if reading and (reading.instance is None or keep or took_long or work.is_awaited):
                    of = (*key, *who) if reading.is_of_machine else key
                    work.is_kept = self._keep(of, reading, seen)
                work.is_over = True
        view.include(seen)
        return reading

    @property
    def kept_bytes(self) -> int:
        return int(self._kept.currsize)

    def shed(self) -> bool:
        """Drop the least recently used reading; return False if there is none."""
        return shed_one(self._kept, self._lock)

    def _begin(self, key: Key, size: int) -> Work:
        work = Work()
        if size <= _LARGE_BYTES:
            return work
        with self._lock:
            same, _ = self._under_way.get(key, (None, 0))
            if same:
                same.is_awaited = True
                raise UnderWay(same)
            if self._under_way and size + self._bytes_under_way() > _UNDER_WAY_BYTES:
                other, _ = next(iter(self._under_way.values()))
                raise UnderWay(other)
            self._under_way[key] = work, size
        return work

    def _bytes_under_way(self) -> int:
        return sum(size for _, size in self._under_way.values())

    def _keep(self, key: Key, reading: Reading, seen: V) -> bool:
        if reading.instance and reading.instance.secrets:
            return False
        seen = seen.closed()
        if not seen.is_settled() or _size((reading, seen)) > KEPT_BYTES:
            return False
        self._kept[key] = reading, seen
        return True


def _short(reading: Reading) -> Reading:
    """Return the reading with as many faults as there is room for."""
    return replace(reading, faults=tuple(_cut(reading.faults))) if reading.faults else reading


def _cut(faults: Iterable[Fault]) -> Iterator[Fault]:
    left = _FAULTS_BYTES
    for fault in faults:
        left -= _fault_size(fault)
        if left < 0:
            return
        yield fault


def _fault_size(fault: Fault) -> int:
    return 512 + len(fault.found) + len(fault.expected) + sum(len(str(part)) for part in fault.key)


def _size(kept: tuple[Reading, View]) -> int:
    reading, seen = kept
    of_files = _BYTES_PER_BYTE * seen.bytes_seen if reading.instance else 0
    return _ABOUT_BYTES + seen.kept_bytes + of_files + sum(map(_fault_size, reading.faults))
