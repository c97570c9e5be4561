"""`client storm`, `herd`, `steady` and `soak`: many VMs, to test a server with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from vmw_cloudinit_metadata.cli.client.loadoptions import (
    AT_ONCE,
    SECONDS,
    TEST,
    VMS,
    check_room,
    plan_of,
)
from vmw_cloudinit_metadata.cli.client.playoptions import COUNT, POSITIVE
from vmw_cloudinit_metadata.client import summary
from vmw_cloudinit_metadata.client.crew import Crew
from vmw_cloudinit_metadata.client.progress import Progress
from vmw_cloudinit_metadata.client.report.page import render
from vmw_cloudinit_metadata.client.report.words import plural
from vmw_cloudinit_metadata.settings.errors import ConfigError


@click.command()
@TEST
@click.option("-n", "boots", type=COUNT, default=1000, show_default=True, help="Boots.")
@click.option("--vms", type=COUNT, help="Different VMs. Default: as many as boots.")
@AT_ONCE
@click.option(
    "--rate", type=POSITIVE, help="Begin so many a second, for as long as -c leaves room."
)
def storm(**options: Any) -> int:
    """VMs boot: connect, tell who they are, ask for three documents, close."""
    options["vms"] = options["vms"] or options["boots"]
    return _test("storm", options, min(options["at_once"], options["boots"]))


@click.command()
@TEST
@VMS
@AT_ONCE
def herd(**options: Any) -> int:
    """VMs connect, -c at a time, and wait; then all ask at once. It is the asking that counts."""
    return _test("herd", options, options["vms"])


@click.command()
@TEST
@VMS
@AT_ONCE
@SECONDS
def steady(**options: Any) -> int:
    """VMs stay connected and ask without pause; a round of three documents counts as a boot."""
    return _test("steady", options, options["vms"])


@click.command()
@TEST
@VMS
@AT_ONCE
@SECONDS
@click.option("--seed", type=int, default=0, show_default=True)
def soak(**options: Any) -> int:
    """VMs boot and move, hosts are lost, junk arrives, -c at a time."""
    return _test("soak", options, 2 * options["at_once"])


def _test(scenario: str, options: dict[str, Any], connections: int | None) -> int:
    json_file, report_file = options.pop("json_file"), options.pop("report_file")
    _check_place(json_file, "--json")
    _check_place(report_file, "--report")
    server_pids = options.pop("server_pids")
    plan = plan_of(scenario, options)
    check_room(plan, plan.vms if connections is None else connections)
    progress = Progress(plan)
    crew = Crew(plan, server_pids, progress.show)
    try:
        result = crew.run()
    finally:
        progress.close()
    if crew.left_out:
        verb = "is" if crew.left_out == 1 else "are"
        files = plural(crew.left_out, "file")
        left_out = f"{files} {verb} left out, such as: {crew.left_out_because}"
        click.echo(left_out, err=True)
    for line in summary.lines(result):
        click.echo(line)
    _write(json_file, "--json", lambda: json.dumps(result, indent=1) + "\n")
    _write(report_file, "--report", lambda: render(result))
    return 1 if result["failures"] else 0


def _check_place(file: Path | None, option: str) -> None:
    """A test of some hours is not to end with that."""
    if file and not file.parent.is_dir():
        raise ConfigError(f"{option}: {file}: there is no directory {str(file.parent)!r}")


def _write(file: Path | None, option: str, text: Callable[[], str]) -> None:
    if file:
        try:
            file.write_text(text())
        except OSError as error:
            raise ConfigError(f"{option}: {file}: {error.strerror or error}") from error
