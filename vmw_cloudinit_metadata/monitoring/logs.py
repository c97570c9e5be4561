"""The log on standard error, as text or as one JSON object per line.

No text of a peer, a file or a library can begin a new line. A slow reader, or none, does not block
the server: the thread of a Writer writes the log.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter, deque
from contextlib import nullcontext
from typing import Any

import gevent

from vmw_cloudinit_metadata.monitoring.counters import DROPPED, Key
from vmw_cloudinit_metadata.monitoring.formatters import Formatter, JsonFormatter, TextFormatter
from vmw_cloudinit_metadata.monitoring.happenings import Happening, Happenings
from vmw_cloudinit_metadata.monitoring.quota import Quota
from vmw_cloudinit_metadata.monitoring.uncaught import Printed
from vmw_cloudinit_metadata.monitoring.writer import Writer

log = logging.getLogger(__name__)

LEFT_OUT_S = 60.0  # interval of the lines that count what was left out


class LineHandler(logging.Handler):
    """Gives lines to a Writer: each at once, or, in a hub, those of one turn together. Two single
    lines cost more to hand over than to format."""

    def __init__(self, descriptor: int, formatter: Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.writer = Writer(descriptor, self._dropped)
        self._written = formatter.format_happening
        self._lines: deque[str | Happening] = deque()
        self._is_due = False  # in the hub
        self._begin_quota()
        self._loop: Any = None
        self._thread = 0  # of the hub
        self._timer: Any = None

    def _begin_quota(self) -> None:
        self._quota = Quota()
        self._debug_quota = Quota()  # level debug does not use up the quota of the others

    @property
    def left_out(self) -> int:
        """The number of lines left out, of hosts and connections without quota."""
        return self._quota.left_out + self._debug_quota.left_out

    def gather(self) -> None:
        """Give lines to the Writer once in a turn of this thread's hub from now on."""
        self._loop = gevent.get_hub().loop
        self._thread = threading.get_ident()
        self._begin_quota()  # a worker's is not its parent's
        self._timer = self._loop.timer(LEFT_OUT_S, repeat=LEFT_OUT_S, ref=False)
        self._timer.start(self._report_left_out)

    def hear(self, happening: Happening) -> None:
        """Log a happening, in the hub's thread: `logging` would cost more than the line itself."""
        if happening.level >= logging.root.level:
            self._lines.append(happening)
            if not self._is_due:
                self._hand_over_soon()

    def put(self, line: str) -> None:
        """Write a line unchanged."""
        self._lines.append(line)
        self._hand_over()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._within_quota(record)
        except Exception:  # foreign code: the arguments' __str__; as every logging.Handler
            self.handleError(record)
            return
        if line is not None:
            self._lines.append(line)
        if self._loop is None or threading.get_ident() != self._thread:
            self._hand_over()
        elif not self._is_due:
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
        """Return the line of a happening; None if its host or connection has used up its quota."""
        if isinstance(line, str):
            return line
        is_debug = line.level <= logging.DEBUG
        quota = self._debug_quota if is_debug else self._quota
        allowances = quota.allowances(line.host, "" if is_debug else line.connection, line.at_s)
        if allowances is None:
            return None
        try:
            text = self._written(line)
        except Exception as error:  # foreign values: a driver's may have no JSON form
            text = f"{line.text} (its details cannot be written: {error!r})"
            nothing: dict[str, Any] = dict.fromkeys(line.fact._fields) | {"text": text}
            text = self._written(line._replace(fact=line.fact._replace(**nothing)))
        size = len(text)
        for allowance in allowances:
            allowance.left -= size
        return text

    def _report_left_out(self) -> None:
        with self.lock or nullcontext():
            left_out: Counter[str] = self._quota.take_left_out() + self._debug_quota.take_left_out()
        for host, count in left_out.items():
            log.warning("%d more lines of %s were left out", count, host)

    def _dropped(self, count: int) -> bytes:
        text = "%d lines of the log were dropped here: they could not be written in time"
        about = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
        record = logging.makeLogRecord({**about, "msg": text, "args": (count,)})
        return f"{self.format(record)}\n".encode()

    def flush(self) -> None:
        """Write the waiting lines; block for a short time. Called at the end."""
        self._report_left_out()
        self._hand_over()
        self.writer.flush()


def _source_of(record: logging.LogRecord) -> str:
    """Return whose quota a line uses: the ESXi host of its connection or machine, else its
    logger."""
    for argument in record.args if isinstance(record.args, tuple) else ():
        host = getattr(argument, "host", None) or getattr(argument, "peer_address", None)
        if host:
            return str(host)
    return record.name


def _handler() -> LineHandler | None:
    handlers = (each for each in logging.root.handlers if isinstance(each, LineHandler))
    return next(handlers, None)


def gather(happenings: Happenings) -> None:
    """Write lines, and those of `happenings`, once in a turn of the hub from now on."""
    if handler := _handler():
        handler.gather()
        happenings.listeners[0] = handler.hear


def flush() -> None:
    """Write the waiting lines; block for a short time."""
    if handler := _handler():
        handler.flush()


def put(line: str) -> bool:
    """Write a line unchanged, after everything logged before; return False if there is no log."""
    handler = _handler()
    if handler:
        handler.put(line)
    return handler is not None


def shed() -> dict[Key, int]:
    """Return what this process has left out of the log so far, by counter."""
    handler = _handler()
    if handler is None:
        return {}
    counts = {
        DROPPED["log lines"]: handler.writer.dropped,
        DROPPED["lines of busy hosts"]: handler.left_out,
    }
    return {key: count for key, count in counts.items() if count}


def is_for_machines() -> bool:
    """Return whether every line on standard error has to be a JSON object."""
    handler = _handler()
    return handler is not None and isinstance(handler.formatter, JsonFormatter)


def set_up(level: str, form: str, *, with_process: bool) -> None:
    """Log to standard error from now on, including text printed there. `form` is text or json."""
    # No line has these, and each costs time in every record.
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    logging.logAsyncioTasks = False  # type: ignore[attr-defined,unused-ignore]  # 3.12
    logging._srcfile = None
    formatter = JsonFormatter() if form == "json" else TextFormatter(with_process=with_process)
    handler = LineHandler(sys.stderr.fileno(), formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)
    sys.stderr = Printed()
