"""Prints colours, wrapped lines and tables on a terminal, and plain lines to pipes and files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console


def echo(line: str, styles: Mapping[str, str]) -> None:
    """Print one line; on a terminal with a style for each regular expression that matches."""
    console = _console()
    if console is None:
        click.echo(line)
        return
    from rich.text import Text

    text = Text(line)
    for pattern, style in styles.items():
        text.highlight_regex(pattern, style)
    console.print(text)


def echo_table(titles: Sequence[str], rows: Iterable[Sequence[str]], plain: Iterable[str]) -> None:
    """Print a table on a terminal, and the lines of `plain` elsewhere."""
    console = _console()
    if console is None:
        for line in plain:
            click.echo(line)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # as Text, for which [ ] are no markup
    console.print(table)


def print_documents(documents: Mapping[str, bytes]) -> None:
    """Print each document that is not empty under a heading with its name and size."""
    for name, text in documents.items():
        if text:
            echo(f"==> {name} ({len(text):,} bytes) <==", {".*": "bold"})
            sys.stdout.flush()
            sys.stdout.buffer.write(text if text.endswith(b"\n") else text + b"\n")
            sys.stdout.buffer.flush()


def _console() -> Console | None:
    """Return a console if standard output is a terminal; rich obeys NO_COLOR and COLUMNS."""
    if not sys.stdout.isatty():
        return None
    from rich.console import Console  # 50 ms, which pipes and scripts need not wait

    return Console(highlight=False)
