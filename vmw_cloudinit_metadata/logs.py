"""The log on standard error: lines for people, or one JSON object a line.

Nothing that a peer, a file or a library says begins another line.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from contextlib import nullcontext
from types import TracebackType
from typing import Any, TextIO

import gevent
import ujson

from vmw_cloudinit_metadata.happenings import LEVEL_NAMES, Happening, fields, timestamp
from vmw_cloudinit_metadata.printable import one_line

log = logging.getLogger(__name__)

FORMATS = ("text", "json")

# With a space, so that what looks for words in the text log finds them here too.
_SEPARATORS = (", ", ": ")


class TextFormatter(logging.Formatter):
    """`2026-03-04 10:11:12,345 INFO [1234] message`, the process only if there are several."""

    def __init__(self, *, with_process: bool) -> None:
        super().__init__()
        self._with_process = with_process
        self._second = (0, "")

    def format(self, record: logging.LogRecord) -> str:
        process = f"[{os.getpid()}] " if self._with_process else ""
        clock = f"{self._clock(int(record.created))},{int(record.msecs):03d}"
        line = one_line(f"{clock} {record.levelname} {process}{record.getMessage()}")
        return "\n".join([line, *map(_indented, _traceback(self, record).splitlines())])

    def _clock(self, second: int) -> str:
        if self._second[0] != second:
            self._second = second, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return self._second[1]


class JsonFormatter(logging.Formatter):
    """Each record one object; `event` is what the text log has behind machine and peer."""

    def format(self, record: logging.LogRecord) -> str:
        happening = record.msg
        told = fields(happening) if isinstance(happening, Happening) else _plain(record)
        told["process"] = os.getpid()
        if traceback := _traceback(self, record):
            told["traceback"] = traceback
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

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []
        self._loop: Any = None
        self._thread = 0  # of the hub

    def gather(self) -> None:
        """From now on this thread's hub runs, and is to write."""
        self._loop = gevent.get_hub().loop
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record))
        except Exception:
            self.handleError(record)
            return
        if self._loop is None or threading.get_ident() != self._thread:
            self._write(record)
        elif len(self._lines) == 1:
            self._loop.run_callback(self._write, record)

    def _write(self, record: logging.LogRecord) -> None:
        """As logging does it: a log that cannot be written is no error of those who log."""
        try:
            self.flush()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("\n".join(lines) + "\n")
            super().flush()


def gather() -> None:
    """The hub runs from now on: lines are written once a turn of it."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LineHandler):
            handler.gather()


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
    handler = LineHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if form == "json" else TextFormatter(with_process=with_process)
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if form == "json":
        logging.captureWarnings(True)
