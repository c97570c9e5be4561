"""CPU and memory of the server's processes, from /proc."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vmw_cloudinit_metadata.errors import ConfigError

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Watched:
    """The processes together; raises ConfigError if one is not there."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self.begin()

    def begin(self) -> None:
        self._cpu_s = sum(map(cpu_s, self._pids))
        self._rss_kb = sum(map(rss_kb, self._pids))

    def end(self, boots: int) -> dict[str, Any] | None:
        """What they have used since `begin`; None if there are none."""
        if not self._pids:
            return None
        used_s = sum(map(cpu_s, self._pids)) - self._cpu_s
        return {
            "cpu_s": round(used_s, 3),
            "cpu_ms_per_boot": round(used_s * 1000 / boots, 4) if boots else None,
            "rss_kb_before": self._rss_kb,
            "rss_kb_after": sum(map(rss_kb, self._pids)),
        }


def cpu_s(pid: int) -> float:
    """User and system time."""
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def rss_kb(pid: int) -> int:
    for line in _read(pid, "status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def _read(pid: int, file: str) -> str:
    try:
        return Path(f"/proc/{pid}/{file}").read_text()
    except OSError as error:
        raise ConfigError(f"--server-pid {pid}: {error.strerror or error}") from error
