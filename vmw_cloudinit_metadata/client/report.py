"""What a load test found, as one HTML page that needs no network and holds no script. Pure.

The page is built as a tree: what came from a VM or a server can only become text in it. A
Content-Security-Policy is the second lock. Pictures are SVG placed by percent across and by
pixel down, so that their letters keep their size on a telephone and on a wide screen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element, tostring

from vmw_cloudinit_metadata.printable import one_line

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
MAX_TEXT = 400  # characters: a message is an example, not a log

PHASES = {
    "connect": "until connected",
    "ready": "until the line is open",
    "METADATA": "until answered",
    "NETWORKDATA": "until answered",
    "USERDATA": "until answered",
    "boot": "all of it",
}
MARKS = ("p50", "p90", "p99")

SHORTEST_MS = 0.001  # a logarithm needs an end, and nothing is measured finer
LARGEST = 1e18  # a number beyond is a fault of the client, and sums must stay finite
WIDEST = 1 / 20  # of a decade: empty buckets are left out, so that a gap tells no width
COLUMNS = 96  # of a distribution
NOTHING = "—"
TICK_LETTERS = 48  # of all ticks on an axis: what a narrow telephone has room for
SLICES = 120  # of the time axis
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800)

# Pixels, from the top of a picture.
FLAG_LINE, BARS_TOP, BARS_BOTTOM, PHASE_HEIGHT = 14, 44, 100, 120
RATE_TOP, RATE_BOTTOM, FAILED_TOP, FAILED_BOTTOM, TICKS = 10, 150, 153, 185, 18
LEAST_BAR = 2.0  # one VM in a million is still seen


def render(result: Mapping[str, Any]) -> str:
    """The page for `result`; any part of it may be missing. Never raises for a number's size."""
    phases = read_phases(result.get("phases") or {})
    body = element(
        "main",
        banner(result),
        tiles(result, phases),
        latency(phases),
        throughput(read_slices(result.get("timeline") or [])),
        element(
            "div",
            failures(result),
            percentiles(phases),
            server(result.get("server")),
            client(result.get("client") or {}),
            options(result.get("options") or {}),
            class_="columns",
        ),
    )
    page = element("html", head(verdict(result)), element("body", body), lang="en")
    return "<!DOCTYPE html>\n" + tostring(page, encoding="unicode", method="html") + "\n"


# The tree


