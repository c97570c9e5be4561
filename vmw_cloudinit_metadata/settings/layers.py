"""Settings in layers: default < file < environment < command line. One `click.option` is enough:
`--lookup-timeout` is also `lookup-timeout` in the file, and VMW_METADATA_LOOKUP_TIMEOUT.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from vmw_cloudinit_metadata.instance.fault import nearest
from vmw_cloudinit_metadata.instance.secrecy import is_secret_name
from vmw_cloudinit_metadata.settings import configfile
from vmw_cloudinit_metadata.settings.configfile import ConfigFile, Shape
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.parameters import FILE, JSON

PREFIX = "VMW_METADATA_"

_PLACE = re.compile(r"(file|path|dir|directory|url)s?$", re.IGNORECASE)

_ARGUMENTS = f"{__name__}.arguments"
_FILE = f"{__name__}.file"
_CONFIG = "config"

_Command = TypeVar("_Command", bound=Callable[..., Any])


class SettingsCommand(click.Command):
    """A command whose options may also stand in the environment and in the file of --config.

    Where it has only some of the settings of `whole`, it passes over the others in the file.
    """

    def __init__(self, *arguments: Any, whole: click.Command | None = None, **further: Any) -> None:
        super().__init__(*arguments, **further)
        self.whole = whole or self
        known = {option.name for option in _options(self.whole)}
        for option in _options(self):
            if option.name in known:
                option.envvar = variable(option)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = tuple(args)
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter as error:
            if not isinstance(error.param, click.Option):
                raise
            raise click.UsageError(_missing(error.param), ctx) from None
        except click.BadParameter as error:
            if not isinstance(error.param, click.Option):
                raise
            raise _located(ctx, error.param, error) from None


def config_option(command: _Command) -> _Command:
    """Adds --config, whose file is read before the other options are looked at."""
    option = click.option(
        f"--{_CONFIG}",
        type=FILE,
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_read_file,
        help="A YAML file of settings, named as the options are. The environment "
        f"({PREFIX}LISTEN) goes before it, the command line before both.",
    )
    return option(command)


def settings(command: click.Command) -> Iterator[click.Option]:
    """The options that are settings: not --config itself, nor --help."""
    return (option for option in _options(command) if option.name != _CONFIG)


def name(option: click.Option) -> str:
    """`lookup-timeout`"""
    return max(option.opts, key=len).removeprefix("--")


def variable(option: click.Option) -> str:
    """`VMW_METADATA_LOOKUP_TIMEOUT`"""
    return PREFIX + name(option).replace("-", "_").upper()


def origin(ctx: click.Context, option: click.Option) -> str:
    """Where the value of an option comes from: `server.yaml:7`, `environment VMW_METADATA_URI`."""
    assert option.name
    match ctx.get_parameter_source(option.name):
        case ParameterSource.COMMANDLINE:
            return "command line"
        case ParameterSource.ENVIRONMENT:
            return f"environment {option.envvar}"
        case ParameterSource.DEFAULT_MAP:
            return _file(ctx).place(name(option))
        case _:
            return "default"


def read_again(ctx: click.Context) -> click.Context:
    """The same command line over file and environment as they are now; raises ConfigError."""
    try:
        return ctx.command.make_context(ctx.info_name, list(ctx.meta[_ARGUMENTS]))
    except click.ClickException as error:
        raise ConfigError(error.format_message()) from error


def strange_variables(command: click.Command, environment: Mapping[str, str]) -> Iterator[str]:
    """A warning for each variable with our prefix that is no setting.

    No error: systems set variables of their own, as Kubernetes for a service `vmw-metadata`.
    """
    known = {variable(option) for option in _options(command)}
    for found in sorted(environment):
        if found.startswith(PREFIX) and found not in known:
            yield f"environment: {found} is no setting, expected {nearest(found, known)}"


def _options(command: click.Command) -> Iterator[click.Option]:
    return (option for option in command.params if isinstance(option, click.Option))


def _read_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    assert isinstance(ctx.command, SettingsCommand)
    options = {name(option): option for option in settings(ctx.command.whole)}
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
    """The file of --config, if there is one, and whether it holds a secret."""
    if _FILE not in ctx.meta:
        return None
    file = _file(ctx)
    return file.path, _holds_secret(file.values.get("driver-opts"))


def _holds_secret(value: Any) -> bool:
    """Whether a driver's options have a key of a secret's name, with something in it."""
    match value:
        case Mapping():
            return any(
                (item and is_secret_option(str(key))) or _holds_secret(item)
                for key, item in value.items()
            )
        case list():
            return any(map(_holds_secret, value))
        case _:
            return False


def is_secret_option(key: str) -> bool:
    """`password`, but not `password-file`."""
    return is_secret_name(key) and not _PLACE.search(key)


def _file(ctx: click.Context) -> ConfigFile:
    file: ConfigFile = ctx.meta[_FILE]
    return file


def _missing(option: click.Option) -> str:
    return (
        f"Missing option '--{name(option)}': give it on the command line, as {name(option)!r} in "
        f"the file of --{_CONFIG}, or as {variable(option)} in the environment"
    )


def _located(ctx: click.Context, option: click.Option, error: click.BadParameter) -> Exception:
    """The error, with the place of a value that is not of the command line."""
    match ctx.get_parameter_source(str(option.name)):
        case ParameterSource.DEFAULT_MAP:
            place = f"{_file(ctx).place(name(option))}: {name(option)}"
        case ParameterSource.ENVIRONMENT:
            place = f"environment: {option.envvar}"
        case _:
            return error
    return ConfigError(f"{place}: {error.message}")
