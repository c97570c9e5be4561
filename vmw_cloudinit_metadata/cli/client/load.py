"""`client storm`, `herd`, `steady` and `soak`: load tests."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from vmw_cloudinit_metadata.cli import terminal
from vmw_cloudinit_metadata.cli.client.loadoptions import (
    AT_ONCE,
    SECONDS,
    TEST,
    VMS,
    check_room,
    plan_of,
)
from vmw_cloudinit_metadata.cli.client.playoptions import COUNT, POSITIVE, SECTIONS
from vmw_cloudinit_metadata.client import summary
from vmw_cloudinit_metadata.client.crew import Crew
from vmw_cloudinit_metadata.client.progress import Progress
from vmw_cloudinit_metadata.client.report.page import render
from vmw_cloudinit_metadata.client.report.words import plural
from vmw_cloudinit_metadata.protocol import identitytoken
from vmw_cloudinit_metadata.settings.command import Command
from vmw_cloudinit_metadata.settings.errors import ConfigError

_STYLES = {r"^failed .*|.*has ENDED.*": "red", r"IS THE BOTTLENECK": "bold yellow"}


@click.command(cls=Command, sections=SECTIONS)
@TEST
@click.option(
    "-n", "boots", type=COUNT, metavar="N", default=1000, show_default=True, help="Number of boots."
)
@click.option(
    "--vms", type=COUNT, metavar="N", help="Play this many different VMs. Default: one per boot."
)
@AT_ONCE
@click.option(
    "--rate", type=POSITIVE, metavar="N", help="Start this many boots per second, while -c allows."
)
def storm(**options: Any) -> int:
    """Boot VMs: connect, identify, request three documents, disconnect."""
    options["vms"] = options["vms"] or options["boots"]
    return _test("storm", options, min(options["at_once"], options["boots"]))


@click.command(cls=Command, sections=SECTIONS)
@TEST
@VMS
@AT_ONCE
def herd(**options: Any) -> int:
    """Connect all VMs, then let all request at once.

    At most -c connect at a time. Only the requests are measured.
    """
    return _test("herd", options, options["vms"])


@click.command(cls=Command, sections=SECTIONS)
@TEST
@VMS
@AT_ONCE
@SECONDS
def steady(**options: Any) -> int:
    """Keep VMs connected and requesting without pause.

    Three documents count as a boot.
    """
    return _test("steady", options, options["vms"])


@click.command(cls=Command, sections=SECTIONS)
@TEST
@VMS
@AT_ONCE
@SECONDS
@click.option(
    "--seed", type=int, metavar="N", default=0, show_default=True, help="Seed the random choices."
)
def soak(**options: Any) -> int:
    """Mix boots, vMotions, host failures and junk, -c at a time."""
    return _test("soak", options, 2 * options["at_once"])


def _test(scenario: str, options: dict[str, Any], connections: int | None) -> int:
    json_file, report_file = options.pop("json_file"), options.pop("report_file")
    _check_directory(json_file, "--json")
    _check_directory(report_file, "--report")
    server_pids = options.pop("server_pids")
    plan = plan_of(scenario, options)
    check_room(plan, plan.vms if connections is None else connections)
    progress = Progress(plan)
    crew = Crew(plan, server_pids, progress.show)
    try:
        result = crew.run() | {"command": _command(scenario)}
    finally:
        progress.close()
    if crew.left_out:
        skipped = plural(crew.left_out, "file")
        click.echo(f"skipped {skipped}, for example: {crew.left_out_because}", err=True)
    for line in summary.lines(result):
        terminal.echo(line, _STYLES)
    _write(json_file, "--json", lambda: json.dumps(result, indent=1) + "\n")
    _write(report_file, "--report", lambda: render(result))
    return 1 if result["failures"] else 0


def _command(scenario: str) -> str:
    """Return the command line of the test, without identity tokens."""
    path = click.get_current_context().command_path.split()
    given = sys.argv[sys.argv.index(scenario) + 1 :] if scenario in sys.argv else []
    return shlex.join([*path, *(identitytoken.taken_from(one)[0] for one in given)])


def _check_directory(file: Path | None, option: str) -> None:
    """Raise ConfigError before the test, which may take hours, rather than after it."""
    if file and not file.parent.is_dir():
        raise ConfigError(f"{option}: directory {str(file.parent)!r} does not exist")


def _write(file: Path | None, option: str, text: Callable[[], str]) -> None:
    if file:
        try:
            file.write_text(text())
        except OSError as error:
            raise ConfigError(f"{option}: {file}: {error.strerror or error}") from error
