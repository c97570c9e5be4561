"""CPU and memory of the server's processes and of all their descendants, by psutil."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import psutil

from vmw_cloudinit_metadata.settings.errors import ConfigError

MAX_PROCESSES = 1024  # --server-pid 1 must not measure a whole machine


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process has used so far."""

    cpu_s: float  # user and system time, including children that have ended
    rss_kb: int
    pss_kb: int | None  # None if not readable: another user's process


class Watched:
    """These processes and their descendants; raises ConfigError if one of `pids` does not exist."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self.begin()

    def begin(self) -> None:
        found = measure(self._pids)
        for pid in self._ended(found):
            raise ConfigError(f"--server-pid: process {pid} does not exist")
        self._cpu_s = _cpu_s(found)
        self._has_pss = all(usage.pss_kb is not None for usage in found.values())
        self._memory_kb = self._sum_memory_kb(found)

    def end(self, boots: int) -> dict[str, Any] | None:
        """Return what the processes have used since `begin`; None if there are none.

        If one of `pids` has ended meanwhile, CPU and memory are unknown, and `ended` names it.
        """
        if not self._pids:
            return None
        found = measure(self._pids)
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
            "memory_kb_after": None if ended else self._sum_memory_kb(found),
        }

    def _ended(self, found: Mapping[int, Usage]) -> list[int]:
        return [pid for pid in self._pids if pid not in found]

    def _sum_memory_kb(self, found: Mapping[int, Usage]) -> int:
        if self._has_pss:
            return sum(usage.pss_kb or 0 for usage in found.values())
        return sum(usage.rss_kb for usage in found.values())


def _cpu_s(found: Mapping[int, Usage]) -> float:
    return sum(usage.cpu_s for usage in found.values())


def measure(pids: Sequence[int]) -> dict[int, Usage]:
    """Measure `pids` and their descendants, at most MAX_PROCESSES, each once, if still alive."""
    found = {}
    for process in islice(_family(pids), MAX_PROCESSES):
        with suppress(psutil.NoSuchProcess):  # it has ended; ZombieProcess is a subclass
            found[process.pid] = _usage(process)
    return found


def _family(pids: Sequence[int]) -> Iterator[psutil.Process]:
    processes = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(pid))
    yield from processes
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            yield from process.children(recursive=True)


def _usage(process: psutil.Process) -> Usage:
    if process.status() == psutil.STATUS_ZOMBIE:
        raise psutil.ZombieProcess(process.pid)
    cpu = process.cpu_times()
    cpu_s = cpu.user + cpu.system + cpu.children_user + cpu.children_system
    try:
        memory = process.memory_full_info()
        return Usage(cpu_s, memory.rss // 1024, memory.pss // 1024)
    except psutil.AccessDenied:
        return Usage(cpu_s, process.memory_info().rss // 1024, None)
