"""What an operator sees of the end of a boot: the console, and what the server shows of the VM."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LAST_WORDS = re.compile(r"Cloud-init v\. \S+ finished at")  # of cloud-final, just before its end
PAUSE_S = 0.05
LIMIT_S = 30.0


@dataclass(frozen=True)
class Look:
    """One answer of the API."""

    state: str
    is_connected: bool
    outcome: Any  # how the boot has ended, None if the guest has not said so
    late_count: int  # machines whose outcome the alert misses


class Onlooker:
    """Looks from the last words of cloud-init until the machine is off.

    `told_s` is how many seconds later the server showed the outcome: both are seen by this process,
    on its clock.
    """

    def __init__(self, console: Callable[[], str], look: Callable[[], Look]) -> None:
        self.looks: list[Look] = []  # each one that differs from all before
        self.told_s = float("inf")
        self.load = 0.0  # of the host, at cloud-init's last words
        self._console = console
        self._look = look
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not LAST_WORDS.search(self._console()):
            if self._is_over.wait(PAUSE_S):
                return
        ended_s = time.monotonic()
        self.load = os.getloadavg()[0]
        while not self._is_over.wait(PAUSE_S):
            look = self._look()
            if look.outcome:
                self.told_s = min(self.told_s, time.monotonic() - ended_s)
            if look not in self.looks:
                self.looks.append(look)

    @property
    def told(self) -> Look:
        """What the server showed together with the outcome."""
        return next(look for look in self.looks if look.outcome)

    def end(self) -> None:
        self._is_over.set()
        self._thread.join(LIMIT_S)
