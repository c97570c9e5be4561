"""LayerFiles: the files of `layers/`, which hold what several VMs share."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from vmw_cloudinit_metadata.drivers.content import layer
from vmw_cloudinit_metadata.drivers.content.layer import (
    MAX_FILE_BYTES,
    OUTSIDE_EXPECTED,
    OUTSIDE_FOUND,
    FileLayer,
)
from vmw_cloudinit_metadata.drivers.content.owndata import BY_LAYER, OwnData
from vmw_cloudinit_metadata.drivers.content.rivals import two_files
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.filename import is_data_file, stem_in, stem_of
from vmw_cloudinit_metadata.drivers.filesystem.root import LeadsOut
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.instance.fault import Fault, describe
from vmw_cloudinit_metadata.instance.keys import LAYER_LEVEL
from vmw_cloudinit_metadata.instance.layering.condition import (
    Condition,
    condition_of,
    machine_named,
)

MAX_LAYERS = 100
MAX_BYTES = MAX_FILE_BYTES  # of all layers together

_OWN_KEYS = ("match", "serve")  # of a layer, not of the VMs that it is for


@dataclass(frozen=True)
class SharedLayer:
    """A file of `layers/`: what it says, for which VMs, and whether these need no own file."""

    file: FileLayer
    condition: Condition
    serves: bool = False
    match: object = None  # as written


@dataclass(frozen=True, slots=True)
class LayerSet:
    """All layers, the lowest first; `version` is another one after each change."""

    layers: tuple[SharedLayer, ...] = ()
    version: int = 0


NO_LAYERS = LayerSet()


class LayerFiles:
    """Parses each layer once, for all VMs, until it changes."""

    def __init__(self, directory: Directory) -> None:
        self.path = directory.layers_path
        self._shared = directory.shared
        self._lock = threading.Lock()
        self._kept: tuple[LayerSet, Snapshot] | None = None
        self._version = 0
        self._parsed: dict[str, tuple[bytes, SharedLayer]] = {}

    def all(self, snapshot: Snapshot) -> LayerSet:
        """The layers, in the order in which they are applied; raises DriverError."""
        if self.path not in self._shared.paths(snapshot):
            return NO_LAYERS
        kept = self._kept
        if kept and snapshot.include_unchanged(kept[1]):
            return kept[0]
        with self._lock:
            if self._kept and self._kept is not kept and snapshot.include_unchanged(self._kept[1]):
                return self._kept[0]  # another thread has read them meanwhile
            seen = Snapshot(snapshot.root)
            self._version += 1
            layers = LayerSet(tuple(self._read(seen)), self._version)
            self._kept = (layers, seen.closed()) if seen.is_settled() else None
        snapshot.include(seen)
        return layers

    def vms_served(self, snapshot: Snapshot, known: Collection[str]) -> Iterator[OwnData]:
        """The VMs that layers serve and name, but for those `known` by their stems."""
        for one in self.all(snapshot).layers:
            machine = machine_named(one.match) if one.serves else None
            if machine is None:
                continue
            stem = machine.vc_uuid or stem_of(machine.name or "")
            if stem and stem not in known:
                yield OwnData(BY_LAYER, one.file.path, stem)

    def paths(self, snapshot: Snapshot) -> list[str]:
        """The files, as they are named now; raises DriverError."""
        if self.path not in self._shared.paths(snapshot):
            return []
        try:
            names = snapshot.names(self.path)
        except LeadsOut:
            return []
        return [os.path.join(self.path, name) for name in names if is_data_file(name)]

    def _read(self, seen: Snapshot) -> Iterator[SharedLayer]:
        try:
            names = list(filter(is_data_file, seen.names(self.path)))
        except LeadsOut:
            yield _faulty(Fault((), OUTSIDE_FOUND, OUTSIDE_EXPECTED, self.path, 1))
            return
        if len(names) > MAX_LAYERS:
            yield _faulty(Fault((), f"{len(names)} files", f"at most {MAX_LAYERS}", self.path, 1))
            return
        parsed, self._parsed = self._parsed, {}
        left_bytes = MAX_BYTES
        for paths in self._by_stem(names):
            path = paths[0]
            if len(paths) > 1:
                yield _faulty(two_files(paths))
                continue
            try:
                content = seen.read(path, left_bytes)
            except LeadsOut:
                yield _faulty(Fault((), OUTSIDE_FOUND, OUTSIDE_EXPECTED, path, 1))
                continue
            left_bytes -= len(content or b"")
            if left_bytes < 0:
                expected = f"at most {MAX_BYTES:,} bytes in all layers"
                yield _faulty(Fault((), "more data", expected, path, 1))
                return
            before = parsed.get(path)
            is_same = before is not None and before[0] == content
            found = before[1] if before and is_same else layer_of(path, content)
            if content is not None:
                self._parsed[path] = content, found
            yield found

    def _by_stem(self, names: Sequence[str]) -> Iterable[list[str]]:
        """The paths of each name without suffix."""
        paths: dict[str, list[str]] = defaultdict(list)
        for name in names:
            paths[stem_in(name)].append(os.path.join(self.path, name))
        return paths.values()


def layer_of(path: str, content: bytes | None) -> SharedLayer:
    """Parse what was read of a layer, None if it is no regular file."""
    file = layer.parse(path, content, LAYER_LEVEL)
    match = file.mapping.get("match")
    condition, faults = condition_of(match)
    serve = file.mapping.get("serve", False)
    if not isinstance(serve, bool):
        faults.append(Fault(("serve",), describe(serve), "true or false"))
    shared = replace(
        file,
        mapping={key: value for key, value in file.mapping.items() if key not in _OWN_KEYS},
        faults=(*file.faults, *(file.seed.located(fault, path) for fault in faults)),
    )
    return SharedLayer(shared, condition, serve is True, match)


def _faulty(fault: Fault) -> SharedLayer:
    """A layer of which nothing is known but its fault: it could be for any VM."""
    return SharedLayer(layer.unusable(fault), Condition({}))
