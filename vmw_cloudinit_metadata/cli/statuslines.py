"""The state of a server, or of one machine, as lines for a person. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vmw_cloudinit_metadata.cli.localtime import local
from vmw_cloudinit_metadata.instance.counts import counted
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened

_REASON_CHARACTERS = 300
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 13  # of what stands before a value


def summary(found: Mapping[str, Any]) -> Iterator[str]:
    gauges, pulse = found["gauges"], found["pulse"]
    since = local(found["started"])
    yield f"vmw-cloudinit-metadata {found['version']}: {found['state']}, since {since}"
    if found["problem"]:
        source = found["source"]
        since = f" (since {local(source['failing_since'])})" if source["failing_since"] else ""
        yield f"problem:     {found['problem']}{since}"
    if found.get("fleet", {}).get("state") == "out of reach":
        fleet = found["fleet"]
        yield f"fleet:       out of reach since {local(fleet['since'])}: {fleet['problem']}"
    if since := found.get("fleet", {}).get("namesake"):
        text = f"another server has this one's name, since {local(since)}: set --server-name"
        yield f"fleet:       {text}"
    if servers := found.get("servers"):
        yield f"servers:     {', '.join(map(_server, servers))}"
    vcenter = found.get("vcenter", {"state": "off"})
    if vcenter["state"] == "connected":
        yield f"vCenter:     {vcenter['address']}, {counted(vcenter['vms'], 'VM')}"
    elif vcenter["state"] != "off":
        why = f": {vcenter['problem']}" if vcenter["problem"] else ""
        yield f"vCenter:     {vcenter['state']} since {local(vcenter['since'])}{why}"
    yield f"restart:     {safe_to_restart(found)}"
    connections = f"{gauges.get('connections', 0):.0f}"
    yield f"connections: {connections} of at most {gauges.get('connections at most', 0):.0f}"
    yield f"machines:    {_counts(found['machines']) or 'none yet'}"
    served, failed = sum(pulse["served"]), sum(pulse["failed"])
    boots, failures = counted(served, "boot"), counted(failed, "failure")
    yield f"15 minutes:  {boots} served, {failures}  {_sparks(pulse['served'])}"
    if reasons := _counts(found["problems"]):
        yield f"in trouble:  {reasons}"


def safe_to_restart(found: Mapping[str, Any]) -> str:
    """Return whether a restart interrupts nothing, and what it would."""
    under_way = found["under_way"]
    what = f"{counted(under_way['answers'], 'answer')}, {counted(under_way['moves'], 'move')}"
    verdict = "safe to restart" if under_way["is_safe_to_restart"] else "not safe to restart"
    return f"{verdict}: {what} under way"


def machine_lines(machine: Mapping[str, Any]) -> Iterator[str]:
    """Return all that is known of a machine."""
    yield f"{machine['name'] or machine['id']}: {machine['state']}"
    if machine["last_error"]:
        error = machine["last_error"]
        document = f"{error['document']}: " if error["document"] else ""
        yield _fact("last error", f"{local(error['time'])}: {document}{error['reason']}")
    yield _fact("next", machine["next"])
    for name, value in _facts(machine):
        if value:
            yield _fact(name, value)
    if outcome := machine.get("outcome"):
        yield from _outcome_lines(outcome)
    for name, found in machine["documents"].items():
        yield _fact("got", f"{name}, {counted(found['size'], 'byte')}, SHA-256 {found['sha256']}")
    for asked in machine["asked"]:
        yield _fact("asked", f"{local(asked['time'])}: {asked['document']}: {asked['outcome']}")
    for event in machine["story"]:
        times = f" ({event['times']} times)" if event.get("times", 1) > 1 else ""
        yield _fact("event", f"{local(str(event['time']))}: {event['event']}{times}")


def _outcome_lines(outcome: Mapping[str, Any]) -> Iterator[str]:
    """Return what the guest has said of its last boot."""
    when, seconds = local(outcome["time"]), outcome["seconds"]
    yield _fact("boot", f"{when}: {outcome['status']}, {seconds:.0f} s after its meta-data")
    for error in outcome["errors"]:
        yield _fact("boot error", error)
    if more := outcome.get("more_errors"):
        yield _fact("boot error", f"and {more} more")
    for name, seconds in outcome["stages"].items():
        yield _fact("stage", f"{name}, {seconds:g} s")
    for key in outcome["host_keys"]:
        yield _fact("host key", key)
    if more := outcome.get("more_host_keys"):
        yield _fact("host key", f"and {more} more, left out since they are too long")


def _facts(machine: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    yield "VC UUID", machine["vc_uuid"]
    yield "BIOS UUID", machine["bios_uuid"]
    yield "ESXi host", machine["esxi_host"]
    yield "server", machine.get("server")
    if vcenter := machine.get("vcenter"):
        yield "vCenter", _in_vcenter(vcenter)
    yield "connected", machine["connected_since"] and local(machine["connected_since"])
    yield "left", machine["left"] and local(machine["left"])
    yield "served", machine["served"] and local(machine["served"])
    for port in machine["ports"]:
        yield "port", f"{port['service_uri']} from {port['peer']}"
    yield "found by", machine["matched_by"]
    if any(asked["outcome"] == "closed" for asked in machine["asked"]):
        closed = [one["reason"] for one in machine["story"] if one["kind"] == "window closed"]
        yield "user-data", closed[-1] if closed else None
    for file in machine["files"]:
        yield "file", file


def _fact(name: str, value: str) -> str:
    return f"{f'{name}:':{_WIDTH}}{value}"


def _server(server: Mapping[str, Any]) -> str:
    state = server["state"]
    if state == "running":
        return f"{server['name']} ({counted(server['connected'], 'machine')})"
    return f"{server['name']} ({state}, last heard of {local(server['last_heard'])})"


def trouble_row(machine: Mapping[str, Any]) -> list[str]:
    error = machine["last_error"] or {}
    reason = shortened(str(error.get("reason", "")), _REASON_CHARACTERS)
    if vcenter := machine.get("vcenter"):
        reason += f" (vCenter: {_in_vcenter(vcenter)})"
    name = machine["name"] or machine["id"]
    found = (machine["state"], name, machine["id"], machine["esxi_host"], reason)
    return [one_line(str(value)) for value in found]


def _in_vcenter(vcenter: Mapping[str, Any]) -> str:
    if vcenter["name"] is None:
        return "not known there"
    return f"{vcenter['folder']}/{vcenter['name']} on {vcenter['host']}, {vcenter['power']}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _sparks(numbers: list[int]) -> str:
    """Draw a one-line chart, one character for three numbers; "" if all are 0."""
    sums = [sum(numbers[start : start + 3]) for start in range(0, len(numbers), 3)]
    most = max(sums, default=0)
    return "".join(_BARS[round(n * 7 / most)] for n in sums) if most else ""
