"""Whether there is room for one more connection: in number, descriptors and memory."""

from __future__ import annotations

import time
from collections.abc import Callable

from vmw_cloudinit_metadata.monitoring.counters import REFUSED
from vmw_cloudinit_metadata.monitoring.facts import PeerRejected
from vmw_cloudinit_metadata.monitoring.happenings import Peer
from vmw_cloudinit_metadata.process.budget import Budget
from vmw_cloudinit_metadata.serving.admission import (
    Refusal,
    connections_by_descriptors,
    plain_host,
)
from vmw_cloudinit_metadata.serving.services import Services

_CHECKED_TOGETHER = 64  # connections: at most 3 MiB


class Entrance:
    """Admits connections, or refuses them before anything is received."""

    def __init__(self, services: Services, budget: Budget, count: Callable[[], int]) -> None:
        self._services = services
        self._budget = budget
        self._count = count  # the connections that there are
        # With more connections there may be no descriptor for a look-up's file.
        self._room_by_descriptors = connections_by_descriptors()
        self._had_memory = True
        self._unchecked = 0  # connections that were accepted since the budget was checked

    def admits(self, host: str) -> bool:
        """Return whether there is room for one more connection, of `host`."""
        admission, host = self._services.admission, plain_host(host)
        if not admission.is_proxy(host):  # else the connection counts as its client's
            refusal = admission.hurries(host, time.monotonic())
            if refusal:
                self._refuse(host, refusal)
                return False
        count, limit = self._count() - admission.leaving, admission.max_connections
        has_room = count < min(limit, self._room_by_descriptors) or admission.make_room()
        if count >= limit and not has_room:
            reason = f"there are {limit} connections already (--max-connections)"
            self._refuse(host, Refusal("full", reason))
            return False
        if not self._has_memory() and not admission.make_room():
            reason = "the memory budget is used up (--memory-budget)"
            self._refuse(host, Refusal("full", reason))
            return False
        return True

    def frees_descriptor(self) -> bool:
        """Return whether a connection is about to end; ask one to, if none is."""
        return self._services.admission.leaving > 0 or self._services.admission.make_room()

    def refuse_without_descriptor(self, host: str) -> None:
        reason = "the system has no descriptor left for it"
        self._refuse(plain_host(host), Refusal("full", reason))

    def _has_memory(self) -> bool:
        """Return whether the budget has room for a connection; check it once for several."""
        self._unchecked += 1
        if self._unchecked >= _CHECKED_TOGETHER or not self._had_memory:
            self._unchecked = 0
            self._had_memory = self._budget.has_room()
        return self._had_memory

    def _refuse(self, host: str, refusal: Refusal) -> None:
        reason = REFUSED[refusal.kind]
        self._services.counters[reason] += 1
        unreported = self._services.throttle.passes(reason, host)
        if unreported is not None:
            text = f"connection refused: {refusal.reason}{unreported}"
            self._services.happenings.report(PeerRejected(text, reason), Peer(host, host))
