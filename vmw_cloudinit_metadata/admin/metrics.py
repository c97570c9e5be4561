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
    last_good: int
    started_s: float
    shed: Mapping[Key, int]  # by the admin port
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
        ("last_good_answers", "Machines that were served the last good answer.", scene.last_good),
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
