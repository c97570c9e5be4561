"""The command line, one module per command. An operator's error is one line and exit 2.

So is standard output that cannot be written. If its reader is gone, a command ends without a word,
with the status that a shell shows for SIGPIPE.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

import click

from vmw_cloudinit_metadata.cli import standardstreams
from vmw_cloudinit_metadata.cli.commandlist import CommandList, CommandRow, ListedGroup
from vmw_cloudinit_metadata.cli.failure import FAILURES, text_of
from vmw_cloudinit_metadata.settings.command import HELP

PROGRAM = "vmw-cloudinit-metadata"

_ROWS = {
    "check-config": CommandRow(
        "checkconfig:check_config", "Show the settings of `run`, and where each comes from."
    ),
    "client": CommandRow("client:client", "Play ESXi hosts and their VMs, to test a server."),
    "completion": CommandRow(
        "completion:completion", "Print a script that completes commands and options in SHELL."
    ),
    "drivers": CommandRow(
        "driverlist:drivers", "List the installed drivers, and the options of each."
    ),
    "fleet": CommandRow(
        "fleetcommands:fleet", "Make and show what the servers of a fleet share in PostgreSQL."
    ),
    "guest": CommandRow("guest:guest", "Install the agent, which runs inside VMs, into an image."),
    "known-hosts": CommandRow(
        "hostkeys:known_hosts",
        "Print the SSH host keys that guests have reported, as a known_hosts file of OpenSSH.",
    ),
    "run": CommandRow("run:run", "Serve VMs in the foreground until TERM or INT."),
    "show": CommandRow("show:show", "Show the documents that a VM would get, by its name or UUID."),
    "sql": CommandRow("sql:sql", "Make, fill and read the tables of the store `sql`."),
    "status": CommandRow(
        "status:status",
        "Show server health, and which VMs are in trouble and why; or all that is known of one VM, "
        "by name or UUID.",
    ),
    "tail": CommandRow("tail:tail", "Show events as they happen, until interrupted."),
    "tls-info": CommandRow(
        "tlsinfo:tls_info", "Show the proxy URI with the certificate's thumbprint."
    ),
    "token": CommandRow(
        "token:token", "Make the identity tokens that `run --identity-token` checks."
    ),
    "upgrade": CommandRow(
        "upgradecommand:upgrade", "Replace a running server by the version on disk, in place."
    ),
    "validate": CommandRow(
        "validate:validate", "Check all data; print each fault with file, line and key."
    ),
    "vm-port": CommandRow(
        "vmport:vm_port", "Add, show, remove or reconnect VMs' serial ports in vCenter."
    ),
    "window": CommandRow("window:window", "Change the windows of `run --userdata-window`."),
}

COMMANDS = CommandList(__name__, _ROWS)


@click.group(cls=ListedGroup, listed=COMMANDS, context_settings=HELP)
def cli() -> None:
    """Serve cloud-init metadata to VMware virtual machines over their virtual serial ports."""


def main() -> None:
    """Run `vmw-cloudinit-metadata`."""
    _run(cli, PROGRAM)


def server_main() -> None:
    """Run `vmw-metadata-server`: the command `run` as a program of its own."""
    _run(COMMANDS["run"], "vmw-metadata-server")


def client_main() -> None:
    """Run `vmw-metadata-client`: the commands of `client` as a program of their own."""
    _run(COMMANDS["client"], "vmw-metadata-client")


def _run(command: click.Command, program: str) -> None:
    with suppress(OSError):  # it was removed
        sys.path.append(os.getcwd())  # last: for a driver module in the working directory
    standardstreams.guard()
    try:
        sys.exit(_printed(command, program))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        sys.exit(2)
    except FAILURES as error:
        _fail(program, text_of(error))
    except standardstreams.OutputError as error:
        if error.is_reader_gone:
            sys.exit(128 + signal.SIGPIPE)
        _fail(program, str(error))
    except click.Abort:
        sys.exit(128 + signal.SIGINT)


def _printed(command: click.Command, program: str) -> int | None:
    """Return what the command returns, once all its output is written."""
    try:
        code: int | None = command.main(prog_name=program, standalone_mode=False)
        return code
    finally:
        sys.stdout.flush()


def _fail(program: str, text: str) -> None:
    click.echo(f"{program}: error: {text}", err=True)
    sys.exit(2)
