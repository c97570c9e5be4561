"""Logs uncaught errors, and what libraries print on standard error."""

from __future__ import annotations

import logging
import sys
import threading
from io import TextIOBase
from types import TracebackType
from typing import Any

import gevent

log = logging.getLogger(__name__)

_MAX_PRINTED = 64 * 1024  # of a line that was begun


class Printed(TextIOBase):
    """Standard error for all other code: printed text becomes lines of the log, which does not
    block, and JSON if the log is JSON."""

    def __init__(self) -> None:
        self._begun = ""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return sys.__stderr__.fileno() if sys.__stderr__ else super().fileno()

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        if len(self._begun) > _MAX_PRINTED:
            lines, self._begun = [*lines, self._begun], ""
        for line in lines:
            if line.strip():
                log.warning("%s", line)
        return len(text)


def catch_all() -> None:
    """Log uncaught exceptions from now on; call it where a hub begins."""
    sys.excepthook = _uncaught
    threading.excepthook = lambda error: log.critical(
        "uncaught exception in a thread", exc_info=error.exc_value
    )
    sys.unraisablehook = _unraisable
    hub = gevent.get_hub()
    hub.print_exception = uncaught_in_greenlet  # type: ignore[method-assign,assignment]


def _uncaught(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    raised = kind, error or kind(), trace
    log.critical("uncaught exception", exc_info=raised)


def _unraisable(error: Any) -> None:
    text = error.err_msg or "exception ignored"
    log.error("%s: %r", text, error.object, exc_info=error.exc_value)


def uncaught_in_greenlet(
    _context: object,
    kind: type[BaseException] | None,
    error: BaseException | str | None,
    trace: TracebackType | None,
) -> None:
    _uncaught(kind or Exception, error if isinstance(error, BaseException) else None, trace)
