"""Completed and failed boots, second by second, as a chart and as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

from vmw_cloudinit_metadata.client.report.nodes import element, note, section, table
from vmw_cloudinit_metadata.client.report.picture import LEAST_BAR, line, picture, rect, tick
from vmw_cloudinit_metadata.client.report.scale import round_step, time_step
from vmw_cloudinit_metadata.client.report.words import amount, brief, clock, plain

_SLICES = 120  # of the time axis
# Pixels, from the top of a picture.
_RATE_TOP, _RATE_BOTTOM, _FAILED_TOP, _FAILED_BOTTOM, _TICKS = 10, 150, 153, 185, 18


@dataclass(frozen=True)
class _Slice:
    start_s: float
    end_s: float
    completed_per_s: float
    failed_per_s: float

    def summary(self) -> str:
        when = f"{brief(self.start_s)} to {brief(self.end_s)} s"
        completed, failed = plain(self.completed_per_s), plain(self.failed_per_s)
        return f"{when}: {completed} completed and {failed} failed a second"


def _read_slices(timeline: Iterable[Sequence[Any]]) -> list[_Slice]:
    """Return at most _SLICES slices of whole seconds."""
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
    return [_Slice(a, b, done / (b - a), failed / (b - a)) for a, b, (done, failed) in each]


def over_time(timeline: Iterable[Sequence[Any]]) -> Element:
    slices = _read_slices(timeline)
    if not slices:
        return section("Throughput", note("Nothing was recorded over time."))
    width = slices[0].end_s - slices[0].start_s
    peak = max(part.completed_per_s for part in slices)
    failed = max(part.failed_per_s for part in slices)
    rate_text = f"Each bar is {brief(width)} s, the highest {plain(peak)} completed a second. "
    failed_text = f"Failures hang below, on their own scale, at most {plain(failed)} a second."
    height = (_FAILED_BOTTOM if failed else _RATE_BOTTOM) + _TICKS
    shapes = [
        *_rate_bars(slices, peak, failed),
        *_rate_grid(peak),
        *_time_grid(slices[0].start_s, slices[-1].end_s, height),
    ]
    return section(
        "Throughput over time",
        note(rate_text, failed_text if failed else "None failed."),
        element(
            "figure",
            picture(height, rate_text + failed_text * bool(failed), *shapes),
            class_="rate",
        ),
        _slice_table(slices),
    )


def _rate_bars(slices: Sequence[_Slice], peak: float, failed: float) -> Iterable[Element]:
    first, span = slices[0].start_s, slices[-1].end_s - slices[0].start_s
    for part in slices:
        left, right = (100 * (at - first) / span for at in (part.start_s, part.end_s))
        if part.completed_per_s:
            high = max(part.completed_per_s / peak * (_RATE_BOTTOM - _RATE_TOP), LEAST_BAR)
            yield rect(left, right, _RATE_BOTTOM - high, _RATE_BOTTOM, "bar to50", part.summary())
        if part.failed_per_s:
            deep = max(part.failed_per_s / failed * (_FAILED_BOTTOM - _FAILED_TOP), LEAST_BAR)
            yield rect(left, right, _FAILED_TOP, _FAILED_TOP + deep, "bar bad", part.summary())


def _rate_grid(peak: float) -> Iterable[Element]:
    step = round_step(peak / 4)
    for row in range(int(peak / step) + 1) if step else ():
        y = _RATE_BOTTOM - row * step / peak * (_RATE_BOTTOM - _RATE_TOP)
        yield line(0, 100, y, y, "grid")
        yield element("text", brief(row * step), x=0, y=f"{y + 4:.1f}", class_="tick side")


def _time_grid(start_s: float, end_s: float, height: int) -> Iterable[Element]:
    yield line(0, 100, _RATE_BOTTOM, _RATE_BOTTOM, "base")
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
