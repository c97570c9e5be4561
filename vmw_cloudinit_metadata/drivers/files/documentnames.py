"""DocumentNames: the documents beyond the standard ones that any instance file has."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vmw_cloudinit_metadata.drivers.files.everyfile import EveryFile
from vmw_cloudinit_metadata.drivers.files.namescan import NameScan
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot

_HAS_DOCUMENTS = re.compile(b"documents")
_NAME = re.compile("[A-Z]{1,32}")  # a guest can ask for no other


class DocumentNames:
    def __init__(self, directory: Directory, every: EveryFile) -> None:
        self._every = every
        self._scan = NameScan(directory, every, self._names_in)

    def all(self) -> frozenset[str]:
        """Return the names, as guests request them; up to ten seconds old."""
        return self._scan.names()

    def _names_in(self, path: str, snapshot: Snapshot) -> Iterator[str]:
        for file in self._every.layers_in(path, _HAS_DOCUMENTS, snapshot):
            documents = file.mapping.get("documents")
            if isinstance(documents, dict):
                codes = (str(name).upper() for name in documents)
                yield from filter(_NAME.fullmatch, codes)
