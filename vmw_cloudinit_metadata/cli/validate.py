"""`validate`: every fault of all that could be served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from vmw_cloudinit_metadata.cli.options import driver_options
from vmw_cloudinit_metadata.cli.run import run
from vmw_cloudinit_metadata.cli.settings import SettingsCommand, config_option
from vmw_cloudinit_metadata.drivers.driver import load


@click.command(cls=SettingsCommand, whole=run)
@config_option
@driver_options
def validate(driver_spec: str, driver_opts: Mapping[str, Any]) -> int:
    """Checks every file, and prints each fault with file, line and key. Exit 1 if there are any.

    Warnings are printed too, and do not fail.
    """
    faults = warnings = 0
    driver = load(driver_spec, driver_opts)
    for fault in driver.validate():
        click.echo(str(fault))
        warnings += fault.is_warning
        faults += not fault.is_warning
    click.echo(f"{faults} faults, {warnings} warnings", err=True)
    for note in driver.notes():
        click.echo(note, err=True)
    return 1 if faults else 0
