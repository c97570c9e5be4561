"""The counters, timings and gauges of a process: summed over all workers, exported as metrics."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vmw_cloudinit_metadata.monitoring.counters import Key
from vmw_cloudinit_metadata.monitoring.gauges import Gauge, TimingKey

BOUNDS_S = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
    *(120.0, 300.0, 600.0, 1800.0),
)
_BOUNDS_BEFORE = 16  # of the program before an upgrade: the last ones were missing
_MAX_COUNT = 2**63


class Timing:
    """A histogram of seconds, in buckets up to each of BOUNDS_S, and one for longer times."""

    __slots__ = ("counts", "sum_s")

    def __init__(self, counts: Iterable[int] = (0,) * (len(BOUNDS_S) + 1), sum_s: float = 0.0):
        self.counts = list(counts)
        self.sum_s = sum_s

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def add(self, other: Timing) -> None:
        """Count what another one has observed too."""
        self.counts[:] = map(int.__add__, self.counts, other.counts)
        self.sum_s += other.sum_s

    def __add__(self, other: Timing) -> Timing:
        pairs = zip(self.counts, other.counts, strict=True)
        return Timing((ours + theirs for ours, theirs in pairs), self.sum_s + other.sum_s)


@dataclass(frozen=True, slots=True)
class Figures:
    """`counters` and `timings` only grow; `gauges` are current values."""

    counters: Counter[Key] = field(default_factory=Counter)
    timings: Mapping[TimingKey, Timing] = field(default_factory=dict)
    gauges: Mapping[Gauge, float] = field(default_factory=dict)

    def __add__(self, other: Figures) -> Figures:
        names = [*self.timings, *(name for name in other.timings if name not in self.timings)]
        none = Timing()
        return Figures(
            self.counters + other.counters,
            {n: self.timings.get(n, none) + other.timings.get(n, none) for n in names},
            Counter(self.gauges) + Counter(other.gauges),
        )

    def past(self) -> Figures:
        """Return the figures that remain of a process that has ended."""
        return Figures(self.counters, self.timings)

    def pack(self) -> dict[str, Any]:
        """Return the figures as JSON can carry them."""
        timings = {name: [timing.counts, timing.sum_s] for name, timing in self.timings.items()}
        return {"counters": self.counters, "timings": timings, "gauges": self.gauges}

    @classmethod
    def unpack(cls, packed: Any) -> Figures:
        """Return the figures that `pack` has packed, after JSON; raise ValueError for anything
        else."""
        match packed:
            case {"counters": dict(counters), "timings": dict(timings), "gauges": dict(gauges)}:
                _check(map(_is_count, counters.values()), "a counter is not a count")
                _check(map(_is_amount, gauges.values()), "a gauge is not an amount")
                _check(map(_is_name, (*counters, *gauges, *timings)), "a name is not text")
                return cls(
                    Counter(counters), {n: _timing(parts) for n, parts in timings.items()}, gauges
                )
        raise ValueError("counters, timings or gauges are missing")


def _timing(parts: Any) -> Timing:
    match parts:
        case [[*counts, above], sum_s] if len(counts) in (len(BOUNDS_S), _BOUNDS_BEFORE):
            counts = [*counts, *[0] * (len(BOUNDS_S) - len(counts)), above]
            _check(map(_is_count, counts), "a bucket is not a count")
            _check([_is_amount(sum_s)], "a sum of seconds is not an amount")
            return Timing(counts, sum_s)
    raise ValueError("a timing without its buckets and their sum")


def _check(are_so: Iterable[bool], otherwise: str) -> None:
    if not all(are_so):
        raise ValueError(otherwise)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= _MAX_COUNT and math.isfinite(value)


def _is_name(name: str) -> bool:
    """Return whether metrics can have the name: half of a surrogate pair cannot be written."""
    return not any("\ud800" <= c <= "\udfff" for c in name)
