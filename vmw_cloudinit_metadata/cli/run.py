"""`run`: the server, in the foreground."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Mapping
from typing import Any

import click
import gevent

from vmw_cloudinit_metadata.cli.options import AddressType, driver_options
from vmw_cloudinit_metadata.config import DEFAULT_LISTEN, Address
from vmw_cloudinit_metadata.drivers.driver import load
from vmw_cloudinit_metadata.printable import one_line
from vmw_cloudinit_metadata.server import MetadataServer, start_log

LOG_LEVELS = ("debug", "info", "warning", "error")


class LineFormatter(logging.Formatter):
    """One record, one line: nothing that a peer or a file says begins another."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return one_line(super().formatMessage(record))


@click.command()
@click.option(
    "--uri",
    "uris",
    multiple=True,
    required=True,
    help="The service URI that VMs ask for; may be repeated.",
)
@driver_options
@click.option(
    "--listen",
    type=AddressType(),
    multiple=True,
    default=[DEFAULT_LISTEN],
    show_default=str(DEFAULT_LISTEN),
    help="Where to listen; may be repeated. IPv6 as [::]:13370; port 0 takes a free one.",
)
@click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS, case_sensitive=False),
    default="info",
    show_default=True,
)
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long answers under way may take when the server is stopped.",
)
@click.option(
    "--lookup-pool",
    type=click.IntRange(1, 1000),
    default=32,
    show_default=True,
    metavar="N",
    help="How many look-ups run at the same time.",
)
@click.option(
    "--lookup-timeout",
    "lookup_timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="How long one look-up of the driver may take.",
)
def run(
    uris: tuple[str, ...],
    driver_spec: str,
    driver_opts: Mapping[str, Any],
    listen: tuple[Address, ...],
    log_level: str,
    drain_s: float,
    lookup_pool: int,
    lookup_timeout_s: float,
) -> None:
    """Serves VMs in the foreground until TERM or INT, which finish the answers under way."""
    _set_up_logging(log_level)
    server = MetadataServer(
        load(driver_spec, driver_opts),
        uris,
        listen,
        lookup_pool=lookup_pool,
        lookup_timeout_s=lookup_timeout_s,
        drain_s=drain_s,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, server.ask_to_stop)
    server.serve_until_stopped()


def _set_up_logging(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    start_log.setLevel(logging.INFO)
