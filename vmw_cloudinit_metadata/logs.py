"""The log on standard error: lines for people, or one JSON object a line.

Nothing that a peer, a file or a library says begins another line.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import Any, TextIO

import gevent
import ujson

from vmw_cloudinit_metadata.happenings import (
    LEVEL_NAMES,
    Happening,
    Happenings,
    fields,
    timestamp,
)
from vmw_cloudinit_metadata.printable import one_line

log = logging.getLogger(__name__)

FORMATS = ("text", "json")

# With a space, so that what looks for words in the text log finds them here too.
_SEPARATORS = (", ", ": ")


class Formatter(logging.Formatter, ABC):
    """Lines of the log: of logging's records, and of happenings."""

    @abstractmethod
    def tell(self, happening: Happening) -> str: ...


class TextFormatter(Formatter):
    """`2026-03-04 10:11:12,345 INFO [1234] message`, the process only if there are several."""

    def __init__(self, *, with_process: bool) -> None:
        super().__init__()
        self._with_process = with_process
        self._second = (0, "")

    def format(self, record: logging.LogRecord) -> str:
        line = self._line(record.created, record.levelno, record.getMessage())
        return "\n".join([line, *map(_indented, _traceback(self, record).splitlines())])

    def tell(self, happening: Happening) -> str:
        return self._line(happening.at_s, happening.level, str(happening))

    def _line(self, at_s: float, level: int, text: str) -> str:
        second = int(at_s)
        if self._second[0] != second:
            self._second = second, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        process = f"[{os.getpid()}] " if self._with_process else ""
        clock = f"{self._second[1]},{int(at_s % 1 * 1000):03d}"
        return one_line(f"{clock} {logging.getLevelName(level)} {process}{text}")


class JsonFormatter(Formatter):
    """Each record one object; `event` is what the text log has behind machine and peer."""

    def format(self, record: logging.LogRecord) -> str:
        told = _plain(record)
        if traceback := _traceback(self, record):
            told["traceback"] = traceback
        return self._dumped(told)

    def tell(self, happening: Happening) -> str:
        return self._dumped(fields(happening))

    def _dumped(self, told: dict[str, Any]) -> str:
        told["process"] = os.getpid()
        text = ujson.dumps(told, escape_forward_slashes=False, separators=_SEPARATORS)
        return text.replace("\x7f", "\\u007f")


def _plain(record: logging.LogRecord) -> dict[str, Any]:
    return {
        "time": timestamp(record.created),
        "level": LEVEL_NAMES.get(record.levelno, record.levelname.lower()),
        "event": one_line(record.getMessage()),
        "logger": record.name,
    }


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info else ""


def _indented(line: str) -> str:
    return f"  {one_line(line)}"


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes each line at once; or, where a hub runs, those of one of its turns together: a write
    for each of two lines is a twentieth of what a boot costs."""

    def __init__(self, stream: TextIO, formatter: Formatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self._tell = formatter.tell
        self._lines: list[str | Happening] = []
        self._loop: Any = None
        self._thread = 0  # of the hub

    def gather(self) -> None:
        """From now on this thread's hub runs, and is to write."""
        self._loop = gevent.get_hub().loop
        self._thread = threading.get_ident()

    def hear(self, happening: Happening) -> None:
        """A listener, in the hub's thread: the way through logging costs more than the line."""
        if logging.root.isEnabledFor(happening.level):
            self._lines.append(happening)
            self._write_soon()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record))
        except Exception:
            self.handleError(record)
            return
        if self._loop is None or threading.get_ident() != self._thread:
            self._write()
        else:
            self._write_soon()

    def _write_soon(self) -> None:
        if len(self._lines) == 1:
            self._loop.run_callback(self._write)

    def _write(self) -> None:
        with suppress(OSError, ValueError):  # full, gone or closed: no error of those who log
            self.flush()

    def flush(self) -> None:
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("\n".join(map(self._text_of, lines)) + "\n")
            super().flush()

    def _text_of(self, line: str | Happening) -> str:
        if isinstance(line, str):
            return line
        try:
            return self._tell(line)
        except Exception as error:  # what a driver has put into it, JSON may have no form for
            text = f"{line.text} (its details cannot be written: {error!r})"
            return self._tell(line._replace(text=text, details={}))


def gather(happenings: Happenings) -> None:
    """The hub runs from now on: lines, and those of `happenings`, are written once a turn of it."""
    for handler in logging.root.handlers:
        if isinstance(handler, LineHandler):
            handler.gather()
            happenings.listeners[0] = handler.hear


def catch_all() -> None:
    """Has errors that nobody catches in the log too; to be called where a hub begins."""
    sys.excepthook = _uncaught
    threading.excepthook = lambda error: log.critical(
        "an error that nobody catches, in a thread", exc_info=error.exc_value
    )
    hub = gevent.get_hub()
    hub.print_exception = _uncaught_in_greenlet  # type: ignore[method-assign,assignment]


def _uncaught(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    told = kind, error or kind(), trace
    log.critical("an error that nobody catches", exc_info=told)


def _uncaught_in_greenlet(
    _context: object,
    kind: type[BaseException] | None,
    error: BaseException | str | None,
    trace: TracebackType | None,
) -> None:
    _uncaught(kind or Exception, error if isinstance(error, BaseException) else None, trace)


def is_for_machines() -> bool:
    """Whether all that is said on standard error has to be an object."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.root.handlers)


def set_up(level: str, form: str, *, with_process: bool) -> None:
    """Logs from here on to standard error; `form` is one of FORMATS."""
    # Nothing of this is in a line; each costs something at every one.
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    logging.logAsyncioTasks = False  # type: ignore[attr-defined,unused-ignore]  # 3.12
    logging._srcfile = None
    formatter = JsonFormatter() if form == "json" else TextFormatter(with_process=with_process)
    logging.basicConfig(level=level.upper(), handlers=[LineHandler(sys.stderr, formatter)])
    if form == "json":
        logging.captureWarnings(True)
