"""The result of a load test as text, for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vmw_cloudinit_metadata.client.report.phase import in_order
from vmw_cloudinit_metadata.client.report.words import plural

_PERCENTILES = ("p50", "p90", "p99", "max")


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    failed = sum(result["failures"].values())
    yield (
        f"{result['scenario']}: {plural(result['boots'], 'boot')} in {result['seconds']:.1f} s, "
        f"{result['rate']:,.0f} a second, {plural(failed, 'failure')}"
    )
    yield ""
    yield "ms           " + "".join(f"{name:>11}" for name in ("count", *_PERCENTILES))
    for phase in in_order(result["phases"]):
        told = result["phases"][phase]
        figures = "".join(f"{told[name]:11,.1f}" for name in _PERCENTILES)
        yield f"{phase:13}{told['count']:11,}{figures}"
    yield ""
    yield from _server(result["server"])
    yield from _client(result["client"])
    for kind, count in sorted(result["failures"].items(), key=lambda item: -item[1]):
        yield f"failed  {count:,} times: {kind}: {result['examples'][kind]}"


def _server(told: Mapping[str, Any] | None) -> Iterator[str]:
    for pid in told["ended"] if told else ():
        yield f"server  process {pid} has ENDED during the test"
    if told and not told["ended"]:
        per_boot = told["cpu_ms_per_boot"]
        share = "" if per_boot is None else f", {per_boot:.3f} ms a boot"
        processes = told["processes"]
        of = "" if processes == 1 else f" in {processes} processes"
        before, after = (f"{told[f'memory_kb_{when}']:,} kB {when}" for when in ("before", "after"))
        yield f"server  {told['cpu_s']:.2f} s of CPU{of}{share}; {told['memory']} {before}, {after}"


def _client(told: Mapping[str, Any]) -> Iterator[str]:
    processes = told["processes"]
    of = "its core" if processes == 1 else f"a core in the busiest of {processes} processes"
    yield f"client  {told['cpu_share']:.0%} of {of}"
    if told["is_bottleneck"]:
        yield (
            "client  IS THE BOTTLENECK: it measures itself, not the server; "
            "take more --processes, on cores of their own"
        )
