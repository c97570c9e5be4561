"""Inbox: what webhooks have named and was not read yet. Bounded; any thread puts and takes."""

from __future__ import annotations

import threading

from vmw_cloudinit_metadata.drivers.stores.netbox.hookevent import Touched

MAX_IDS = 10_000  # beyond, everything counts as touched

_NOTHING = Touched()


class Inbox:
    def __init__(self) -> None:
        self._touched = _NOTHING
        self._is_closed = False
        self._condition = threading.Condition()

    def put(self, touched: Touched) -> None:
        with self._condition:
            self._touched = self._touched.joined(touched, MAX_IDS)
            self._condition.notify()

    def offer(self, vms: frozenset[int], most: int) -> None:
        """Put these too, unless there would be more than so many."""
        with self._condition:
            if len(self._touched.vms | vms) <= most:
                self._touched = self._touched.joined(Touched(vms), MAX_IDS)
                self._condition.notify()

    def take(self, within_s: float) -> Touched:
        """Return all that was put, after at most so long; nothing at the end."""
        with self._condition:
            self._condition.wait_for(lambda: self._is_closed or self._touched, within_s)
            taken, self._touched = self._touched, _NOTHING
            return taken

    def close(self) -> None:
        with self._condition:
            self._is_closed = True
            self._condition.notify()
