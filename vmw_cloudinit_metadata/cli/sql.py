"""`sql`: make the tables of the store `sql`, fill them from files, and write files from them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vmw_cloudinit_metadata.drivers import optionvalues
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.stores.sql import sqltables
from vmw_cloudinit_metadata.drivers.stores.sql.sqlstore import NEEDED
from vmw_cloudinit_metadata.instance.counts import counted
from vmw_cloudinit_metadata.settings.command import Group, refuse_useless

if TYPE_CHECKING:
    from vmw_cloudinit_metadata.drivers.stores.sql.database import Database

MAX_FAULTS = 100  # that are printed

_DIRECTORY = click.Path(file_okay=False, path_type=Path)

_url = click.option(
    "--url",
    metavar="URL",
    required=True,
    help="The database, as in --driver-opts: ${NAME} takes a variable of the environment.",
)
_password_file = click.option(
    "--password-file",
    metavar="FILE",
    help="A file with the password, in place of one in the URL.",
)


@click.group(cls=Group)
def sql() -> None:
    """Make, fill and read the tables of the store `sql`."""


@sql.command("init")
@_url
@_password_file
@click.option("--apply", "is_applied", is_flag=True, help="Make the tables, if there are none.")
def init(url: str, password_file: str | None, is_applied: bool) -> int:
    """Print the recommended tables and triggers, as SQL of the URL's database."""
    database = _engines()
    if not is_applied:
        refuse_useless("without --apply", "password_file")
        kind, _ = database.parsed(_resolved(url))
        click.echo(sqltables.script_of(kind), nl=False)
        return 0
    reached = _reached(url, password_file)
    reached.run(sqltables.SCHEMAS[reached.kind])
    click.echo(
        f"the tables {sqltables.VMS} and {sqltables.LAYERS} are in {reached.address}", err=True
    )
    return 0


@sql.command("import")
@click.argument("directory", type=_DIRECTORY)
@_url
@_password_file
def import_(directory: Path, url: str, password_file: str | None) -> int:
    """Write a row for each instance file, entry of an inventory, and layer of DIRECTORY.

    Rows of the same VMs and layers are replaced, others stay. If a file has a fault, nothing is
    written.
    """
    reached = _reached(url, password_file)
    from vmw_cloudinit_metadata.drivers.stores.sql import rowfiles, tablerows

    faults = list(islice(rowfiles.faults_of(directory), MAX_FAULTS))
    for fault in faults:
        click.echo(str(fault), err=True)
    if faults:
        raise DriverError(f"{directory} has faults: nothing was imported")
    vms, layers = rowfiles.rows_of(directory)
    tablerows.replace(reached, vms, layers)
    count = f"{counted(len(vms), 'VM')}, {counted(len(layers), 'layer')}"
    click.echo(f"imported {count} into {reached.address}", err=True)
    return 0


@sql.command("export")
@click.argument("directory", type=_DIRECTORY)
@_url
@_password_file
def export(directory: Path, url: str, password_file: str | None) -> int:
    """Write an instance file for each row, and the layers, into the new DIRECTORY."""
    reached = _reached(url, password_file)
    from vmw_cloudinit_metadata.drivers.stores.sql import rowfiles, tablerows

    try:
        written = rowfiles.write(directory, tablerows.vms_in(reached), tablerows.layers_in(reached))
    except OSError as error:
        raise DriverError(f"{directory}: {error.strerror}") from None
    click.echo(f"exported {counted(written, 'file')} into {directory}", err=True)
    return 0


def _engines() -> Any:
    try:  # an extra
        from vmw_cloudinit_metadata.drivers.stores.sql import engines
    except ImportError as error:
        raise DriverError(f"sql {NEEDED} ({error.name} is missing)") from None
    return engines


def _resolved(url: str) -> str:
    return str(optionvalues.resolved({"url": url})["url"])


def _reached(url: str, password_file: str | None) -> Database:
    _engines()
    from vmw_cloudinit_metadata.drivers.stores.sql.database import Database

    password = None
    if password_file is not None:
        path = str(Path(password_file).absolute())
        password = optionvalues.secret_in("--password-file", path)
    return Database(
        _resolved(url), password, 1, f"{sqltables.VMS} {sqltables.LAYERS} {sqltables.VERSION}"
    )
