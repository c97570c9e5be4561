"""`check-config`: show the settings that `run` would use, and the origin of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import copy
from typing import Any

import click
import ujson

from vmw_cloudinit_metadata.cli.fullcheck import faults_in, warnings_in
from vmw_cloudinit_metadata.cli.runoptions import SECTIONS, server_options
from vmw_cloudinit_metadata.cli.serversettings import (
    fleet_settings,
    server_settings,
    warnings_of,
)
from vmw_cloudinit_metadata.protocol.policy import TlsPolicy
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.layers import (
    SettingsCommand,
    explained,
    name_of,
    origin_of,
    settings_of,
)
from vmw_cloudinit_metadata.settings.masking import masked
from vmw_cloudinit_metadata.settings.values import Address, SecretUrl

_PLAIN = re.compile(r"(?!null$)[A-Za-z0-9_./]([A-Za-z0-9_.:/@+=-]*[A-Za-z0-9_./])?", re.IGNORECASE)


_INVALID = f"{__name__}.invalid"  # what is wrong with single values, by the option


class _GatheredOption(click.Option):
    """An option of `run` whose invalid value is gathered with --full, instead of raised."""

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        try:
            return super().handle_parse_result(ctx, opts, args)
        except (click.UsageError, ConfigError) as error:
            if _INVALID not in ctx.meta:
                raise
            ctx.meta[_INVALID][str(self.name)] = _text_of(ctx, error)
            ctx.params[str(self.name)] = None
            return None, args


def _text_of(ctx: click.Context, error: Exception) -> str:
    located = explained(ctx, error) if isinstance(error, click.BadParameter) else error
    return located.format_message() if isinstance(located, click.ClickException) else str(located)


class _CheckCommand(SettingsCommand):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--full" in args:
            ctx.meta[_INVALID] = {}
        return super().parse_args(ctx, args)


@click.pass_context
def _check_config(ctx: click.Context, /, full: bool, running: bool, **options: Any) -> None:
    """Show the settings of `run`, and where each comes from.

    Takes the options of `run`. The output is YAML, in the form of the --config file; secrets in
    --driver-opts are hidden. Starts neither driver nor server. Exit 2 for an invalid setting.

    With --full, exit 2 for all that `run` would refuse, and print every fault. This loads the
    driver, reads certificates and keys, and listens on the addresses for a moment; no VM is served.
    """
    if running and not full:
        raise click.UsageError("--running has no effect without --full")
    if full:
        _require_no_fault(ctx, options, is_running=running)
    else:
        server = server_settings(options)
        if server["tls"] is not TlsPolicy.OFF:
            server["key_pair"].load()
        fleet_settings(options)
    lines = [
        (f"{name_of(option)}: {as_yaml(options[str(option.name)])}", origin_of(ctx, option))
        for option in settings_of(server_options)
    ]
    width = min(max(len(setting) for setting, _ in lines), 60)
    for setting, origin in lines:
        click.echo(f"{setting:<{width}}  # {origin}")
    further = warnings_in(options, is_running=running) if full else ()
    for warning in (*warnings_of(ctx, options), *further):
        click.echo(f"warning: {warning}", err=True)


def _require_no_fault(ctx: click.Context, options: Mapping[str, Any], *, is_running: bool) -> None:
    """Print all faults and end with exit 2, if there are any."""
    faults = dict.fromkeys(faults_in(options, ctx.meta[_INVALID], is_running=is_running))
    for fault in faults:
        click.echo(f"error: {' '.join(fault.split())}", err=True)
    if faults:
        ctx.exit(2)


def _gathered(param: click.Parameter) -> click.Parameter:
    gathered = copy(param)
    if type(param) is click.Option:
        gathered.__class__ = _GatheredOption
    return gathered


_FULL = click.Option(
    ["--full"],
    is_flag=True,
    help="Check all that `run` would refuse: driver, certificates, directories, ports; print every "
    "fault.",
)
_RUNNING = click.Option(
    ["--running"],
    is_flag=True,
    help="With --full: the server runs already, so its addresses need not be free.",
)

check_config = _CheckCommand(
    "check-config",
    params=[_FULL, _RUNNING, *map(_gathered, server_options.params)],
    callback=_check_config,
    help=_check_config.__doc__,
    sections={"Check": ("full", "running"), **SECTIONS},
    whole=server_options,
)


def as_yaml(value: Any) -> str:
    """Return a value as it may stand in the settings file, without secrets."""
    match value:
        case Mapping():
            return _json(masked(value))
        case SecretUrl():
            return _scalar(value.shown)
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
