"""HttpTemplate: the address of a VM's data, with a place for one of its identities. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote

from vmw_cloudinit_metadata.drivers.store import IDENTITIES, Key
from vmw_cloudinit_metadata.drivers.stores.httpoptions import HttpOrigin, parsed

_PLACE = re.compile(r"\{([^{}]*)\}|[{}]")
_PLACES = ", ".join(f"{{{kind}}}" for kind in IDENTITIES)


@dataclass(frozen=True, slots=True)
class HttpTemplate:
    origin: HttpOrigin
    kind: str  # of the identity
    before: str
    after: str

    @classmethod
    def of(cls, url: str) -> Self:
        """Parse `https://cmdb/vms/{vc-uuid}`; raise ValueError."""
        places = [found[1] for found in _PLACE.finditer(url)]
        if len(places) != 1 or places[0] not in IDENTITIES:
            raise ValueError(f"an address with one of {_PLACES}")
        origin, target = parsed(url)
        before, place, after = target.partition(f"{{{places[0]}}}")
        if not place:
            raise ValueError(f"{{{places[0]}}} in the path or the query, not before them")
        return cls(origin, places[0], before, after)

    def target(self, key: Key) -> str | None:
        """Return the path and query for an identity; None if none can be written for it.

        No value leaves its place: all but letters, digits and `_.-~` is encoded, and a path never
        has a `.` or `..` of which a server would make another one.
        """
        try:
            value = quote(key.value.encode(), safe="")
        except UnicodeEncodeError:  # half of a surrogate pair
            return None
        target = f"{self.before}{value}{self.after}"
        path = target.partition("?")[0]
        return None if {".", ".."} & set(path.split("/")) else target
