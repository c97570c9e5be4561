"""Commands that are listed by name and summary, and imported when they are called."""

from __future__ import annotations

import gc
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import click

from vmw_cloudinit_metadata.process.collector import collector_off
from vmw_cloudinit_metadata.settings.command import Group


class CommandRow(NamedTuple):
    place: str  # `MODULE:COMMAND`
    summary: str  # the first sentence of its help


class CommandList(Mapping[str, click.Command]):
    """Imports a command's module, from a package, only when the command is used: saves time, and
    each server process 4 MB."""

    def __init__(self, package: str, rows: Mapping[str, CommandRow]) -> None:
        self._package = package
        self.rows = rows

    def __getitem__(self, name: str) -> click.Command:
        return _imported(f"{self._package}.{self.rows[name].place}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class ListedGroup(Group):
    """A group whose help, and completion, need no module of its commands."""

    def __init__(self, *arguments: Any, listed: CommandList, **further: Any) -> None:
        super().__init__(*arguments, **further)
        self.listed = listed
        self.commands = listed  # type: ignore[assignment] # click reads it only

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        return _Listed(cmd_name, self.listed) if cmd_name in self.listed.rows else None


class _Listed(click.Command):
    """Stands for a command until it is called."""

    def __init__(self, name: str, listed: CommandList) -> None:
        super().__init__(name, help=listed.rows[name].summary)
        self._listed = listed

    def make_context(self, *arguments: Any, **further: Any) -> click.Context:
        return self._listed[str(self.name)].make_context(*arguments, **further)


@cache
def _imported(place: str) -> click.Command:
    """Import a command. Its modules stay: the collector, which would look at all objects in them
    several times, and once more at the end of the program, looks at none."""
    with collector_off():
        command: click.Command = pkgutil.resolve_name(place)
        gc.freeze()
    return command
