"""What a process has counted and measured: to be added up over workers, and read as metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

BOUNDS_S = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)


class Timing:
    """A histogram of seconds, in buckets up to each of BOUNDS_S and one beyond."""

    __slots__ = ("counts", "sum_s")

    def __init__(self, counts: Iterable[int] = (0,) * (len(BOUNDS_S) + 1), sum_s: float = 0.0):
        self.counts = list(counts)
        self.sum_s = sum_s

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def __add__(self, other: Timing) -> Timing:
        pairs = zip(self.counts, other.counts, strict=True)
        return Timing((ours + theirs for ours, theirs in pairs), self.sum_s + other.sum_s)


@dataclass(frozen=True, slots=True)
class Figures:
    """`counters` and `timings` only grow; `gauges` are of this moment."""

    counters: Counter[str] = field(default_factory=Counter)
    timings: Mapping[str, Timing] = field(default_factory=dict)
    gauges: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Figures) -> Figures:
        names = [*self.timings, *(name for name in other.timings if name not in self.timings)]
        none = Timing()
        return Figures(
            self.counters + other.counters,
            {n: self.timings.get(n, none) + other.timings.get(n, none) for n in names},
            Counter(self.gauges) + Counter(other.gauges),
        )

    def past(self) -> Figures:
        """What stays of a process that is gone."""
        return Figures(self.counters, self.timings)

    def pack(self) -> dict[str, Any]:
        """As JSON can carry it."""
        timings = {name: [timing.counts, timing.sum_s] for name, timing in self.timings.items()}
        return {"counters": self.counters, "timings": timings, "gauges": self.gauges}

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> Figures:
        timings = {name: Timing(*parts) for name, parts in packed["timings"].items()}
        return cls(Counter(packed["counters"]), timings, packed["gauges"])
