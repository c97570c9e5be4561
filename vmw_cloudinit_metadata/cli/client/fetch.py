"""`client fetch`: one VM, and what it gets."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from vmw_cloudinit_metadata.cli.client.playoptions import VM, machine_of, manner_of
from vmw_cloudinit_metadata.client.expectation import VmFailure
from vmw_cloudinit_metadata.client.played import PlayedVm, within
from vmw_cloudinit_metadata.instance import nocloud
from vmw_cloudinit_metadata.settings.errors import ConfigError


@click.command()
@VM
@click.option(
    "--document",
    "documents",
    multiple=True,
    metavar="CODE",
    default=tuple(nocloud.NAMES),
    show_default=", ".join(nocloud.NAMES),
    help="Ask for this one; may be repeated.",
)
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
def fetch(documents: tuple[str, ...], output: Path | None, **options: Any) -> int:
    """Plays one VM: prints what it gets, or writes it to --output as NoCloud's files.

    Exit 1, with the reason, if it is refused or gets no answer.
    """
    manner, machine = manner_of(options), machine_of(options)
    played = PlayedVm(manner, machine)
    try:
        with within(manner.limit_s, played):
            played.connect()
            played.get_ready()
            found = {document: played.ask(document) for document in documents}
    except VmFailure as failure:
        click.echo(f"{machine}: {failure.kind}: {failure.message}", err=True)
        return 1
    finally:
        played.close()
    named = {nocloud.NAMES.get(code, code.lower()): text for code, text in found.items()}
    if output:
        _write_documents(output, named)
    else:
        _print_documents(named)
    return 0


def _write_documents(directory: Path, documents: Mapping[str, bytes]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in documents.items():
            (directory / name).write_bytes(text)
    except OSError as error:
        raise ConfigError(f"--output: {error}") from error


def _print_documents(documents: Mapping[str, bytes]) -> None:
    for name, text in documents.items():
        if text:
            end = b"" if text.endswith(b"\n") else b"\n"
            sys.stdout.buffer.write(f"==> {name} ({len(text):,} bytes) <==\n".encode() + text + end)
    sys.stdout.flush()
