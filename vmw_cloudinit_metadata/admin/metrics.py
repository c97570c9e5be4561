"""The figures as Prometheus reads them. No label has a value that a peer can choose; the operator
chooses the name of the data source."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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
from vmw_cloudinit_metadata.admin.machinerecord import STALE
from vmw_cloudinit_metadata.monitoring.counters import ADMIN_FAMILIES, FAMILIES, Family, Key
from vmw_cloudinit_metadata.monitoring.figures import BOUNDS_S, Figures, Timing
from vmw_cloudinit_metadata.monitoring.gauges import GAUGES, TIMINGS
from vmw_cloudinit_metadata.monitoring.sourcestate import SourceState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

PREFIX = "vmw_metadata_"


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything measured at one moment."""

    figures: Figures
    is_ready: bool
    machines: dict[str, int]  # by state
    in_trouble: Mapping[str, int]  # by state: those that need somebody
    started_s: float
    shed: Mapping[Key, int]  # by the admin port
    waiting_hooks: int = 0  # of outcomes of boots
    oldest_hook_s: float = 0.0  # how long one waits
    late_outcomes: int = 0  # machines whose guests have not reported their boots in time
    instance_files: Mapping[str, int] | None = None  # by state; None: there is no catalogue
    source: SourceState = field(default_factory=SourceState)


class Metrics(Collector):
    """Requests a Scene whenever the metrics are read."""

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
        figures = scene.figures
        for family in FAMILIES:
            if family.name:
                yield _filled(CounterMetricFamily, family, figures.counters)
        for family in ADMIN_FAMILIES:
            yield _filled(CounterMetricFamily, family, scene.shed)
        for family in GAUGES:
            yield _filled(GaugeMetricFamily, family, figures.gauges)
        for key, family in TIMINGS.items():
            yield _histogram(family, figures.timings.get(key, Timing()))
        yield from _of_the_server(scene)


def _filled(kind: Any, declared: Family, values: Any) -> Metric:
    family = kind(PREFIX + declared.name, declared.help, labels=declared.labels)
    for labels, key in declared.keys.items():
        family.add_metric(labels, values.get(key, 0))
    metric: Metric = family
    return metric


def _histogram(declared: Family, timing: Timing) -> Metric:
    family = HistogramMetricFamily(PREFIX + declared.name, declared.help)
    total = 0
    buckets = []
    for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), timing.counts, strict=True):
        total += count
        buckets.append((bound, total))
    family.add_metric((), buckets, timing.sum_s)
    return family


def _of_the_server(scene: Scene) -> Iterator[Metric]:
    machines = GaugeMetricFamily(
        f"{PREFIX}machines", "Machines by state, including disconnected ones.", labels=["state"]
    )
    for state, count in scene.machines.items():
        machines.add_metric((state,), count)
    yield machines
    troubled = GaugeMetricFamily(
        f"{PREFIX}machines_in_trouble",
        "Machines that got nothing or an old answer, or whose guests report a failed boot, and "
        "that are connected or were within 30 minutes; without tests.",
        labels=["state"],
    )
    for state, count in scene.in_trouble.items():
        troubled.add_metric((state,), count)
    yield troubled
    last_good = scene.in_trouble[STALE]
    if scene.instance_files is not None:
        files = GaugeMetricFamily(
            f"{PREFIX}instance_files", "Instance files by state, as last read.", labels=["state"]
        )
        for state, count in scene.instance_files.items():
            files.add_metric((state,), count)
        yield files
    failing = GaugeMetricFamily(
        f"{PREFIX}source_failing_since_seconds",
        "When the data source began to fail, in seconds since 1970; 0 while it answers.",
        labels=["source"],
    )
    failing.add_metric((scene.source.name,), scene.source.failing_since_s)
    yield failing
    for name, text, value in (
        (
            "last_good_answers",
            "Machines whose last answer was the last good one, connected or within 30 minutes.",
            last_good,
        ),
        (
            "machines_without_outcome",
            "Connected machines that had their meta-data 15 minutes ago or more, and whose guests "
            "have not reported how the boot ended; those that never did count with "
            "--expect-outcomes.",
            scene.late_outcomes,
        ),
        (
            "outcome_hooks_waiting",
            "Webhooks of how boots ended that are not delivered yet.",
            scene.waiting_hooks,
        ),
        (
            "outcome_hooks_oldest_seconds",
            "How long ago the boot ended whose webhook waits longest; 0: none waits.",
            scene.oldest_hook_s,
        ),
        ("ready", "Whether VMs are accepted and the driver can be used.", scene.is_ready),
        ("start_time_seconds", "Start time of the server, in seconds since 1970.", scene.started_s),
    ):
        yield GaugeMetricFamily(PREFIX + name, text, value=float(value))
    build = GaugeMetricFamily(
        f"{PREFIX}build_info",
        "Versions of the program and its parts.",
        labels=["version", "python", "gevent"],
    )
    build.add_metric((__version__, platform.python_version(), gevent.__version__), 1)
    yield build
