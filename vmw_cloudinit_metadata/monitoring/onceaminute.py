"""Limits reports to once a minute: the log has each problem once, not at every retry.

Only hashes are kept: names and problems may be long, as peers and files choose them.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from cachetools import LRUCache

from vmw_cloudinit_metadata.protocol.vmware import Machine

MAX_MACHINES = 20_000
MAX_KEYS = 10_000
QUIET_S = 60.0


def key_of(machine: Machine) -> str:
    """Return the identity of a machine, as far as its host has sent it; a test of a VM is another
    one than the VM."""
    key = machine.vc_uuid or machine.bios_uuid or machine.name or machine.peer_address
    return f"test {key}" if machine.is_test else key


class LastTrouble:
    """The last reported problem of each machine."""

    def __init__(self) -> None:
        self._last: LRUCache[int, int] = LRUCache(MAX_MACHINES)

    def is_new(self, machine: Machine, trouble: str) -> bool:
        """Return whether `trouble` differs from the machine's last one; "" ends a problem."""
        if not trouble:
            if self._last:
                self._last.pop(hash(key_of(machine)), None)
            return False
        key, reported = hash(key_of(machine)), hash(trouble)
        is_new: bool = self._last.get(key) != reported
        self._last[key] = reported
        return is_new


@dataclass(slots=True)
class _Passed:
    until_s: float  # it passes again from then on
    held_back: int = 0


class OnceAMinute:
    """Lets each key pass at most once a minute.

    Not a TTLCache: that takes four times as long for a key that is held back, and a boot asks once
    for each value that other files have too.
    """

    def __init__(self) -> None:
        self._passed: OrderedDict[int, _Passed] = OrderedDict()  # the last one last

    def passes(self, *about: Hashable) -> str | None:
        """Return None if the key has passed within a minute; else the text to append to its line:
        how many were held back since."""
        key, now_s = hash(about), time.monotonic()
        last = self._passed.get(key)
        if last and now_s < last.until_s:
            last.held_back += 1
            return None
        self._passed[key] = _Passed(now_s + QUIET_S)
        self._passed.move_to_end(key)
        if len(self._passed) > MAX_KEYS:
            self._passed.popitem(last=False)
        held_back = last.held_back if last else 0
        return f" ({held_back} more since the last such line)" if held_back else ""
