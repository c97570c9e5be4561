"""The memory budget: one limit in bytes for everything that a process keeps because of its peers.

Each table counts the bytes of its entries. When all of them together exceed the limit, the fullest
table drops its oldest entry, until they fit.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from vmw_cloudinit_metadata.monitoring.counters import Key, memory_shed
from vmw_cloudinit_metadata.monitoring.gauges import MEMORY_BUDGET, Gauge, memory

# The rest of the cgroup or the machine is for others: threads that read files, the system.
CGROUP_SHARE = 0.75
MACHINE_SHARE = 0.5

# A process without tables; less than twice that leaves no room for a power cut.
MIN_PROCESS_BYTES = 128 * 1024 * 1024

# What the tables do not count: buffers of one turn, gaps in the heap.
RESERVE_BYTES = 24 * 1024 * 1024

# Of a plain idle connection, and what TLS adds: measured (docs/performance.md), and a third more.
CONNECTION_BYTES = 16 * 1024
TLS_BYTES = 32 * 1024

_M_MMAP_THRESHOLD = -3  # mallopt(3)
_CGROUPS = Path("/sys/fs/cgroup")
_MAX_DEPTH = 64  # of cgroups, and of values
_LEAVES = frozenset({str, bytes, int, float, bool, type(None)})
_LISTS = (list, tuple, set, frozenset)
_MAPPINGS = (dict, Mapping)  # a dict first: checking for Mapping takes longer


class Table(Protocol):
    """Entries that count against a budget."""

    @property
    def kept_bytes(self) -> int: ...

    def shed(self) -> int:
        """Drop the oldest entry; return 0 if none can be dropped."""


class Fixed:
    """Bytes that cannot be dropped, as `count` returns them."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    @property
    def kept_bytes(self) -> int:
        return self._count()

    def shed(self) -> bool:
        return False


class Budget:
    """The limit of one process. Belongs to the thread of its hub."""

    def __init__(self, limit_bytes: int, count: Callable[[Key], None] = lambda _: None) -> None:
        self.limit_bytes = limit_bytes
        self._count = count  # counts what is dropped
        self._program_bytes = resident_bytes() + RESERVE_BYTES
        self._tables: dict[str, Table] = {"program": Fixed(lambda: self._program_bytes)}

    def change(self, limit_bytes: int) -> None:
        """Set another limit."""
        self.limit_bytes = limit_bytes
        self.keep()

    def add(self, name: str, table: Table) -> None:
        """Let `table` count against the limit."""
        self._tables[name] = table

    def add_all(self, tables: Mapping[str, Table]) -> None:
        self._tables.update(tables)

    @property
    def kept_bytes(self) -> int:
        return sum([table.kept_bytes for table in self._tables.values()])

    @property
    def room_bytes(self) -> int:
        """The bytes that the tables may hold."""
        return max(self.limit_bytes - self._program_bytes, 0)

    def has_room(self) -> bool:
        """Drop what does not fit; return whether the rest, which cannot be dropped, fits."""
        self.keep()
        return self.kept_bytes <= self.limit_bytes

    @property
    def gauges(self) -> dict[Gauge, float]:
        """The limit, and the bytes of each table."""
        kept = {memory(name): table.kept_bytes for name, table in self._tables.items()}
        return {MEMORY_BUDGET: self.limit_bytes, **kept}

    def keep(self) -> None:
        """Drop what does not fit. Call it when a table has grown."""
        if self.kept_bytes <= self.limit_bytes:
            return
        sheddable = dict(self._tables)
        while sheddable and self.kept_bytes > self.limit_bytes:
            name = max(sheddable, key=lambda name: sheddable[name].kept_bytes)
            if sheddable[name].shed():
                self._count(memory_shed(name))
            else:
                del sheddable[name]


def default_bytes() -> int:
    """Return three quarters of this cgroup's memory limit, else half of the machine's memory."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [limit for limit in cgroup_limits() if limit < machine]
    return int(CGROUP_SHARE * min(limits)) if limits else int(MACHINE_SHARE * machine)


def cgroup_limits(
    cgroups: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")
) -> Iterable[int]:
    """Yield the memory limits, in bytes, of this cgroup and those above it, version 1 or 2."""
    for line in _read(membership).splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            yield from _limits_above(cgroups, path, "memory.max")
            yield from _limits_above(cgroups / "unified", path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits_above(cgroups / "memory", path, "memory.limit_in_bytes")


def _limits_above(root: Path, path: str, name: str) -> Iterable[int]:
    """Yield the limits from `path` to the root, where a container sees its own cgroup."""
    parts = [part for part in path.split("/") if part not in ("", "..")][:_MAX_DEPTH]
    for depth in range(len(parts) + 1):
        text = _read(root.joinpath(*parts[:depth], name)).strip()
        if text.isdecimal():
            yield int(text)


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""


def return_large_blocks() -> None:
    """Make glibc return the memory of each large object to the system when it is freed.

    By default it keeps objects of up to 32 MiB in its heap once some were freed, and the gaps
    between documents then add a third to what the tables count. Elsewhere this does nothing.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 128 * 1024)


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def size_of(value: Any) -> int:
    """Return the bytes of a plain value: text, bytes, numbers, mappings, lists. Values nested
    deeper than any checked one count as nothing."""
    everything = [value]
    level = everything.copy()
    for _ in range(_MAX_DEPTH):
        parts: list[Any] = []
        for one in level:
            if isinstance(one, _LISTS):
                parts += one
            elif isinstance(one, _MAPPINGS):
                parts += one
                parts += one.values()
        everything += parts
        level = [part for part in parts if type(part) not in _LEAVES]  # most are leaves
        if not level:
            break
    return sum(map(sys.getsizeof, everything))
