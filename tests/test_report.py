"""The page about a load test: as text, for any result; and in a real browser, as people see it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.laws import cases
from vmw_cloudinit_metadata.client.report import latency, scale, words
from vmw_cloudinit_metadata.client.report.page import render
from vmw_cloudinit_metadata.client.report.phase import in_order

if TYPE_CHECKING:
    from playwright.sync_api import Page

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-sync",
    "--disable-component-update",
)
LIMIT_MS = 10_000
PHASES = ("connect", "ready", "METADATA", "NETWORKDATA", "USERDATA", "boot")

HOSTILE = (
    '<script>window.ran = 1</script>"><img src="http://127.0.0.1:9/x" onerror="window.ran = 1">'
    "</title></style></svg></table><svg onload='window.ran = 1'>&lt;b&gt; {{x}} \\"
)
UNPRINTABLE = "a\x00b\x1bc\nd\u202ee\ud800f"


def phase(middle_ms: float, count: int = 2000) -> dict[str, Any]:
    """A bell around `middle_ms` with a long tail, in buckets as the client has them."""
    parts = [
        (step, math.exp(-((step / 6) ** 2)) + 0.002 * (0 < step < 60)) for step in range(-20, 70)
    ]
    total = sum(part for _, part in parts)
    histogram = [
        [middle_ms * 2 ** (step / 16), round(count * part / total)]
        for step, part in parts
        if round(count * part / total)
    ]
    return {
        "count": count,
        "p50": middle_ms,
        "p90": 1.4 * middle_ms,
        "p99": 4 * middle_ms,
        "max": 14 * middle_ms,
        "histogram": histogram,
    }


def result(**changes: Any) -> dict[str, Any]:
    """A storm in which everything was well."""
    found: dict[str, Any] = {
        "scenario": "storm",
        "started": "2026-03-04T10:11:12Z",
        "seconds": 12.6,
        "options": {"boots": 2000, "rate": None, "tls": False, "sources": ["127.0.0.1"]},
        "boots": 2000,
        "rate": 158.7,
        "phases": dict(zip(PHASES, map(phase, (0.4, 3.0, 2.2, 1.4, 1.5, 24.0)), strict=True)),
        "timeline": [[second, 150 + second, 0] for second in range(13)],
        "failures": {},
        "examples": {},
        "server": {
            "processes": 3,
            "cpu_s": 0.91,
            "cpu_ms_per_boot": 0.455,
            "memory": "PSS",
            "memory_kb_before": 40960,
            "memory_kb_after": 58368,
        },
        "client": {"cpu_share": 0.43, "is_bottleneck": False, "processes": 2},
    }
    return found | changes


WITH_FAILURES = result(
    failures={"timeout": 320, "wrong document": 12},
    examples={"timeout": "web-01: no answer in 10 s", "wrong document": "web-02: got web-03's"},
    timeline=[[s, 250 + round(60 * math.sin(s / 40)), 5 * (200 < s < 260)] for s in range(600)],
)
HOSTILE_EVERYWHERE = result(
    scenario=HOSTILE,
    started=HOSTILE,
    options={HOSTILE: HOSTILE, "list": [HOSTILE], "long": "y" * 5000},
    phases={HOSTILE: phase(3), "N" * 300: phase(4)},
    failures={HOSTILE: 3, "A" * 500: 1},
    examples={HOSTILE: HOSTILE, "A" * 500: "A" * 5000},
)
NOTHING = phase(1, 0) | dict.fromkeys(("p50", "p90", "p99", "max")) | {"histogram": []}
HUGE = {"count": 10**15, "p50": 1e-9, "p90": 1e9, "p99": 1e17, "max": 1e300}
CASES = {
    "good": result(),
    "failures": WITH_FAILURES,
    "hostile": HOSTILE_EVERYWHERE,
    "client was the bottleneck": result(client={"cpu_share": 0.98, "is_bottleneck": True}),
    "no boots": result(
        boots=0, seconds=0, rate=0, phases={"boot": NOTHING}, timeline=[], server=None, client={}
    ),
    "nothing at all": {},
    "no phases": result(phases={}),
    "some phases": result(phases={"METADATA": phase(2)}),
    "empty histogram": result(phases={"boot": phase(24) | {"histogram": []}}),
    "one bucket": result(phases={"boot": phase(5, 1) | {"histogram": [[5, 1]]}}),
    "one second": result(timeline=[[0, 2000, 0]]),
    "only failures": result(timeline=[[0, 0, 7]], failures={"refused": 7}),
    "huge numbers": result(
        boots=10**400,
        rate=math.inf,
        seconds=1e300,
        phases={"boot": HUGE | {"histogram": [[1e-9, 1], [1e9, 10**15], [1e300, 3]]}},
        timeline=[[0, 10**14, 3], [10**12, 5, 10**14]],
        failures={"timeout": 10**400},
        server={"cpu_s": math.inf, "cpu_ms_per_boot": math.nan, "memory_kb_before": 1},
    ),
}
EACH_CASE = pytest.mark.parametrize("case", CASES)


class Reader(HTMLParser):
    """What is on a page; fails if an element is not closed where it should be."""

    VOID = frozenset({"meta"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@cache
def known_tags() -> set[str]:
    return {tag for case in CASES.values() for tag in Reader(render(case)).tags}


# For any result

numbers = st.none() | st.integers() | st.floats() | st.sampled_from([0, 10**400, 1e-320, 1e308])
counts = st.integers(0, 10**20) | numbers
texts = st.text(max_size=40) | st.sampled_from([HOSTILE, UNPRINTABLE, *PHASES])
phases = st.fixed_dictionaries(
    {"count": counts, "p50": numbers, "p90": numbers, "p99": numbers, "max": numbers},
    optional={"histogram": st.lists(st.tuples(numbers, counts), max_size=12)},
)
results = st.fixed_dictionaries(
    {},
    optional={
        "scenario": texts,
        "started": texts,
        "seconds": numbers,
        "options": st.dictionaries(texts, texts | st.booleans() | st.lists(texts) | numbers),
        "boots": counts,
        "rate": numbers,
        "phases": st.dictionaries(texts, phases, max_size=4),
        "timeline": st.lists(st.tuples(numbers, counts, counts), max_size=8),
        "failures": st.dictionaries(texts, counts, max_size=4),
        "examples": st.dictionaries(texts, texts, max_size=4),
        "server": st.none()
        | st.dictionaries(st.sampled_from(["cpu_s", "memory_kb_after"]), numbers),
        "client": st.fixed_dictionaries({}, optional={"cpu_share": numbers, "processes": counts}),
    },
)


@settings(max_examples=cases(60), suppress_health_check=[HealthCheck.too_slow])
@given(results)
@example({"timeline": [(None, 1e-320, 0)]})
@example({"timeline": [(None, 0, 1e-320)]})
def test_render_any_result_is_well_formed_and_holds_nothing_foreign(found: dict[str, Any]) -> None:
    page = render(found)
    reader = Reader(page)
    assert set(reader.tags) <= known_tags()
    assert all("nan" not in (value or "") for name, value in reader.attributes if name in "xy")
    page.encode("utf-8")


@EACH_CASE
def test_render_case_names_no_script_event_or_address(case: str) -> None:
    reader = Reader(render(CASES[case]))
    names = {name for name, _ in reader.attributes}
    assert "script" not in reader.tags
    assert names & {"src", "href", "style"} == set()
    assert [name for name in names if name.startswith("on")] == []
    assert "url(" not in reader.text.replace(HOSTILE, "")


def test_render_hostile_text_stands_as_it_is() -> None:
    assert Reader(render(HOSTILE_EVERYWHERE)).text.count(HOSTILE) >= 5


def test_render_unprintable_text_becomes_escapes() -> None:
    page = render(result(failures={UNPRINTABLE: 1}))
    assert r"a\x00b\x1bc\nd\u202ee\ud800f" in page


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "All 2,000 served"),
        ({"boots": 1}, "The one boot was served"),
        ({"boots": 0}, "No VM booted"),
        ({"failures": {"timeout": 1}}, "1 failure"),
        ({"failures": {"timeout": 1200, "refused": 34}}, "1,234 failures"),
        ({"failures": {"timeout": 0}}, "All 2,000 served"),
        ({"client": {"is_bottleneck": True}}, "All served, but the client was the bottleneck"),
        ({"client": {"is_bottleneck": True}, "failures": {"timeout": 2}}, "2 failures"),
    ],
)
def test_render_verdict_is_the_first_thing_said(changes: dict[str, Any], verdict: str) -> None:
    page = render(result(**changes))
    assert f"<title>{verdict} · load test</title>" in page
    before, _, _ = page.partition(f"<h1>{verdict}</h1>")
    said = before.partition("<body>")[2]
    assert re.sub(r"<[^>]*>", "", said) == ""


def test_render_same_result_is_the_same_page() -> None:
    assert render(result()) == render(result())


# The parts


@given(st.floats(-1e15, 1e15))
def test_number_in_words_is_right_within_a_twentieth(value: float) -> None:
    assert float(words.plain(value).replace(",", "")) == pytest.approx(value, rel=0.05)


@given(st.floats(1e-12, 1e15))
def test_round_step_is_the_next_round_number(about: float) -> None:
    step = scale.round_step(about)
    assert about <= step <= 2.5 * about * (1 + 1e-9)
    assert f"{step:e}"[:8] in ("1.000000", "2.000000", "5.000000")


@given(st.lists(st.floats(-3, 18), min_size=1))
def test_axis_has_room_for_all_and_for_its_ticks(ends: list[float]) -> None:
    axis = scale.log_axis(ends)
    assert all(0 < axis.percent(end) < 100 for end in ends)
    ticks = axis.ticks()
    assert ticks == sorted(set(ticks))
    assert all(0 <= axis.percent(scale.log(ms)) <= 100 for ms in ticks)
    assert sum(len(words.brief_duration(ms)) for ms in ticks) <= 48


@given(st.lists(st.floats(0, 100), min_size=3, max_size=3).map(sorted))
def test_label_of_a_percentile_stands_at_its_own_line(places: list[float]) -> None:
    """No other line goes through it: a line goes down from its label."""
    placed = latency.placed(dict(zip(("p50", "p90", "p99"), places, strict=True)))
    for _, x, y, is_left in placed:
        begin, end = (x - 25, x) if is_left else (x, x + 25)
        assert begin >= -25
        assert end <= 100
        crossing = [one for _, one, top, _ in placed if top < y and begin < one < end]
        assert crossing == []


def bars_of(page: str) -> list[tuple[str, float]]:
    """Class and height of each bar of the throughput."""
    picture = page.partition('class="rate"')[2].partition("</svg>")[0]
    found = re.findall(r'height="([\d.]+)" class="bar ([a-z0-9 ]+)"', picture)
    return [(kind, float(height)) for height, kind in found]


def test_failures_hang_on_the_scale_of_what_was_completed() -> None:
    page = render(result(timeline=[[0, 100, 50], [1, 200, 0]], seconds=2.0, failures={"x": 50}))
    heights = bars_of(page)
    assert [kind for kind, _ in heights] == ["to50", "bad", "to50"]
    (_, whole), (_, failed), (_, twice) = heights
    assert failed == pytest.approx(whole / 2, rel=0.02)
    assert twice == pytest.approx(2 * whole, rel=0.02)


@pytest.mark.parametrize(("seconds", "end"), [(2.0, ""), (1.4, " unfinished"), (0, "")])
def test_last_bar_is_drawn_as_unfinished_if_the_test_ended_in_it(seconds: float, end: str) -> None:
    page = render(result(timeline=[[0, 100, 0], [1, 40, 0]], seconds=seconds))
    assert [kind for kind, _ in bars_of(page)] == ["to50", f"to50{end}"]
    assert ("is unfinished" in page) == bool(end)


def test_options_are_a_command_line_and_hosts_are_named() -> None:
    page = render(result(command="client storm -n 5", environment={"client": "build1"}))
    assert "<code>client storm -n 5</code>" in page
    assert "build1" in page


def test_phases_stand_as_a_vm_goes_through_them() -> None:
    assert in_order(["move", "boot", "METADATA", "connect"]) == [
        *("connect", "METADATA", "boot"),
        "move",
    ]


# In a browser

SIZES = {"phone": (360, 740), "wide": (1600, 900)}
EACH_SIZE = pytest.mark.parametrize("size", SIZES)
EACH_SCHEME = pytest.mark.parametrize("scheme", ["light", "dark"])

OVERFLOW = "() => document.documentElement.scrollWidth - window.innerWidth"
# Letters of pictures too: what no box of the page cuts off must be inside the window.
OUTSIDE = """() => [...document.querySelectorAll("h1, h2, p, dd, figcaption, summary, text")]
    .filter(node => !node.closest(".scroll") && node.getClientRects().length)
    .filter(node => node.getBoundingClientRect().left < 0
                 || node.getBoundingClientRect().right > window.innerWidth)
    .map(node => node.textContent)"""
PICTURES = """() => [...document.querySelectorAll("svg[role=img]")].map(picture => ({
    width: picture.getBoundingClientRect().width,
    height: picture.getBoundingClientRect().height,
    told: picture.getAttribute("aria-label"),
    bars: [...picture.querySelectorAll("rect")].map(bar => bar.getBoundingClientRect())
        .filter(bar => bar.width > 0 && bar.height > 0).length,
    letters: [...picture.querySelectorAll("text")].map(text => text.getBoundingClientRect().height)
}))"""
# WCAG 2: 4.5 to 1 for the letters of every element against the colour of its card.
FAINT = """() => {
    const channels = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const light = colour => channels(colour).map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const own = node => [...node.childNodes].some(n => n.nodeType == 3 && n.data.trim());
    return [...document.querySelectorAll("main *")]
        .filter(node => own(node) && node.getClientRects().length)
        .filter(node => {
            const style = getComputedStyle(node);
            const card = node.closest("section, header, .tiles > div");
            const colour = node instanceof SVGElement ? style.fill : style.color;
            return contrast(light(colour), light(getComputedStyle(card).backgroundColor)) < 4.5;
        }).map(node => node.textContent);
}"""


@dataclass
class Shown:
    """A page in the browser, and what it did that it should not."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def window(program: Callable[[str, str], str]) -> Iterator[Shown]:
    """One window for all pages: to open one takes longer than most tests."""
    path = program("chromium", "chromium")
    from playwright.sync_api import sync_playwright  # slow: only where it is used

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET, timeout=60_000)
        page = browser.new_page()
        page.set_default_timeout(LIMIT_MS)
        shown = Shown(page)
        page.on("request", lambda request: shown.requests.append(request.url))
        page.on("console", lambda message: shown.complaints.append(message.text))
        page.on("pageerror", lambda error: shown.complaints.append(str(error)))
        yield shown
        browser.close()


