"""The VMs that an operator names: by a file's path or name, by VM name or VC UUID."""

from __future__ import annotations

import os
from dataclasses import replace

from vmw_cloudinit_metadata.drivers.checking.explanation import Explanation
from vmw_cloudinit_metadata.drivers.content.defaults import Defaults
from vmw_cloudinit_metadata.drivers.content.owndata import OwnData, of_file
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.filesearch import FileSearch
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.filename import SUFFIXES, is_instance_file
from vmw_cloudinit_metadata.drivers.filesystem.listing import Listing
from vmw_cloudinit_metadata.drivers.layers.inventories import Inventories
from vmw_cloudinit_metadata.drivers.layers.layerfiles import LayerFiles
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid


class NamedFiles:
    def __init__(
        self,
        directory: Directory,
        listing: Listing,
        defaults: Defaults,
        layers: LayerFiles,
        search: FileSearch,
        inventories: Inventories,
        explanation: Explanation,
    ) -> None:
        self._directory = directory
        self._listing = listing
        self._defaults = defaults
        self._layers = layers
        self._search = search
        self._inventories = inventories
        self._explanation = explanation

    def places(self, name: str) -> list[OwnData]:
        """The file, all of an inventory, or what the VM has; raises DriverError if it is nothing.

        Layers, and the defaults, are checked each time.
        """
        path = self._directory.path_of(os.path.abspath(name) if "/" in name else name)
        if path in self._listing.all_paths():
            return [of_file(path)]
        if path == self._defaults.path:
            return []
        with self._directory.snapshot() as snapshot:
            inventories = self._inventories.all(snapshot)
            if path in self._layers.paths(snapshot):
                return []
        for inventory in inventories:
            if path == inventory.path:
                return list(inventory.all())
        uuid = parse_uuid(name)
        machine = Machine(vc_uuid=uuid) if uuid else Machine(name=name)
        with self._directory.snapshot() as snapshot:
            for matched_by, stem in self._search.stems(machine):
                if places := self._search.places(matched_by, stem, inventories, snapshot):
                    return [replace(place, matched_by="") for place in places]
        if "/" in name or name.endswith(SUFFIXES) or os.path.exists(path):
            raise DriverError(self._no_file(name, path))
        raise DriverError(f"{name}: {self._explanation.of(machine)}")

    def _no_file(self, name: str, path: str) -> str:
        directory = self._directory.path
        if not os.path.lexists(path):
            return f"{name}: no such file, and no VM of that name has one in {directory}"
        if is_instance_file(os.path.basename(path)):
            return f"{name}: this file is not in the directory {directory}"
        return (
            f"{name}: not read as an instance file, because of its name: expected NAME{SUFFIXES[0]}"
        )
