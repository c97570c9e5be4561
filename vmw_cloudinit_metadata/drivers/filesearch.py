"""FileSearch: which file or entry of an inventory is a machine's, by its identities in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vmw_cloudinit_metadata.drivers.content.instancefile import InstanceFiles
from vmw_cloudinit_metadata.drivers.content.owndata import BY_LAYER, OwnData
from vmw_cloudinit_metadata.drivers.content.rivals import two_files
from vmw_cloudinit_metadata.drivers.filesystem.filename import stem_of
from vmw_cloudinit_metadata.drivers.filesystem.listing import Listing
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.drivers.layers.inventories import Inventories, Inventory
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid

_ORDER = ("vc-uuid", "bios-uuid", "name")


class FileSearch:
    """Finds a machine's own data in the directory; `match` is the driver's option of that name."""

    def __init__(
        self,
        listing: Listing,
        files: InstanceFiles,
        inventories: Inventories,
        match: Sequence[str] | None,
    ) -> None:
        self._listing = listing
        self._files = files
        self._inventories = inventories
        self._match = match or _ORDER
        self.is_match_given = bool(match)

    def find(self, machine: Machine, snapshot: Snapshot) -> OwnData | None:
        """Raises DriverError and UnderWay, and InvalidInstanceData if there are several.

        Also if there is none, but an inventory that cannot be read could have it.
        """
        inventories = self._inventories.all(snapshot)
        for matched_by, stem in self.stems(machine):
            places = self.places(matched_by, stem, inventories, snapshot)
            if matched_by == "bios-uuid" and not self.is_match_given:
                places = [place for place in places if self._counts(place, machine, snapshot)]
            if len(places) > 1:
                raise InvalidInstanceData([two_files([place.label for place in places])])
            if places:
                return places[0]
        faults = [fault for inventory in inventories for fault in inventory.faults]
        if faults:
            raise InvalidInstanceData(faults)
        return None

    def places(
        self, matched_by: str, stem: str, inventories: Sequence[Inventory], snapshot: Snapshot
    ) -> list[OwnData]:
        """All that there is of a stem; an inventory's UUIDs are VC UUIDs."""
        paths = self.paths_named(matched_by, stem, snapshot)
        places = [OwnData(matched_by, path, stem) for path in paths] if paths else []
        if matched_by != "bios-uuid":
            for inventory in inventories:
                places += inventory.places(stem, matched_by)
        return places

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

    def has(self, machine: Machine, own: OwnData) -> bool:
        """Whether the machine could be found by the identity that it was found by."""
        if own.matched_by == BY_LAYER:
            return own.stem == (machine.name or "")
        return any(stem == own.stem for _, stem in self.stems(machine))

    def _counts(self, own: OwnData, machine: Machine, snapshot: Snapshot) -> bool:
        """Whether the file named by the machine's BIOS UUID is meant for it.

        A file that cannot be parsed may be meant: its fault is reported, and no other file served.
        """
        reading = self._files.read(own, machine, snapshot, keep=True)
        if not reading.is_legible:
            return True
        return reading.bios_uuid is not None and parse_uuid(str(reading.bios_uuid)) in (
            machine.bios_uuid,
            None,  # a fault, which is reported
        )
