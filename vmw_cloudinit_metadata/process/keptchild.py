"""The side of a kept program that is the other process: it reads its work, and does it.

The server writes the work as the first line of the standard input, and ends this process itself:
signals that a terminal sends to both are the server's.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, NoReturn

_MAX_LINE_BYTES = 64 * 1024


def run(work: Callable[[bytes], Coroutine[Any, Any, None]], memory_bytes: int) -> NoReturn:
    """Do `work` with the first line, within so much memory, and exit."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    line = _first_line()
    with suppress(OSError, ValueError):  # where the system forbids that, go on without
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    try:
        asyncio.run(work(line))
        os._exit(0)  # without threads that wait, for names of hosts or answers
    except Exception as error:  # a fault of ours; its text may quote anything
        print(f"internal error: {where_of(error)}", file=sys.stderr)
        sys.exit(1)


def where_of(error: BaseException) -> str:
    """Return the kind of an error and its place, without its text, which may quote anything."""
    place = traceback.extract_tb(error.__traceback__)[-1:]
    return f"{type(error).__name__} in {place[0].name}" if place else type(error).__name__


def _first_line() -> bytes:
    """Read it from the standard input, and nothing behind it; exit if the server is gone."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1) if len(line) < _MAX_LINE_BYTES else b""
        if not piece:
            sys.exit(0)
        line += piece
    return line
