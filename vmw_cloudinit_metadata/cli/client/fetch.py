"""`client fetch`: play one VM and print the documents it gets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from vmw_cloudinit_metadata.cli import terminal
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
    help="Request this document; may be repeated.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the documents to this directory, in the NoCloud layout.",
)
def fetch(documents: tuple[str, ...], output: Path | None, **options: Any) -> int:
    """Play one VM; print the documents that it gets, or save them.

    Exit 1, with the reason, if the server refuses the VM or does not answer.
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
        terminal.print_documents(named)
    return 0


def _write_documents(directory: Path, documents: Mapping[str, bytes]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in documents.items():
            (directory / name).write_bytes(text)
    except OSError as error:
        raise ConfigError(f"--output: {error}") from error
