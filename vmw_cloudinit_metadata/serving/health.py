"""Health: whether the driver works, checked every second in a thread, since it may hang."""

from __future__ import annotations

import time
from functools import partial

import gevent

from vmw_cloudinit_metadata.drivers import contract
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.foreignerrors import hidden, reason_of
from vmw_cloudinit_metadata.monitoring.sourcestate import MAX_NAME, UNCHECKED, SourceState
from vmw_cloudinit_metadata.process.deadlines import RunningClock
from vmw_cloudinit_metadata.process.threads import Threads
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened

INTERVAL_S = 1.0
HANGS_S = 3.0


class Health:
    """Calls `driver.check` once started; `problem` is the error, or ""; UNCHECKED at first."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._threads = Threads()
        self._timer = gevent.get_hub().loop.timer(INTERVAL_S, repeat=INTERVAL_S)
        self._clock = RunningClock(INTERVAL_S)
        self._asked_s: float | None = None
        self.source = SourceState(_name_of(driver))
        self.problem = ""

    def start(self) -> None:
        self.problem = UNCHECKED
        self._timer.start(self._turn)
        self._turn()

    def stop(self) -> None:
        self._timer.stop()
        self._timer.close()
        self._threads.close()

    def _turn(self) -> None:
        now_s = self._clock.now_s()
        if self._asked_s is None:
            self._asked_s = now_s
            self._threads.run(partial(problem_of, self._driver), self._checked)
        elif now_s - self._asked_s > HANGS_S:
            self._is_now(f"the driver has not answered for {HANGS_S:g} s")

    def _checked(self, problem: str, error: BaseException | None) -> None:
        self._asked_s = None
        self._is_now(problem if error is None else str(error))

    def _is_now(self, problem: str) -> None:
        if bool(problem) != self.source.is_failing:
            self.source = SourceState(self.source.name, time.time() if problem else 0.0)
        self.problem = problem


def _name_of(driver: Driver) -> str:
    try:
        name = hidden(driver, str(driver.source_name()))
    except Exception:  # a driver is foreign code, and may compute its name
        name = type(driver).__name__
    return shortened(one_line(name), MAX_NAME)


def problem_of(driver: Driver) -> str:
    """Return why no VM can be served now, or "": call the driver's `check`, in this thread."""
    try:
        contract.run(driver, "check")
    except BaseException as error:  # a driver is foreign code, and asyncio's are no Exception
        return shortened(one_line(reason_of(driver, error)))
    return ""
