"""The command line: one file per command. Whatever an operator got wrong is one line and exit 2."""

from __future__ import annotations

import logging
import os
import sys

import click

from vmw_cloudinit_metadata import __version__
from vmw_cloudinit_metadata.cli import checkconfig
from vmw_cloudinit_metadata.cli.client import client
from vmw_cloudinit_metadata.cli.guest import guest
from vmw_cloudinit_metadata.cli.run import run
from vmw_cloudinit_metadata.cli.show import show
from vmw_cloudinit_metadata.cli.status import status, tail
from vmw_cloudinit_metadata.cli.tlsinfo import tls_info
from vmw_cloudinit_metadata.cli.validate import validate
from vmw_cloudinit_metadata.cli.vmport import vm_port
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.monitoring import logs
from vmw_cloudinit_metadata.settings.errors import ConfigError

log = logging.getLogger(__name__)

PROGRAM = "vmw-cloudinit-metadata"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """Serves cloud-init metadata to VMware virtual machines over their virtual serial ports."""


cli.add_command(run)
cli.add_command(show)
cli.add_command(validate)
cli.add_command(checkconfig.command())
cli.add_command(tls_info)
cli.add_command(client)
cli.add_command(guest)
cli.add_command(vm_port)
cli.add_command(status)
cli.add_command(tail)


def main() -> None:
    """`vmw-cloudinit-metadata`."""
    _run(cli, PROGRAM)


def server_main() -> None:
    """`vmw-metadata-server`: the command `run`, by itself."""
    _run(run, "vmw-metadata-server")


def client_main() -> None:
    """`vmw-metadata-client`: the commands of `client`, by themselves."""
    _run(client, "vmw-metadata-client")


def _run(command: click.Command, program: str) -> None:
    sys.path.append(os.getcwd())  # last: for a driver module that lies there
    try:
        sys.exit(command.main(prog_name=program, standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        _fail(program, error.format_message())
    except (ConfigError, DriverError) as error:
        _fail(program, str(error))
    except click.Abort:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _fail(program: str, message: str) -> None:
    text = " ".join(message.split())
    if logs.is_for_machines():
        log.critical("%s", text)
    elif not logs.put(f"{program}: error: {text}"):
        click.echo(f"{program}: error: {text}", err=True)
    sys.exit(2)
