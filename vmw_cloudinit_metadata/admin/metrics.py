"""The figures as Prometheus reads them. No label has a value that a peer can choose."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gevent
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from vmw_cloudinit_metadata import __version__
from vmw_cloudinit_metadata.monitoring.figures import BOUNDS_S, Figures, Timing

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_DOCUMENTS = ("METADATA", "NETWORKDATA", "USERDATA", "VENDORDATA", "DIGEST", "other")
_OUTCOMES = ("answered", "not-found", "invalid", "failed", "timeout", "unknown-request")
_REFUSALS = (
    *("network", "host", "full", "PROXY header", "another service URI", "without TLS"),
    *("VMOTION-PEER", "plain bytes before TLS", "rate", "handshake rate"),
)
_MOVES = (
    *("completed", "from elsewhere", "aborted", "declined", "replaced", "expired", "overdue"),
    *("declined by rate", "made room"),
)
# What a process keeps because of its peers: the tables of its memory budget.
_TABLES = (
    *("program", "connections", "unsent answers", "kept answers", "last good answers"),
    *("look-ups waiting", "look-ups running", "readings", "machines", "events"),
    *("values compared", "file names"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A metric, and the counters or gauges that it is made of: by the values of its labels."""

    name: str
    help: str
    labels: tuple[str, ...]
    series: dict[str, tuple[str, ...]]  # name of the counter: values
    prefix: str = ""  # further ones: what follows is the value of the only label


def _plain(name: str, text: str, counter: str) -> Row:
    return Row(name, text, (), {counter: ()})


def _labelled(
    name: str, text: str, label: str, values: Iterable[str], form: str, prefix: str = ""
) -> Row:
    return Row(name, text, (label,), {form.format(value): (value,) for value in values}, prefix)


COUNTERS = (
    _plain("connections_accepted", "Connections accepted.", "connections"),
    _labelled(
        "connections_refused",
        "Connections and VMs that were refused.",
        "reason",
        _REFUSALS,
        "refused: {}",
        "refused: ",
    ),
    _labelled(
        "connections_closed",
        "Connections that the server has closed.",
        "reason",
        (
            *("strangers", "unidentified", "stalled", "TLS failed"),
            *("made room", "memory budget"),
        ),
        "{}",
    ),
    _plain("boots", "Boots: a guest has had its documents, METADATA among them.", "boots"),
    Row(
        *("requests", "Requests of guests, by what was asked for and what came of it."),
        ("document", "outcome"),
        {f"{name} {outcome}": (name, outcome) for name in _DOCUMENTS for outcome in _OUTCOMES},
    ),
    _plain("cache_hits", "Requests answered from kept answers.", "answers kept"),
    _plain("cache_misses", "Requests that had to be looked up.", "answers looked up"),
    _plain(
        "cache_unchecked",
        "Requests for a kept answer of which the driver did not say whether it holds.",
        "answers unchecked",
    ),
    _labelled(
        "vmotions", "vMotions, by how they ended.", "outcome", _MOVES, "vMotions {}", "vMotions "
    ),
    _labelled(
        "tls_handshakes",
        "TLS handshakes that succeeded.",
        "version",
        ("TLSv1.2", "TLSv1.3"),
        "{}",
    ),
    _plain("tls_failures", "TLS handshakes that failed.", "TLS failed"),
    _plain("received_bytes", "Bytes received from ESXi hosts.", "bytes received"),
    _plain("sent_bytes", "Bytes sent to ESXi hosts.", "bytes sent"),
    _labelled(
        "protocol_faults", "What peers sent that is no protocol.", "kind", (), "{}", "fault: "
    ),
    _labelled(
        "dropped",
        "What was left out: its reader is too slow, or its host says too much.",
        "what",
        ("requests", "output", "events", "log lines", "lines of busy hosts", "audit lines"),
        "{} dropped",
    ),
    Row(
        *(
            "identity_conflicts",
            "Machines whose identity is not theirs alone, changed, or was not told.",
        ),
        ("kind",),
        {
            "rival connections": ("rival",),
            "shared sources": ("shared source",),
            "duplicates": ("duplicate",),
            "identities changed": ("changed",),
            "identities untold": ("untold",),
        },
    ),
    _labelled(
        "memory_shed",
        "Entries that were dropped since the memory budget was used up.",
        "table",
        _TABLES,
        "memory shed: {}",
    ),
    _plain("internal_errors", "Errors of the server; each costs a connection.", "internal errors"),
    _plain("worker_restarts", "Workers that died and were started again.", "workers restarted"),
)
ADMIN_COUNTERS = (
    _labelled(
        "admin_shed",
        "What the admin port has given up to stay within its bounds.",
        "what",
        (
            *("waiting", "readers", "followers", "slow readers", "without descriptor"),
            *("events", "stories", "machines"),
        ),
        "{}",
    ),
)
GAUGES = (
    _plain("connections", "Connections now.", "connections"),
    _plain(
        "connections_unidentified",
        "Connections now that have named no VM yet, or were refused.",
        "connections unidentified",
    ),
    _plain("connections_limit", "Connections at most.", "connections at most"),
    _plain("lookups_waiting", "Look-ups without a place in the pool.", "look-ups waiting"),
    _plain("lookups_running", "Look-ups that a driver works on.", "look-ups running"),
    _plain("vmotions_under_way", "vMotions that have begun and not ended.", "vMotions under way"),
    _plain("open_fds", "Descriptors that are open, of all processes that serve.", "descriptors"),
    _plain("max_fds", "The limit of descriptors.", "descriptors at most"),
    _plain("memory_budget_bytes", "The memory budget of all processes.", "memory budget"),
    _labelled(
        "memory_bytes", "What counts against the memory budget.", "table", _TABLES, "memory: {}"
    ),
)
TIMINGS = {
    "look-up waited": ("lookup_wait_seconds", "How long look-ups waited for a place in the pool."),
    "look-up ran": ("lookup_run_seconds", "How long the driver took for a look-up."),
    "boot": ("boot_seconds", "From a guest's first request to the last of its documents."),
}
PREFIX = "vmw_metadata_"


