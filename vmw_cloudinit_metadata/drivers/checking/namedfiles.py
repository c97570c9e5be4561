"""The instance files that an operator names: by path, by file name, by VM name or VC UUID."""

from __future__ import annotations

import os

from vmw_cloudinit_metadata.drivers.checking.explanation import Explanation
from vmw_cloudinit_metadata.drivers.content.defaults import Defaults
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.filesearch import FileSearch
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.filename import SUFFIXES, is_instance_file
from vmw_cloudinit_metadata.drivers.filesystem.listing import Listing
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid


class NamedFiles:
    def __init__(
        self,
        directory: Directory,
        listing: Listing,
        defaults: Defaults,
        search: FileSearch,
        explanation: Explanation,
    ) -> None:
        self._directory = directory
        self._listing = listing
        self._defaults = defaults
        self._search = search
        self._explanation = explanation

    def paths(self, name: str) -> list[str]:
        """Return the file, or the files of the VM; raise DriverError if there is none."""
        path = self._directory.path_of(os.path.abspath(name) if "/" in name else name)
        if path in self._listing.all_paths():
            return [path]
        if path == self._defaults.path:
            return []  # these are checked each time
        uuid = parse_uuid(name)
        machine = Machine(vc_uuid=uuid) if uuid else Machine(name=name)
        with self._directory.snapshot() as snapshot:
            for matched_by, stem in self._search.stems(machine):
                if paths := self._search.paths_named(matched_by, stem, snapshot):
                    return paths
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
