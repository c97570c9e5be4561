"""PreparedToken: how long a prepared answer may be given again."""

from __future__ import annotations

from collections.abc import Collection, Hashable

from vmw_cloudinit_metadata.drivers.revisions import Revisions

# Then a look-up reads the data: some changes are not told.
LONGEST_S = 60.0


class PreparedToken:
    """Holds while no key has changed, and not for long."""

    __slots__ = ("_keys", "_revision", "_until_s")

    def __init__(
        self, revision: int, keys: Collection[Hashable], since_s: float, until_s: float
    ) -> None:
        self._revision = revision
        self._keys = keys
        self._until_s = min(until_s, since_s + LONGEST_S)

    def holds(self, _looks: object = None) -> bool:
        """Return False: a look-up makes an answer that can be looked at."""
        return False

    def held_at(self, changes: Revisions, time_s: float) -> bool:
        return time_s < self._until_s and changes.held_at(self._revision, self._keys, time_s)
