"""`status` and `tail`: the status page and its events, on the command line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import ujson

from vmw_cloudinit_metadata.admin.access import read_token
from vmw_cloudinit_metadata.admin.reader import AdminReader, line_of
from vmw_cloudinit_metadata.cli import terminal
from vmw_cloudinit_metadata.instance.counts import counted
from vmw_cloudinit_metadata.monitoring.jsonobject import LEVEL_NAMES
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.parameters import FILE
from vmw_cloudinit_metadata.settings.values import DEFAULT_ADMIN_LISTEN

_SHOWN = 20  # machines in trouble
_REASON_CHARACTERS = 300
_RETRY_S = 2.0
_BARS = "▁▂▃▄▅▆▇█"

_STYLES = {
    r"^[a-z0-9 ]+:(?= )": "bold",
    r": ready(?=,)": "green",
    r": (?!ready)[a-z ]+(?=, since)": "red",
    r"^(problem|in trouble): .*": "red",
}

_Command = TypeVar("_Command", bound=Callable[..., Any])


def admin_options(command: _Command) -> _Command:
    """Add --admin and --admin-token-file."""
    token = click.option(
        "--admin-token-file", type=FILE, metavar="FILE", help="Use the admin token in this file."
    )
    url = click.option(
        "--admin",
        "url",
        metavar="URL",
        default=f"http://{DEFAULT_ADMIN_LISTEN}",
        show_default=True,
        help="Ask the server at this admin URL.",
    )
    return url(token(command))


@click.command()
@admin_options
@click.option("--json", "as_json", is_flag=True, help="Print the response of /api/status.")
def status(url: str, admin_token_file: Path | None, as_json: bool) -> None:
    """Show server health, and which VMs are in trouble and why.

    Exit 0 if the server can serve VMs, else 1.
    """
    reader = _reader(url, admin_token_file)
    found = reader.json("/api/status")
    if as_json:
        click.echo(ujson.dumps(found, escape_forward_slashes=False, indent=2))
    else:
        listed = reader.json(f"/api/machines?state=trouble&per_page={_SHOWN}")
        for line in _summary(found):
            terminal.echo(one_line(line), _STYLES)
        _print_troubled(listed)
    sys.exit(0 if found["state"] == "ready" else 1)


@click.command()
@admin_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.option(
    "--level",
    type=click.Choice(sorted(LEVEL_NAMES.values()), case_sensitive=False),
    default="info",
    show_default=True,
    help="Show events of this level and above; debug includes disconnections.",
)
def tail(url: str, admin_token_file: Path | None, as_json: bool, level: str) -> None:
    """Show events as they happen, until interrupted."""
    reader = _reader(url, admin_token_file)
    for event in _endless(reader, f"/api/events?level={level}"):
        click.echo(event if as_json else one_line(line_of(ujson.loads(event))))


def _reader(url: str, token_file: Path | None) -> AdminReader:
    return AdminReader(url, read_token(token_file) if token_file else None)


def _endless(reader: AdminReader, path: str) -> Iterator[str]:
    """Yield events; reconnect when the server restarts."""
    yield from reader.events(path)
    while True:
        click.echo(f"the server has closed the connection; retrying every {_RETRY_S:g} s", err=True)
        time.sleep(_RETRY_S)
        try:
            yield from reader.events(path)
        except ConfigError as error:
            click.echo(one_line(str(error)), err=True)


def _summary(found: Mapping[str, Any]) -> Iterator[str]:
    gauges, pulse = found["gauges"], found["pulse"]
    yield f"vmw-cloudinit-metadata {found['version']}: {found['state']}, since {found['started']}"
    if found["problem"]:
        source = found["source"]
        since = f" (since {source['failing_since']})" if source["failing_since"] else ""
        yield f"problem:     {found['problem']}{since}"
    connections = f"{gauges.get('connections', 0):.0f}"
    yield f"connections: {connections} of at most {gauges.get('connections at most', 0):.0f}"
    yield f"machines:    {_counts(found['machines']) or 'none yet'}"
    served, failed = sum(pulse["served"]), sum(pulse["failed"])
    boots, failures = counted(served, "boot"), counted(failed, "failure")
    yield f"15 minutes:  {boots} served, {failures}  {_sparks(pulse['served'])}"
    if reasons := _counts(found["problems"]):
        yield f"in trouble:  {reasons}"


def _print_troubled(listed: Mapping[str, Any]) -> None:
    rows = [_row(machine) for machine in listed["machines"]]
    plain = (
        f"  {state:7} {name} ({id}, {host}): {reason}" for state, name, id, host, reason in rows
    )
    if rows:
        terminal.echo_table(("State", "VM", "Identity", "ESXi host", "Reason"), rows, plain)
    further = listed["total"] - len(rows)
    if further > 0:
        click.echo(f"  and {further} more")


def _row(machine: Mapping[str, Any]) -> list[str]:
    error = machine["last_error"] or {}
    reason = shortened(str(error.get("reason", "")), _REASON_CHARACTERS)
    name = machine["name"] or machine["id"]
    found = (machine["state"], name, machine["id"], machine["esxi_host"], reason)
    return [one_line(str(value)) for value in found]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _sparks(numbers: list[int]) -> str:
    """Draw a one-line chart, one character for three numbers; "" if all are 0."""
    sums = [sum(numbers[start : start + 3]) for start in range(0, len(numbers), 3)]
    most = max(sums, default=0)
    return "".join(_BARS[round(n * 7 / most)] for n in sums) if most else ""
