"""RecordLayers: the layers of a store, each parsed once, for all VMs, until it changes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf

from vmw_cloudinit_metadata.drivers.layers.sharedlayer import (
    MAX_BYTES,
    MAX_LAYERS,
    LayerSet,
    SharedLayer,
    faulty,
    layer_of,
)
from vmw_cloudinit_metadata.drivers.records.recordlayer import KeptRecord
from vmw_cloudinit_metadata.drivers.records.recordview import Records, RecordView
from vmw_cloudinit_metadata.drivers.revisions import NEVER, Revisions
from vmw_cloudinit_metadata.drivers.store import LAYERS
from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.instance.keys import LAYER_LEVEL


@dataclass(frozen=True, slots=True)
class _KeptLayers:
    revision: int  # from before they were fetched
    records: Records
    layers: LayerSet
    until_s: float = inf  # they may be kept, of time.monotonic()


class RecordLayers:
    def __init__(self, changes: Revisions) -> None:
        self._changes = changes
        self._lock = threading.Lock()
        self._kept = _KeptLayers(NEVER, (), LayerSet())
        self._parsed: dict[str, tuple[KeptRecord, SharedLayer]] = {}  # by label

    def are_known(self) -> bool:
        """Return whether the kept ones are surely the present ones."""
        return self._are_known(self._kept)

    def _are_known(self, kept: _KeptLayers) -> bool:
        now_s = time.monotonic()
        return now_s < kept.until_s and self._changes.held_at(kept.revision, [LAYERS], now_s)

    def all(self, view: RecordView) -> LayerSet:
        """Return the layers, in the order in which they are applied; raises DriverError."""
        moment = view.moment
        kept = self._kept
        # A list is newer than what was told before it.
        if moment.layers is None and not moment.is_listed and self._are_known(kept):
            moment.layers = kept.layers
            moment.until_s[LAYERS] = kept.until_s
        if moment.layers is None:
            records = view.of(LAYERS)
            until_s = moment.until_s.get(LAYERS, inf)
            moment.layers = self._made_of(records, moment.revision, until_s)
        view.needs(LAYERS)
        return moment.layers

    def _made_of(self, records: Records, revision: int | None, until_s: float) -> LayerSet:
        noted = NEVER if revision is None else revision
        with self._lock:
            before = self._kept
            if before.records == records:
                noted = max(noted, before.revision)
                self._kept = replace(before, revision=noted, until_s=until_s)
                return before.layers
            layers = LayerSet(
                tuple(self._read(records)),
                before.layers.version + 1,
                sum(record.size for record in records),
            )
            self._kept = _KeptLayers(noted, records, layers, until_s)
            return layers

    def _read(self, records: Records) -> Iterator[SharedLayer]:
        parsed, self._parsed = self._parsed, {}
        label = records[0].label if records else ""
        if len(records) > MAX_LAYERS:
            yield faulty(Fault((), f"{len(records)} layers", f"at most {MAX_LAYERS}", label))
            return
        if sum(record.size for record in records) > MAX_BYTES:
            expected = f"at most {MAX_BYTES:,} bytes in all layers"
            yield faulty(Fault((), "more data", expected, label))
            return
        counts: Counter[str] = Counter()
        for record in records:
            counts[record.label] += 1
            if counts[record.label] > 1:  # labels tell layers apart
                record = replace(record, label=f"{record.label} #{counts[record.label]}")
            same, found = parsed.get(record.label, (None, None))
            if found is None or same != record:
                found = layer_of(record.layer(LAYER_LEVEL))
            self._parsed[record.label] = record, found
            yield found
