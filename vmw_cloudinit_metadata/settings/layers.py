"""Settings in layers: default < file < environment < command line.

One `click.option` declares a setting in all of them: `--lookup-timeout` is `lookup-timeout` in the
file and VMW_METADATA_LOOKUP_TIMEOUT in the environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from vmw_cloudinit_metadata.instance.fault import nearest
from vmw_cloudinit_metadata.settings import configfile, vcenterpassword
from vmw_cloudinit_metadata.settings.command import Command
from vmw_cloudinit_metadata.settings.configfile import ConfigFile, Shape
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.knownsecrets import parts_of
from vmw_cloudinit_metadata.settings.masking import holds_secret
from vmw_cloudinit_metadata.settings.parameters import FILE, JSON

PREFIX = "VMW_METADATA_"

_ARGUMENTS = f"{__name__}.arguments"
_FILE = f"{__name__}.file"
_CONFIG = "config"

_Command = TypeVar("_Command", bound=Callable[..., Any])


class SettingsCommand(Command):
    """A command whose options may also come from the environment and the file of --config.

    A command with only some of the settings of `whole` ignores the others in the file.
    """

    def __init__(self, *arguments: Any, whole: click.Command | None = None, **further: Any) -> None:
        super().__init__(*arguments, **further)
        self.whole = whole or self
        known = {option.name for option in _options(self.whole)}
        for option in _options(self):
            if option.name in known:
                option.envvar = variable_of(option)

    def invoke(self, ctx: click.Context) -> Any:
        if self.whole is not self:  # `run` logs them
            for warning in unknown_variables(self.whole, os.environ):
                click.echo(f"warning: {warning}", err=True)
        return super().invoke(ctx)

    def help_record(self, option: click.Option, ctx: click.Context) -> tuple[str, str] | None:
        """Name the variable in the help; errors say where a value comes from by themselves."""
        shown = copy(option)
        shown.show_envvar = option.envvar is not None
        return shown.get_help_record(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = tuple(args)
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            raise explained(ctx, error) from None


def config_option(command: _Command) -> _Command:
    """Add --config; its file is read before the other options are processed."""
    option = click.option(
        f"--{_CONFIG}",
        type=FILE,
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_read_file,
        help="Read settings from this YAML file, named like the options. The environment "
        f"({PREFIX}LISTEN) overrides it, and the command line overrides both.",
    )
    return option(command)


def settings_of(command: click.Command) -> Iterator[click.Option]:
    """Yield the options that are settings: all but --config and --help."""
    return (option for option in _options(command) if option.name != _CONFIG)


def name_of(option: click.Option) -> str:
    """Return the setting's name: `lookup-timeout`."""
    return max(option.opts, key=len).removeprefix("--")


def is_chosen(ctx: click.Context, option: click.Option) -> bool:
    """Return whether the option has a value that is not its default, which may be set too."""
    name = str(option.name)
    is_default = ctx.get_parameter_source(name) is ParameterSource.DEFAULT
    return not is_default and ctx.params[name] != option.default


def variable_of(option: click.Option) -> str:
    """Return the environment variable's name: `VMW_METADATA_LOOKUP_TIMEOUT`."""
    return PREFIX + name_of(option).replace("-", "_").upper()


def origin_of(ctx: click.Context, option: click.Option) -> str:
    """Return where a value comes from: `server.yaml:7`, `environment VMW_METADATA_URI`."""
    assert option.name
    match ctx.get_parameter_source(option.name):
        case ParameterSource.COMMANDLINE:
            return "command line"
        case ParameterSource.ENVIRONMENT:
            return f"environment {option.envvar}"
        case ParameterSource.DEFAULT_MAP:
            return _file(ctx).place(name_of(option))
        case _:
            return "default"


def reread(ctx: click.Context) -> click.Context:
    """Process the same command line with the current file and environment; raise ConfigError."""
    try:
        return ctx.command.make_context(ctx.info_name, list(ctx.meta[_ARGUMENTS]))
    except click.ClickException as error:
        raise ConfigError(error.format_message()) from error


def unknown_variables(command: click.Command, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable with our prefix that is not a setting.

    Not an error: Kubernetes sets such variables for a service named `vmw-metadata`.
    """
    known = {vcenterpassword.VARIABLE, *map(variable_of, _options(command))}
    for found in sorted(environment):
        if found.startswith(PREFIX) and found not in known:
            yield f"environment: {found} is not a setting, expected {nearest(found, known)}"


def _options(command: click.Command) -> Iterator[click.Option]:
    return (option for option in command.params if isinstance(option, click.Option))


def _read_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    assert isinstance(ctx.command, SettingsCommand)
    options = {name_of(option): option for option in settings_of(ctx.command.whole)}
    file = configfile.read(path, {key: _shape(option) for key, option in options.items()})
    ctx.meta[_FILE] = file
    ctx.default_map = {
        str(options[key].name): _as_given(options[key], value) for key, value in file.values.items()
    }


def _shape(option: click.Option) -> Shape:
    if option.multiple:
        return Shape.LIST
    return Shape.MAPPING if option.type is JSON else Shape.VALUE


def _as_given(option: click.Option, value: Any) -> Any:
    return [value] if option.multiple and isinstance(value, str) else value


def config_file(ctx: click.Context) -> tuple[Path, bool] | None:
    """Return the file of --config, if given, and whether it holds a secret."""
    if _FILE not in ctx.meta:
        return None
    file = _file(ctx)
    has_password = any(parts_of(str(file.values.get("fleet", ""))))
    return file.path, has_password or holds_secret(file.values.get("driver-opts"))


def _file(ctx: click.Context) -> ConfigFile:
    file: ConfigFile = ctx.meta[_FILE]
    return file


def explained(ctx: click.Context, error: click.BadParameter) -> Exception:
    """Return the error with where the value comes from, or could come from."""
    match error:
        case click.MissingParameter(param=click.Option() as option):
            return click.UsageError(_missing(option), ctx)
        case click.BadParameter(param=click.Option() as option):
            return _located(ctx, option, error)
        case _:
            return error


def _missing(option: click.Option) -> str:
    name = name_of(option)
    return (
        f"Missing option '--{name}': give it on the command line, as {name!r} in the file of "
        f"--{_CONFIG}, or as {variable_of(option)} in the environment"
    )


def _located(ctx: click.Context, option: click.Option, error: click.BadParameter) -> Exception:
    """Return the error, with the origin of a value that is not from the command line."""
    match ctx.get_parameter_source(str(option.name)):
        case ParameterSource.DEFAULT_MAP:
            place = f"{_file(ctx).place(name_of(option))}: {name_of(option)}"
        case ParameterSource.ENVIRONMENT:
            place = f"environment: {option.envvar}"
        case _:
            return error
    return ConfigError(f"{place}: {error.message}")
