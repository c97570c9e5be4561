"""Warming: finds the data of a VM among what was prepared, as long as nothing of it has changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from math import inf
from typing import Any, Generic

from vmw_cloudinit_metadata.drivers import preparation
from vmw_cloudinit_metadata.drivers import preparedrecords as records
from vmw_cloudinit_metadata.drivers.answers.instances import Instances
from vmw_cloudinit_metadata.drivers.answers.lastgood import LastGood
from vmw_cloudinit_metadata.drivers.answers.search import Search
from vmw_cloudinit_metadata.drivers.answers.source import Notified, Source, V
from vmw_cloudinit_metadata.drivers.content.owndata import OwnData
from vmw_cloudinit_metadata.drivers.layers.sharedlayer import (
    NO_LAYERS,
    LayerSet,
    SharedLayer,
    faulty,
)
from vmw_cloudinit_metadata.drivers.layers.stack import selection_of
from vmw_cloudinit_metadata.drivers.preparedanswers import PreparedAnswers
from vmw_cloudinit_metadata.drivers.store import BIOS_UUID, Key
from vmw_cloudinit_metadata.drivers.warming.preparedtable import PreparedTable
from vmw_cloudinit_metadata.drivers.warming.preparedtoken import PreparedToken
from vmw_cloudinit_metadata.drivers.warming.preparer import Preparer
from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.instance.layering.condition import condition_of
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine

_SPARE_BYTES = 64 * 1024 * 1024  # of records without data, in one survey


class Warming(PreparedAnswers, Generic[V]):
    """The prepared answers of a source that tells of its changes."""

    def __init__(
        self,
        source: Source[V],
        notified: Notified[V],
        instances: Instances[V],
        search: Search[V],
        last_good: LastGood,
    ) -> None:
        self._source = source
        self._notified = notified
        self._instances = instances
        self._search = search
        self._last_good = last_good
        self._table = PreparedTable()
        self._revision: int | None = None  # since which all in the table holds
        self._noted: int | None = None  # when the present survey began
        self._until_s = inf  # all in the table may be given
        self._layers: LayerSet = NO_LAYERS
        self._taken_bytes = 0  # in the present survey
        self.preparer: Preparer[V] | None = None  # in the process of the catalogue

    @property
    def kept_bytes(self) -> int:
        return self._table.kept_bytes

    def shed(self) -> bool:
        return self._table.shed()

    @property
    def count(self) -> int:
        return len(self._table)

    def find(self, machine: Machine, time_s: float) -> InstanceData | None:
        if self._notified.tells_versions:
            return self._of_version(machine, time_s)
        if self._revision is None or not self._table.is_complete:
            return None
        keys: list[Hashable] = [*self._notified.shared]
        for key in self._search.keys(machine):
            keys += self._notified.under(key.value)
            if key.value in self._table:
                line = self._table.get(key.value)
                if line is None or key.kind == BIOS_UUID:
                    return None
                return self._held(line, key, self._revision, keys, machine, time_s)
        return None

    def _of_version(self, machine: Machine, time_s: float) -> InstanceData | None:
        """Return what was prepared of the very data that there is now.

        The process of the catalogue may have read older data, or newer.
        """
        revision = self._notified.changes.revision  # before the data is looked at
        keys: list[Hashable] = [*self._notified.shared]
        for key in self._search.keys(machine):
            keys += self._notified.under(key.value)
            version = self._notified.present_version(key)
            if version == "":
                continue
            line = self._table.get(key.value)
            if version is None or line is None or key.kind == BIOS_UUID:
                return None
            return self._held(line, key, revision, keys, machine, time_s)
        return None

    def _held(
        self,
        line: bytes,
        key: Key,
        revision: int,
        keys: Sequence[Hashable],
        machine: Machine,
        time_s: float,
    ) -> InstanceData | None:
        prepared = preparation.of_line(line)
        token = PreparedToken(revision, [*keys, *prepared.keys], time_s, self._until_s)
        if not token.held_at(self._notified.changes, time_s):
            return None
        if prepared.name and machine.name != prepared.name:
            return None  # or spelled otherwise
        if self._layers.layers:
            selection = selection_of(self._layers, machine)
            if selection.faults or list(selection.indices) != prepared.layers:
                return None
        instance = prepared.instance(key.kind, token)
        if not instance.is_for(machine):
            return None
        if not self._notified.agree(key, prepared.signs):
            return None
        own = OwnData(key.kind, prepared.path, key.value, prepared.line)
        self._last_good.remember(machine.vc_uuid, own, instance, len(line))
        return instance

    def forget(self) -> None:
        self._table.clear()
        self._revision = self._noted = None
        self._until_s = inf

    def wake(self) -> None:
        self._notified.changes.latest()

    def begin(self, until_s: float = inf) -> None:
        changes = self._notified.changes
        noted = changes.revision if changes.is_told else None
        if time.monotonic() < until_s:  # else an earlier one counts, which is right too
            self._noted = noted
        self._taken_bytes = 0

    def take(self, record: records.PreparedRecord) -> None:
        self._table.limit_bytes = self.limit_bytes
        match record:
            case records.Prepared(stem, line):
                self._count(stem, line)
                self._table.put(stem, line)
            case records.Gone(stem):
                self._count(stem, None)
                self._table.drop(stem)
            case records.Lasting(until_s):
                self._until_s = until_s
            case records.Warmed(layers):
                self._end(layers)

    def _end(self, layers: Sequence[tuple[str, Any]] | None) -> None:
        """All that was sent is valid since the survey began; or nothing is."""
        if layers is None:
            self._table.clear()
            self._revision = None
            self._until_s = inf
        else:
            self._layers = _layers_of(layers)
            self._revision = self._noted

    def _count(self, stem: str, line: bytes | records.Place | None) -> None:
        self._taken_bytes += len(stem) + (len(line) if isinstance(line, bytes) else 0)
        if self._taken_bytes > 2 * self.limit_bytes + _SPARE_BYTES:
            raise records.InvalidRecord("too many prepared answers")

    def prepare(self, tell: Callable[[bytes], None], limit_bytes: int) -> None:
        self.preparer = Preparer(self._source, self._notified, self._instances, tell, limit_bytes)


def _layers_of(found: Sequence[tuple[str, Any]]) -> LayerSet:
    """The layers with their conditions alone."""
    layers: list[SharedLayer] = []
    for path, match in found:
        condition, _ = condition_of(match)
        layers.append(replace(faulty(Fault((), "", "", path)), condition=condition))
    return LayerSet(tuple(layers))
