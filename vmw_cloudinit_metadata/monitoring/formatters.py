"""Lines of the log: text for people, or one JSON object each. No I/O."""

from __future__ import annotations

import logging
import os
import time
from abc import ABC, abstractmethod
from typing import Any

import ujson

from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.jsonobject import LEVEL_NAMES, fields, timestamp
from vmw_cloudinit_metadata.protocol.printable import one_line

# With a space, so that a search for words of the text log finds them here too.
_SEPARATORS = (", ", ": ")
_LEVELS = {number: name.upper() for number, name in LEVEL_NAMES.items()}  # in a line of text


class Formatter(logging.Formatter, ABC):
    """Formats records of `logging`, and happenings."""

    @abstractmethod
    def format_happening(self, happening: Happening) -> str: ...


class TextFormatter(Formatter):
    """Formats `2026-03-04 10:11:12.345Z INFO [1234] message`, in UTC; with the process only if
    there are several."""

    def __init__(self, *, with_process: bool) -> None:
        super().__init__()
        self._with_process = with_process
        self._second = (0, "")

    def format(self, record: logging.LogRecord) -> str:
        line = self._line(record.created, record.levelname, record.getMessage())
        return "\n".join([line, *map(_indented, _traceback(self, record).splitlines())])

    def format_happening(self, happening: Happening) -> str:
        return self._line(happening.at_s, _LEVELS[happening.level], str(happening))

    def _line(self, at_s: float, level: str, text: str) -> str:
        second, clock = self._second  # read at once: several threads come here
        if second != int(at_s):
            second = int(at_s)
            clock = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(second))
            self._second = second, clock
        process = f"[{os.getpid()}] " if self._with_process else ""
        clock = f"{clock}.{int(at_s % 1 * 1000):03d}Z"
        return one_line(f"{clock} {level} {process}{text}")


class JsonFormatter(Formatter):
    """Formats each record as one object; `event` is the text log's line without peer and machine.

    python-json-logger is not used: most lines are happenings and not log records. With its hooks
    for time, level and escapes these 20 lines would stay as many, and need 0.7 MB more.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = _plain(record)
        if traceback := _traceback(self, record):
            line["traceback"] = traceback
        return self._dumped(line)

    def format_happening(self, happening: Happening) -> str:
        return self._dumped(fields(happening))

    def _dumped(self, line: dict[str, Any]) -> str:
        line["process"] = os.getpid()
        text = ujson.dumps(line, escape_forward_slashes=False, separators=_SEPARATORS)
        return text.replace("\x7f", "\\u007f")


def _plain(record: logging.LogRecord) -> dict[str, Any]:
    return {
        "time": timestamp(record.created),
        "level": LEVEL_NAMES.get(record.levelno, record.levelname.lower()),
        "event": one_line(record.getMessage()),
        "logger": record.name,
    }


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Return that of the exception, or what the caller has made of it."""
    if record.exc_info:
        return formatter.formatException(record.exc_info)
    return getattr(record, "traceback", "")


def _indented(line: str) -> str:
    return f"  {one_line(line)}"
