"""Lines for people: in the journal and on the machine's console."""

import os
import sys
from contextlib import suppress

NAME = "vmw-metadata-agent"


class Journal:
    """Writes to the journal (standard error) and to the machine's console."""

    def __init__(self, console: str) -> None:
        self._console = console

    def log(self, line: object) -> None:
        """Write a line to the journal."""
        with suppress(OSError):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    def announce(self, line: object) -> None:
        """Write a line to the journal and to the console."""
        self.log(line)
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK
            descriptor = os.open(self._console, flags)
            try:
                os.write(descriptor, (f"{NAME}: {line}\r\n").encode("ascii", "replace"))
            finally:
                os.close(descriptor)
