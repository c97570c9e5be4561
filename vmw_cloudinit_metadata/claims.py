"""Which connected machines are served from which source: two with one identity are a mistake."""

from __future__ import annotations

from collections import Counter


class Claims:
    """Counts, for each source (a file), the connections of each VC UUID that are served from it."""

    def __init__(self) -> None:
        self._served: dict[str, Counter[str]] = {}

    def add(self, source: str, vc_uuid: str) -> list[str]:
        """Returns the other VC UUIDs that are served from `source` while this one is."""
        served = self._served.setdefault(source, Counter())
        served[vc_uuid] += 1
        return sorted(other for other in served if other != vc_uuid)

    def remove(self, source: str, vc_uuid: str) -> None:
        served = self._served[source]
        served[vc_uuid] -= 1
        if not served[vc_uuid]:
            del served[vc_uuid]
        if not served:
            del self._served[source]
