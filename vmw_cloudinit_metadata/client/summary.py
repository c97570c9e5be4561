"""Formats the result of a load test as lines of text. Pure."""

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
        measured = result["phases"][phase]
        figures = "".join(f"{measured[name]:11,.1f}" for name in _PERCENTILES)
        yield f"{phase:13}{measured['count']:11,}{figures}"
    yield ""
    yield from _server(result["server"])
    yield from _client(result["client"])
    yield from _redial(result["redial"])
    for kind, count in sorted(result["failures"].items(), key=lambda item: -item[1]):
        yield f"failed  {count:,} times: {kind}: {result['examples'][kind]}"


def _server(server: Mapping[str, Any] | None) -> Iterator[str]:
    for pid in server["ended"] if server else ():
        yield f"server  process {pid} has ENDED during the test"
    if server and not server["ended"]:
        per_boot = server["cpu_ms_per_boot"]
        share = "" if per_boot is None else f", {per_boot:.3f} ms a boot"
        processes = server["processes"]
        of = "" if processes == 1 else f" in {processes} processes"
        before, after = (
            f"{server[f'memory_kb_{when}']:,} kB {when}" for when in ("before", "after")
        )
        cpu = f"{server['cpu_s']:.2f} s of CPU{of}{share}"
        yield f"server  {cpu}; {server['memory']} {before}, {after}"


def _redial(redial: Mapping[str, int] | None) -> Iterator[str]:
    if redial is not None:
        cut, refused = redial["lines_cut"], redial["dials_refused"]
        yield (
            f"redial  {plural(cut, 'line')} cut, {plural(refused, 'dial')} refused, "
            f"{plural(redial['redials'], 'redial')}"
        )
        yield (
            f"redial  {plural(redial['served'], 'boot')} served after a cut or refusal, "
            f"{redial['never_served']:,} never served"
        )


def _client(client: Mapping[str, Any]) -> Iterator[str]:
    processes = client["processes"]
    of = "its core" if processes == 1 else f"a core in the busiest of {processes} processes"
    yield f"client  {client['cpu_share']:.0%} of {of}"
    if client["is_bottleneck"]:
        yield (
            "client  IS THE BOTTLENECK: the figures show its limit, not the server's; "
            "use more --processes, on cores of their own"
        )
