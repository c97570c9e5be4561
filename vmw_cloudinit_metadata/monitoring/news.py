"""What was told already, so that a log has each trouble once and not at every retry.

Kept are hashes alone: names and troubles are as long as peers and files make them.
"""

from __future__ import annotations

from collections.abc import Hashable

from cachetools import LRUCache, TTLCache

from vmw_cloudinit_metadata.protocol.vmware import Machine

MAX_MACHINES = 20_000
MAX_KEYS = 10_000
QUIET_S = 60.0


def key_of(machine: Machine) -> str:
    """What tells a machine from others, as far as it has told."""
    return machine.vc_uuid or machine.bios_uuid or machine.name or machine.peer_address


class News:
    """The trouble that was told of each machine last."""

    def __init__(self) -> None:
        self._last: LRUCache[int, int] = LRUCache(MAX_MACHINES)

    def is_new(self, machine: Machine, trouble: str) -> bool:
        """Whether `trouble` is not what was told of the machine last; "" ends a trouble."""
        if not trouble:
            if self._last:
                self._last.pop(hash(key_of(machine)), None)
            return False
        key = hash(key_of(machine))
        told = hash(trouble)
        is_new: bool = self._last.get(key) != told
        self._last[key] = told
        return is_new


class Throttle:
    """Lets each key pass at most once a minute."""

    def __init__(self) -> None:
        self._told: TTLCache[int, None] = TTLCache(MAX_KEYS, QUIET_S)
        self._untold: LRUCache[int, int] = LRUCache(MAX_KEYS)

    def passes(self, *about: Hashable) -> str | None:
        """None while this is to be quiet; else what to add to its line, of those untold before."""
        key = hash(about)
        if key in self._told:
            self._untold[key] = self._untold.get(key, 0) + 1
            return None
        self._told[key] = None
        untold = self._untold.pop(key, 0)
        return f" ({untold} more since the last such line)" if untold else ""
