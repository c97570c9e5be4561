"""`client`: play ESXi hosts and their VMs, one to inspect or thousands for a load test."""

from __future__ import annotations

import click

from vmw_cloudinit_metadata.cli.client.bridge import bridge
from vmw_cloudinit_metadata.cli.client.fetch import fetch
from vmw_cloudinit_metadata.cli.client.load import herd, soak, steady, storm
from vmw_cloudinit_metadata.settings.command import HELP, Group


@click.group(cls=Group, context_settings=HELP)
def client() -> None:
    """Play ESXi hosts and their VMs, to test a server."""


for _command in (fetch, bridge, storm, herd, steady, soak):
    client.add_command(_command)
