"""Waits for a serial port that appears after the agent has started."""

import time
from typing import Callable, Optional

from vmw_cloudinit_metadata.guest.agent.failures import NoPort, PortMissing
from vmw_cloudinit_metadata.guest.agent.system import System

LOOK_S = 0.1  # between two looks


class LatePort:
    """Decides whether to look for the port once more.

    udev loads the drivers of the ports and names their devices: once it has settled, a port that
    has no UART gets none. A device that does not exist may still come: a module that is loaded by
    something else, a USB adapter, a link that a unit makes.
    """

    def __init__(self, system: System, limit_s: float, announce: Callable[[str], None]) -> None:
        """`announce` is called with a line for people before a wait."""
        self._system = system
        self._limit_s = limit_s
        self._announce = announce
        self._end_s: Optional[float] = None
        self._announced = False

    def wait(self, failure: NoPort) -> None:
        """Return when it is time to look again; raise the failure if that is of no use."""
        if self._end_s is None:
            self._end_s = time.monotonic() + self._limit_s
            self._system.settle(self._limit_s)
            return
        left_s = self._end_s - time.monotonic()
        if left_s <= 0 or not isinstance(failure, PortMissing):
            raise failure
        if not self._announced:
            self._announced = True
            self._announce(f"{failure}: waiting for it, {self._limit_s:g} s at most")
        time.sleep(min(LOOK_S, left_s))
