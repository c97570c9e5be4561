"""`completion`: print what completes the program's commands and options in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from vmw_cloudinit_metadata.cli import PROGRAM
from vmw_cloudinit_metadata.settings.command import Command

SHELLS = ("bash", "zsh", "fish")
PROGRAMS = (PROGRAM, "vmw-metadata-server", "vmw-metadata-client")


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(SHELLS))
@click.option(
    "--program",
    type=click.Choice(PROGRAMS),
    default=PROGRAM,
    show_default=True,
    help="Complete this program.",
)
def completion(shell: str, program: str) -> None:
    """Print a script that completes commands and options in SHELL.

    \b
    bash:  eval "$(vmw-cloudinit-metadata completion bash)"
    zsh:   eval "$(vmw-cloudinit-metadata completion zsh)"
    fish:  vmw-cloudinit-metadata completion fish | source
    """
    click.echo(script(shell, program))


def script(shell: str, program: str) -> str:
    """Return what completes a program in a shell: it asks the program, which knows its commands."""
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"  # click's own name
    of_shell = get_completion_class(shell)
    assert of_shell
    return of_shell(click.Command(None), {}, program, variable).source()
