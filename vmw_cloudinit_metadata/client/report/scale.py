"""Axes: the position of a number, and the round numbers along the axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vmw_cloudinit_metadata.client.report.words import brief_duration

_SHORTEST_MS = 0.001  # 0 has no logarithm, and nothing is measured finer
_TICK_LETTERS = 48  # of all ticks on an axis: what fits on a phone
_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800)


def log(ms: float) -> float:
    return math.log10(max(ms, _SHORTEST_MS))


@dataclass(frozen=True)
class LogAxis:
    low: float  # log10 of milliseconds
    high: float

    def percent(self, at: float) -> float:
        return 100 * min(max((at - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Return milliseconds: whole decades, with 2 and 5 between them if there are few."""
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        steps = (1, 2, 5) if self.high - self.low < 2.2 else (1,)
        found = [step * 10.0**decade for decade in decades for step in steps]
        inside = [ms for ms in found if self.low <= log(ms) <= self.high and ms >= _SHORTEST_MS]
        letters = sum(len(brief_duration(ms)) + 2 for ms in inside)
        return inside[:: math.ceil(letters / _TICK_LETTERS) or 1]


def log_axis(ends: Sequence[float]) -> LogAxis:
    """Return an axis that spans all of `ends`."""
    margin = max((max(ends) - min(ends)) * 0.04, 0.06)
    return LogAxis(min(ends) - margin, max(ends) + margin)


def round_step(about: float) -> float:
    """Return 1, 2 or 5 times a power of ten, at least `about`."""
    if about <= 0:
        return 0.0
    ten = 10.0 ** math.floor(math.log10(about))
    return next((step * ten for step in (1, 2, 5) if step * ten >= about), 10 * ten)


def time_step(span_s: float) -> float:
    return next((step for step in _STEPS_S if span_s / step <= 6), round_step(span_s / 6))
