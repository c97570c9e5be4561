"""`known-hosts`: the SSH host keys that guests have reported."""

from __future__ import annotations

import click

from vmw_cloudinit_metadata.admin.api import KNOWN_HOSTS_PATH
from vmw_cloudinit_metadata.cli.adminoptions import MakeReader, admin_options
from vmw_cloudinit_metadata.cli.runoptions import server_options
from vmw_cloudinit_metadata.settings.layers import SettingsCommand, config_option


@click.command(cls=SettingsCommand, whole=server_options)
@config_option
@admin_options
@click.option(
    "--proved",
    "is_proved",
    is_flag=True,
    help="Only keys of VMs whose identity is proved, by token, by vCenter or by a move.",
)
def known_hosts(make_reader: MakeReader, is_proved: bool) -> None:
    """Print the SSH host keys that guests have reported, as a known_hosts file of OpenSSH.

    A guest says which keys it has; names and addresses are those that its VM is served. What
    several VMs have is left out, with a comment. Exit 2 if the server does not answer.
    """
    reader = make_reader()
    click.echo(reader.text(f"{KNOWN_HOSTS_PATH}{'?proved=1' if is_proved else ''}"), nl=False)
