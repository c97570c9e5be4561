"""The command line, run in this process: for commands that would take longest to start."""

from __future__ import annotations

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

from vmw_cloudinit_metadata.cli import cli

# Exit code, lines of standard output, lines of standard error.
Ended = tuple[int, list[str], list[str]]


def in_process(*words: str) -> Ended:
    """Runs `vmw-cloudinit-metadata` with these words; what an operator got wrong is raised."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = cli.main(list(words), prog_name="vmw-cloudinit-metadata", standalone_mode=False)
    return code or 0, out.getvalue().splitlines(), err.getvalue().splitlines()
