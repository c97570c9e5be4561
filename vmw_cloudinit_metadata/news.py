"""What was last told of a machine, so that a log has each trouble once and not at every retry."""

from __future__ import annotations

from cachetools import LRUCache

from vmw_cloudinit_metadata.protocol.vmware import Machine

MAX_MACHINES = 20_000


class News:
    def __init__(self) -> None:
        self._last: LRUCache[str, str] = LRUCache(MAX_MACHINES)

    def is_new(self, machine: Machine, trouble: str) -> bool:
        """Whether `trouble` is not what was told of the machine last; "" ends a trouble."""
        key = machine.vc_uuid or machine.bios_uuid or machine.name or machine.peer_address
        last: str = self._last.get(key, "")
        if trouble == last:
            return False
        self._last[key] = trouble
        return bool(trouble)
