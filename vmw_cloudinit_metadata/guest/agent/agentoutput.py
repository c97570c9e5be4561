"""Standard output, whose failure is one of the agent, and standard error, whose failure is none."""

import os
import sys
from contextlib import suppress


class NotPrinted(Exception):
    """Standard output cannot be written; no OSError, which the agent expects of files."""


class ReaderGone(NotPrinted):
    """Nobody reads standard output any more."""


def put(data: bytes) -> None:
    """Write to standard output; raise NotPrinted. Nothing waits in a buffer for the end."""
    if sys.stdout is None:  # its number may be that of the port
        raise NotPrinted("it is closed")
    try:
        while data:
            data = data[os.write(sys.stdout.fileno(), data) :]
    except BrokenPipeError as error:
        raise ReaderGone(error.strerror) from None
    except OSError as error:
        raise NotPrinted(error.strerror) from None


def note(line: object) -> None:
    """Write a line to standard error, if that is possible."""
    if sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
