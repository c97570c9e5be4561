"""`client`: play ESXi hosts and their VMs, one to inspect or thousands for a load test."""

from __future__ import annotations

import click

from vmw_cloudinit_metadata.cli.commandlist import CommandList, CommandRow, ListedGroup
from vmw_cloudinit_metadata.settings.command import HELP

_ROWS = {
    "fetch": CommandRow(
        "fetch:fetch", "Play one VM; print the documents that it gets, or save them."
    ),
    "bridge": CommandRow(
        "bridge:bridge", "Connect a real guest to the server, as its ESXi host does."
    ),
    "storm": CommandRow(
        "load:storm", "Boot VMs: connect, identify, request three documents, disconnect."
    ),
    "herd": CommandRow("load:herd", "Connect all VMs, then let all request at once."),
    "steady": CommandRow("load:steady", "Keep VMs connected and requesting without pause."),
    "soak": CommandRow("load:soak", "Mix boots, vMotions, host failures and junk, -c at a time."),
}


@click.group(cls=ListedGroup, listed=CommandList(__name__, _ROWS), context_settings=HELP)
def client() -> None:
    """Play ESXi hosts and their VMs, to test a server."""
