"""UserDataFiles: the files named as user-data or vendor-data by instance files or the defaults.

They may lie beside the instance files and have similar names, but then belong to no VM.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from vmw_cloudinit_metadata.drivers.files import documentfile
from vmw_cloudinit_metadata.drivers.files.everyfile import EveryFile
from vmw_cloudinit_metadata.drivers.files.namescan import NameScan
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot

_NAMES_A_FILE = re.compile(rb"data[-_]file|\\[uUx]")  # one of FILE_KEYS, also with escapes


class UserDataFiles:
    def __init__(self, directory: Directory, every: EveryFile) -> None:
        self._directory = directory
        self._every = every
        self._scan = NameScan(directory, every, self._named_by)

    def has(self, path: str) -> bool:
        """Return whether the file is one of them, as of the last scan, up to ten seconds ago."""
        return os.path.realpath(path) in self._scan.names()

    def all(self) -> set[str]:
        """Return the real path of each, as now named; raise DriverError."""
        return set(self._scan.now())

    def _named_by(self, path: str, snapshot: Snapshot) -> Iterator[str]:
        for file in self._every.layers_in(path, _NAMES_A_FILE, snapshot):
            for name in documentfile.named_in(file.mapping):
                yield os.path.realpath(os.path.join(self._directory.path, name))