def element(tag: str, *children: Element | str, **attributes: object) -> Element:
    """A node; `stroke_width=` is written stroke-width, `class_=` class. Text is made safe here."""
    node = Element(tag, {attribute(k): one_line(str(v)) for k, v in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            node.append(child)
        elif len(node):
            node[-1].tail = (node[-1].tail or "") + one_line(child)
        else:
            node.text = (node.text or "") + one_line(child)
    return node


def attribute(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def head(shown: Verdict) -> Element:
    style = Element("style")
    style.text = STYLE  # not through `element`: it has lines, and they are ours
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", **{"http-equiv": "Content-Security-Policy", "content": POLICY}),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{shown.headline} · load test"),
        style,
    )


def section(title: str, *children: Element, **attributes: object) -> Element:
    return element("section", element("h2", title), *children, **attributes)


def note(*text: Element | str) -> Element:
    return element("p", *text, class_="note")


def table(
    caption: str, titles: Sequence[str], rows: Iterable[Sequence[Element | str]], kind: str = ""
) -> Element:
    """A table whose first column heads its rows; a wide one scrolls in itself, not the page."""
    node = element("table", element("caption", caption), class_=kind)
    if any(titles):
        cells = [element("th", title, scope="col") for title in titles]
        node.append(element("thead", element("tr", *cells)))
    body = element("tbody")
    for first, *others in rows:
        cells = [element("td", other) for other in others]
        body.append(element("tr", element("th", first, scope="row"), *cells))
    node.append(body)
    return element("div", node, class_="scroll", role="region", tabindex=0, aria_label=caption)


def picture(height: int, told: str, *shapes: Element) -> Element:
    title = element("title", told)
    attributes = {"role": "img", "aria-label": told, "width": "100%", "height": str(height)}
    return element("svg", title, *shapes, **attributes)


def rect(left: float, right: float, top: float, bottom: float, kind: str, told: str) -> Element:
    """A bar from `left` to `right` percent and `top` to `bottom` pixels."""
    return element(
        "rect",
        element("title", told),
        x=f"{left:.3f}%",
        width=f"{right - left:.3f}%",
        y=f"{top:.1f}",
        height=f"{bottom - top:.1f}",
        class_=kind,
    )


def line(x1: float, x2: float, y1: float, y2: float, kind: str) -> Element:
    x = {"x1": f"{x1:.3f}%", "x2": f"{x2:.3f}%"}
    return element("line", **x, y1=f"{y1:.1f}", y2=f"{y2:.1f}", class_=kind)


def label(x: float, y: float, text: str, kind: str) -> Element:
    """Text beside x percent: to its right, or to its left where the right side is near."""
    side, anchor = (-5, "end") if x > 75 else (5, "start")
    at = {"x": f"{x:.3f}%", "y": f"{y:.1f}", "dx": side, "text_anchor": anchor}
    return element("text", text, **at, class_=kind)


def tick(x: float, y: float, text: str) -> Element:
    anchor = "start" if x < 4 else "end" if x > 96 else "middle"
    return element("text", text, x=f"{x:.3f}%", y=y, text_anchor=anchor, class_="tick")


# Numbers and words


def number(value: object) -> float | None:
    """`value` if it is a number to calculate with, else None."""
    if not isinstance(value, int | float):
        return None
    within = float(min(max(value, -LARGEST), LARGEST))
    return None if math.isnan(within) else within


def amount(value: object) -> float:
    """`value` if it is a number above nothing, else 0."""
    return max(number(value) or 0.0, 0.0)


def whole(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.3g}"


def plain(value: float | None) -> str:
    """Three digits or more, whatever the size."""
    if value is None or value == 0 or abs(value) >= 100:
        return whole(value)
    if abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def with_unit(value: float | None, unit: str) -> str:
    return NOTHING if value is None else f"{plain(value)} {unit}"


def duration(ms: float | None) -> str:
    """A time with the unit that suits it."""
    if ms is None or ms < 1000:
        return with_unit(ms, "ms")
    return with_unit(ms / 1000, "s") if ms < 120_000 else with_unit(ms / 60_000, "min")


def brief(value: float) -> str:
    """A round number, as an axis has it."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    return f"{value:.0e}"


def brief_duration(ms: float) -> str:
    return f"{brief(ms)} ms" if ms < 1000 else f"{brief(ms / 1000)} s"


def clock(seconds: float, span_s: float) -> str:
    if span_s <= 120:
        return f"{brief(seconds)} s"
    if span_s <= 7200:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
    return f"{brief(seconds / 3600)} h"


def plural(n: float, one: str) -> str:
    return f"{whole(n)} {one}" if n == 1 else f"{whole(n)} {one}s"


def clipped(text: object) -> str:
    shown = str(text)
    return shown if len(shown) <= MAX_TEXT else f"{shown[:MAX_TEXT]} …"


def chosen(value: object) -> str:
    """An option's value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return clipped(", ".join(map(str, value))) or NOTHING
    return clipped(NOTHING if value is None or value == "" else value)


# The verdict


@dataclass(frozen=True)
class Verdict:
    tone: str  # good, bad or doubt
    headline: str


def verdict(result: Mapping[str, Any]) -> Verdict:
    boots, failed = amount(result.get("boots")), failed_in(result)
    if failed:
        return Verdict("bad", plural(failed, "failure"))
    if not boots:
        return Verdict("doubt", "No VM booted")
    if is_bottleneck(result):
        return Verdict("doubt", "All served, but the client was the bottleneck")
    if boots == 1:
        return Verdict("good", "The one boot was served")
    return Verdict("good", f"All {whole(boots)} served")


def failed_in(result: Mapping[str, Any]) -> float:
    return sum(map(amount, (result.get("failures") or {}).values()))


def is_bottleneck(result: Mapping[str, Any]) -> bool:
    return bool((result.get("client") or {}).get("is_bottleneck"))


SIGNS = {"good": "M6 12.5l4 4 8-9", "bad": "M7 7l10 10M17 7L7 17", "doubt": "M12 6v7.5M12 17v.5"}


def banner(result: Mapping[str, Any]) -> Element:
    shown = verdict(result)
    sign = element("svg", element("path", d=SIGNS[shown.tone]), viewBox="0 0 24 24")
    sign.set("aria-hidden", "true")
    words = [element("h1", shown.headline), element("p", *told_in_short(result))]
    if is_bottleneck(result):
        words.append(element("p", BOTTLENECK))
    return element("header", sign, element("div", *words), class_=shown.tone)


BOTTLENECK = (
    "The client was the bottleneck: it had no CPU left, so the times here are its own in part,"
    " and the server can do more than this. Give it more processes, or another machine."
)


def told_in_short(result: Mapping[str, Any]) -> Iterable[Element]:
    boots, took_ms = amount(result.get("boots")), 1000 * amount(result.get("seconds"))
    yield element("strong", clipped(result.get("scenario") or "load test"), " ")
    yield element("span", f"{plural(boots, 'boot')} in {duration(took_ms)} ")
    if result.get("started"):
        yield element("span", f"started {clipped(result['started'])}")


def tiles(result: Mapping[str, Any], phases: Sequence[Phase]) -> Element:
    shown = [
        ("boots", whole(amount(result.get("boots")))),
        ("boots a second", plain(amount(result.get("rate")))),
        ("failures", whole(failed_in(result))),
    ]
    for phase in (phase for phase in phases if phase.name == "boot"):
        shown += [(f"boot {mark}", duration(phase.marks.get(mark))) for mark in ("p50", "p99")]
    cpu_ms = number((result.get("server") or {}).get("cpu_ms_per_boot"))
    if cpu_ms is not None:
        shown.append(("server CPU a boot", duration(cpu_ms)))
    each = [element("div", element("dt", name), element("dd", value)) for name, value in shown]
    return element("dl", *each, class_="tiles")


# The distributions


@dataclass(frozen=True)
class Bucket:
    low: float  # log10 of milliseconds
    high: float
    count: float


@dataclass(frozen=True)
class Phase:
    name: str
    count: float
    marks: Mapping[str, float]  # p50, p90, p99, max: those that are known, in milliseconds
    buckets: Sequence[Bucket]

    def ends(self) -> Iterable[float]:
        yield from map(log, self.marks.values())
        for bucket in self.buckets:
            yield from (bucket.low, bucket.high)

    def told(self) -> str:
        times = ", ".join(f"{mark} {duration(ms)}" for mark, ms in self.marks.items())
        return f"{self.name}, {whole(self.count)} measured: {times or 'no times'}"


def log(ms: float) -> float:
    return math.log10(max(ms, SHORTEST_MS))


def read_phases(found: Mapping[str, Mapping[str, Any]]) -> list[Phase]:
    """In the order in which a VM goes through them; one that is not known comes last."""
    known = [name for name in PHASES if name in found]
    return [read_phase(name, found[name]) for name in dict.fromkeys([*known, *found])]


def read_phase(name: str, found: Mapping[str, Any]) -> Phase:
    marks = {mark: number(found.get(mark)) for mark in (*MARKS, "max")}
    return Phase(
        clipped(name),
        amount(found.get("count")),
        {mark: ms for mark, ms in marks.items() if ms is not None},
        read_buckets(found.get("histogram") or []),
    )


def read_buckets(histogram: Iterable[Sequence[Any]]) -> list[Bucket]:
    """Those with something in them, each as wide as the narrowest step between two."""
    counts: dict[float, float] = {}
    for upper_ms, count in histogram:
        upper = log(amount(upper_ms))
        counts[upper] = counts.get(upper, 0.0) + amount(count)
    uppers = sorted(counts)
    width = min([WIDEST, *(b - a for a, b in pairwise(uppers))])
    return [Bucket(upper - width, upper, counts[upper]) for upper in uppers if counts[upper]]


@dataclass(frozen=True)
class LogAxis:
    low: float
    high: float

    def percent(self, at: float) -> float:
        return 100 * min(max((at - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Milliseconds: whole decades, with 2 and 5 between them where those are few."""
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        steps = (1, 2, 5) if self.high - self.low < 2.2 else (1,)
        found = [step * 10.0**decade for decade in decades for step in steps]
        inside = [ms for ms in found if self.low <= log(ms) <= self.high and ms >= SHORTEST_MS]
        letters = sum(len(brief_duration(ms)) + 2 for ms in inside)
        return inside[:: math.ceil(letters / TICK_LETTERS) or 1]


def log_axis(phases: Iterable[Phase]) -> LogAxis:
    """One for all, so that they can be compared."""
    ends = [end for phase in phases for end in phase.ends()] or [0.0]
    margin = max((max(ends) - min(ends)) * 0.04, 0.06)
    return LogAxis(min(ends) - margin, max(ends) + margin)


def columns(buckets: Iterable[Bucket], axis: LogAxis) -> list[float]:
    """What falls into each column of the picture; a bucket is spread over those it covers."""
    found = [0.0] * COLUMNS
    for bucket in buckets:
        left, right = (axis.percent(end) * COLUMNS / 100 for end in (bucket.low, bucket.high))
        for column in range(int(left), min(math.ceil(right), COLUMNS)):
            covered = min(right, column + 1) - max(left, column)
            found[column] += bucket.count * covered / (right - left)
    return found


def latency(phases: Sequence[Phase]) -> Element:
    if not phases:
        return section("How long it took", note("No phase was measured."))
    axis = log_axis(phases)
    figures = [distribution(phase, axis) for phase in phases]
    return section(
        "How long it took",
        note("All on the same logarithmic axis. Each is as high as its own peak.", legend()),
        element("div", *figures, class_="phases"),
    )


def legend() -> Element:
    names = {"to50": "fastest half", "to90": "to p90", "to99": "to p99", "tail": "slowest 1 %"}
    shown = [element("span", element("i", class_=kind), name) for kind, name in names.items()]
    return element("span", *shown, class_="legend")


def distribution(phase: Phase, axis: LogAxis) -> Element:
    told = PHASES.get(phase.name, "")
    caption = element("figcaption", element("b", phase.name), " ", element("span", told))
    if "max" in phase.marks:
        most = f"max {duration(phase.marks['max'])}"
        caption.append(element("span", most, class_="most"))
    if not phase.marks and not phase.buckets:
        return element("figure", caption, note("Nothing was measured."))
    shapes = [*grid(axis), *bars(phase, axis), *flags(phase, axis)]
    if not phase.buckets:
        shapes.append(element("text", "no distribution", x="50%", y=80, class_="tick none"))
    return element("figure", caption, picture(PHASE_HEIGHT, phase.told(), *shapes))


def grid(axis: LogAxis) -> Iterable[Element]:
    for ms in axis.ticks():
        x = axis.percent(log(ms))
        yield line(x, x, BARS_TOP, BARS_BOTTOM, "grid")
        yield tick(x, PHASE_HEIGHT - 5, brief_duration(ms))
    yield line(0, 100, BARS_BOTTOM, BARS_BOTTOM, "base")


def bars(phase: Phase, axis: LogAxis) -> Iterable[Element]:
    counts = columns(phase.buckets, axis)
    peak, step = max(counts), (axis.high - axis.low) / COLUMNS
    for column, count in enumerate(counts):
        if count:
            low = axis.low + column * step
            height = max(count / peak * (BARS_BOTTOM - BARS_TOP), LEAST_BAR)
            left, right = (100 * edge / COLUMNS for edge in (column, column + 1))
            told = f"{duration(10**low)} to {duration(10 ** (low + step))}: {around(count)}"
            kind = f"bar {band(phase, low + step / 2)}"
            yield rect(left, right, BARS_BOTTOM - height, BARS_BOTTOM, kind, told)


def around(count: float) -> str:
    return whole(round(count)) if count >= 1 else "less than one"


def band(phase: Phase, at: float) -> str:
    """Which part of the VMs a bar at `at` shows."""
    if not all(mark in phase.marks for mark in MARKS):
        return "to50"
    parts = zip(MARKS, ("to50", "to90", "to99"), strict=True)
    return next((kind for mark, kind in parts if at <= log(phase.marks[mark])), "tail")


def flags(phase: Phase, axis: LogAxis) -> Iterable[Element]:
    """p50's flag is the highest: each then flies over the poles to its right."""
    for row, mark in enumerate(mark for mark in MARKS if mark in phase.marks):
        x, y = axis.percent(log(phase.marks[mark])), FLAG_LINE * (row + 1) - 2
        yield line(x, x, y - 9, BARS_BOTTOM, f"pole {mark}")
        yield label(x, y, f"{mark} {duration(phase.marks[mark])}", "flag")


def percentiles(phases: Sequence[Phase]) -> Element:
    titles = ("milliseconds", "count", *MARKS, "max")
    rows = [
        (
            phase.name,
            whole(phase.count),
            *(plain(phase.marks.get(mark)) for mark in (*MARKS, "max")),
        )
        for phase in phases
    ]
    return section("Percentiles", table("Percentiles of each phase", titles, rows, "numbers"))


# Throughput


@dataclass(frozen=True)
class Slice:
    start_s: float
    end_s: float
    completed_per_s: float
    failed_per_s: float

    def told(self) -> str:
        return (
            f"{brief(self.start_s)} to {brief(self.end_s)} s: {plain(self.completed_per_s)}"
            f" completed and {plain(self.failed_per_s)} failed a second"
        )


def read_slices(timeline: Iterable[Sequence[Any]]) -> list[Slice]:
    """Whole seconds, as many in one slice as it takes for a bar to be wide enough to be seen."""
    seconds = [(int(amount(at)), amount(done), amount(failed)) for at, done, failed in timeline]
    if not seconds:
        return []
    first, end = min(seconds)[0], max(seconds)[0] + 1
    width = math.ceil((end - first) / SLICES)
    totals: dict[int, tuple[float, float]] = {}
    for at, done, failed in seconds:
        index = (at - first) // width
        before = totals.get(index, (0.0, 0.0))
        totals[index] = (before[0] + done, before[1] + failed)
    slices = []
    for index in range(math.ceil((end - first) / width)):
        start = first + index * width
        stop = min(start + width, end)
        done, failed = totals.get(index, (0.0, 0.0))
        slices.append(Slice(start, stop, done / (stop - start), failed / (stop - start)))
    return slices


def throughput(slices: Sequence[Slice]) -> Element:
    if not slices:
        return section("Throughput", note("Nothing was recorded over time."))
    width = slices[0].end_s - slices[0].start_s
    peak = max(part.completed_per_s for part in slices)
    failed = max(part.failed_per_s for part in slices)
    told = f"Each bar is {brief(width)} s, the highest {plain(peak)} completed a second. "
    hung = (
        f"Failures hang below, on their own scale, at most {plain(failed)} a second."
        if failed
        else ""
    )
    height = (FAILED_BOTTOM if failed else RATE_BOTTOM) + TICKS
    shapes = [
        *rate_bars(slices, peak, failed),
        *rate_grid(peak),
        *time_grid(slices[0].start_s, slices[-1].end_s, height),
    ]
    return section(
        "Throughput over time",
        note(told, hung or "None failed."),
        element("figure", picture(height, told + hung, *shapes), class_="rate"),
        slice_table(slices),
    )


def rate_bars(slices: Sequence[Slice], peak: float, failed: float) -> Iterable[Element]:
    first, span = slices[0].start_s, slices[-1].end_s - slices[0].start_s
    for part in slices:
        left, right = (100 * (at - first) / span for at in (part.start_s, part.end_s))
        if part.completed_per_s:
            high = max(part.completed_per_s / peak * (RATE_BOTTOM - RATE_TOP), LEAST_BAR)
            yield rect(left, right, RATE_BOTTOM - high, RATE_BOTTOM, "bar to50", part.told())
        if part.failed_per_s:
            deep = max(part.failed_per_s / failed * (FAILED_BOTTOM - FAILED_TOP), LEAST_BAR)
            yield rect(left, right, FAILED_TOP, FAILED_TOP + deep, "bar bad", part.told())


def rate_grid(peak: float) -> Iterable[Element]:
    step = round_step(peak / 4)
    for row in range(int(peak / step) + 1) if step else ():
        y = RATE_BOTTOM - row * step / peak * (RATE_BOTTOM - RATE_TOP)
        yield line(0, 100, y, y, "grid")
        yield element("text", brief(row * step), x=0, y=f"{y + 4:.1f}", class_="tick side")


def time_grid(start_s: float, end_s: float, height: int) -> Iterable[Element]:
    yield line(0, 100, RATE_BOTTOM, RATE_BOTTOM, "base")
    step = time_step(end_s - start_s)
    for n in range(math.ceil(start_s / step), math.floor(end_s / step) + 1):
        x = 100 * (n * step - start_s) / (end_s - start_s)
        yield line(x, x, height - TICKS, height - TICKS + 4, "base")
        yield tick(x, height - 2, clock(n * step, end_s - start_s))


def round_step(about: float) -> float:
    """1, 2 or 5 times a power of ten, from `about` upwards."""
    if about <= 0:
        return 0.0
    ten = 10.0 ** math.floor(math.log10(about))
    return next((step * ten for step in (1, 2, 5) if step * ten >= about), 10 * ten)


def time_step(span_s: float) -> float:
    return next((step for step in STEPS_S if span_s / step <= 6), round_step(span_s / 6))


def slice_table(slices: Iterable[Slice]) -> Element:
    titles = ("from second", "completed a second", "failed a second")
    rows = [
        (brief(part.start_s), plain(part.completed_per_s), plain(part.failed_per_s))
        for part in slices
    ]
    shown = table("Throughput over time", titles, rows, "numbers")
    return element("details", element("summary", "The same as a table"), shown)


# The rest


def failures(result: Mapping[str, Any]) -> Element:
    found = {kind: amount(count) for kind, count in (result.get("failures") or {}).items()}
    if not any(found.values()):
        return section("Failures", note("None."))
    examples = result.get("examples") or {}
    most = max(found.values())
    rows = [
        (failure(kind, count / most, examples.get(kind)), whole(count))
        for kind, count in sorted(found.items(), key=lambda item: -item[1])
    ]
    titles = ("kind, and the first of it", "count")
    return section("Failures", table("Failures by kind", titles, rows, "numbers failures"))


def failure(kind: str, part: float, example: object) -> Element:
    shown = element("div", element("b", clipped(kind)))
    bar = element("svg", rect(0, max(100 * part, 1), 0, 6, "bar bad", clipped(kind)), width="100%")
    bar.attrib |= {"height": "6", "aria-hidden": "true"}
    shown.append(bar)
    if example is not None:
        shown.append(element("code", clipped(example)))
    return shown


def server(found: Mapping[str, Any] | None) -> Element:
    if found is None:
        return section("Server", note("Not measured: name its process with --server-pid."))
    before, after = (number(found.get(f"rss_kb_{when}")) for when in ("before", "after"))
    rows = [
        ("CPU", duration_s(found.get("cpu_s"))),
        ("CPU a boot", duration(number(found.get("cpu_ms_per_boot")))),
        ("memory before", mebibytes(before)),
        ("memory after", mebibytes(after)),
    ]
    if before is not None and after is not None:
        rows.append(("grown by", mebibytes(after - before)))
    return section("Server", table("The server's CPU and memory", (), rows, "pairs"))


def duration_s(seconds: object) -> str:
    value = number(seconds)
    return duration(None if value is None else 1000 * value)


def mebibytes(kb: float | None) -> str:
    return with_unit(None if kb is None else kb / 1024, "MiB")


def client(found: Mapping[str, Any]) -> Element:
    share = number(found.get("cpu_share"))
    rows = [
        ("processes", whole(number(found.get("processes")))),
        ("CPU used", with_unit(None if share is None else 100 * share, "%")),
        ("was the bottleneck", chosen(bool(found.get("is_bottleneck")))),
    ]
    return section("Client", table("The client's processes and CPU", (), rows, "pairs"))


def options(found: Mapping[str, Any]) -> Element:
    if not found:
        return section("Options", note("None were given."))
    rows = [(clipped(name), chosen(value)) for name, value in found.items()]
    return section("Options", table("Options of the test", (), rows, "pairs"))


STYLE = """
:root {
  --page: #f4f5f7; --card: #fff; --ink: #1b2330; --soft: #586374; --edge: #e1e5ea;
  --to50: #2b5fc7; --to90: #6f9ae8; --to99: #b4cbf5; --tail: #e08a1e;
  --good: #18794e; --bad: #c62f35; --doubt: #925b00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1319; --card: #181e27; --ink: #e5eaf1; --soft: #9aa7b8; --edge: #2b3442;
    --to50: #7fb0ff; --to90: #4f7fd0; --to99: #466ba3; --tail: #e9a23b;
    --good: #4cc38a; --bad: #ff7b7b; --doubt: #e6b450;
  }
}
* { box-sizing: border-box; margin: 0; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  background: var(--page); color: var(--ink); overflow-wrap: anywhere;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 1240px; margin: 0 auto; padding: 16px; display: grid; gap: 16px; }
main > *, .columns > * { min-width: 0; }
header, section, .tiles > div {
  background: var(--card); border: 1px solid var(--edge); border-radius: 12px; padding: 16px;
}
header { --tone: var(--good); display: flex; gap: 14px; border-top: 4px solid var(--tone); }
header.bad { --tone: var(--bad); }
header.doubt { --tone: var(--doubt); }
header > svg {
  flex: none; width: 40px; height: 40px; padding: 6px; border-radius: 50%;
  background: var(--tone); fill: none; stroke: var(--card); stroke-width: 2.5;
  stroke-linecap: round; stroke-linejoin: round;
}
header > div { min-width: 0; }
header strong, header span { display: inline-block; margin-right: 12px; }
header p { color: var(--soft); margin-top: 4px; max-width: 75ch; }
h1 { font-size: clamp(1.4rem, 1.1rem + 1.6vw, 2.1rem); line-height: 1.25; color: var(--tone); }
h2 { font-size: 1.05rem; margin-bottom: 6px; }
.tiles { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); }
.tiles > div { padding: 10px 14px; display: flex; flex-direction: column-reverse; }
dt { color: var(--soft); font-size: .85rem; }
dd { font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.note { color: var(--soft); font-size: .9rem; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin-top: 4px; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; }
.legend i { margin-right: 6px; background: var(--fill); }
.phases { display: grid; gap: 18px 32px; margin-top: 14px; }
.phases { grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.phases > figure { min-width: 0; }
figcaption { display: flex; flex-wrap: wrap; gap: 0 8px; margin-bottom: 4px; }
figcaption span { color: var(--soft); font-size: .85rem; align-self: center; }
figcaption .most { margin-left: auto; }
svg { display: block; overflow: visible; }
.to50 { --fill: var(--to50); } .to90 { --fill: var(--to90); } .to99 { --fill: var(--to99); }
.tail { --fill: var(--tail); } .bar.bad { --fill: var(--bad); }
.bar { fill: var(--fill); shape-rendering: crispEdges; stroke: var(--card); stroke-width: .5px; }
.grid { stroke: var(--edge); } .base { stroke: var(--soft); }
.grid, .base, .pole { stroke-width: 1px; shape-rendering: crispEdges; }
.pole { stroke: var(--ink); } .p90 { stroke-dasharray: 5 3; } .p99 { stroke-dasharray: 1.5 2.5; }
text { font-size: 12px; font-variant-numeric: tabular-nums; fill: var(--ink); }
text { paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
.tick { fill: var(--soft); font-size: 11px; }
.none { text-anchor: middle; }
.rate { padding: 6px 0 0 44px; } .side { text-anchor: end; transform: translateX(-6px); }
.rate .grid { opacity: .6; }
.columns { columns: 2 480px; column-gap: 16px; margin-bottom: -16px; }
.columns > section { break-inside: avoid; margin-bottom: 16px; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { text-align: left; padding: 6px 10px 6px 0; vertical-align: top; font-weight: 400; }
tr + tr > *, thead + tbody > tr:first-child > * { border-top: 1px solid var(--edge); }
thead th, .pairs th { color: var(--soft); font-size: .85rem; }
.numbers td, .numbers thead th + th { text-align: right; padding: 6px 0 6px 10px; }
.numbers td, thead th { white-space: nowrap; }
.numbers th { min-width: 8.2em; padding-right: 0; } .numbers thead th + th { min-width: 0; }
.pairs th { width: 45%; } .pairs td { overflow-wrap: anywhere; }
.failures svg { margin: 3px 0 5px; }
@media (max-width: 480px) {
  main { padding: 10px; gap: 10px; }
  header, section { padding: 14px 12px; }
  .columns > section { margin-bottom: 10px; }
  table { font-size: .87rem; }
  .rate .bar { stroke: none; }
  .numbers td, .numbers thead th + th { padding-left: 6px; }
}
code { font: .82rem/1.4 ui-monospace, "SF Mono", Menlo, Consolas, monospace; color: var(--soft); }
summary { cursor: pointer; color: var(--soft); font-size: .9rem; margin-top: 8px; }
details .scroll { max-height: 300px; overflow-y: auto; }
"""
