"""The options that name the admin port of a running server, as `run` reads them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click

from vmw_cloudinit_metadata.admin.access import read_token
from vmw_cloudinit_metadata.admin.reader import AdminReader
from vmw_cloudinit_metadata.settings.command import refuse_useless
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.parameters import FILE, OPTIONAL_ADDRESS
from vmw_cloudinit_metadata.settings.values import DEFAULT_ADMIN_LISTEN, Address

# Returns what reads the admin port that the options name; raises ConfigError.
MakeReader = Callable[[], AdminReader]

ADMIN_OPTIONS = ("url", "admin_listen", "admin_token_file")  # the names of the parameters

_EVERY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # nosec B104 # nothing is bound


def admin_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --admin, --admin-listen and --admin-token-file, which the command takes as
    `make_reader`."""

    @wraps(command)
    def with_reader(
        url: str | None,
        admin_listen: Address | str,
        admin_token_file: Path | None,
        **options: Any,
    ) -> Any:
        if url is not None:
            refuse_useless("with --admin", "admin_listen")
        make_reader = partial(_reader_of, url, admin_listen, admin_token_file)
        return command(make_reader=make_reader, **options)

    token = click.option(
        "--admin-token-file", type=FILE, metavar="FILE", help="Use the admin token in this file."
    )
    listen = click.option(
        "--admin-listen",
        type=OPTIONAL_ADDRESS,
        default=DEFAULT_ADMIN_LISTEN,
        show_default=str(DEFAULT_ADMIN_LISTEN),
        help="Ask the server of this machine that has this --admin-listen.",
    )
    url = click.option(
        "--admin",
        "url",
        metavar="URL",
        help="Ask the server at this admin URL, such as http://10.0.0.5:13371, instead.",
    )
    return url(listen(token(with_reader)))


def _reader_of(
    url: str | None, admin_listen: Address | str, admin_token_file: Path | None
) -> AdminReader:
    token = read_token(admin_token_file) if admin_token_file else None
    return AdminReader(url or _url_of(admin_listen), token)


def _url_of(listen: Address | str) -> str:
    if not isinstance(listen, Address):
        raise ConfigError("--admin-listen is off: the server has no admin port to ask")
    if listen.port == 0:
        raise ConfigError(f"--admin-listen {listen}: give its port with --admin http://HOST:PORT")
    return f"http://{listen._replace(host=_EVERY.get(listen.host, listen.host))}"
