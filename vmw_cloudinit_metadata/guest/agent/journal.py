"""Lines for people: in the journal and on the machine's console."""

import os
from contextlib import suppress

from vmw_cloudinit_metadata.guest.agent.agentoutput import note

NAME = "vmw-metadata-agent"


class Journal:
    """Writes to the journal (standard error) and to the machine's console."""

    def __init__(self, console: str) -> None:
        self._console = console

    def log(self, line: object) -> None:
        """Write a line to the journal."""
        note(line)

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
