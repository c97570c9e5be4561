"""Limits reports to once a minute: the log has each problem once, not at every retry.

Only hashes are kept: names and problems may be long, as peers and files choose them.
"""

from __future__ import annotations

from collections.abc import Hashable

from cachetools import LRUCache, TTLCache

from vmw_cloudinit_metadata.protocol.vmware import Machine

MAX_MACHINES = 20_000
MAX_KEYS = 10_000
QUIET_S = 60.0


def key_of(machine: Machine) -> str:
    """Return the identity of a machine, as far as its host has sent it."""
    return machine.vc_uuid or machine.bios_uuid or machine.name or machine.peer_address


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


class OnceAMinute:
    """Lets each key pass at most once a minute."""

    def __init__(self) -> None:
        self._passed: TTLCache[int, None] = TTLCache(MAX_KEYS, QUIET_S)
        self._held_back: LRUCache[int, int] = LRUCache(MAX_KEYS)

    def passes(self, *about: Hashable) -> str | None:
        """Return None if the key has passed within a minute; else the text to append to its line:
        how many were held back since."""
        key = hash(about)
        if key in self._passed:
            self._held_back[key] = self._held_back.get(key, 0) + 1
            return None
        self._passed[key] = None
        held_back = self._held_back.pop(key, 0)
        return f" ({held_back} more since the last such line)" if held_back else ""
