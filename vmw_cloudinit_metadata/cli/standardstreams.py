"""Standard output and standard error of a command: what happens if they are full or closed.

Output that cannot be written is an error of the command. Standard error is for people: if it cannot
be written, the command does the same without it.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import Any

_INPUT, _OUTPUT, _ERRORS = range(3)


class OutputError(Exception):
    """Standard output cannot be written; no OSError, which commands expect of files."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(f"standard output: {reason.strerror}")
        self.is_reader_gone = reason.errno == errno.EPIPE


class _Waiting(io.FileIO):
    def write(self, data: Any) -> int:
        """Write some of it; wait if a program that shares the descriptor made it non-blocking."""
        while (count := super().write(data)) is None:
            select.select((), (self,), ())
        return count


class _Output(_Waiting):
    def write(self, data: Any) -> int:
        """Write some of it; raise OutputError, and take nothing more."""
        try:
            return super().write(data)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), _OUTPUT)  # for what waits in buffers
            raise OutputError(error) from None


class _Errors(_Waiting):
    def write(self, data: Any) -> int:
        with suppress(OSError):
            return super().write(data)
        return len(data)


def guard() -> None:
    """Let both behave so from now on, unless they are no streams of the process."""
    _hold_numbers()
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Output(_OUTPUT, "w", closefd=False), sys.stdout, "strict")
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Errors(_ERRORS, "w", closefd=False), sys.stderr, "backslashreplace")


def _hold_numbers() -> None:
    """Open what is closed: else the next file that is opened has its number, and gets the text."""
    for number in (_INPUT, _OUTPUT, _ERRORS):
        try:
            os.fstat(number)
        except OSError:  # to write to what is open for reading fails as if it were closed
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)


def _text(raw: io.FileIO, before: Any, errors: str) -> io.TextIOWrapper:
    """Return a stream like the one before, which is None if it was closed."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=before.encoding if before else None,
        errors=before.errors if before else errors,
        line_buffering=raw.isatty() or raw.fileno() == _ERRORS,
    )
