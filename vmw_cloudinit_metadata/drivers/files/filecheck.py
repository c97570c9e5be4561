"""FileCheck: what `validate` asks of a directory of files besides what they say."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence

from vmw_cloudinit_metadata.drivers.answers.source import SourceChecks
from vmw_cloudinit_metadata.drivers.content.owndata import BY_LAYER, OwnData
from vmw_cloudinit_metadata.drivers.content.rivals import ONE_OF_THEM, joined_names, two_files
from vmw_cloudinit_metadata.drivers.files.everyfile import EveryFile
from vmw_cloudinit_metadata.drivers.files.inventories import Inventory
from vmw_cloudinit_metadata.drivers.files.userdatafiles import UserDataFiles
from vmw_cloudinit_metadata.drivers.filesystem import skipped
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.filemode import mode_faults
from vmw_cloudinit_metadata.drivers.filesystem.filename import (
    SUFFIXES,
    is_instance_file,
    is_named_by_uuid,
    stem_in,
    unquoted_stem,
    usual_stem,
)
from vmw_cloudinit_metadata.drivers.filesystem.filetoken import Looks, Token
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.drivers.layers.sharedlayer import vms_served
from vmw_cloudinit_metadata.drivers.layers.stack import LayerStack
from vmw_cloudinit_metadata.drivers.observation import NAMED_VMS, Census, Observation
from vmw_cloudinit_metadata.instance.counts import counted
from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid

_NAMED_BY_UUID = (
    "{0} {1} named by a UUID: {2} found by VC UUID. One that is named by a BIOS UUID "
    "needs `match: {{bios-uuid: UUID}}` in it, or the driver option `match`"
)


class FileCheck(SourceChecks[Snapshot]):
    def __init__(self, directory: Directory, every: EveryFile, user_data: UserDataFiles) -> None:
        """Raises DriverError."""
        directory.check()
        self._directory = directory
        self._listing = every.listing
        self._defaults = every.defaults
        self._layers = every.layers
        self._inventories = every.inventories
        self._find_user_data = user_data.all
        self._found: Collection[str] | None = None
        self._looks = Looks()

    @property
    def _user_data(self) -> Collection[str]:
        if self._found is None:
            self._found = self._find_user_data()
        return self._found

    def view(self) -> Snapshot:
        return self._directory.snapshot()

    def every(self) -> Sequence[OwnData]:
        self._listing.look()
        places = [of_file(path) for path in self._listing.all_paths()]
        with self._directory.snapshot() as snapshot:
            for inventory in self._inventories.all(snapshot):
                places += inventory.all()
            places += vms_served(self._layers.all(snapshot), {place.stem for place in places})
        return places

    def chosen(self, name: str) -> Sequence[OwnData] | None:
        """The file, or all of an inventory; nothing for layers, and the defaults; None otherwise.

        Raise DriverError for the name of a file that is not read.
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
        return None

    def unknown(self, name: str) -> str:
        path = self._directory.path_of(os.path.abspath(name) if "/" in name else name)
        if not ("/" in name or name.endswith(SUFFIXES) or os.path.exists(path)):
            return ""
        directory = self._directory.path
        if not os.path.lexists(path):
            return f"no such file, and no VM of that name has one in {directory}"
        if is_instance_file(os.path.basename(path)):
            return f"this file is not in the directory {directory}"
        return f"not read as an instance file, because of its name: expected NAME{SUFFIXES[0]}"

    def of_lowest(self, view: Snapshot) -> Iterator[Fault]:
        return self._defaults.faults(view)

    def of_shared(self, view: Snapshot) -> Iterator[Observation]:
        for inventory in self._inventories.all(view):
            names = list(inventory.entries)
            for fault in _inventory_faults(inventory, view):
                yield Observation(fault, names[:NAMED_VMS], len(names))

    def of_label(self, label: str, view: Snapshot) -> Iterator[Fault]:
        return mode_faults(label, view)

    def of_own(self, own: OwnData, view: Snapshot) -> Iterator[Fault]:
        yield from self._name_faults(own)
        yield from self._rivals_in_inventories(own, view)

    def is_no_vm(self, own: OwnData, stack: LayerStack) -> bool:
        is_empty = stack.own is not None and not stack.own.mapping
        return is_empty and not own.line and os.path.realpath(own.path) in self._user_data

    def named_files(self) -> Collection[str]:
        return self._user_data

    def holds(self, token: Token) -> bool:
        return token.holds(self._looks)

    def census(self, vms: int) -> Census:
        with self._directory.snapshot() as snapshot:
            layers = self._layers.paths(snapshot)
            inventories = self._inventories.paths(snapshot)
        shared = [*self._defaults.paths, *layers, *inventories]
        return Census(len(self._listing.all_paths()) + len(shared), vms, len(layers))

    def others(self) -> Iterator[Fault]:
        yield from skipped.nearly_instance_files(self._directory.path)
        if os.path.isdir(self._layers.path):
            yield from skipped.nearly_instance_files(self._layers.path)
            yield from skipped.tables_among(self._layers.path)

    def notes(self, *, is_match_given: bool) -> Iterator[str]:
        """Yield which identities find VMs' files, and which files are ignored."""
        paths = self._listing.all_paths()
        if not self.every():
            yield f"0 files: {skipped.nothing_in(self._directory.path)}"
        count = sum(map(is_named_by_uuid, paths))
        if count and not is_match_given:
            verbs = ("is", "it is") if count == 1 else ("are", "they are")
            yield _NAMED_BY_UUID.format(counted(count, "file"), *verbs)
        below = skipped.below(self._directory.path, self._find_user_data)
        if below:
            yield below

    def _rivals_in_inventories(self, own: OwnData, snapshot: Snapshot) -> Iterator[Fault]:
        """Other entries of the same VM; reported for the first place alone."""
        stem = usual_stem(own.stem)
        inventories = self._inventories.all(snapshot)
        if not stem or not inventories:
            return
        files = [of_file(path) for path in self._listing.present(stem)]
        entries = [place for one in inventories for place in one.places(stem, "")]
        places = [*files, *entries]
        if entries and len(places) > 1 and places[0].label == own.label:
            yield two_files([place.label for place in places])

    def _name_faults(self, own: OwnData) -> Iterator[Fault]:
        """Other files of the same VM, and a name that differs from the one looked up."""
        if own.line or own.matched_by == BY_LAYER:
            return
        path, stem = own.path, own.stem
        paths = self._listing.present(stem)
        if len(paths) > 1:
            yield two_files(paths)
        usual = usual_stem(stem)
        if usual == stem:
            return
        expected = f"{usual}.yaml" if usual else "a name that a VM can have"
        if meant := unquoted_stem(stem):
            expected += f", or {meant}.yaml if it is not part of the VM's name"
        yield Fault((), f"the file name {stem!r}", expected, path, 1, is_warning=True)
        if usual and not parse_uuid(stem):
            # The file of the usual spelling is served; without one, none is.
            same = self._listing.present(usual)
            others = same or self._listing.known_unusual(usual)
            if others != [path]:
                both = f"{joined_names(sorted({*others, path}))}, which are one VM name"
                yield Fault((), both, ONE_OF_THEM, path, 1, is_warning=bool(same))


def of_file(path: str) -> OwnData:
    """A file, found by no machine."""
    return OwnData("", path, stem_in(path))


def _inventory_faults(inventory: Inventory, snapshot: Snapshot) -> Iterator[Fault]:
    """The entries are checked one by one elsewhere."""
    yield from inventory.faults
    yield from mode_faults(inventory.path, snapshot)
    for entry in inventory.unusable:
        found, expected = "a name that no VM is looked up by", "the name of a VM, or its VC UUID"
        yield Fault((), found, expected, inventory.path, entry.line, is_warning=True)
