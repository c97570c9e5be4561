"""EveryFile: all files of which answers are made, but those that these name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vmw_cloudinit_metadata.drivers.content import layer
from vmw_cloudinit_metadata.drivers.content.layer import MAX_FILE_BYTES, FileLayer
from vmw_cloudinit_metadata.drivers.files.defaults import Defaults
from vmw_cloudinit_metadata.drivers.files.inventories import Inventories
from vmw_cloudinit_metadata.drivers.files.layerfiles import LayerFiles
from vmw_cloudinit_metadata.drivers.filesystem.listing import Listing
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot


@dataclass(frozen=True)
class EveryFile:
    listing: Listing
    defaults: Defaults
    layers: LayerFiles
    inventories: Inventories

    def paths(self, snapshot: Snapshot) -> list[str]:
        """Raises DriverError."""
        return [
            *self.listing.all_paths(),
            *self.defaults.paths,
            *self.layers.paths(snapshot),
            *self.inventories.paths(snapshot),
        ]

    def layers_in(
        self, path: str, word: re.Pattern[bytes], snapshot: Snapshot
    ) -> Iterator[FileLayer]:
        """What a file says, or each entry of an inventory; nothing if `word` is not in it.

        Raises DriverError, LeadsOut and UnderWay.
        """
        if path in self.inventories.paths(snapshot):
            inventory = self.inventories.of(path, snapshot)
            yield from map(inventory.read, inventory.all())
            return
        content = snapshot.read(path, MAX_FILE_BYTES)
        if content and word.search(content):
            yield layer.parse(path, content)
