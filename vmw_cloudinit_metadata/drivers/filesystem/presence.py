"""Presence: which of a few names the directory has, looked for only when it has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from vmw_cloudinit_metadata.drivers.filesystem.filetoken import Signature, signature_of, trusted_s
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class _LookedFor:
    directory: Signature
    until_s: float
    present: tuple[str, ...]
    absent: tuple[str, ...]


class Presence:
    """Looks for entries of the directory at `directory`."""

    def __init__(self, directory: str, names: Iterable[str]) -> None:
        self._paths = tuple(os.path.join(directory, name) for name in names)
        self._last: _LookedFor | None = None

    def paths(self, snapshot: Snapshot) -> tuple[str, ...]:
        """The paths that exist; the first snapshot of a root counts as having looked for each.

        Raises DriverError if one cannot be looked at.
        """
        root = snapshot.root
        assert root
        if root.present is None:
            root.present = self._look(snapshot, root.status)
        return root.present

    def _look(self, snapshot: Snapshot, status: os.stat_result) -> tuple[str, ...]:
        last, now_s = self._last, time.monotonic()
        directory = signature_of(status)
        if last and last.directory == directory and now_s < last.until_s:
            snapshot.lacks(last.absent)
            return last.present
        # A link that leads nowhere is no absence: what it should lead to is missing.
        present = tuple(
            path for path in self._paths if snapshot.exists(path) or os.path.islink(path)
        )
        absent = tuple(path for path in self._paths if path not in present)
        self._last = _LookedFor(directory, now_s + trusted_s(status), present, absent)
        return present
