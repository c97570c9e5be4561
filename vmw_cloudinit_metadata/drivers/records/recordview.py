"""RecordView: the records fetched for one answer, and the revision from before they were."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from math import inf

from vmw_cloudinit_metadata.drivers.layers.sharedlayer import LayerSet
from vmw_cloudinit_metadata.drivers.records.recordlayer import KeptRecord
from vmw_cloudinit_metadata.drivers.revisions import Revisions
from vmw_cloudinit_metadata.drivers.store import Key

Records = tuple[KeptRecord, ...]
# Returns the records of keys, and until when they may be kept, if not for ever.
Fetch = Callable[[Collection[Key]], tuple[Mapping[Key, Records], Mapping[Key, float]]]


@dataclass(frozen=True, slots=True)
class RecordToken:
    """The keys that an answer depends on, even without records, and when it expires."""

    revision: int
    keys: tuple[Key, ...]
    until_s: float = inf  # of time.monotonic()
    digest: int = 0  # of the records, if all were listed

    def held_at(self, changes: Revisions, time_s: float) -> bool:
        return time_s < self.until_s and changes.held_at(self.revision, self.keys, time_s)


@dataclass(slots=True)
class Moment:
    """What views of one time share."""

    fetch: Fetch
    revision: int | None  # None: changes are not told
    records: dict[Key, Records] = field(default_factory=dict)
    layers: LayerSet | None = None
    until_s: dict[Key, float] = field(default_factory=dict)  # they may be kept; else for ever
    is_listed: bool = False  # `records` are all that there are


def digest_of(keys: Collection[Key], records: Mapping[Key, Records]) -> int:
    """Return another number for other records under the keys."""
    return hash(tuple([tuple([one.digest for one in records.get(key, ())]) for key in keys]))


class RecordView:
    def __init__(self, moment: Moment) -> None:
        self.moment = moment
        self._seen: dict[Key, Records] = {}

    def __enter__(self) -> RecordView:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def of(self, key: Key) -> Records:
        """Return the records of a key, which the answer depends on from now on."""
        self.fetch([key])
        found = self._seen[key] = self.moment.records[key]
        return found

    def fetch(self, keys: Collection[Key]) -> None:
        """Fetch these records together, those that are missing; raise DriverError."""
        missing = [key for key in keys if key not in self.moment.records]
        if missing:
            found, until_s = self.moment.fetch(missing)
            self.moment.records.update(found)
            self.moment.until_s.update(until_s)

    def needs(self, key: Key) -> None:
        """Count the records of a key as seen, which are known otherwise."""
        self._seen.setdefault(key, ())

    @property
    def keys_seen(self) -> Collection[Key]:
        return self._seen.keys()

    def confirm(self) -> None:
        pass  # a new epoch shows in the token

    def apart(self) -> RecordView:
        return RecordView(self.moment)

    def include(self, other: RecordView) -> None:
        self._seen.update(other._seen)

    def agrees_with(self, other: RecordView) -> bool:
        if any(self.moment.records.get(key) != records for key, records in other._seen.items()):
            return False
        self.include(other)
        return True

    def closed(self) -> RecordView:
        seen = RecordView(Moment(self.moment.fetch, None))
        seen.include(self)
        return seen

    def is_settled(self) -> bool:
        return True

    @property
    def bytes_seen(self) -> int:
        return sum(one.size for records in self._seen.values() for one in records)

    @property
    def kept_bytes(self) -> int:
        return self.bytes_seen

    def token(self, until_s: float = inf) -> RecordToken | None:
        """Return None while changes are not told."""
        revision = self.moment.revision
        until_s = min([until_s, *(self.moment.until_s.get(key, inf) for key in self._seen)])
        if revision is None or until_s <= time.monotonic():
            return None
        keys = tuple(self._seen)
        digest = digest_of(keys, self.moment.records) if self.moment.is_listed else 0
        return RecordToken(revision, keys, until_s, digest)
