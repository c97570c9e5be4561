"""The latency of each phase: its distribution as a chart, its percentiles as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from xml.etree.ElementTree import Element

from vmw_cloudinit_metadata.client.report import words
from vmw_cloudinit_metadata.client.report.nodes import element, note, section, table
from vmw_cloudinit_metadata.client.report.phase import MARKS, PHASES, Bucket, Phase
from vmw_cloudinit_metadata.client.report.picture import LEAST_BAR, label, line, picture, rect, tick
from vmw_cloudinit_metadata.client.report.scale import LogAxis, log, log_axis

_COLUMNS = 96  # of a distribution
# Pixels, from the top of a picture.
_LAST_LABEL, _LABEL = 75, 25  # percent: where the last label to the right begins; its width
_FLAG_LINE, _BARS_TOP, _BARS_BOTTOM, _PHASE_HEIGHT = 14, 44, 100, 120


def distributions(phases: Sequence[Phase]) -> Element:
    if not phases:
        return section("How long it took", note("No phase was measured."))
    axis = log_axis([end for phase in phases for end in phase.ends()] or [0.0])
    figures = [_distribution(phase, axis) for phase in phases]
    return section(
        "How long it took",
        note("All charts share one logarithmic axis; each is scaled to its own peak.", _legend()),
        element("div", *figures, class_="phases"),
    )


def _legend() -> Element:
    names = {"to50": "fastest half", "to90": "to p90", "to99": "to p99", "tail": "slowest 1 %"}
    shown = [element("span", element("i", class_=kind), name) for kind, name in names.items()]
    return element("span", *shown, class_="legend")


def _distribution(phase: Phase, axis: LogAxis) -> Element:
    meaning = PHASES.get(phase.name, "")
    caption = element("figcaption", element("b", phase.name), " ", element("span", meaning))
    if "max" in phase.marks:
        most = f"max {words.duration(phase.marks['max'])}"
        caption.append(element("span", most, class_="most"))
    if not phase.marks and not phase.buckets:
        return element("figure", caption, note("Nothing was measured."))
    shapes = [*_grid(axis), *_bars(phase, axis), *_flags(phase, axis)]
    if not phase.buckets:
        shapes.append(element("text", "no distribution", x="50%", y=80, class_="tick none"))
    return element("figure", caption, picture(_PHASE_HEIGHT, phase.summary(), *shapes))


def _grid(axis: LogAxis) -> Iterable[Element]:
    for ms in axis.ticks():
        x = axis.percent(log(ms))
        yield line(x, x, _BARS_TOP, _BARS_BOTTOM, "grid")
        yield tick(x, _PHASE_HEIGHT - 5, words.brief_duration(ms))
    yield line(0, 100, _BARS_BOTTOM, _BARS_BOTTOM, "base")


def _bars(phase: Phase, axis: LogAxis) -> Iterable[Element]:
    counts = _columns(phase.buckets, axis)
    peak, step = max(counts), (axis.high - axis.low) / _COLUMNS
    for column, count in enumerate(counts):
        if count:
            low = axis.low + column * step
            height = max(count / peak * (_BARS_BOTTOM - _BARS_TOP), LEAST_BAR)
            left, right = (100 * edge / _COLUMNS for edge in (column, column + 1))
            times = f"{words.duration(10**low)} to {words.duration(10 ** (low + step))}"
            vms = words.whole(round(count)) if count >= 1 else "less than one"
            kind = f"bar {_band(phase, low + step / 2)}"
            yield rect(left, right, _BARS_BOTTOM - height, _BARS_BOTTOM, kind, f"{times}: {vms}")


def _columns(buckets: Iterable[Bucket], axis: LogAxis) -> list[float]:
    """Return the count of each column; a bucket is divided among the columns it covers."""
    found = [0.0] * _COLUMNS
    for bucket in buckets:
        left, right = (axis.percent(end) * _COLUMNS / 100 for end in (bucket.low, bucket.high))
        for column in range(int(left), min(math.ceil(right), _COLUMNS)):
            covered = min(right, column + 1) - max(left, column)
            found[column] += bucket.count * covered / (right - left)
    return found


def _band(phase: Phase, at: float) -> str:
    """Return the style of a bar at `at`: which percentiles it belongs to."""
    if not all(mark in phase.marks for mark in MARKS):
        return "to50"
    parts = zip(MARKS, ("to50", "to90", "to99"), strict=True)
    return next((kind for mark, kind in parts if at <= log(phase.marks[mark])), "tail")


def _flags(phase: Phase, axis: LogAxis) -> Iterable[Element]:
    """Draw the percentiles, each label beside its own line, which no other label crosses."""
    flags = placed({m: axis.percent(log(phase.marks[m])) for m in MARKS if m in phase.marks})
    for mark, x, y, _ in flags:
        yield line(x, x, y - 9, _BARS_BOTTOM, f"pole {mark}")
    for mark, x, y, is_left in flags:
        text = f"{mark} {words.duration(phase.marks[mark])}"
        yield label(x, y, text, "flag", is_left=is_left)


def placed(marks: Mapping[str, float]) -> list[tuple[str, float, float, bool]]:
    """Return each mark with x, y, and whether its label stands to the left of its line.

    A line goes down from its label. Labels to the left have their line behind them: the rightmost
    stands highest, and those to the right stand below, the leftmost highest.
    """
    left: list[str] = []
    end = float(_LAST_LABEL + _LABEL)  # where labels to the right must end
    for mark in reversed(list(marks)):
        if marks[mark] + _LABEL > end:
            left.append(mark)
            end = min(end, marks[mark])
    in_order = [*left, *(mark for mark in marks if mark not in left)]
    rows = {mark: _FLAG_LINE * (row + 1) - 2 for row, mark in enumerate(in_order)}
    return [(mark, x, rows[mark], mark in left) for mark, x in marks.items()]


def percentiles(phases: Sequence[Phase]) -> Element:
    titles = ("milliseconds", "count", *MARKS, "max")
    rows = [
        (phase.name, words.whole(phase.count), *map(words.plain, map(phase.marks.get, titles[2:])))
        for phase in phases
    ]
    return section("Percentiles", table("Percentiles of each phase", titles, rows, "numbers"))