@pytest.fixture
def show(window: Shown, tmp_path: Path) -> Callable[..., Shown]:
    """Opens the page for a result, from a file as people do."""
    path = tmp_path / "report.html"

    def open_(found: dict[str, Any], size: str = "phone", scheme: Any = "light") -> Shown:
        width, height = SIZES[size]
        window.page.set_viewport_size({"width": width, "height": height})
        window.page.emulate_media(color_scheme=scheme)
        path.write_text(render(found), encoding="utf-8")
        window.requests.clear()
        window.complaints.clear()
        window.page.goto(path.as_uri(), wait_until="load")
        window.requests.remove(path.as_uri())
        return window

    return open_


@EACH_CASE
@EACH_SIZE
@pytest.mark.slow
def test_page_of_case_fits_its_screen_and_asks_nobody(
    show: Callable[..., Shown], case: str, size: str
) -> None:
    shown = show(CASES[case], size)
    assert shown.page.evaluate(OVERFLOW) <= 0
    assert shown.page.evaluate(OUTSIDE) == []
    assert (shown.requests, shown.complaints) == ([], [])


@EACH_SIZE
@EACH_SCHEME
@pytest.mark.slow
def test_page_pictures_are_seen_and_legible(
    show: Callable[..., Shown], size: str, scheme: str
) -> None:
    pictures = show(WITH_FAILURES, size, scheme).page.evaluate(PICTURES)
    assert len(pictures) == len(PHASES) + 1
    for picture in pictures:
        assert picture["width"] > 200
        assert picture["height"] >= 100
        assert picture["bars"] >= 10
        assert picture["told"]
        assert min(picture["letters"]) >= 10


