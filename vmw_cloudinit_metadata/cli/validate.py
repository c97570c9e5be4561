"""`validate`: every fault of all that could be served."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from vmw_cloudinit_metadata.cli import schemas
from vmw_cloudinit_metadata.cli.options import driver_options
from vmw_cloudinit_metadata.cli.run import run
from vmw_cloudinit_metadata.cli.settings import SettingsCommand, config_option
from vmw_cloudinit_metadata.drivers.driver import load


@click.command(cls=SettingsCommand, whole=run)
@config_option
@driver_options
@click.option(
    "--schema-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="cloud-init's JSON schemas (cloudinit/config/schemas of any cloud-init), which are asked "
    "too; needs the extra `schema`. Default: those of a cloud-init that is installed here.",
)
def validate(driver_spec: str, driver_opts: Mapping[str, Any], schema_dir: Path | None) -> int:
    """Checks every file, and prints each fault with file, line and key. Exit 1 if there are any.

    Warnings are printed too, and do not fail.
    """
    faults = warnings = 0
    driver = load(driver_spec, driver_opts)
    driver.judge, note = schemas.judge(schema_dir)
    for fault in driver.validate():
        click.echo(str(fault))
        warnings += fault.is_warning
        faults += not fault.is_warning
    click.echo(f"{faults} faults, {warnings} warnings", err=True)
    for line in filter(None, (*driver.notes(), note)):
        click.echo(line, err=True)
    return 1 if faults else 0
