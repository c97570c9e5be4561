"""The source that each connected VM is served from: one file for two VMs is a mistake."""

from __future__ import annotations

from itertools import islice

NAMED_OTHERS = 3


class SharedSources:
    """Counts, for each source (a file), the connections of each VC UUID served from it."""

    def __init__(self) -> None:
        self._served: dict[str, dict[str, int]] = {}

    def add(self, source: str, vc_uuid: str) -> str:
        """Count a connection; return, for the log, the other VC UUIDs served from `source`, or
        ""."""
        served = self._served.setdefault(source, {})
        served[vc_uuid] = served.get(vc_uuid, 0) + 1
        if len(served) == 1:
            return ""
        others = [other for other in islice(served, NAMED_OTHERS + 1) if other != vc_uuid]
        further = len(served) - 1 - len(others[:NAMED_OTHERS])
        return ", ".join(others[:NAMED_OTHERS]) + (f" and {further} more" if further else "")

    def remove(self, source: str, vc_uuid: str) -> None:
        served = self._served[source]
        served[vc_uuid] -= 1
        if not served[vc_uuid]:
            del served[vc_uuid]
        if not served:
            del self._served[source]