@EACH_SIZE
@EACH_SCHEME
@pytest.mark.slow
def test_page_letters_stand_out_from_their_ground(
    show: Callable[..., Shown], size: str, scheme: str
) -> None:
    assert show(WITH_FAILURES, size, scheme).page.evaluate(FAINT) == []


@pytest.mark.slow
def test_page_ground_follows_the_scheme(show: Callable[..., Shown]) -> None:
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = show(result(), "phone", "light").page.evaluate(ground)
    assert show(result(), "phone", "dark").page.evaluate(ground) != light


@EACH_SIZE
@pytest.mark.slow
def test_page_hostile_text_is_shown_and_runs_nothing(show: Callable[..., Shown], size: str) -> None:
    shown = show(HOSTILE_EVERYWHERE, size)
    assert shown.page.evaluate("window.ran") is None
    assert shown.page.locator("script, img, main svg[onload]").count() == 0
    assert shown.page.locator("code", has_text=HOSTILE).first.is_visible()
    assert shown.page.locator("figcaption b", has_text=HOSTILE).is_visible()
    assert shown.requests == []


@pytest.mark.slow
def test_page_script_put_in_by_force_is_refused(show: Callable[..., Shown]) -> None:
    """The second lock: even where text had become an element, the page's own policy holds."""
    shown = show(result())
    shown.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = 1";
            document.body.append(script);
        }"""
    )
    assert shown.page.evaluate("window.ran") is None
    assert any("Content Security Policy" in complaint for complaint in shown.complaints)


@pytest.mark.slow
def test_page_percentile_table_has_the_numbers(show: Callable[..., Shown]) -> None:
    page = show(result()).page
    table = page.get_by_role("table", name="Percentiles of each phase")
    row = table.get_by_role("row").filter(has=page.get_by_role("rowheader", name="boot"))
    assert row.get_by_role("cell").all_inner_texts() == ["2,000", "24.0", "33.6", "96.0", "336"]


@pytest.mark.slow
def test_page_server_table_says_what_is_counted(show: Callable[..., Shown]) -> None:
    table = show(result()).page.get_by_role("table", name="The server's CPU and memory")
    assert table.get_by_role("cell").all_inner_texts() == [
        *("3", "910 ms", "0.46 ms", "PSS"),
        *("40.0 MiB", "57.0 MiB", "17.0 MiB"),
    ]


@pytest.mark.slow
def test_page_failures_are_listed_most_frequent_first(show: Callable[..., Shown]) -> None:
    table = show(WITH_FAILURES).page.get_by_role("table", name="Failures by kind")
    assert table.locator("b").all_inner_texts() == ["timeout", "wrong document"]
    assert table.locator("code").first.inner_text() == "web-01: no answer in 10 s"


@pytest.mark.slow
def test_page_throughput_as_a_table_opens(show: Callable[..., Shown]) -> None:
    page = show(WITH_FAILURES).page
    page.get_by_text("The same as a table").click()
    table = page.get_by_role("table", name="Throughput over time")
    assert table.get_by_role("row").count() == 1 + 600 // 5
    assert page.evaluate(OVERFLOW) <= 0
