"""DocumentNames: the documents beyond the standard ones that any instance file has."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vmw_cloudinit_metadata.drivers.content import layer
from vmw_cloudinit_metadata.drivers.content.defaults import Defaults
from vmw_cloudinit_metadata.drivers.content.layer import MAX_FILE_BYTES
from vmw_cloudinit_metadata.drivers.content.namescan import NameScan
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.listing import Listing
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot

_NAME = re.compile("[A-Z]{1,32}")  # a guest can ask for no other


class DocumentNames:
    def __init__(self, directory: Directory, listing: Listing, defaults: Defaults) -> None:
        self._scan = NameScan(directory, listing, defaults, _names_in)

    def all(self) -> frozenset[str]:
        """Return the names, as guests request them; up to ten seconds old."""
        return self._scan.names()


def _names_in(path: str, snapshot: Snapshot) -> Iterator[str]:
    content = snapshot.read(path, MAX_FILE_BYTES)
    if not content or b"documents" not in content:
        return
    documents = layer.parse(path, content).mapping.get("documents")
    if isinstance(documents, dict):
        codes = (str(name).upper() for name in documents)
        yield from filter(_NAME.fullmatch, codes)
