"""Command and Group: click's, with --version everywhere and options in titled sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import click
from click.core import ParameterSource

from vmw_cloudinit_metadata import __version__

# The names of options by the title of their section in the help; one may be absent in a command.
Sections = Mapping[str, Sequence[str]]

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

_OTHERS = "Options"


def _print_version(ctx: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if is_asked and not ctx.resilient_parsing:
        click.echo(f"{ctx.find_root().info_name}, version {__version__}")
        ctx.exit()


_VERSION = click.Option(
    ["--version"],
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)


def given(*names: str) -> list[str]:
    """Return which of these options of the current command stand on its command line."""
    ctx = click.get_current_context()
    return [
        max(option.opts, key=len)
        for option in ctx.command.params
        if option.name in names
        and ctx.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]


def refuse_useless(reason: str, *names: str) -> None:
    """Raise UsageError if one of these options was given, which has no effect for `reason`."""
    for option in given(*names):
        raise click.UsageError(f"{option} has no effect {reason}")


class Command(click.Command):
    def __init__(
        self, *arguments: Any, sections: Sections = MappingProxyType({}), **further: Any
    ) -> None:
        super().__init__(*arguments, **further)
        self.sections = sections

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        *own, help_option = super().get_params(ctx)
        return [*own, _VERSION, help_option]

    def help_record(self, option: click.Option, ctx: click.Context) -> tuple[str, str] | None:
        """Return an option and its description in the help; None: it is hidden."""
        return option.get_help_record(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each section, then the options that are in none."""
        records = {
            str(param.name): record
            for param in self.get_params(ctx)
            if isinstance(param, click.Option) and (record := self.help_record(param, ctx))
        }
        for title, names in self.sections.items():
            _write(formatter, title, [records.pop(name) for name in names if name in records])
        _write(formatter, _OTHERS, [*records.values()])


class Group(Command, click.Group):
    command_class = Command
    group_class = type

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def _write(formatter: click.HelpFormatter, title: str, records: list[tuple[str, str]]) -> None:
    if records:
        with formatter.section(title):
            formatter.write_dl(records)
