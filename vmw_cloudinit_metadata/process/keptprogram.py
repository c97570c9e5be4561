"""KeptProgram: keeps another process of this program running."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent

from vmw_cloudinit_metadata.process.childprogram import ChildProgram
from vmw_cloudinit_metadata.process.deadlines import RunningClock

TURN_S = 0.5
RESTART_S = 0.5  # after the end of a process; doubled each time, until one is well
MAX_RESTART_S = 60.0
# Without a sign of life, while this hub turned: then it is killed.
SILENT_S = 5.0
START_S = 30.0  # of one that has given none yet: on a busy machine, a start takes long


class KeptProgram:
    """Starts a process again when it has ended or is silent. Belongs to the hub of its owner."""

    def __init__(
        self,
        module: str,
        work: bytes,
        heard_s: Callable[[], float],
        on_end: Callable[[str], None],
        receive: Callable[[bytes], None] | None = None,
    ) -> None:
        """`work` is written to its standard input; `heard_s` returns the time of its last sign of
        life, by time.monotonic(); `on_end` is called with why one has ended, and what follows;
        `receive` with each piece of its standard output."""
        self._module = module
        self._work = work
        self._heard_s = heard_s
        self._on_end = on_end
        self._receive = receive
        self._child: ChildProgram | None = None
        self._reason = ""  # why the present one was killed
        self._silent_s = 0.0  # while the hub turned
        self._patience_s = START_S
        self._last_heard_s = 0.0
        self._clock = RunningClock(TURN_S)
        self._due_s = 0.0
        self._restart_s = RESTART_S
        self.restarts = 0
        self._timer = gevent.get_hub().loop.timer(TURN_S, repeat=TURN_S)

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    def start(self) -> None:
        self._timer.start(self._turn)
        if self._child is None:  # it runs after an upgrade that has failed before `pause`
            self._begin()

    def is_well(self) -> None:
        """Note that the present process works: the next one is started soon after its end."""
        self._restart_s = RESTART_S

    def write(self, text: bytes) -> None:
        """Write a line to its standard input, as far as there is room."""
        if self._child:
            self._child.write(text)

    def pause(self, farewell: bytes = b"", within_s: float = 0.0) -> None:
        """End the process; `start` starts another one. With a last line, it has so much time to
        end by itself."""
        self._timer.stop()
        child, self._child = self._child, None
        if not child:
            return
        end_s = time.monotonic() + within_s
        if farewell:
            child.write(farewell)
            while child.poll() is None and time.monotonic() < end_s:
                gevent.sleep(0.01)
        child.kill()
        while child.poll() is None and time.monotonic() < end_s + 1.0:
            gevent.sleep(0.01)

    def stop(self, farewell: bytes = b"", within_s: float = 0.0) -> None:
        """End the process, for good."""
        self.pause(farewell, within_s)
        self._timer.close()

    def let_go(self) -> None:
        """Close what is the parent's, in a forked child."""
        self._close_timer()
        if self._child:
            self._child.close()

    def _close_timer(self) -> None:
        self._timer.stop()
        self._timer.close()

    def _begin(self) -> None:
        try:
            self._child = ChildProgram(self._module, self._receive)
        except OSError as error:
            self._has_ended(f"it cannot start: {error.strerror}")
            return
        self._reason, self._silent_s, self._patience_s = "", 0.0, START_S
        self._last_heard_s = self._heard_s()
        if not self._child.write(self._work):
            self._give_up("its settings are too long for a pipe")

    def _turn(self) -> None:
        self._silent_s += self._clock.passed_s()
        if (heard_s := self._heard_s()) > self._last_heard_s:
            self._last_heard_s, self._silent_s, self._patience_s = heard_s, 0.0, SILENT_S
        if self._child is None:
            if time.monotonic() >= self._due_s:
                self._begin()
        elif (code := self._child.poll()) is not None:
            reason = self._reason or f"it has ended with {code}{self._child.last_line}"
            self._child.close()
            self._child = None
            self._has_ended(reason)
        elif self._silent_s > self._patience_s and not self._reason:
            self._give_up(f"it has been silent for {self._silent_s:.0f} s")

    def _give_up(self, reason: str) -> None:
        """Kill it; it counts as ended when it is gone."""
        assert self._child
        self._reason = reason
        self._child.kill()

    def _has_ended(self, reason: str) -> None:
        self.restarts += 1
        self._due_s = time.monotonic() + self._restart_s
        text = f"{reason}; starting another one in {self._restart_s:g} s"
        self._restart_s = min(2 * self._restart_s, MAX_RESTART_S)
        self._on_end(text)
