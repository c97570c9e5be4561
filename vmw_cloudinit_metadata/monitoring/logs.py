"""The log on standard error: lines for people, or one JSON object a line.

Nothing that a peer, a file or a library says begins another line. Who reads the log slowly, or not
at all, holds up nobody: the thread of a Writer writes it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from contextlib import nullcontext
from io import TextIOBase
from types import TracebackType
from typing import Any

import gevent
import ujson

from vmw_cloudinit_metadata.monitoring.counters import DROPPED, Key
from vmw_cloudinit_metadata.monitoring.happenings import Happening, Happenings
from vmw_cloudinit_metadata.monitoring.jsonobject import LEVEL_NAMES, fields, timestamp
from vmw_cloudinit_metadata.monitoring.quota import Quota
from vmw_cloudinit_metadata.monitoring.writer import Writer
from vmw_cloudinit_metadata.protocol.printable import one_line

log = logging.getLogger(__name__)

FORMATS = ("text", "json")

_CLOSED = -1  # whose standard error is closed has no log; the next file that is opened is number 2

LEFT_OUT_S = 60.0  # so often the log says how many lines of a host were left out
_MAX_PRINTED = 64 * 1024  # of a line that was begun

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
        second, clock = self._second  # at once: several threads come here
        if second != int(at_s):
            second = int(at_s)
            clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
            self._second = second, clock
        process = f"[{os.getpid()}] " if self._with_process else ""
        clock = f"{clock},{int(at_s % 1 * 1000):03d}"
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


class LineHandler(logging.Handler):
    """Hands each line to a Writer at once; or, where a hub runs, those of one of its turns
    together: to hand over each of two lines costs more than to make them."""

    def __init__(self, descriptor: int, formatter: Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.writer = Writer(descriptor, self._dropped)
        self._tell = formatter.tell
        self._lines: deque[str | Happening] = deque()
        self._is_due = False  # in the hub
        self._begin_quota()
        self._loop: Any = None
        self._thread = 0  # of the hub
        self._timer: Any = None

    def _begin_quota(self) -> None:
        self._quota = Quota()
        self._debug_quota = Quota()  # who looks closely at a VM is not to lose what is said without

    @property
    def left_out(self) -> int:
        """Lines of those who had used up their quota."""
        return self._quota.left_out + self._debug_quota.left_out

    def gather(self) -> None:
        """From now on this thread's hub runs, and is to hand over."""
        self._loop = gevent.get_hub().loop
        self._thread = threading.get_ident()
        self._begin_quota()  # a worker's is not its parent's
        self._timer = self._loop.timer(LEFT_OUT_S, repeat=LEFT_OUT_S, ref=False)
        self._timer.start(self._tell_left_out)

    def hear(self, happening: Happening) -> None:
        """A listener, in the hub's thread: the way through logging costs more than the line."""
        if logging.root.isEnabledFor(happening.level):
            self._lines.append(happening)
            self._hand_over_soon()

    def put(self, line: str) -> None:
        """Writes a line as it is."""
        self._lines.append(line)
        self._hand_over()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._within_quota(record)
        except Exception:
            self.handleError(record)
            return
        if line is not None:
            self._lines.append(line)
        if self._loop is None or threading.get_ident() != self._thread:
            self._hand_over()
        else:
            self._hand_over_soon()

    def _within_quota(self, record: logging.LogRecord) -> str | None:
        quota = self._quota if record.levelno > logging.DEBUG else self._debug_quota
        allowances = quota.allowances(_source_of(record), "", record.created)
        if allowances is None:
            return None
        line = self.format(record)
        allowances[0].left -= len(line)
        return line

    def _hand_over_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.run_callback(self._hand_over)

    def _hand_over(self) -> None:
        with self.lock or nullcontext():
            self._is_due = False
            texts = []
            while self._lines:
                text = self._text_of(self._lines.popleft())
                if text is not None:
                    texts.append(text)
            if texts:
                lines = "\n".join([*texts, ""])
                self.writer.put(lines.encode("utf-8", "backslashreplace"))

    def _text_of(self, line: str | Happening) -> str | None:
        """None if the host or the connection of a happening has used up its quota."""
        if isinstance(line, str):
            return line
        is_debug = line.level <= logging.DEBUG
        quota = self._debug_quota if is_debug else self._quota
        allowances = quota.allowances(line.host, "" if is_debug else line.connection, line.at_s)
        if allowances is None:
            return None
        try:
            text = self._tell(line)
        except Exception as error:  # what a driver has put into it, JSON may have no form for
            text = f"{line.text} (its details cannot be written: {error!r})"
            nothing: dict[str, Any] = dict.fromkeys(line.fact._fields) | {"text": text}
            text = self._tell(line._replace(fact=line.fact._replace(**nothing)))
        for allowance in allowances:
            allowance.left -= len(text)
        return text

    def _tell_left_out(self) -> None:
        with self.lock or nullcontext():
            untold: Counter[str] = self._quota.take_left_out() + self._debug_quota.take_left_out()
        for host, count in untold.items():
            log.warning("%d more lines of %s were left out", count, host)

    def _dropped(self, count: int) -> bytes:
        text = "%d lines of the log were dropped here: they could not be written in time"
        told = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
        record = logging.makeLogRecord({**told, "msg": text, "args": (count,)})
        return f"{self.format(record)}\n".encode()

    def flush(self) -> None:
        """At the end: blocks, but not for long."""
        self._tell_left_out()
        self._hand_over()
        self.writer.flush()


