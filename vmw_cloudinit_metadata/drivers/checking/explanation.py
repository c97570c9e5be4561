"""Explanation: why a machine has no instance data, and which file was probably meant."""

from __future__ import annotations

from vmw_cloudinit_metadata.drivers.content.instancefile import InstanceFiles
from vmw_cloudinit_metadata.drivers.content.owndata import OwnData
from vmw_cloudinit_metadata.drivers.filesearch import FileSearch
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.filename import swapped
from vmw_cloudinit_metadata.drivers.filesystem.listing import Listing
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.drivers.layers.layerfiles import LayerFiles
from vmw_cloudinit_metadata.instance.counts import counted
from vmw_cloudinit_metadata.protocol.printable import quoted
from vmw_cloudinit_metadata.protocol.vmware import Machine

_UNUSED = (
    "{0} is named by the BIOS UUID of this VM, which counts only if the file says so: write "
    "`match: {{bios-uuid: {1}}}` into it, or include bios-uuid in the driver option `match`"
)
_SWAPPED = (
    "{0} is named by the {1} UUID of this VM as its guest prints it, with the bytes of the first "
    "three groups in reverse order: rename it to {2}.yaml{3}"
)
_NEARLY = "{0} exists, but no VM is looked up by that name: rename it to {1}.yaml"
_PINNED = (
    "its bios-uuid is that of this VM as the guest prints it, with the bytes of the first three "
    "groups in reverse order: write {0}"
)
_HIDDEN = "names that begin with a dot are not looked up: name the file by the VM's VC UUID"
_LEFT_OUT = (
    "the directory has too many files with unusual names, {0} are not considered: rename them as "
    "`validate` says"
)


class Explanation:
    def __init__(
        self,
        directory: Directory,
        listing: Listing,
        files: InstanceFiles,
        layers: LayerFiles,
        search: FileSearch,
    ) -> None:
        self._directory = directory
        self._listing = listing
        self._files = files
        self._layers = layers
        self._search = search

    def of(self, machine: Machine) -> str:
        """Return the reason in one sentence; raise DriverError, InvalidInstanceData, UnderWay."""
        with self._directory.snapshot() as snapshot:
            own = self._search.find(machine, snapshot)
            if own is None:
                reason, hint = self._no_file(machine), self._hint(machine, snapshot)
                if any(layer.serves for layer in self._layers.all(snapshot).layers):
                    reason += ", and no layer with serve: true matches it"
            else:
                reason, hint = self._not_served(machine, own, snapshot)
        return f"{reason}; {hint}" if hint else reason

    def _no_file(self, machine: Machine) -> str:
        names = " or ".join(quoted(f"{stem}.yaml") for _, stem in self._search.stems(machine))
        return f"no file named {names or 'after it'} in {self._directory.path}"

    def _not_served(self, machine: Machine, own: OwnData, snapshot: Snapshot) -> tuple[str, str]:
        path = own.label
        reading = self._files.read(own, machine, snapshot)
        if reading.is_like_user_data:
            return f"{path} is user-data that another file names, not an instance file", ""
        instance = reading.served()
        keys = " and ".join(instance.differences(machine))
        reason = f"{path} is for another VM: its match has a different {keys}"
        bios_uuid = machine.bios_uuid
        is_swapped = bios_uuid and instance.match.get("bios-uuid") == swapped(bios_uuid)
        return reason, _PINNED.format(bios_uuid) if is_swapped else ""

    def _hint(self, machine: Machine, snapshot: Snapshot) -> str:
        self._listing.look()
        bios_uuid, vc_uuid = machine.bios_uuid, machine.vc_uuid
        is_match_given = self._search.is_match_given
        if bios_uuid and not is_match_given and (file := self._named_by(bios_uuid, snapshot)):
            return _UNUSED.format(file, bios_uuid)
        for _, stem in self._search.stems(machine):
            if file := self._listing.nearly(stem):
                return _NEARLY.format(file, stem)
        if bios_uuid and (file := self._named_by(swapped(bios_uuid), snapshot)):
            pin = f", and write `match: {{bios-uuid: {bios_uuid}}}` into it"
            return _SWAPPED.format(file, "BIOS", bios_uuid, "" if is_match_given else pin)
        if vc_uuid and (file := self._named_by(swapped(vc_uuid), snapshot)):
            return _SWAPPED.format(file, "VC", vc_uuid, "")
        if machine.name and machine.name.startswith("."):
            return _HIDDEN
        left_out = self._listing.spellings.left_out
        return _LEFT_OUT.format(counted(left_out, "file")) if left_out else ""

    def _named_by(self, uuid: str, snapshot: Snapshot) -> str | None:
        """Return the file named by a UUID, in any spelling."""
        paths = self._listing.usual(uuid, snapshot) or self._listing.unusual(uuid, snapshot)
        return next(iter(paths), None)
