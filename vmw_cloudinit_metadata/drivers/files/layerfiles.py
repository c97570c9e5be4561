"""LayerFiles: the files of `layers/`, which hold what several VMs share."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from vmw_cloudinit_metadata.drivers.content import layer
from vmw_cloudinit_metadata.drivers.content.rivals import two_files
from vmw_cloudinit_metadata.drivers.drivererror import ChangedMeanwhile
from vmw_cloudinit_metadata.drivers.files.contents import OUTSIDE_EXPECTED, OUTSIDE_FOUND
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.filename import is_data_file, stem_in
from vmw_cloudinit_metadata.drivers.filesystem.root import LeadsOut
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.drivers.layers.sharedlayer import (
    MAX_BYTES,
    MAX_LAYERS,
    NO_LAYERS,
    LayerSet,
    SharedLayer,
    faulty,
    layer_of,
)
from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.instance.keys import LAYER_LEVEL


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
            found = tuple(self._read(seen))
            if not seen.is_still(self.path):  # swapped: the old one may have been emptied meanwhile
                raise ChangedMeanwhile(f"{self.path}: the directory was replaced")
            layers = LayerSet(found, self._version, seen.bytes_seen)
            self._kept = (layers, seen.closed()) if seen.is_settled() else None
        snapshot.include(seen)
        return layers

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
            yield faulty(Fault((), OUTSIDE_FOUND, OUTSIDE_EXPECTED, self.path, 1))
            return
        if len(names) > MAX_LAYERS:
            yield faulty(Fault((), f"{len(names)} files", f"at most {MAX_LAYERS}", self.path, 1))
            return
        parsed, self._parsed = self._parsed, {}
        left_bytes = MAX_BYTES
        for paths in self._by_stem(names):
            path = paths[0]
            if len(paths) > 1:
                yield faulty(two_files(paths))
                continue
            try:
                content = seen.read(path, left_bytes)
            except LeadsOut:
                yield faulty(Fault((), OUTSIDE_FOUND, OUTSIDE_EXPECTED, path, 1))
                continue
            left_bytes -= len(content or b"")
            if left_bytes < 0:
                expected = f"at most {MAX_BYTES:,} bytes in all layers"
                yield faulty(Fault((), "more data", expected, path, 1))
                return
            before = parsed.get(path)
            if before and before[0] == content:
                found = before[1]
            else:
                found = layer_of(layer.parse(path, content, LAYER_LEVEL))
            if content is not None:
                self._parsed[path] = content, found
            yield found

    def _by_stem(self, names: Sequence[str]) -> Iterable[list[str]]:
        """The paths of each name without suffix."""
        paths: dict[str, list[str]] = defaultdict(list)
        for name in names:
            paths[stem_in(name)].append(os.path.join(self.path, name))
        return paths.values()
