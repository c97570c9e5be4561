"""PreparedLookup: answers of VMs that have not asked before, from what the driver has prepared.

Runs in the hub, where nothing may block: prepared data is in memory.
"""

from __future__ import annotations

import time
from collections import Counter

from cachetools import TTLCache

from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.monitoring.counters import CACHE_PREPARED, Key
from vmw_cloudinit_metadata.process.budget import Budget
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import Answer, prepared
from vmw_cloudinit_metadata.serving.cachedanswers import KEPT_BYTES
from vmw_cloudinit_metadata.serving.driverlog import log_error
from vmw_cloudinit_metadata.serving.recheck import FRESH_S, NEVER_S

# After a look-up nothing prepared is given for a while: until its changes are counted, what the VM
# got then may be newer.
_NEWER_S = 2 * FRESH_S
_MAX_NEWER = 10_000  # more look-ups than threads can end in that time
_WEIGHED_BYTES = 1024 * 1024  # of prepared answers, before the budget is checked: it takes a while


class PreparedLookup:
    """Makes answers of prepared data, and counts them."""

    def __init__(self, driver: Driver, budget: Budget) -> None:
        self._driver = driver
        self._budget = budget
        self._newer: TTLCache[Machine, bool] = TTLCache(_MAX_NEWER, _NEWER_S)
        self._newest_s = NEVER_S  # when the last look-up ended
        self._given = self._unweighed_bytes = 0
        if driver.prepared:
            budget.add("prepared answers", driver.prepared)

    def counted(self) -> Counter[Key]:
        return Counter({CACHE_PREPARED: self._given})

    def looked_up(self, machine: Machine) -> None:
        """Note that a look-up for the machine has ended."""
        self._newer[machine] = True
        self._newest_s = time.monotonic()

    def of(self, machine: Machine) -> Answer | None:
        """Return the machine's answer if it was prepared, and nothing has changed since."""
        now_s = time.monotonic()
        if now_s - self._newest_s < _NEWER_S and machine in self._newer:
            return None
        moment_s = now_s - FRESH_S
        try:
            answer = prepared(self._driver, machine, moment_s)
        except Exception as error:  # it runs in the hub: the driver is asked instead
            log_error(self._driver, "prepared", error)
            return None
        if answer is None or answer.size > KEPT_BYTES:
            return None
        answer.seen_s = moment_s
        self._given += 1
        self._unweighed_bytes += answer.size
        return answer

    def weigh(self) -> None:
        """Check the memory budget, after answers of a certain size have been cached."""
        if self._unweighed_bytes > _WEIGHED_BYTES:
            self._unweighed_bytes = 0
            self._budget.keep()