@dataclass(frozen=True, slots=True)
class Scene:
    """All that is measured at one moment."""

    figures: Figures
    is_ready: bool
    machines: dict[str, int]  # by state
    last_good: int
    started_s: float
    shed: Mapping[str, int]  # by the admin port


class Metrics(Collector):
    """Asks for a Scene whenever it is read."""

    def __init__(self, look: Callable[[], Scene]) -> None:
        self._look = look
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        scene = self._look()
        for row in COUNTERS:
            counter = CounterMetricFamily(PREFIX + row.name, row.help, labels=row.labels)
            yield _filled(counter, row, scene.figures.counters)
        for row in ADMIN_COUNTERS:
            counter = CounterMetricFamily(PREFIX + row.name, row.help, labels=row.labels)
            yield _filled(counter, row, scene.shed)
        for row in GAUGES:
            gauge = GaugeMetricFamily(PREFIX + row.name, row.help, labels=row.labels)
            yield _filled(gauge, row, scene.figures.gauges)
        for name, (metric, text) in TIMINGS.items():
            yield _histogram(metric, text, scene.figures.timings.get(name, Timing()))
        yield from _of_the_server(scene)


def _filled(family: Any, row: Row, counts: Any) -> Metric:
    for name, values in row.series.items():
        family.add_metric(values, counts.get(name, 0))
    for name, count in counts.items() if row.prefix else ():
        if name.startswith(row.prefix) and name not in row.series:
            family.add_metric((name.removeprefix(row.prefix),), count)
    metric: Metric = family
    return metric


def _histogram(name: str, text: str, timing: Timing) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, text)
    total = 0
    buckets = []
    for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), timing.counts, strict=True):
        total += count
        buckets.append((bound, total))
    family.add_metric((), buckets, timing.sum_s)
    return family


def _of_the_server(scene: Scene) -> Iterator[Metric]:
    machines = GaugeMetricFamily(
        f"{PREFIX}machines", "Machines, also those that left, by state.", labels=["state"]
    )
    for state, count in scene.machines.items():
        machines.add_metric((state,), count)
    yield machines
    for name, text, value in (
        ("last_good_answers", "Machines that were served the last good answer.", scene.last_good),
        ("ready", "Whether VMs are accepted and the driver can be used.", scene.is_ready),
        ("start_time_seconds", "When the server started, since 1970.", scene.started_s),
    ):
        yield GaugeMetricFamily(PREFIX + name, text, value=float(value))
    build = GaugeMetricFamily(
        f"{PREFIX}build_info", "What runs.", labels=["version", "python", "gevent"]
    )
    build.add_metric((__version__, platform.python_version(), gevent.__version__), 1)
    yield build
