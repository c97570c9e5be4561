"""`fleet`: make and show what the servers of a fleet share in PostgreSQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from vmw_cloudinit_metadata.cli import terminal
from vmw_cloudinit_metadata.cli.localtime import local
from vmw_cloudinit_metadata.process.fleet import urlcheck
from vmw_cloudinit_metadata.process.fleet.fleetpart import SCHEMA
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened
from vmw_cloudinit_metadata.settings.command import Group
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.knownsecrets import KnownSecrets, parts_of
from vmw_cloudinit_metadata.settings.parameters import DATABASE_URL, Parsed

if TYPE_CHECKING:
    from vmw_cloudinit_metadata.process.fleet.fleetschema import Connection

_REASON_CHARACTERS = 500
_MAX_USER_BYTES = 63  # PostgreSQL cuts a longer name, which may be another user's then


def _parse_user(text: str) -> str:
    if not (text.isprintable() and 0 < len(text.encode()) <= _MAX_USER_BYTES):
        raise ConfigError(f"expected 1 to {_MAX_USER_BYTES} bytes of printable characters")
    return text


_url = click.option(
    "--url",
    type=DATABASE_URL,
    required=True,
    metavar="URL",
    help="The database, as in --fleet; libpq's PGPASSFILE and PGPASSWORD count too.",
)
_user = click.option(
    "--user",
    type=Parsed("NAME", _parse_user),
    metavar="NAME",
    help="Let this user of the database serve: read and write the tables, and nothing else.",
)


@click.group(cls=Group)
def fleet() -> None:
    """Make and show what the servers of a fleet share in PostgreSQL."""


@fleet.command("init")
@click.option(
    "--url",
    type=DATABASE_URL,
    metavar="URL",
    help="The database, as a user that may make a schema.",
)
@_user
@click.option("--print", "is_printed", is_flag=True, help="Print the SQL, and run nothing.")
def init(url: str | None, user: str | None, is_printed: bool) -> int:
    """Make the schema vmw_fleet in a database, or bring it up to date."""
    schema = _schema()
    if is_printed and url is not None:
        raise ConfigError("--print uses no database: give --url or --print")
    if is_printed:
        click.echo(schema.script_for(user), nl=False)
        return 0
    if url is None:
        raise ConfigError("--url is missing: give it, or --print to see the SQL")
    with reached(url) as connection:
        schema.begin(connection)
        _migrate(connection)
        if user:
            schema.grant(connection, user)
            click.echo(f"the user {one_line(user)} may read and write the tables of {SCHEMA}")
        else:
            click.echo(
                "only the owner can use it: let a user serve with "
                "vmw-cloudinit-metadata fleet init --user NAME"
            )
    return 0


@fleet.command("migrate")
@_url
def migrate(url: str) -> int:
    """Bring the schema up to date, while servers use it; print what was done.

    Servers of the version before go on. Run it before the first server is upgraded.
    """
    schema = _schema()
    with reached(url) as connection:
        if schema.version_of(connection) is None:
            raise ConfigError(f"the database has no schema {SCHEMA}: run fleet init first")
        _migrate(connection)
    return 0


@fleet.command("status")
@_url
def status(url: str) -> int:
    """Show the version of the schema, and the servers.

    Exit 0 if this program can use the schema, else 1.
    """
    schema = _schema()
    from vmw_cloudinit_metadata.process.fleet import fleetservers, migrations

    with reached(url) as connection:
        try:
            version = migrations.check(schema.version_of(connection))
        except migrations.WrongSchemaError as error:
            click.echo(str(error), err=True)
            return 1
        click.echo(f"schema:  version {version}; this program is made for {migrations.NEWEST}")
        rows = [
            (name, version, local(started), local(heartbeat), state)
            for name, version, started, heartbeat, state in fleetservers.shown_in(connection)
        ]
    running = sum(row[-1] == "running" for row in rows)
    click.echo(f"servers: {running} of {len(rows)} running")
    plain = (
        f"  {state:7} {name} {version}, since {started}, last heartbeat {heartbeat}"
        for name, version, started, heartbeat, state in rows
    )
    titles = ("Server", "Version", "Started", "Last heartbeat", "State")
    names = Counter(row[0] for row in rows if row[-1] == "running")
    for name in (name for name, count in names.items() if count > 1):
        click.echo(f"warning: {names[name]} servers run with the name {name}", err=True)
    if rows:
        terminal.echo_table(titles, [list(row) for row in rows], plain)
    return 0


def _migrate(connection: Connection) -> None:
    done = 0
    for migration in _schema().migrate(connection):
        click.echo(f"version {migration.version}: {migration.text}")
        done += 1
    if not done:
        click.echo(f"the schema {SCHEMA} is up to date")


def _schema() -> Any:
    try:  # an extra
        from vmw_cloudinit_metadata.process.fleet import fleetschema
    except ImportError as error:
        raise ConfigError(f"fleet {urlcheck.NEEDED} ({error.name} is missing)") from None
    return fleetschema


@contextmanager
def reached(url: str) -> Iterator[Connection]:
    """Connect; what the database refuses is an operator's error, without secrets."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    from vmw_cloudinit_metadata.process.fleet.migrations import WrongSchemaError

    try:
        if problem := urlcheck.problem_among(conninfo_to_dict(str.__str__(url))):
            raise ConfigError(f"--url: {problem}")
        with _schema().connected(str.__str__(url)) as connection:
            yield connection
    except WrongSchemaError as error:
        raise ConfigError(str(error)) from None
    except psycopg.Error as error:
        text = " ".join(str(error).split()) or type(error).__name__
        hidden = KnownSecrets(parts_of(str.__str__(url))).hide(text)
        raise ConfigError(one_line(shortened(hidden, _REASON_CHARACTERS))) from None
