"""`token`: print identity tokens, for tools that set the serial ports of VMs."""

from __future__ import annotations

import click

from vmw_cloudinit_metadata.settings import identitykeys
from vmw_cloudinit_metadata.settings.command import Group
from vmw_cloudinit_metadata.settings.identitykeys import NumberedFile
from vmw_cloudinit_metadata.settings.parameters import KEY_FILE, UUID


@click.group("token", cls=Group)
def token() -> None:
    """Make the identity tokens that `run --identity-token` checks."""


@token.command("print")
@click.option(
    "--key-file",
    type=KEY_FILE,
    metavar="[N=]FILE",
    required=True,
    help="A key of `run --identity-key-file`, with the same number N; without one, 1.",
)
@click.argument("vc_uuids", metavar="VC-UUID...", type=UUID, nargs=-1, required=True)
def print_(key_file: NumberedFile, vc_uuids: tuple[str, ...]) -> None:
    """Print the token of each VM, on one line each.

    Append `?t=TOKEN` to the service URI of the VM's serial port, or `&t=TOKEN` if the URI has a
    query. A token is a secret of its VM, and valid as long as the server has the key.
    """
    key = identitykeys.read_one(key_file, "--key-file")
    for vc_uuid in vc_uuids:
        click.echo(key.token(vc_uuid))
