"""`check-config`: show the settings that `run` would use, and the origin of each."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import click
import ujson

from vmw_cloudinit_metadata.cli.run import run
from vmw_cloudinit_metadata.cli.serversettings import server_settings, warnings_of
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.protocol.session import TlsPolicy
from vmw_cloudinit_metadata.settings.layers import (
    SettingsCommand,
    name_of,
    origin_of,
    settings_of,
    unknown_variables,
)
from vmw_cloudinit_metadata.settings.masking import masked
from vmw_cloudinit_metadata.settings.values import Address

_PLAIN = re.compile(r"(?!null$)[A-Za-z0-9_./]([A-Za-z0-9_.:/@+=-]*[A-Za-z0-9_./])?", re.IGNORECASE)


@click.pass_context
def _check_config(ctx: click.Context, /, **options: Any) -> None:
    """Show the settings of `run`, and where each comes from.

    Takes the options of `run`. The output is YAML, in the form of the --config file; secrets in
    --driver-opts are hidden. Starts neither driver nor server. Exit 2 for an invalid setting.
    """
    server = server_settings(options)
    if server["tls"] is not TlsPolicy.OFF:
        server["key_pair"].load()
    lines = [
        (f"{name_of(option)}: {as_yaml(options[str(option.name)])}", origin_of(ctx, option))
        for option in settings_of(run)
    ]
    width = min(max(len(setting) for setting, _ in lines), 60)
    for setting, origin in lines:
        click.echo(f"{setting:<{width}}  # {origin}")
    for warning in (*unknown_variables(run, os.environ), *warnings_of(ctx, options)):
        click.echo(f"warning: {warning}", err=True)


check_config = SettingsCommand(
    "check-config", params=run.params, callback=_check_config, help=_check_config.__doc__
)


def as_yaml(value: Any) -> str:
    """Return a value as it may stand in the settings file, without secrets."""
    match value:
        case Mapping():
            return _json(masked(value))
        case Address():  # a tuple, but one value
            return _scalar(value)
        case tuple() | list():
            return f"[{', '.join(map(_scalar, value))}]"
        case _:
            return _scalar(value)


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    is_whole = isinstance(value, float) and value.is_integer()
    text = str(int(value)) if is_whole else str(value)
    return text if _PLAIN.fullmatch(text) else _json(text)


def _json(value: Any) -> str:
    """Return JSON, which is YAML too, with control characters escaped."""
    return one_line(ujson.dumps(value, escape_forward_slashes=False, ensure_ascii=False))
