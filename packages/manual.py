"""Man pages, made from the commands themselves: one for each, with what its `--help` prints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click

from packages.source import released_on
from vmw_cloudinit_metadata import __version__
from vmw_cloudinit_metadata.cli import PROGRAM, cli

# Programs of their own that are commands of the program too.
ALIASES = {"vmw-metadata-server": f"{PROGRAM}-run", "vmw-metadata-client": f"{PROGRAM}-client"}

Section = list[str]


def pages(command: click.Command = cli, name: str = PROGRAM) -> Iterator[tuple[str, str]]:
    """Return name and text of the page of a command, and of all that it has."""
    context = click.Context(command, info_name=name, help_option_names=["-h", "--help"])
    own = dict(command.commands) if isinstance(command, click.Group) else {}
    yield name.replace(" ", "-"), _page(command, context, sorted(own))
    for word, inner in own.items():
        yield from pages(inner, f"{name} {word}")


def write(directory: Path) -> None:
    """Write the pages, and links for the programs that are commands too."""
    for name, text in pages():
        (directory / f"{name}.1").write_text(text)
    for alias, name in ALIASES.items():
        (directory / f"{alias}.1").write_text(f".so man1/{name}.1\n")


def _page(command: click.Command, context: click.Context, words: list[str]) -> str:
    name = context.info_name or PROGRAM
    title = name.replace(" ", "-")
    date = f"{released_on():%Y-%m-%d}"
    first = f'.TH {_escaped(title.upper())} 1 {date} "{PROGRAM} {__version__}" "User Commands"'
    purpose = command.get_short_help_str(limit=200).rstrip(".")
    sections = {
        "NAME": [f"{_escaped(title)} \\- {_escaped(purpose)}"],
        "SYNOPSIS": _synopsis(command, context),
        "DESCRIPTION": list(_paragraphs(cleandoc(command.help or ""))),
        "OPTIONS": list(_options(command, context)),
        "COMMANDS": list(_commands(command, title, words)),
        "SEE ALSO": [f".BR {_escaped(PROGRAM)} (1)"] if title != PROGRAM else [],
    }
    parts = [first]
    for heading, lines in sections.items():
        if lines:
            parts += [f".SH {_quoted(heading)}", *lines]
    return "\n".join(parts) + "\n"


def _synopsis(command: click.Command, context: click.Context) -> Section:
    usage = " ".join(command.collect_usage_pieces(context))
    return [f".B {_escaped(context.info_name or PROGRAM)}", _line(usage)]


def _paragraphs(text: str) -> Iterator[str]:
    """Return the paragraphs of a help text; those after a \\b keep their lines."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        first, *others = paragraph.splitlines()
        yield ".PP"
        if first.strip() == "\b":
            yield from (".nf", *map(_line, others), ".fi")
        else:
            yield from (_line(line.strip()) for line in (first, *others))


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    records = (one.get_help_record(context) for one in command.get_params(context))
    for names, text in filter(None, records):
        yield from (".TP", f".B {_escaped(names)}", _line(text))


def _commands(command: click.Command, title: str, words: list[str]) -> Iterator[str]:
    if isinstance(command, click.Group):
        for word in words:
            purpose = command.commands[word].get_short_help_str(limit=200)
            yield from (".TP", f".BR {_escaped(f'{title}-{word}')} (1)", _line(purpose))


def _line(text: str) -> str:
    """Return text of a line, which begins with no request of roff."""
    return re.sub(r"^(?=[.'])", r"\\&", _escaped(text))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


def _quoted(text: str) -> str:
    return f'"{text}"' if " " in text else text
