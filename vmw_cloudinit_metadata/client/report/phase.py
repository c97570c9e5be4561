"""The measured phases of a VM's boot, read from a result."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from vmw_cloudinit_metadata.client.report import words
from vmw_cloudinit_metadata.client.report.scale import log

PHASES = {
    "connect": "until connected",
    "ready": "until the line is open",
    "METADATA": "until answered",
    "NETWORKDATA": "until answered",
    "USERDATA": "until answered",
    "boot": "all phases",
    "redial": "from a cut until the line is open",
    "cut to served": "until all was answered",
}
MARKS = ("p50", "p90", "p99")
_WIDEST = 1 / 20  # of a decade; empty buckets are omitted, so the width is not known from gaps


@dataclass(frozen=True)
class Bucket:
    low: float  # log10 of milliseconds
    high: float
    count: float


@dataclass(frozen=True)
class Phase:
    name: str
    count: float
    marks: Mapping[str, float]  # p50, p90, p99, max in milliseconds; unknown ones are omitted
    buckets: Sequence[Bucket]

    def ends(self) -> Iterable[float]:
        yield from map(log, self.marks.values())
        for bucket in self.buckets:
            yield from (bucket.low, bucket.high)

    def summary(self) -> str:
        times = ", ".join(f"{mark} {words.duration(ms)}" for mark, ms in self.marks.items())
        return f"{self.name}, {words.whole(self.count)} measured: {times or 'no times'}"


def in_order(names: Collection[str]) -> list[str]:
    """Return the phases in the order of a boot, unknown ones last."""
    known = [name for name in PHASES if name in names]
    return list(dict.fromkeys([*known, *names]))


def read_phases(found: Mapping[str, Mapping[str, Any]]) -> list[Phase]:
    return [_read_phase(name, found[name]) for name in in_order(found)]


def _read_phase(name: str, found: Mapping[str, Any]) -> Phase:
    marks = {mark: words.number(found.get(mark)) for mark in (*MARKS, "max")}
    return Phase(
        words.clipped(name),
        words.amount(found.get("count")),
        {mark: ms for mark, ms in marks.items() if ms is not None},
        _read_buckets(found.get("histogram") or []),
    )


def _read_buckets(histogram: Iterable[Sequence[Any]]) -> list[Bucket]:
    """Return the non-empty buckets, each as wide as the smallest step between two."""
    counts: dict[float, float] = {}
    for upper_ms, count in histogram:
        upper = log(words.amount(upper_ms))
        counts[upper] = counts.get(upper, 0.0) + words.amount(count)
    uppers = sorted(counts)
    width = min([_WIDEST, *(b - a for a, b in pairwise(uppers))])
    return [Bucket(upper - width, upper, counts[upper]) for upper in uppers if counts[upper]]
