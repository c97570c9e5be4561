"""`sql`: make the tables of the store `sql`, fill them from files, and write files from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vmw_cloudinit_metadata.drivers import optionvalues
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.stores.sql import tables
from vmw_cloudinit_metadata.drivers.stores.sql.sqlstore import NEEDED

if TYPE_CHECKING:
    from vmw_cloudinit_metadata.drivers.stores.sql.database import Database

_DIRECTORY = click.Path(file_okay=False, path_type=Path)

_url = click.option(
    "--url",
    required=True,
    help="The database, as in --driver-opts: ${NAME} takes a variable of the environment.",
)
_password_file = click.option(
    "--password-file",
    metavar="FILE",
    help="A file with the password, in place of one in the URL.",
)


@click.group()
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
        kind, _ = database.parsed(_resolved(url))
        click.echo(tables.script_of(kind), nl=False)
        return 0
    reached = _reached(url, password_file)
    reached.run(tables.SCHEMAS[reached.kind])
    click.echo(f"the tables {tables.VMS} and {tables.LAYERS} are in {reached.address}", err=True)
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
    return Database(_resolved(url), password, 1, f"{tables.VMS} {tables.LAYERS} {tables.VERSION}")
