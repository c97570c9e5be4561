"""The counts of a load test, in bounded memory, mergeable across processes. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from vmw_cloudinit_metadata.client.expectation import VmFailure

# Buckets per doubling: percentiles are exact to 5 %.
_RESOLUTION = 16
_SHORTEST_MS = 0.001

_MAX_KINDS = 50
OTHER = "other"


class Histogram:
    """Latencies in ms, in exponential buckets."""

    def __init__(self) -> None:
        self.count = 0
        self.max_ms = 0.0
        self._buckets: Counter[int] = Counter()

    def add(self, ms: float) -> None:
        self._buckets[int(math.log2(max(ms, _SHORTEST_MS) / _SHORTEST_MS) * _RESOLUTION)] += 1
        self.count += 1
        self.max_ms = max(self.max_ms, ms)

    def percentile(self, percent: float) -> float:
        """Return the latency that `percent` did not exceed; 0 if there are none."""
        left = math.ceil(self.count * percent / 100)
        for bucket, count in sorted(self._buckets.items()):
            left -= count
            if left <= 0:
                return min(_upper_ms(bucket), self.max_ms)
        return self.max_ms

    def merge(self, parts: Mapping[str, Any]) -> None:
        """Add the `parts` of another one."""
        self.count += parts["count"]
        self.max_ms = max(self.max_ms, parts["max_ms"])
        for bucket, count in parts["buckets"]:
            self._buckets[bucket] += count

    def parts(self) -> dict[str, Any]:
        buckets = list(self._buckets.items())
        return {"count": self.count, "max_ms": self.max_ms, "buckets": buckets}

    def result(self) -> dict[str, Any]:
        """Return the form that stands in the result of a test."""
        percentiles = {
            f"p{percent}": round(self.percentile(percent), 3) for percent in (50, 90, 99)
        }
        buckets = sorted(self._buckets.items())
        histogram = [[round(_upper_ms(bucket), 4), count] for bucket, count in buckets]
        return {
            "count": self.count,
            **percentiles,
            "max": round(self.max_ms, 3),
            "histogram": histogram,
        }


def _upper_ms(bucket: int) -> float:
    return float(_SHORTEST_MS * 2 ** ((bucket + 1) / _RESOLUTION))


class Tally:
    """Boots, failures by kind with an example, redials, latencies by phase, and a timeline."""

    def __init__(self) -> None:
        self.completed = 0
        self.failures: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.redial: Counter[str] = Counter()
        self.phases: dict[str, Histogram] = {}
        self._timeline: dict[int, list[int]] = {}  # second -> completed, failed

    @property
    def failed(self) -> int:
        return self.failures.total()

    def take(self) -> dict[str, Any]:
        """Return the counts since the last call, for JSON, and reset them."""
        parts = self._parts()
        for counted in (
            self.failures,
            self.examples,
            self.redial,
            self.phases,
            self._timeline,
        ):
            counted.clear()
        self.completed = 0
        return parts

    def measure(self, phase: str, seconds: float) -> None:
        self.phases.setdefault(phase, Histogram()).add(seconds * 1000)

    def complete(self, second: int) -> None:
        self.completed += 1
        self._timeline.setdefault(second, [0, 0])[0] += 1

    def fail(self, second: int, failure: VmFailure, who: str) -> None:
        self._count(failure.kind, 1, f"{who}: {failure.message}")
        self._timeline.setdefault(second, [0, 0])[1] += 1

    def _count(self, kind: str, count: int, example: str) -> None:
        if kind not in self.failures and len(self.failures) >= _MAX_KINDS:
            kind = OTHER
        self.failures[kind] += count
        self.examples.setdefault(kind, example)

    @property
    def timeline(self) -> list[list[int]]:
        """Return [second, completed, failed] for every second."""
        seconds = range(max(self._timeline, default=-1) + 1)
        return [[second, *self._timeline.get(second, [0, 0])] for second in seconds]

    def merge(self, parts: Mapping[str, Any]) -> None:
        """Add the `parts` of another one."""
        self.completed += parts["completed"]
        for kind, count in parts["failures"].items():
            self._count(kind, count, parts["examples"][kind])
        self.redial.update(parts["redial"])
        for phase, latencies in parts["phases"].items():
            self.phases.setdefault(phase, Histogram()).merge(latencies)
        for second, completed, failed in parts["timeline"]:
            entry = self._timeline.setdefault(second, [0, 0])
            entry[0] += completed
            entry[1] += failed

    def _parts(self) -> dict[str, Any]:
        return {
            "completed": self.completed,
            "failures": dict(self.failures),
            "examples": dict(self.examples),
            "redial": dict(self.redial),
            "phases": {phase: latencies.parts() for phase, latencies in self.phases.items()},
            "timeline": [[second, *counts] for second, counts in self._timeline.items()],
        }
