"""`status`: the status page, on the command line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click
import ujson

from vmw_cloudinit_metadata.admin.reader import AdminReader, AdminRefusedError
from vmw_cloudinit_metadata.cli import terminal
from vmw_cloudinit_metadata.cli.adminoptions import MakeReader, admin_options
from vmw_cloudinit_metadata.cli.runoptions import server_options
from vmw_cloudinit_metadata.cli.statuslines import (
    machine_lines,
    safe_to_restart,
    summary,
    trouble_row,
)
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.layers import SettingsCommand, config_option

_SHOWN = 20  # machines in trouble
_WATCH_S = 2.0
_TROUBLE = ("failed", "stale", "broken")

_STYLES = {
    r"^[a-zA-Z0-9 ]+:(?= )": "bold",
    r": (ready|served|booted)(?=,|$)": "green",
    r": (failing|draining)(?=, since)": "red",
    r": (failed|stale|broken)$": "red",
    r"^(problem|in trouble|last error): .*": "red",
    r"(?<=: )safe to restart": "green",
    r"not safe to restart": "yellow",
}

# Asks, prints, and returns the exit code.
_Show = Callable[[AdminReader], int]


@click.command(cls=SettingsCommand, whole=server_options)
@click.argument("vm", metavar="[VM]", required=False)
@config_option
@admin_options
@click.option("--json", "as_json", is_flag=True, help="Print the response of the API.")
@click.option("--watch", is_flag=True, help=f"Show it every {_WATCH_S:g} s, until interrupted.")
@click.option(
    "--safe-to-restart",
    "is_about_restart",
    is_flag=True,
    help="Exit 0 if no answer and no vMotion is under way, else 1.",
)
@click.option(
    "--forget",
    "forgotten",
    metavar="VM",
    help="Forget this VM: dismiss its trouble, or remove it from the list if it has disconnected.",
)
def status(
    vm: str | None,
    make_reader: MakeReader,
    as_json: bool,
    watch: bool,
    is_about_restart: bool,
    forgotten: str | None,
) -> None:
    """Show server health, and which VMs are in trouble and why; or all that is known of one VM, by
    name or UUID.

    Exit 0 if the server can serve VMs, and the VM is not in trouble; else 1. Exit 1 too if the
    server does not know the VM. Exit 2 if the server does not answer. Times are local, with their
    zone.
    """
    if sum(map(bool, (vm, is_about_restart, forgotten))) > 1:
        raise click.UsageError("give only one of VM, --safe-to-restart and --forget")
    if forgotten is not None and watch:
        raise click.UsageError("--forget and --watch exclude each other")
    if as_json and (is_about_restart or forgotten is not None):
        raise click.UsageError("--json has no effect with --safe-to-restart and --forget")
    reader = make_reader()
    show: _Show
    if forgotten is not None:
        show = partial(_forget, vm=forgotten)
    elif is_about_restart:
        show = _show_restart
    elif vm is not None:
        show = partial(_show_machine, vm=vm, as_json=as_json)
    else:
        show = partial(_show_server, as_json=as_json)
    if watch:
        _watch(reader, show)
    sys.exit(show(reader))


def _watch(reader: AdminReader, show: _Show) -> None:
    while True:
        click.clear()
        try:
            show(reader)
        except ConfigError as error:  # it may be restarted
            click.echo(one_line(str(error)), err=True)
        time.sleep(_WATCH_S)


def _show_server(reader: AdminReader, as_json: bool) -> int:
    found = reader.json("/api/status")
    if as_json:
        _print_json(found)
    else:
        listed = reader.json(f"/api/machines?state=trouble&per_page={_SHOWN}")
        for line in summary(found):
            terminal.echo(one_line(line), _STYLES)
        _print_troubled(listed)
    return 0 if found["state"] == "ready" else 1


def _show_machine(reader: AdminReader, vm: str, as_json: bool) -> int:
    try:
        machine = reader.machine(vm)
    except AdminRefusedError as error:
        return _refused(vm, error)
    if as_json:
        _print_json(machine)
    else:
        for line in machine_lines(machine):
            terminal.echo(one_line(line), _STYLES)
    return 1 if machine["state"] in _TROUBLE else 0


def _show_restart(reader: AdminReader) -> int:
    found = reader.json("/api/status")
    terminal.echo(f"restart: {safe_to_restart(found)}", _STYLES)
    return 0 if found["under_way"]["is_safe_to_restart"] else 1


def _forget(reader: AdminReader, vm: str) -> int:
    try:
        click.echo(one_line(f"forgotten: {reader.forget(vm)}"))
    except AdminRefusedError as error:
        return _refused(vm, error)
    return 0


def _refused(vm: str, error: AdminRefusedError) -> int:
    click.echo(one_line(f"{vm}: {error}"), err=True)
    return 1


def _print_json(found: Any) -> None:
    click.echo(ujson.dumps(found, escape_forward_slashes=False, indent=2))


def _print_troubled(listed: Any) -> None:
    rows = [trouble_row(machine) for machine in listed["machines"]]
    plain = (
        f"  {state:7} {name} ({id}, {host}): {reason}" for state, name, id, host, reason in rows
    )
    if rows:
        terminal.echo_table(("State", "VM", "Identity", "ESXi host", "Reason"), rows, plain)
    further = listed["total"] - len(rows)
    if further > 0:
        click.echo(f"  and {further} more")
