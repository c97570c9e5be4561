"""The tables: failures, server, client, options of the test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from vmw_cloudinit_metadata.client.report import words
from vmw_cloudinit_metadata.client.report.nodes import element, note, section, table
from vmw_cloudinit_metadata.client.report.picture import rect


def failures(result: Mapping[str, Any]) -> Element:
    found = {kind: words.amount(count) for kind, count in (result.get("failures") or {}).items()}
    if not any(found.values()):
        return section("Failures", note("None."))
    examples = result.get("examples") or {}
    most = max(found.values())
    rows = [
        (_failure(kind, count / most, examples.get(kind)), words.whole(count))
        for kind, count in sorted(found.items(), key=lambda item: -item[1])
    ]
    titles = ("kind, with the first example", "count")
    return section("Failures", table("Failures by kind", titles, rows, "numbers failures"))


def _failure(kind: str, part: float, example: object) -> Element:
    kind = words.clipped(kind)
    bar = rect(0, max(100 * part, 1), 0, 6, "bar bad", kind)
    bars = element("svg", bar, width="100%", height=6, aria_hidden="true")
    code = [] if example is None else [element("code", words.clipped(example))]
    return element("div", element("b", kind), bars, *code)


def server(found: Mapping[str, Any] | None) -> Element:
    if found is None:
        return section("Server", note("Not measured: give its process with --server-pid."))
    kb = (found.get(f"memory_kb_{when}") for when in ("before", "after"))
    before, after = (_times(1 / 1024, value) for value in kb)
    rows = [
        ("processes", words.whole(words.number(found.get("processes")))),
        *(("has ended", f"process {pid}") for pid in found.get("ended", ())),
        ("CPU", words.duration(_times(1000, found.get("cpu_s")))),
        ("CPU a boot", words.duration(words.number(found.get("cpu_ms_per_boot")))),
        ("memory is measured as", words.chosen(found.get("memory"))),
        ("memory before", words.with_unit(before, "MiB")),
        ("memory after", words.with_unit(after, "MiB")),
    ]
    if before is not None and after is not None:
        rows.append(("grown by", words.with_unit(after - before, "MiB")))
    return section("Server", table("The server's CPU and memory", (), rows, "pairs"))


def _times(factor: float, value: object) -> float | None:
    known = words.number(value)
    return None if known is None else factor * known


def client(found: Mapping[str, Any]) -> Element:
    rows = [
        ("processes", words.whole(words.number(found.get("processes")))),
        ("CPU used", words.with_unit(_times(100, found.get("cpu_share")), "%")),
        ("was the bottleneck", words.chosen(bool(found.get("is_bottleneck")))),
    ]
    return section("Client", table("The client's processes and CPU", (), rows, "pairs"))


def redial(found: Mapping[str, Any] | None) -> Element:
    if found is None:
        return section("Redials", note("Hosts did not dial again: use --redial."))
    names = {
        "lines_cut": "lines cut",
        "dials_refused": "dials refused",
        "redials": "dialled again",
        "served": "boots served after a cut or refusal",
        "never_served": "boots never served after one",
    }
    rows = [(text, words.whole(words.number(found.get(name)))) for name, text in names.items()]
    return section("Redials", table("Cut lines and what became of them", (), rows, "pairs"))


def hosts(found: Mapping[str, Any]) -> Element:
    if not found:
        return section("Hosts and versions", note("Not recorded."))
    rows = [(words.clipped(name), words.chosen(value)) for name, value in found.items()]
    return section("Hosts and versions", table("Hosts and versions", (), rows, "pairs"))


def options(found: Mapping[str, Any], command: object) -> Element:
    """Show the options as the command line that repeats the test, and one by one."""
    if not found:
        return section("Options", note("None were given."))
    rows = [(words.clipped(name), words.chosen(value)) for name, value in found.items()]
    shown = table("Options of the test", (), rows, "pairs")
    if not command:
        return section("Options", shown)
    line = element("p", element("code", words.clipped(command)), class_="command")
    one_by_one = element("details", element("summary", "One by one"), shown)
    return section("Options", line, one_by_one)
