"""Search: which data is a machine's own, by its identities in order."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic

from vmw_cloudinit_metadata.drivers.answers.instances import Instances
from vmw_cloudinit_metadata.drivers.answers.source import Source, V
from vmw_cloudinit_metadata.drivers.content.owndata import BY_LAYER, OwnData
from vmw_cloudinit_metadata.drivers.content.rivals import two_files
from vmw_cloudinit_metadata.drivers.filesystem.filename import stem_of
from vmw_cloudinit_metadata.drivers.store import BIOS_UUID, IDENTITIES, NAME, VC_UUID, Key
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid


class Search(Generic[V]):
    """Finds a machine's own data in a source; `match` is the driver's option of that name."""

    def __init__(
        self, source: Source[V], instances: Instances[V], match: Collection[str] | None
    ) -> None:
        self._source = source
        self._instances = instances
        self._match = match or IDENTITIES
        self.is_match_given = bool(match)

    def own(self, machine: Machine, view: V) -> OwnData | None:
        """Return the machine's data as `find` does, or else the layer that serves it."""
        return self.find(machine, view) or self._instances.of_layers(machine, view)

    def find(self, machine: Machine, view: V) -> OwnData | None:
        """Raises DriverError and UnderWay, and InvalidInstanceData if there are several.

        Also if there is none, but an inventory that cannot be read could have it.
        """
        keys = self.keys(machine)
        for key, places in zip(keys, self._source.places(keys, view), strict=False):
            if places and key.kind == BIOS_UUID and not self.is_match_given:
                places = [place for place in places if self._counts(place, machine, view)]
            if len(places) > 1:
                labels = [place.label for place in places]
                raise InvalidInstanceData([two_files(labels, self._source.short)])
            if places:
                return places[0]
        faults = self._source.unread(view)
        if faults:
            raise InvalidInstanceData(faults)
        return None

    def keys(self, machine: Machine) -> list[Key]:
        """Return what a machine's data is looked up by."""
        values = (
            (VC_UUID, machine.vc_uuid),
            (BIOS_UUID, machine.bios_uuid),
            (NAME, stem_of(machine.name) if machine.name else None),
        )
        return [Key(kind, value) for kind, value in values if value and kind in self._match]

    def has(self, machine: Machine, own: OwnData) -> bool:
        """Whether the machine could be found by the identity that it was found by."""
        if own.matched_by == BY_LAYER:
            return own.stem == (machine.name or "")
        return any(key.value == own.stem for key in self.keys(machine))

    def _counts(self, own: OwnData, machine: Machine, view: V) -> bool:
        """Whether the data named by the machine's BIOS UUID is meant for it.

        Data that cannot be parsed may be meant: its fault is reported, and nothing else served.
        """
        reading = self._instances.read(own, machine, view, keep=True)
        if not reading.is_legible:
            return True
        return reading.bios_uuid is not None and parse_uuid(str(reading.bios_uuid)) in (
            machine.bios_uuid,
            None,  # a fault, which is reported
        )
