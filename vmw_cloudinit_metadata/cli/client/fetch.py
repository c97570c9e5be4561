"""`client fetch`: play one VM and print the documents it gets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import gevent

from vmw_cloudinit_metadata.cli import terminal
from vmw_cloudinit_metadata.cli.client.playoptions import SECTIONS, VM, machine_of, manner_of
from vmw_cloudinit_metadata.client import wrongport
from vmw_cloudinit_metadata.client.expectation import VmFailure
from vmw_cloudinit_metadata.client.played import Manner, PlayedVm, within
from vmw_cloudinit_metadata.instance.documents import NOCLOUD_NAMES
from vmw_cloudinit_metadata.instance.fault import nearest
from vmw_cloudinit_metadata.protocol import testmark
from vmw_cloudinit_metadata.protocol.printable import quoted
from vmw_cloudinit_metadata.settings.command import Command
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.parameters import Parsed

_KNOWN = (*NOCLOUD_NAMES, "DIGEST")


def _parse_document(text: str) -> str:
    """Take the name of a document, of a VM's own too; raise ConfigError."""
    meant = re.sub(r"[^A-Z]", "", text.upper())
    if text not in _KNOWN and (not meant or meant in _KNOWN or text != meant):
        raise ConfigError(f"found {quoted(text)}, expected {nearest(meant, _KNOWN)}")
    return text


_NO_VC_UUID = (
    "data without an instance-id is invalid for a VM without a VC UUID, which is the default: "
    "real VMs have one, so give --vc-uuid"
)

_DOCUMENT = Parsed("NAME", _parse_document)


@click.command(cls=Command, sections=SECTIONS)
@VM
@click.option(
    "--document",
    "documents",
    multiple=True,
    type=_DOCUMENT,
    default=tuple(NOCLOUD_NAMES),
    show_default=", ".join(NOCLOUD_NAMES),
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

    The server marks it as a test, which counts in no alert.
    Exit 1, with the reason, if the server refuses the VM or does not answer.
    """
    manner, machine = manner_of(options), machine_of(options)
    machine = replace(machine, service_uri=testmark.marked(machine.service_uri))
    played = PlayedVm(manner, machine)
    try:
        found = _fetched(played, manner, documents)
    except VmFailure as failure:
        click.echo(f"{machine}: {failure.text}", err=True)
        if failure.kind == "error: invalid" and not machine.vc_uuid:
            click.echo(_NO_VC_UUID, err=True)
        return 1
    finally:
        played.close()
    named = {NOCLOUD_NAMES.get(code, code.lower()): text for code, text in found.items()}
    if output:
        _write_documents(output, named)
    else:
        terminal.print_documents(named)
    return 0


def _fetched(played: PlayedVm, manner: Manner, documents: Sequence[str]) -> dict[str, bytes]:
    """Return the documents; raise VmFailure, soon if another server is at the port."""

    def fetch() -> dict[str, bytes] | VmFailure:
        try:
            with within(manner.limit_s, played):
                played.connect()
                played.get_ready()
                return {document: played.ask(document) for document in documents}
        except VmFailure as failure:
            return failure

    fetching = gevent.spawn(fetch)
    fetching.join(wrongport.QUIET_S)
    outcome = fetching.value
    is_settled = played.is_greeted or (
        isinstance(outcome, VmFailure) and not wrongport.is_possible(outcome)
    )
    if not is_settled and (failure := wrongport.failure_at(manner.route)):
        fetching.kill()
        raise failure
    outcome = fetching.get()
    if isinstance(outcome, VmFailure):
        raise outcome
    return outcome


def _write_documents(directory: Path, documents: Mapping[str, bytes]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in documents.items():
            (directory / name).write_bytes(text)
    except OSError as error:
        raise ConfigError(f"--output: {error}") from error
