"""SurveyProcess: keeps the process of the catalogue running, and receives its records.

It never blocks the hub: the pipes are not waited for, and a process that cannot be ended yet, since
its file system hangs, is left alone until it ends; only then another one is started.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import gevent
import ujson

from vmw_cloudinit_metadata.drivers.catalogue import records
from vmw_cloudinit_metadata.drivers.preparedanswers import PreparedKeeper
from vmw_cloudinit_metadata.drivers.preparedrecords import (
    LEAST_S,
    MAX_LINE_BYTES,
    InvalidRecord,
    Lasting,
    PreparedRecord,
)
from vmw_cloudinit_metadata.instance.counts import counted
from vmw_cloudinit_metadata.monitoring.counters import CATALOGUE_RESTARTS, Key
from vmw_cloudinit_metadata.monitoring.onceaminute import OnceAMinute
from vmw_cloudinit_metadata.process.childprogram import ChildProgram
from vmw_cloudinit_metadata.process.deadlines import RunningClock
from vmw_cloudinit_metadata.protocol.printable import one_line

log = logging.getLogger(__name__)

PROGRAM = "vmw_cloudinit_metadata.drivers.catalogue.child"
AGAIN = b"again\n"
BEGIN = b"begin\n"

# Without a record and nearly without CPU: then the process hangs, and is killed. Where cores are
# busy, it may be silent for longer, since it has the lowest priority.
SILENT_S = 60.0
LEAST_CPU_S = 0.01
LONGEST_SILENT_S = 900.0  # without a record
TURN_S = 1.0
RESTART_S = 1.0  # after the end of a process; doubled each time, until a survey ends
MAX_RESTART_S = 300.0

# Memory of the process: as much as a serving process may have, within these bounds. 50,000 files
# take 240 MB.
MIN_MEMORY_BYTES = 512 * 1024**2
MAX_MEMORY_BYTES = 1024**3

# Before a survey that prepares answers, until the changes that were its reason are counted here.
COUNTED_S = 0.2

MAX_RECORDS = 10_000  # in a second or so: a survey has 2,000
_STOP_S = 1.0


class SurveyProcess:
    """Hands each record to `take`, and the reason to `fail` if the process cannot be used."""

    def __init__(
        self,
        driver: str,
        options: Mapping[str, Any],
        memory_bytes: int,
        take: Callable[[records.Record], None],
        fail: Callable[[str], None],
        prepared: PreparedKeeper | None = None,
        *,
        records_uses: bool = True,
    ) -> None:
        """`prepared` takes the answers that surveys prepare, as many as it has a limit for.

        Unless the server `records_uses`, documents that are served once are warned of.
        """
        memory_bytes = min(max(memory_bytes, MIN_MEMORY_BYTES), MAX_MEMORY_BYTES)
        work = {
            "driver": driver,
            "options": options,
            "memory_bytes": memory_bytes,
            "prepared_bytes": prepared.line_bytes if prepared else 0,
            "records_uses": records_uses,
        }
        self._work = ujson.dumps(work, escape_forward_slashes=False).encode() + b"\n"
        self._take = take
        self._fail = fail
        self._prepared = prepared if prepared and prepared.limit_bytes else None
        self._child: ChildProgram | None = None
        self._rest = b""
        self._reason = ""  # why the present process is no longer heard
        self._failure = ""  # what it has said itself
        self._is_over = False  # there is nothing to survey
        self._heard = 0  # records since the last turn
        self._silent_s = 0.0  # without a record, while the hub turned
        self._still_s = 0.0  # likewise, and without CPU
        self._cpu_s = 0.0  # what the process had used then
        self._clock = RunningClock(TURN_S)
        self._due_s = 0.0
        self._restart_s = RESTART_S
        self._restarts = 0
        self._is_too_short = False  # prepared answers would not hold, as the log says
        self._once = OnceAMinute()
        self._timer = gevent.get_hub().loop.timer(TURN_S, repeat=TURN_S)
        self._beginner = gevent.get_hub().loop.timer(COUNTED_S)
        self._noted = gevent.get_hub().loop.timer(prepared.begins_after_s if prepared else 0.0)

    def start(self) -> None:
        self._timer.start(self._turn)
        if self._child is None:
            self._begin()

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    def counted(self) -> Counter[Key]:
        return Counter({CATALOGUE_RESTARTS: self._restarts})

    def ask(self) -> None:
        """Have everything read again, now."""
        if self._child:
            self._child.write(AGAIN)  # if it is full, it has been asked, and does not listen

    def stop(self) -> None:
        """End the process, which has nothing to finish."""
        self.pause()
        self._close_timers()

    def pause(self) -> None:
        """End the process; `start` starts another one."""
        for timer in (self._timer, self._beginner, self._noted):
            timer.stop()
        if self._child:
            self._silence()
            end_s = time.monotonic() + _STOP_S
            while self._child.poll() is None and time.monotonic() < end_s:
                gevent.sleep(0.01)
            if self._child.poll() is not None:
                self._child = None

    def let_go(self) -> None:
        """Close what is the parent's, in a forked child."""
        self._close_timers()
        self._close()
        self._child = None

    def _close_timers(self) -> None:
        for timer in (self._timer, self._beginner, self._noted):
            timer.stop()
            timer.close()

    def _begin(self) -> None:
        try:
            self._child = ChildProgram(PROGRAM, self._receive)
        except OSError as error:
            self._ended(f"cannot start: {error.strerror}")
            return
        if self._prepared:
            self._prepared.forget()
        self._rest, self._reason, self._failure = b"", "", ""
        self._silent_s = self._still_s = self._cpu_s = 0.0
        if not self._child.write(self._work):
            self._give_up("its options are too long for a pipe")

    def _turn(self) -> None:
        now_s = time.monotonic()
        listened_s = self._clock.passed_s()
        self._silent_s += listened_s
        self._still_s += listened_s
        self._heard = 0
        if self._child is None:
            if now_s >= self._due_s and not self._is_over:
                self._begin()
        elif (code := self._child.poll()) is not None:
            self._child.receive()
            # No secret is in what it writes while it imports its program, since it reads the
            # options only afterwards (child.py).
            reason = self._reason or f"it has ended with {code}{self._child.last_line}"
            self._close()
            self._child = None
            if not self._is_over:
                self._ended(reason, self._failure)
        elif self._hangs() and not self._reason:
            self._give_up(f"it has been silent for {self._silent_s:.0f} s: a file system may hang")

    def _hangs(self) -> bool:
        assert self._child
        try:
            cpu_s = time.clock_gettime((~self._child.pid << 3) | 2)  # see clock_getcpuclockid(3)
        except OSError:
            return False  # it has just ended
        if cpu_s - self._cpu_s > LEAST_CPU_S:
            self._cpu_s, self._still_s = cpu_s, 0.0
        return self._still_s > SILENT_S or self._silent_s > LONGEST_SILENT_S

    def _ended(self, reason: str, logged: str = "") -> None:
        """`logged` is what the process has said itself, which stands in the log already."""
        self._restarts += 1
        self._due_s = time.monotonic() + self._restart_s
        again = f"; starting another one in {self._restart_s:g} s"
        self._fail(f"{reason}{logged}{again}")
        self._log(f"{reason}{again}")
        self._restart_s = min(2 * self._restart_s, MAX_RESTART_S)

    def _log(self, reason: str) -> None:
        more = self._once.passes(reason.partition(";")[0])
        if more is not None:
            log.error("the catalogue's process: %s%s", one_line(reason), more)

    def _give_up(self, reason: str) -> None:
        """Kill the process; it counts as ended when it is gone."""
        self._reason = reason
        self._silence()

    def _silence(self) -> None:
        assert self._child
        self._close()
        self._child.kill()

    def _close(self) -> None:
        self._beginner.stop()
        self._noted.stop()
        if self._child:
            self._child.close()

    def _receive(self, piece: bytes) -> None:
        """Take a piece of its output. Never raises: gevent would stop to watch the pipe."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        try:
            for line in lines:
                self._hear(records.decode(line))
            if self._heard > MAX_RECORDS:
                raise InvalidRecord("too many records")
            if len(self._rest) > MAX_LINE_BYTES:
                raise InvalidRecord("a line that is too long")
        except InvalidRecord as error:
            self._give_up(f"it sent {error}")
        except Exception:  # a watcher's callback: nothing would catch it
            log.exception("the catalogue cannot take a record")
            self._give_up("its record could not be taken")

    def _hear(self, record: records.Record) -> None:
        self._silent_s = self._still_s = 0.0
        if isinstance(record, records.Surveyed):
            self._restart_s, self._failure = RESTART_S, ""
        if isinstance(record, records.Failed):
            self._failure = f": {record.reason}"  # until a survey has a result
            self._fail(f"it cannot read the data: {record.reason}")
            self._log(f"it cannot read the data: {record.reason}")
        if isinstance(record, PreparedRecord):
            self._hear_prepared(record)
            return
        self._heard += 1
        self._is_over = isinstance(record, records.Unable)
        self._take(record)
        if self._prepared and isinstance(record, records.Began):
            self._prepared.wake()
            self._beginner.stop()
            self._beginner.start(self._note)
        is_over = isinstance(record, records.Surveyed)
        if is_over and self._prepared and self._prepared.wants_everything():
            self.ask()

    def _hear_prepared(self, record: PreparedRecord) -> None:
        if self._prepared is None:
            raise InvalidRecord("what nobody asked for")
        self._prepared.take(record)
        if isinstance(record, Lasting) and bool(record.too_short) is not self._is_too_short:
            self._is_too_short = bool(record.too_short)
            if self._is_too_short:
                text = "catalogue: %s not prepared: their source lets them be kept for under %d s"
                log.info(text, counted(record.too_short, "answer"), LEAST_S)

    def _note(self) -> None:
        """What changes from now on is counted as a change of what the next survey reads."""
        assert self._prepared
        self._prepared.begin()
        if self._prepared.begins_after_s:
            self._noted.start(self._let_begin, update=True)
        else:
            self._let_begin()

    def _let_begin(self) -> None:
        if self._child and not self._child.write(BEGIN):
            self._give_up("it does not listen")
