"""Completed and failed boots, second by second, as a chart and as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from xml.etree.ElementTree import Element

from vmw_cloudinit_metadata.client.report.nodes import element, note, section, table
from vmw_cloudinit_metadata.client.report.picture import LEAST_BAR, line, picture, rect, tick
from vmw_cloudinit_metadata.client.report.scale import round_step, time_step
from vmw_cloudinit_metadata.client.report.words import amount, brief, clock, plain

_SLICES = 120  # of the time axis
# Pixels, from the top of a picture: both scales together have the height of the bars.
_RATE_TOP, _HEIGHT, _GAP, _TICKS = 10, 172, 3, 18


@dataclass(frozen=True)
class _Slice:
    start_s: float
    end_s: float
    completed_per_s: float
    failed_per_s: float
    is_unfinished: bool = False  # the test ended in it

    def summary(self) -> str:
        when = f"{brief(self.start_s)} to {brief(self.end_s)} s"
        completed, failed = plain(self.completed_per_s), plain(self.failed_per_s)
        end = ", unfinished" if self.is_unfinished else ""
        return f"{when}{end}: {completed} completed and {failed} failed a second"


@dataclass(frozen=True)
class _Scale:
    """Completed boots stand on the base, failures hang below, in the same pixels for one."""

    peak: float
    failed: float

    @property
    def pixels(self) -> float:
        return (_HEIGHT - _RATE_TOP) / ((self.peak + self.failed) or 1.0)

    @property
    def base(self) -> float:
        return _RATE_TOP + self.peak * self.pixels

    @property
    def bottom(self) -> float:
        below = max(self.failed * self.pixels, LEAST_BAR) if self.failed else 0.0
        return self.base + below + _GAP


def _read_slices(timeline: Iterable[Sequence[Any]], end_s: float) -> list[_Slice]:
    """Return at most _SLICES slices of whole seconds; the test ended at `end_s`."""
    seconds = [(int(amount(at)), amount(done), amount(failed)) for at, done, failed in timeline]
    if not seconds:
        return []
    first, end = min(seconds)[0], max(seconds)[0] + 1
    width = math.ceil((end - first) / _SLICES)
    starts = range(first, end, width)
    totals = [[0.0, 0.0] for _ in starts]
    for at, done, failed in seconds:
        total = totals[(at - first) // width]
        total[0] += done
        total[1] += failed
    each = zip(starts, [*starts[1:], end], totals, strict=True)
    slices = [_Slice(a, b, done / (b - a), failed / (b - a)) for a, b, (done, failed) in each]
    last = slices[-1]
    if last.start_s < end_s < last.start_s + width:
        slices[-1] = replace(last, is_unfinished=True)
    return slices


def over_time(timeline: Iterable[Sequence[Any]], end_s: float) -> Element:
    slices = _read_slices(timeline, end_s)
    if not slices:
        return section("Throughput", note("Nothing was recorded over time."))
    width = slices[0].end_s - slices[0].start_s
    peak = max(part.completed_per_s for part in slices)
    failed = max(part.failed_per_s for part in slices)
    rate_text = f"Each bar is {brief(width)} s, the highest {plain(peak)} completed a second. "
    failed_text = f"Failures hang below, on the same scale, at most {plain(failed)} a second."
    unfinished = " The last bar, in outline, is unfinished." if slices[-1].is_unfinished else ""
    scale = _Scale(peak, failed)
    height = math.ceil(scale.bottom) + _TICKS
    shapes = [
        *_rate_bars(slices, scale),
        *_rate_grid(scale),
        *_time_grid(slices[0].start_s, slices[-1].end_s, scale.base, height),
    ]
    return section(
        "Throughput over time",
        note(rate_text, failed_text if failed else "None failed.", unfinished),
        element(
            "figure",
            picture(height, rate_text + failed_text * bool(failed), *shapes),
            class_="rate",
        ),
        _slice_table(slices),
    )


def _rate_bars(slices: Sequence[_Slice], scale: _Scale) -> Iterable[Element]:
    base, top = scale.base, scale.base + _GAP
    first, span = slices[0].start_s, slices[-1].end_s - slices[0].start_s
    for part in slices:
        left, right = (100 * (at - first) / span for at in (part.start_s, part.end_s))
        kind = " unfinished" if part.is_unfinished else ""
        if part.completed_per_s:
            high = max(part.completed_per_s * scale.pixels, LEAST_BAR)
            yield rect(left, right, base - high, base, f"bar to50{kind}", part.summary())
        if part.failed_per_s:
            deep = max(part.failed_per_s * scale.pixels, LEAST_BAR)
            yield rect(left, right, top, top + deep, f"bar bad{kind}", part.summary())


def _rate_grid(scale: _Scale) -> Iterable[Element]:
    step = round_step(max(scale.peak, scale.failed) / 4)
    first, last = (int(end / step) if step else 0 for end in (scale.failed, scale.peak))
    for row in range(-first, last + 1):
        y = scale.base - row * step * scale.pixels + (_GAP if row < 0 else 0)
        yield line(0, 100, y, y, "grid")
        yield element("text", brief(abs(row) * step), x=0, y=f"{y + 4:.1f}", class_="tick side")


def _time_grid(start_s: float, end_s: float, base: float, height: int) -> Iterable[Element]:
    yield line(0, 100, base, base, "base")
    step = time_step(end_s - start_s)
    for n in range(math.ceil(start_s / step), math.floor(end_s / step) + 1):
        x = 100 * (n * step - start_s) / (end_s - start_s)
        yield line(x, x, height - _TICKS, height - _TICKS + 4, "base")
        yield tick(x, height - 2, clock(n * step, end_s - start_s))


def _slice_table(slices: Iterable[_Slice]) -> Element:
    titles = ("from second", "completed a second", "failed a second")
    rows = [
        (brief(part.start_s), plain(part.completed_per_s), plain(part.failed_per_s))
        for part in slices
    ]
    shown = table("Throughput over time", titles, rows, "numbers")
    return element("details", element("summary", "The same as a table"), shown)
