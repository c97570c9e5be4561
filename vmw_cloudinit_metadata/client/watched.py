"""CPU and memory of the server's processes and of all that descend from them, from /proc."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmw_cloudinit_metadata.settings.errors import ConfigError

MAX_PROCESSES = 1024  # whoever watches process 1 does not want to wait for all of a machine

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024
_PSS = re.compile(rb"^Pss: +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Stat:
    """What the kernel tells everybody of a process."""

    is_over: bool  # it has ended, and nobody has waited for it yet
    parent: int
    cpu_s: float  # user and system time, also of the children that have ended
    rss_kb: int


class Watched:
    """These processes and their descendants; raises ConfigError if one of `pids` is not there."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self.begin()

    def begin(self) -> None:
        found = self._look()
        for pid in self._ended(found):
            raise ConfigError(f"--server-pid {pid}: there is no such process")
        self._cpu_s = _cpu_s(found)
        self._has_pss = all(pss_kb(pid) is not None for pid in found)
        self._memory_kb = self._count_memory_kb(found)

    def end(self, boots: int) -> dict[str, Any] | None:
        """What they have used since `begin`; None if there are none. Of those that have ended
        meanwhile nothing can be told any more, but that they have."""
        if not self._pids:
            return None
        found = self._look()
        ended = self._ended(found)
        used_s = 0.0 if ended else _cpu_s(found) - self._cpu_s
        each_ms = used_s * 1000 / boots if boots else None
        return {
            "processes": len(found),
            "ended": ended,
            "cpu_s": None if ended else round(used_s, 3),
            "cpu_ms_per_boot": None if ended or each_ms is None else round(each_ms, 4),
            "memory": "PSS" if self._has_pss else "RSS",
            "memory_kb_before": self._memory_kb,
            "memory_kb_after": None if ended else self._count_memory_kb(found),
        }

    def _look(self) -> dict[int, Stat]:
        stats = read_stats() if self._pids else {}
        parents = {pid: stat.parent for pid, stat in stats.items()}
        found = (pid for pid in family(self._pids, parents) if pid in stats)
        return {pid: stats[pid] for pid in found if not stats[pid].is_over}

    def _ended(self, found: Mapping[int, Stat]) -> list[int]:
        return [pid for pid in self._pids if pid not in found]

    def _count_memory_kb(self, found: Mapping[int, Stat]) -> int:
        if self._has_pss:
            return sum(pss_kb(pid) or 0 for pid in found)
        return sum(stat.rss_kb for stat in found.values())


def _cpu_s(found: Mapping[int, Stat]) -> float:
    return sum(stat.cpu_s for stat in found.values())


def family(pids: Sequence[int], parents: Mapping[int, int]) -> list[int]:
    """`pids` and their descendants, each once, at most MAX_PROCESSES: the nearest of them."""
    children = defaultdict(list)
    for pid, parent in parents.items():
        if pid not in pids:
            children[parent].append(pid)
    found = list(dict.fromkeys(pids))
    for pid in found:  # it grows
        found += children[pid]
    return found[:MAX_PROCESSES]


def read_stats() -> dict[int, Stat]:
    """All processes."""
    found = {}
    for place in _PROC.iterdir():
        if place.name.isdecimal():
            with suppress(OSError):  # it has ended
                found[int(place.name)] = parse_stat((place / "stat").read_bytes())
    return found


def parse_stat(text: bytes) -> Stat:
    """The second field is a name in brackets, which may have any bytes in it: proc_pid_stat(5)."""
    fields = text.rpartition(b")")[2].split()
    return Stat(
        is_over=fields[0] in (b"Z", b"X"),
        parent=int(fields[1]),
        cpu_s=sum(map(int, fields[11:15])) / _TICKS_PER_S,
        rss_kb=int(fields[21]) * _PAGE_KB,
    )


def pss_kb(pid: int) -> int | None:
    """Its memory, of pages that several processes share its part; None if that is not told us."""
    try:
        found = _PSS.search((_PROC / str(pid) / "smaps_rollup").read_bytes())
    except (ProcessLookupError, FileNotFoundError):  # it has ended
        return 0
    except OSError:  # another user's, or a kernel before 4.14
        return None
    return int(found[1]) if found else None
