"""Inventories: `vms.yaml`, `vms.json` and `vms.csv`, each with the own data of many VMs."""

from __future__ import annotations

import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vmw_cloudinit_metadata.drivers.content import layer
from vmw_cloudinit_metadata.drivers.content.layer import MAX_FILE_BYTES, FileLayer
from vmw_cloudinit_metadata.drivers.content.owndata import OwnData
from vmw_cloudinit_metadata.drivers.driver import UnderWay, Work
from vmw_cloudinit_metadata.drivers.drivererror import ChangedMeanwhile
from vmw_cloudinit_metadata.drivers.files.contents import OUTSIDE_EXPECTED, OUTSIDE_FOUND
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.filename import usual_stem
from vmw_cloudinit_metadata.drivers.filesystem.filetoken import Signature
from vmw_cloudinit_metadata.drivers.filesystem.root import LeadsOut
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.drivers.shedding import shed_one
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData
from vmw_cloudinit_metadata.instance.layering.patch import APPENDS
from vmw_cloudinit_metadata.instance.layering.substitution import BEGINS
from vmw_cloudinit_metadata.instance.parsing import csvtable, entries
from vmw_cloudinit_metadata.instance.parsing.entries import Entry

_BYTES_PER_BYTE = 40  # memory of a parsed inventory, for each byte of its file
_CSV = ".csv"
_BRACES = re.compile(r"\{([0-9A-Fa-f-]{32,36})\}")  # around a UUID, as in .NET


@dataclass(frozen=True)
class Inventory:
    """A parsed inventory: its entries by the stem under which their VM is looked up."""

    path: str
    entries: Mapping[str, Sequence[Entry]]
    faults: tuple[Fault, ...] = ()  # of the file as a whole, which then has no entries
    unusable: tuple[Entry, ...] = ()  # with names that no VM can have
    marks: str = ""  # in place of its text, for what all entries together may have

    def places(self, stem: str, matched_by: str) -> list[OwnData]:
        found = self.entries.get(stem, ())
        return [OwnData(matched_by, self.path, stem, entry.line) for entry in found]

    def all(self) -> Iterator[OwnData]:
        for stem in self.entries:
            yield from self.places(stem, "")

    def read(self, own: OwnData) -> FileLayer:
        """Return what the entry says.

        Raise InvalidInstanceData if the inventory has none because of faults, and ChangedMeanwhile.
        """
        found = (entry for entry in self.entries.get(own.stem, ()) if entry.line == own.line)
        entry = next(found, None)
        if self.faults:
            raise InvalidInstanceData(self.faults)
        if entry is None:
            raise ChangedMeanwhile(f"{self.path}: line {own.line} has another entry now")
        seed = entry.read()
        value = seed.value
        if isinstance(value, dict) and not value.keys() & {"metadata"}:
            value = {"metadata": {}, **value}  # which a file must have, to be known as one
        return layer.of_seed(self.path, replace(seed, value=value), self.marks)


@dataclass(frozen=True, slots=True)
class _Kept:
    content: bytes
    inventory: Inventory
    signature: Signature  # None if the next change may not show in it

    @property
    def size(self) -> int:
        return _BYTES_PER_BYTE * len(self.content)


class Inventories:
    """Parses each inventory once, for all VMs, until it changes; in one thread at a time."""

    def __init__(self, directory: Directory) -> None:
        self._shared = directory.shared
        self._layers_path = directory.layers_path
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._under_way: dict[str, Work] = {}

    def all(self, snapshot: Snapshot) -> list[Inventory]:
        """Every inventory; raises DriverError, and UnderWay."""
        if not self._shared.paths(snapshot):
            return []  # as in most directories
        return [self.of(path, snapshot) for path in self.paths(snapshot)]

    def paths(self, snapshot: Snapshot) -> list[str]:
        return [path for path in self._shared.paths(snapshot) if path != self._layers_path]

    @property
    def kept_bytes(self) -> int:
        return sum(kept.size for kept in self._kept.values())

    def shed(self) -> bool:
        """Drop an inventory, to be parsed again; return False if there is none."""
        return shed_one(self._kept, self._lock)

    def of(self, path: str, snapshot: Snapshot) -> Inventory:
        """The inventory at `path`; raises DriverError, and UnderWay."""
        if not snapshot.exists(path):
            return _faulty(_dangling(path)) if os.path.islink(path) else Inventory(path, {})
        with self._lock:
            kept = self._kept.get(path)
            if kept and kept.signature and kept.signature == snapshot.signature(path):
                return kept.inventory
            if path in self._under_way:
                raise UnderWay(self._under_way[path])
            work = self._under_way[path] = Work()
        try:
            return self._read(path, snapshot, kept, work)
        finally:
            with self._lock:
                del self._under_way[path]
                work.is_over = True

    def _read(self, path: str, snapshot: Snapshot, kept: _Kept | None, work: Work) -> Inventory:
        seen = Snapshot(snapshot.root)
        try:
            content = seen.read(path, MAX_FILE_BYTES)
        except LeadsOut:
            return _faulty(Fault((), OUTSIDE_FOUND, OUTSIDE_EXPECTED, path, 1))
        finally:
            snapshot.include(seen)
        is_same = kept is not None and content == kept.content
        inventory = kept.inventory if kept and is_same else inventory_of(path, content)
        if content is not None:
            signature = seen.signature(path) if seen.is_settled() else None
            with self._lock:
                self._kept[path] = _Kept(content, inventory, signature)
            work.is_kept = True
        return inventory


def inventory_of(path: str, content: bytes | None) -> Inventory:
    """Parse what was read of an inventory, None if it is no regular file."""
    text = layer.text_of(path, content)
    if isinstance(text, Fault):
        return _faulty(text)
    if path.endswith(_CSV):
        found, faults = csvtable.read(text)
    else:
        yaml_text = layer.as_yaml(path, text)
        if isinstance(yaml_text, Fault):
            return _faulty(yaml_text)
        found, faults = entries.read(yaml_text)
    if faults:
        return Inventory(path, {}, tuple(replace(fault, file=path) for fault in faults))
    by_stem: dict[str, list[Entry]] = defaultdict(list)
    unusable = []
    for entry in found:
        stem = usual_stem(_BRACES.sub(r"\1", entry.name))
        if stem:
            by_stem[stem].append(entry)
        else:
            unusable.append(entry)
    marks = "".join(mark for mark in (BEGINS, APPENDS) if layer.may_have(mark, text))
    return Inventory(path, dict(by_stem), (), tuple(unusable), marks)


def _dangling(path: str) -> Fault:
    return Fault((), "a link that leads nowhere", "a file there, or no such link", path, 1)


def _faulty(fault: Fault) -> Inventory:
    return Inventory(fault.file, {}, (fault,))
