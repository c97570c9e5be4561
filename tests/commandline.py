"""The command line, run in this process: many commands, or those that take longest to start."""

from __future__ import annotations

import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from unittest.mock import patch

from vmw_cloudinit_metadata.cli import main

# Exit code, lines of standard output, lines of standard error.
Ended = tuple[int, list[str], list[str]]


def in_process(*words: str) -> Ended:
    """Runs `vmw-cloudinit-metadata` with these words to its end."""
    code: object = None
    with (
        patch.object(sys, "argv", ["vmw-cloudinit-metadata", *words]),
        patch.object(sys, "path", list(sys.path)),
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as err,
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    return int(str(code or 0)), out.getvalue().splitlines(), err.getvalue().splitlines()
