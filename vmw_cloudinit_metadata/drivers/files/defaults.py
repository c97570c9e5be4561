"""Defaults: the file whose keys apply to each VM that does not set them itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace

from vmw_cloudinit_metadata.drivers.content import layer
from vmw_cloudinit_metadata.drivers.content.layer import FileLayer
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.files import contents
from vmw_cloudinit_metadata.drivers.filesystem.filemode import mode_faults
from vmw_cloudinit_metadata.drivers.filesystem.filetoken import Signature
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot, require_reachable
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData, bounded
from vmw_cloudinit_metadata.instance.keys import FILE_KEYS
from vmw_cloudinit_metadata.instance.model import InstanceData

_MATCH = Fault(("match",), "'match'", "no such key among the defaults")


class Defaults:
    """The file at `path`, or none; raises DriverError if it does not exist, unless it
    `may_be_absent`."""

    def __init__(self, path: str | None, *, may_be_absent: bool = False) -> None:
        if path and not may_be_absent:
            require_reachable(path)
        is_there = bool(path) and os.path.lexists(path or "")
        if path and not os.path.isfile(path) and (is_there or not may_be_absent):
            reason = "is not a regular file" if is_there else "does not exist"
            raise DriverError(f"defaults: {path!r} {reason}")
        self.path = path
        self._lock = threading.Lock()
        self._kept: tuple[Signature, FileLayer] | None = None

    @property
    def paths(self) -> list[str]:
        return [self.path] if self.path else []

    def layers(self, snapshot: Snapshot) -> list[FileLayer]:
        """Return the parsed file, if there is one.

        One thread parses it for all others, and only after a change.
        """
        if not self.path:
            return []
        with self._lock:
            snapshot.exists(self.path)
            if self._kept and self._kept[0] == snapshot.signature(self.path):
                return [self._kept[1]]
            seen = Snapshot(snapshot.root)
            read = _read(self.path, seen)
            signature = seen.signature(self.path)
            self._kept = (signature, read) if seen.is_settled() else None
            snapshot.include(seen)
            return [read]

    def faults(self, snapshot: Snapshot) -> Iterator[Fault]:
        """Return every fault and warning of the file itself."""
        if self.path:
            yield from mode_faults(self.path, snapshot)
            yield from bounded(_faults_of(_read(self.path, snapshot)))


def _read(path: str, snapshot: Snapshot) -> FileLayer:
    read = contents.read(path, snapshot)
    if "match" not in read.mapping:
        return read
    return replace(read, faults=(*read.faults, read.seed.located(_MATCH, path)))


def _faults_of(read: FileLayer) -> list[Fault]:
    mapping = {key: value for key, value in read.mapping.items() if key not in FILE_KEYS}
    faults = list(read.faults)
    try:
        InstanceData.from_mapping(mapping)
    except InvalidInstanceData as error:
        faults += (layer.located(fault, [read]) for fault in error.faults if not fault.is_absence)
    return faults
