"""FileSearch: finds a machine's instance file, by its identities in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vmw_cloudinit_metadata.drivers.content.instancefile import InstanceFiles
from vmw_cloudinit_metadata.drivers.content.rivals import only
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.filename import stem_of
from vmw_cloudinit_metadata.drivers.filesystem.listing import Listing
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid

_ORDER = ("vc-uuid", "bios-uuid", "name")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """An instance file, and the identity that found it."""

    matched_by: str
    path: str


class FileSearch:
    """Finds a machine's file in the directory; `match` is the driver's option of that name."""

    def __init__(
        self,
        directory: Directory,
        listing: Listing,
        files: InstanceFiles,
        match: Sequence[str] | None,
    ) -> None:
        self._directory = directory
        self._listing = listing
        self._files = files
        self._match = match or _ORDER
        self.is_match_given = bool(match)

    def find(self, machine: Machine, snapshot: Snapshot) -> FoundFile | None:
        """Return the machine's file, or None; raise DriverError, and InvalidInstanceData for
        several."""
        for matched_by, stem in self.stems(machine):
            paths = self.paths_named(matched_by, stem, snapshot)
            if matched_by == "bios-uuid" and not self.is_match_given:
                paths = [path for path in paths if self._counts(path, machine, snapshot)]
            path = only(paths)
            if path:
                return FoundFile(matched_by, path)
        return None

    def stems(self, machine: Machine) -> Iterator[tuple[str, str]]:
        """Yield the identities to look up, each with the name of its file."""
        stems = {
            "vc-uuid": machine.vc_uuid,
            "bios-uuid": machine.bios_uuid,
            "name": stem_of(machine.name) if machine.name else None,
        }
        for matched_by, stem in stems.items():
            if stem and matched_by in self._match:
                yield matched_by, stem

    def paths_named(self, matched_by: str, stem: str, snapshot: Snapshot) -> list[str]:
        """Return the files in the usual spelling, otherwise those in others; a UUID has only
        one."""
        paths = self._listing.usual(stem, snapshot)
        if paths or matched_by != "name":
            return paths
        return self._listing.unusual(stem, snapshot)

    def has(self, machine: Machine, path: str) -> bool:
        """Return whether the machine could be found by the name of that file."""
        stems = [stem for _, stem in self.stems(machine)]
        return any(
            path in self._directory.paths_named(stem) or path in self._listing.known_unusual(stem)
            for stem in stems
        )

    def _counts(self, path: str, machine: Machine, snapshot: Snapshot) -> bool:
        """Return whether the file named by the machine's BIOS UUID is meant for it.

        A file that cannot be parsed may be meant: its fault is reported, and no other file served.
        """
        reading = self._files.read(path, snapshot, keep=True)
        if not reading.is_legible:
            return True
        return reading.bios_uuid is not None and parse_uuid(str(reading.bios_uuid)) in (
            machine.bios_uuid,
            None,  # a fault, which is reported
        )
