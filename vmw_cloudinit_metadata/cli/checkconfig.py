"""`check-config`: the settings that `run` would have, and where each comes from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import click
import ujson

from vmw_cloudinit_metadata.cli.run import checked, run, warnings_of
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.protocol.session import TlsPolicy
from vmw_cloudinit_metadata.settings.layers import (
    SettingsCommand,
    is_secret_option,
    name,
    origin,
    settings,
    strange_variables,
)
from vmw_cloudinit_metadata.settings.values import Address

HIDDEN = "(hidden)"

_PASSWORD_IN_URL = re.compile(r"(?<=://)[^/\s@]*@")
_PLAIN = re.compile(r"(?!null$)[A-Za-z0-9_./]([A-Za-z0-9_.:/@+-]*[A-Za-z0-9_./])?", re.IGNORECASE)


@click.pass_context
def check_config(ctx: click.Context, /, **options: Any) -> None:
    """Prints the settings that `run` would have with the same options, and where each comes from.

    The output is YAML, as the file of --config. Values of --driver-opts that look like secrets are
    hidden. Neither the driver nor anything else is started; what is wrong ends with exit 2.
    """
    server = checked(options)
    if server["tls"] is not TlsPolicy.OFF:
        server["key_pair"].load()
    lines = [(f"{name(o)}: {shown(options[str(o.name)])}", origin(ctx, o)) for o in settings(run)]
    width = min(max(len(setting) for setting, _ in lines), 60)
    for setting, source in lines:
        click.echo(f"{setting:<{width}}  # {source}")
    for warning in (*strange_variables(run, os.environ), *warnings_of(ctx, options)):
        click.echo(f"warning: {warning}", err=True)


def command() -> click.Command:
    """It has what options `run` has."""
    return SettingsCommand(
        "check-config", params=run.params, callback=check_config, help=check_config.__doc__
    )


def shown(value: Any) -> str:
    """A value as it may stand in the file, without secrets."""
    match value:
        case Mapping():
            return _json(_without_secrets(value))
        case Address():  # a tuple, but one value
            return _scalar(value)
        case tuple() | list():
            return f"[{', '.join(map(_scalar, value))}]"
        case _:
            return _scalar(value)


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    is_whole = isinstance(value, float) and value.is_integer()
    text = str(int(value)) if is_whole else str(value)
    return text if _PLAIN.fullmatch(text) else _json(text)


def _json(value: Any) -> str:
    """JSON, which is YAML too; what no terminal should get is escaped as YAML has it."""
    return one_line(ujson.dumps(value, escape_forward_slashes=False, ensure_ascii=False))


def _without_secrets(value: Any) -> Any:
    match value:
        case Mapping():
            return {
                key: HIDDEN if is_secret_option(str(key)) else _without_secrets(item)
                for key, item in value.items()
            }
        case list():
            return list(map(_without_secrets, value))
        case str():
            return _PASSWORD_IN_URL.sub(f"{HIDDEN}@", value)
        case _:
            return value
