"""FileDriver: a directory with one YAML file per VM, inventories of many VMs, and layers."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from vmw_cloudinit_metadata.drivers import fileoptions
from vmw_cloudinit_metadata.drivers.checking.explanation import Explanation
from vmw_cloudinit_metadata.drivers.checking.filecheck import FileCheck
from vmw_cloudinit_metadata.drivers.checking.keptchecks import KeptChecks
from vmw_cloudinit_metadata.drivers.checking.layercheck import LayerCheck
from vmw_cloudinit_metadata.drivers.checking.namedfiles import NamedFiles
from vmw_cloudinit_metadata.drivers.checking.validation import Validation, once
from vmw_cloudinit_metadata.drivers.content.defaults import Defaults
from vmw_cloudinit_metadata.drivers.content.documentnames import DocumentNames
from vmw_cloudinit_metadata.drivers.content.everyfile import EveryFile
from vmw_cloudinit_metadata.drivers.content.instancefile import InstanceFiles
from vmw_cloudinit_metadata.drivers.content.owndata import OwnData, of_file
from vmw_cloudinit_metadata.drivers.content.userdatafiles import UserDataFiles
from vmw_cloudinit_metadata.drivers.driver import Driver, DriverError
from vmw_cloudinit_metadata.drivers.filesearch import FileSearch
from vmw_cloudinit_metadata.drivers.filesystem import skipped
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.filename import LAYERS, is_named_by_uuid
from vmw_cloudinit_metadata.drivers.filesystem.listing import Listing
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot, Token
from vmw_cloudinit_metadata.drivers.filesystem.watching import DirectoryWatch
from vmw_cloudinit_metadata.drivers.lastgood import LastGood
from vmw_cloudinit_metadata.drivers.layers.explained import explained
from vmw_cloudinit_metadata.drivers.layers.inventories import Inventories
from vmw_cloudinit_metadata.drivers.layers.layerfiles import LayerFiles
from vmw_cloudinit_metadata.drivers.observation import Census, Observation
from vmw_cloudinit_metadata.instance.counts import counted
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.process.budget import Table
from vmw_cloudinit_metadata.protocol.vmware import Machine

_NAMED_BY_UUID = (
    "{0} {1} named by a UUID: {2} found by VC UUID. One that is named by a BIOS UUID "
    "needs `match: {{bios-uuid: UUID}}` in it, or the driver option `match`"
)

# How long a look-up waits for a free file descriptor, and how often it tries again.
_PATIENCE_S = 1.0
_PAUSE_S = 0.02


class FileDriver(Driver):
    """Reads `<VC UUID>.yaml`, else `<BIOS UUID>.yaml`, else `<VM name>.yaml` (or .yml, .json).

    Or the VM's entry in an inventory. This own data lies over the layers that count for the VM.

    Whoever may edit a VM can give it any BIOS UUID, also one by which another VM's file is named.
    So a BIOS UUID counts only where the file says so in its `match`, or the option `match` does.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        checked = fileoptions.checked(options)
        directory = Directory(checked.directory, links_outside=checked.links_outside)
        defaults = Defaults(directory.path_of(checked.defaults) if checked.defaults else None)
        listing = Listing(directory, defaults.path)
        self._directory, self._defaults, self._listing = directory, defaults, listing
        self._layers = layers = LayerFiles(directory)
        self._inventories = inventories = Inventories(directory)
        self._files = InstanceFiles(directory.path, defaults, layers, inventories)
        self._search = FileSearch(listing, self._files, inventories, checked.match)
        self._explanation = Explanation(directory, listing, self._files, layers, self._search)
        every = EveryFile(listing, defaults, layers, inventories)
        self._document_names = DocumentNames(directory, every)
        self._user_data = UserDataFiles(directory, every)
        self._last_good = LastGood(checked.last_good_max_age_s)
        self._kept_checks = KeptChecks()
        self._census = Census()
        self._watch = DirectoryWatch(directory.path, LAYERS, directory.changes)
        self.stale_if_error_s = checked.last_good_max_age_s

    def get_instance(self, machine: Machine) -> InstanceData | None:
        end_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                with self._directory.snapshot() as snapshot:
                    return self._get(machine, snapshot)
            except DriverError as error:  # the files are out of reach
                if not _lacks_descriptor(error) or time.monotonic() > end_s:
                    return self._last_good_for(machine, error)
            time.sleep(_PAUSE_S)  # meanwhile connections end, to make room

    def still_holds(self, token: Token) -> bool:
        return token.holds(self._directory.looks())

    def which_hold(self, tokens: Iterable[Token]) -> Iterator[bool]:
        """Check tokens together: they share the directory and the defaults."""
        looks = self._directory.looks()
        return (token.holds(looks) for token in tokens)

    def watch(self, report: Callable[[str], None]) -> None:
        self._watch.start(report)

    def held_at(self, token: Token, time_s: float) -> bool:
        return token.held_at(self._directory.changes, time_s)

    def close(self) -> None:
        self._watch.close()

    def document_names(self) -> Collection[str]:
        return self._document_names.all()

    def explain(self, machine: Machine) -> str:
        return self._explanation.of(machine)

    def trace(self, machine: Machine) -> Iterator[str]:
        with self._directory.snapshot() as snapshot:
            own = self._search.find(machine, snapshot) or self._files.of_layers(machine, snapshot)
            if own:
                stack = self._files.stack(own, machine, snapshot)
                yield from explained(stack, machine, self._directory.path)

    def check(self) -> None:
        self._directory.check()

    def validate(self) -> Iterator[Fault]:
        """Yield every fault and warning of every file, each once."""
        return once(one.fault for one in self.survey() if one)

    def survey(self) -> Iterator[Observation | None]:
        self._directory.check()
        user_data = self._user_data.all()
        self._kept_checks.begin(user_data)
        places, validation = self._every_place(), self._validation()
        yield from validation.observations(places, user_data)
        self._kept_checks.end()
        yield from map(Observation, skipped.nearly_instance_files(self._directory.path))
        if os.path.isdir(self._layers.path):
            yield from map(Observation, skipped.nearly_instance_files(self._layers.path))
        self.files_checked = validation.files_checked
        self._census = self._count(validation.vms)

    def _count(self, vms: int) -> Census:
        with self._directory.snapshot() as snapshot:
            layers = self._layers.paths(snapshot)
            inventories = self._inventories.paths(snapshot)
        shared = [*self._defaults.paths, *layers, *inventories]
        return Census(len(self._listing.all_paths()) + len(shared), vms, len(layers))

    def census(self) -> Census:
        return self._census

    def revision(self) -> int | None:
        return self._directory.changes.latest()

    def validate_named(self, names: Collection[str]) -> Iterator[Fault]:
        """Check files, by their paths, and the files of VMs, by their names or VC UUIDs.

        The other files are only compared with them. Raise DriverError for a file that does not
        exist or is not an instance file, and for a VM without one.
        """
        self._directory.check()
        named = NamedFiles(
            self._directory,
            self._listing,
            self._defaults,
            self._layers,
            self._search,
            self._inventories,
            self._explanation,
        )
        chosen = list(dict.fromkeys(own for name in names for own in named.places(name)))
        user_data, validation = self._user_data.all(), self._validation()
        self._kept_checks.begin(user_data)
        yield from validation.run(chosen, user_data, self._every_place())
        self.files_checked = validation.files_checked

    def _every_place(self) -> list[OwnData]:
        places = [of_file(path) for path in self._listing.all_paths()]
        with self._directory.snapshot() as snapshot:
            for inventory in self._inventories.all(snapshot):
                places += inventory.all()
            places += self._layers.vms_served(snapshot, {place.stem for place in places})
        return places

    def _validation(self) -> Validation:
        file_check = FileCheck(
            self._directory, self._listing, self._files, self._inventories, self._kept_checks
        )
        layer_check = LayerCheck(self._directory, self._layers, self._inventories)
        return Validation(
            self._directory, self._listing, self._defaults, layer_check, file_check, self.judge
        )

    def tables(self) -> Mapping[str, Table]:
        return {
            "last good answers": self._last_good,
            "readings": self._files.readings,
            "inventories": self._inventories,
            "values compared": self._files.owners,
            "file names": self._listing.spellings,
        }

    def notes(self) -> Iterator[str]:
        """Yield which identities find VMs' files, and which files are ignored."""
        paths = self._listing.all_paths()
        if not self._every_place():
            yield f"0 files: {skipped.nothing_in(self._directory.path)}"
        count = sum(map(is_named_by_uuid, paths))
        if count and not self._search.is_match_given:
            verbs = ("is", "it is") if count == 1 else ("are", "they are")
            yield _NAMED_BY_UUID.format(counted(count, "file"), *verbs)
        below = skipped.below(self._directory.path, self._user_data.all)
        if below:
            yield below

    def _get(self, machine: Machine, snapshot: Snapshot) -> InstanceData | None:
        try:
            found = self._find(machine, snapshot)
        except InvalidInstanceData as error:
            return self._last_good_for(machine, error, snapshot)
        if found is None:
            self._last_good.forget(machine.vc_uuid)
            return None
        own, instance = found
        self._last_good.remember(machine.vc_uuid, own, instance, snapshot.bytes_seen)
        return instance

    def _find(self, machine: Machine, snapshot: Snapshot) -> tuple[OwnData, InstanceData] | None:
        own = self._search.find(machine, snapshot) or self._files.of_layers(machine, snapshot)
        if own is None:
            return None
        reading = self._files.read(own, machine, snapshot)
        if reading.is_like_user_data and self._user_data.has(own.path):
            return None
        instance = reading.served()
        if not instance.is_for(machine):
            return None
        return own, replace(
            instance,
            matched_by=own.matched_by,
            duplicates=reading.duplicates,
            token=snapshot.token(),
        )

    def _last_good_for(
        self,
        machine: Machine,
        error: DriverError | InvalidInstanceData,
        snapshot: Snapshot | None = None,
    ) -> InstanceData:
        """Return the last good answer; without a snapshot, the files are out of reach."""
        recalled = self._last_good.recall(machine.vc_uuid)
        if recalled is None:
            raise error
        own, instance, until_s = recalled
        token = None
        if not self._search.has(machine, own):  # the VM was renamed
            raise error
        if snapshot:
            if not snapshot.exists(own.path):
                self._last_good.forget(machine.vc_uuid)
                raise error
            token = snapshot.token(until_s)
        problem = f"the last good answer is served, because: {error}"
        return replace(instance, problem=problem, token=token)


def _lacks_descriptor(error: DriverError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE)
