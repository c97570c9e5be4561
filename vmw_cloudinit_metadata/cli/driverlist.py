"""`drivers`: list the installed drivers and their options."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from vmw_cloudinit_metadata.drivers.installed import (
    InstalledDriver,
    OptionRow,
    installed_drivers,
)
from vmw_cloudinit_metadata.settings.command import Command
from vmw_cloudinit_metadata.settings.parameters import format_option


@click.command(cls=Command)
@format_option
def drivers(form: str) -> int:
    """List the installed drivers, and the options of each. Exit 1 if one cannot be used.

    --driver takes the name of any of them, and module:Class of others too.
    """
    found = installed_drivers()
    if form == "json":
        click.echo(json.dumps({"drivers": [driver.as_json() for driver in found]}, indent=1))
    else:
        for driver in found:
            for line in _lines(driver):
                click.echo(line)
    return 1 if any(driver.problem for driver in found) else 0


def _lines(driver: InstalledDriver) -> Iterator[str]:
    origin = f"{driver.distribution} {driver.version}".strip()
    head = f"{driver.name}  {driver.spec}  ({origin or 'unknown distribution'})"
    if driver.problem:
        yield f"{head}: {driver.problem}"
        return
    yield head
    if driver.summary:
        yield f"    {driver.summary}"
    for option in driver.options:
        yield f"    {_line(option)}"
    if not driver.has_model:
        yield "    and options that the driver does not declare"


def _line(option: OptionRow) -> str:
    default = "required" if option.default is None else f"default {option.default}"
    about = f": {option.description}" if option.description else ""
    return f"{option.name} ({option.type}, {default}){about}"
