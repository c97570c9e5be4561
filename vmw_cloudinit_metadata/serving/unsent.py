"""The bytes that peers have not read yet, by how long they have waited."""

from __future__ import annotations

from typing import Protocol

from vmw_cloudinit_metadata.process.budget import Budget


class Holder(Protocol):
    def give_up(self) -> None:
        """Drop the waiting bytes: their memory is needed."""


class Unsent:
    """A table of the budget. Counts only holders with waiting bytes."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held: dict[Holder, int] = {}
        self.kept_bytes = 0
        budget.add("unsent answers", self)

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, holder: Holder, size: int) -> None:
        """Count `size` bytes for `holder`; 0 removes it."""
        before = self._held.get(holder, 0)
        if size == before:
            return
        self.kept_bytes += size - before
        if size:
            self._held[holder] = size
        else:
            del self._held[holder]
        if size > before:
            self._budget.keep()

    def shed(self) -> bool:
        """Make the holder that has waited longest give up; return False if there is none."""
        holder = next(iter(self._held), None)
        if holder is None:
            return False
        self.hold(holder, 0)
        holder.give_up()
        return True
