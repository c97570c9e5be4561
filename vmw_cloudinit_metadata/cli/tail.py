"""`tail`: the events of a running server, on the command line."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import click
import ujson

from vmw_cloudinit_metadata.admin.api import KEPT
from vmw_cloudinit_metadata.admin.reader import AdminReader, line_of
from vmw_cloudinit_metadata.cli import terminal
from vmw_cloudinit_metadata.cli.adminoptions import MakeReader, admin_options
from vmw_cloudinit_metadata.cli.localtime import local
from vmw_cloudinit_metadata.cli.runoptions import server_options
from vmw_cloudinit_metadata.monitoring.jsonobject import LEVEL_NAMES
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.layers import SettingsCommand, config_option
from vmw_cloudinit_metadata.settings.parameters import WholeRange

_RETRY_S = 2.0

_STYLES = {
    r"(?<= )INFO(?= )": "green",
    r"(?<= )WARNING(?= )": "yellow",
    r"(?<= )(ERROR|CRITICAL)(?= )": "red",
}


@click.command(cls=SettingsCommand, whole=server_options)
@config_option
@admin_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.option(
    "--level",
    type=click.Choice(sorted(LEVEL_NAMES.values()), case_sensitive=False),
    default="info",
    show_default=True,
    help="Show events of this level and above; debug includes disconnections.",
)
@click.option(
    "-n",
    "--lines",
    "last",
    type=WholeRange(0, KEPT),
    default=0,
    show_default=True,
    metavar="N",
    help="Show the last N events first, as far as the server still has them.",
)
def tail(
    make_reader: MakeReader,
    as_json: bool,
    level: str,
    last: int,
) -> None:
    """Show events as they happen, until interrupted.

    Times are local, with their zone; in JSON they are UTC.
    """
    reader = make_reader()
    for event in _endless(reader, f"/api/events?level={level}", last):
        if as_json:
            click.echo(event)
        else:
            terminal.echo(_line(ujson.loads(event)), _STYLES)


def _line(event: Mapping[str, Any]) -> str:
    return one_line(line_of({**event, "time": local(str(event.get("time", "")))}))


def _endless(reader: AdminReader, path: str, last: int) -> Iterator[str]:
    """Yield events; reconnect when the server restarts."""
    yield from reader.events(f"{path}&last={last}" if last else path)
    while True:
        click.echo(f"the server has closed the connection; retrying every {_RETRY_S:g} s", err=True)
        time.sleep(_RETRY_S)
        try:
            yield from reader.events(path)
        except ConfigError as error:
            click.echo(one_line(str(error)), err=True)