def _source_of(record: logging.LogRecord) -> str:
    """Whose quota a line is taken from: the ESXi host of the connection or machine that it is
    about, or its logger."""
    for told in record.args if isinstance(record.args, tuple) else ():
        host = getattr(told, "host", None) or getattr(told, "peer_address", None)
        if host:
            return str(host)
    return record.name


def _handler() -> LineHandler | None:
    handlers = (each for each in logging.root.handlers if isinstance(each, LineHandler))
    return next(handlers, None)


def gather(happenings: Happenings) -> None:
    """The hub runs from now on: lines, and those of `happenings`, are handed over once a turn."""
    if handler := _handler():
        handler.gather()
        happenings.listeners[0] = handler.hear


def put(line: str) -> bool:
    """Writes a line as it is, behind all that was logged; False if there is no log yet."""
    handler = _handler()
    if handler:
        handler.put(line)
    return handler is not None


def shed() -> dict[Key, int]:
    """What this process has left out of the log so far, by counter."""
    handler = _handler()
    if handler is None:
        return {}
    counts = {
        DROPPED["log lines"]: handler.writer.dropped,
        DROPPED["lines of busy hosts"]: handler.left_out,
    }
    return {key: count for key, count in counts.items() if count}


class Printed(TextIOBase):
    """What anybody prints on standard error becomes lines of the log: it does not block, and is as
    JSON where the log is."""

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
    """Has errors that nobody catches in the log too; to be called where a hub begins."""
    sys.excepthook = _uncaught
    threading.excepthook = lambda error: log.critical(
        "an error that nobody catches, in a thread", exc_info=error.exc_value
    )
    sys.unraisablehook = _unraisable
    hub = gevent.get_hub()
    hub.print_exception = _uncaught_in_greenlet  # type: ignore[method-assign,assignment]


def _uncaught(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    told = kind, error or kind(), trace
    log.critical("an error that nobody catches", exc_info=told)


def _unraisable(error: Any) -> None:
    text = error.err_msg or "an error that nobody can catch"
    log.error("%s: %r", text, error.object, exc_info=error.exc_value)


def _uncaught_in_greenlet(
    _context: object,
    kind: type[BaseException] | None,
    error: BaseException | str | None,
    trace: TracebackType | None,
) -> None:
    _uncaught(kind or Exception, error if isinstance(error, BaseException) else None, trace)


def is_for_machines() -> bool:
    """Whether all that is said on standard error has to be an object."""
    handler = _handler()
    return handler is not None and isinstance(handler.formatter, JsonFormatter)


def set_up(level: str, form: str, *, with_process: bool) -> None:
    """Logs from here on to standard error, and so does whoever prints there; `form` is one of
    FORMATS."""
    # Nothing of this is in a line; each costs something at every one.
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    logging.logAsyncioTasks = False  # type: ignore[attr-defined,unused-ignore]  # 3.12
    logging._srcfile = None
    formatter = JsonFormatter() if form == "json" else TextFormatter(with_process=with_process)
    descriptor = sys.stderr.fileno() if sys.stderr else _CLOSED
    logging.basicConfig(level=level.upper(), handlers=[LineHandler(descriptor, formatter)])
    logging.captureWarnings(True)
    sys.stderr = Printed()
