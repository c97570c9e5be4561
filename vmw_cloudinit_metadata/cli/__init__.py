"""The command line, one module per command. An operator's error is one line and exit 2.

So is standard output that cannot be written. If its reader is gone, a command ends without a word,
with the status that a shell shows for SIGPIPE.
"""

from __future__ import annotations

import logging
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress

import click

from vmw_cloudinit_metadata.cli import standardstreams
from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.monitoring import logs
from vmw_cloudinit_metadata.settings.command import HELP, Group
from vmw_cloudinit_metadata.settings.errors import ConfigError

log = logging.getLogger(__name__)

PROGRAM = "vmw-cloudinit-metadata"

MODULES = {
    "check-config": "checkconfig:check_config",
    "client": "client:client",
    "completion": "completion:completion",
    "drivers": "driverlist:drivers",
    "fleet": "fleetcommands:fleet",
    "guest": "guest:guest",
    "known-hosts": "hostkeys:known_hosts",
    "run": "run:run",
    "show": "show:show",
    "sql": "sql:sql",
    "status": "status:status",
    "tail": "tail:tail",
    "tls-info": "tlsinfo:tls_info",
    "token": "token:token",  # nosec B105 # no password
    "window": "window:window",
    "upgrade": "upgradecommand:upgrade",
    "validate": "validate:validate",
    "vm-port": "vmport:vm_port",
}


class _Commands(Mapping[str, click.Command]):
    """Imports a command's module only when it is used: saves each server process 4 MB."""

    def __getitem__(self, name: str) -> click.Command:
        command: click.Command = pkgutil.resolve_name(f"{__name__}.{MODULES[name]}")
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


COMMANDS = _Commands()


@click.group(cls=Group, context_settings=HELP)
def cli() -> None:
    """Serve cloud-init metadata to VMware virtual machines over their virtual serial ports."""


cli.commands = COMMANDS  # type: ignore[assignment] # click reads it only


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
    except click.ClickException as error:
        _fail(program, error.format_message())
    except (ConfigError, DriverError) as error:
        _fail(program, str(error))
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


def _fail(program: str, message: str) -> None:
    text = " ".join(message.split())
    if logs.is_for_machines():
        log.critical("%s", text)
    elif not logs.put(f"{program}: error: {text}"):
        click.echo(f"{program}: error: {text}", err=True)
    sys.exit(2)
