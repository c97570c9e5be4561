"""Explanation: why a machine has no instance data, and which data was probably meant."""

from __future__ import annotations

from typing import Generic

from vmw_cloudinit_metadata.drivers.answers.instances import Instances
from vmw_cloudinit_metadata.drivers.answers.search import Search
from vmw_cloudinit_metadata.drivers.answers.source import Source, V
from vmw_cloudinit_metadata.drivers.content.owndata import OwnData
from vmw_cloudinit_metadata.drivers.filesystem.filename import swapped
from vmw_cloudinit_metadata.drivers.store import BIOS_UUID, VC_UUID, Key
from vmw_cloudinit_metadata.protocol.vmware import Machine

_UNUSED = (
    "{0} is named by the BIOS UUID of this VM, which counts only if the {2} says so: write "
    "`match: {{bios-uuid: {1}}}` into it, or include bios-uuid in the driver option `match`"
)
_SWAPPED = (
    "{0} is named by the {1} UUID of this VM as its guest prints it, with the bytes of the first "
    "three groups in reverse order: rename it to {2}{3}"
)
_PINNED = (
    "its bios-uuid is that of this VM as the guest prints it, with the bytes of the first three "
    "groups in reverse order: write {0}"
)


class Explanation(Generic[V]):
    def __init__(self, source: Source[V], instances: Instances[V], search: Search[V]) -> None:
        self._source = source
        self._instances = instances
        self._search = search

    def of(self, machine: Machine) -> str:
        """Return the reason in one sentence; raise DriverError, InvalidInstanceData, UnderWay."""
        with self._source.view() as view:
            own = self._search.find(machine, view)
            if own is None:
                reason = self._source.hints.absence(self._search.keys(machine), view)
                hint = self._hint(machine, view)
                if any(layer.serves for layer in self._source.layers(view).layers):
                    reason += ", and no layer with serve: true matches it"
            else:
                reason, hint = self._not_served(machine, own, view)
        return f"{reason}; {hint}" if hint else reason

    def _not_served(self, machine: Machine, own: OwnData, view: V) -> tuple[str, str]:
        label = own.label
        reading = self._instances.read(own, machine, view)
        if reading.is_like_user_data:
            return f"{label} is user-data that another file names, not an instance file", ""
        instance = reading.served()
        keys = " and ".join(instance.differences(machine))
        reason = f"{label} is for another VM: its match has a different {keys}"
        bios_uuid = machine.bios_uuid
        is_swapped = bios_uuid and instance.match.get("bios-uuid") == swapped(bios_uuid)
        return reason, _PINNED.format(bios_uuid) if is_swapped else ""

    def _hint(self, machine: Machine, view: V) -> str:
        hints, bios_uuid, vc_uuid = self._source.hints, machine.bios_uuid, machine.vc_uuid
        is_match_given = self._search.is_match_given
        unused = None if is_match_given or not bios_uuid else Key(BIOS_UUID, bios_uuid)
        if unused and (label := hints.named(unused, view)):
            return _UNUSED.format(label, bios_uuid, self._source.noun)
        if hint := hints.nearly(self._search.keys(machine)):
            return hint
        if bios_uuid and (label := hints.named(Key(BIOS_UUID, swapped(bios_uuid)), view)):
            pin = f", and write `match: {{bios-uuid: {bios_uuid}}}` into it"
            name = hints.called(bios_uuid)
            return _SWAPPED.format(label, "BIOS", name, "" if is_match_given else pin)
        if vc_uuid and (label := hints.named(Key(VC_UUID, swapped(vc_uuid)), view)):
            return _SWAPPED.format(label, "VC", hints.called(vc_uuid), "")
        return hints.unseen(machine)
