"""Revisions: which keys of a source have changed, according to its notifications. No I/O.

A look-up notes the revision before it reads. Its result holds as long as none of its keys has a
greater revision, as of the time up to which notifications are complete.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from math import inf
from threading import Event, Lock

NEVER = -1  # a revision that does not hold

MAX_KEYS = 10_000  # about 200 bytes each; beyond, all keys count as changed


class Revisions:
    """Read by any thread without a lock.

    Nothing holds before `complete_until` is called for the first time.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.source: object = None  # that is watched; None if none is
        self._all_changed = 0  # the revision in which everything changed
        self._changed: dict[Hashable, int] = {}
        self._lock = Lock()  # of those that write
        self._until_s = -inf
        self.asked_s = -inf  # the last time asked for
        self.wanted = Event()  # set when somebody asks for what is not known

    def of(self, source: object, revision: int) -> int:
        """The revision of what is read from `source`, noted before; NEVER if another is watched.

        If none is watched, all will count as changed when one is.
        """
        return revision if self.source in (None, source) else NEVER

    def changed(self, key: Hashable) -> None:
        with self._lock:
            if len(self._changed) >= MAX_KEYS and key not in self._changed:
                self._count_all()
                return
            self._changed[key] = self.revision + 1
            self.revision += 1

    def all_changed(self) -> None:
        with self._lock:
            self._count_all()

    def _count_all(self) -> None:
        self._all_changed = self.revision + 1
        self.revision += 1
        self._changed = {}

    @property
    def is_told(self) -> bool:
        """Whether changes are told at present."""
        return self._until_s > -inf

    @property
    def told_revision(self) -> int | None:
        """The revision, as long as changes are told."""
        return self.revision if self.is_told else None

    def is_told_at(self, time_s: float) -> bool:
        """Whether all changes before this time are counted."""
        return self._until_s >= time_s

    def complete_until(self, time_s: float) -> None:
        """State that all changes before this time (time.monotonic()) are counted."""
        self._until_s = time_s

    def latest(self) -> int | None:
        """Return the revision, and have the changes until now counted soon; None if no source is
        watched."""
        self.wanted.set()
        return self.revision if self.source is not None else None

    def held_at(self, revision: int, keys: Iterable[Hashable], time_s: float) -> bool:
        """Return whether it is known that no key changed between the revision and that time."""
        self.asked_s = time_s
        if self._until_s < time_s:
            self.wanted.set()
            return False
        return self.unchanged(revision, keys)

    def unchanged(self, revision: int, keys: Iterable[Hashable]) -> bool:
        """Return whether no change of a key was counted since the revision."""
        if revision == self.revision:
            return True
        changed = self._changed  # before the next line: _count_all writes in the other order
        return revision >= self._all_changed and all(
            changed.get(key, 0) <= revision for key in keys
        )
