"""FileCheck: every fault and warning of the own data of one VM, for the command `validate`."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from vmw_cloudinit_metadata.drivers.checking.keptchecks import Checked, KeptChecks
from vmw_cloudinit_metadata.drivers.content.instancefile import InstanceFiles
from vmw_cloudinit_metadata.drivers.content.layer import located
from vmw_cloudinit_metadata.drivers.content.owndata import BY_LAYER, OwnData, of_file
from vmw_cloudinit_metadata.drivers.content.rivals import ONE_OF_THEM, joined_names, two_files
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.filemode import mode_faults
from vmw_cloudinit_metadata.drivers.filesystem.filename import unquoted_stem, usual_stem
from vmw_cloudinit_metadata.drivers.filesystem.listing import Listing
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.drivers.layers.inventories import Inventories
from vmw_cloudinit_metadata.drivers.layers.stack import LayerStack
from vmw_cloudinit_metadata.instance import advice, distinct, nocloud
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData, describe
from vmw_cloudinit_metadata.instance.layering.substitution import Sources, stand_in
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.vmname import normal
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid

Judge = Callable[[InstanceData], Iterable[Fault]]

_NIL_UUID = "00000000-0000-0000-0000-000000000000"


class FileCheck:
    """Checks the VMs of a directory one by one, with the layers that surely count for them."""

    def __init__(
        self,
        directory: Directory,
        listing: Listing,
        files: InstanceFiles,
        inventories: Inventories,
        kept: KeptChecks,
    ) -> None:
        self._directory = directory
        self._listing = listing
        self._files = files
        self._inventories = inventories
        self._kept = kept

    def check(self, own: OwnData, user_data: Collection[str], judge: Judge | None) -> Checked:
        """Check a file, unless it is one of `user_data`; `judge` adds warnings of what is served.

        A file that is named as user-data and has a key of an instance file is checked too.
        """
        try:
            content = self._content(own, user_data, judge)
            if content.is_user_data:
                return content
            about_names = [*self._name_faults(own), *self._rivals_in_inventories(own)]
        except DriverError as error:
            found = f"an error ({error})"
            return Checked((Fault((), found, "a file that can be read", own.path, 1),))
        values = content.values
        if any(fault.expected == ONE_OF_THEM for fault in about_names):
            values = ()  # another file of the same VM has them too
        return Checked((*about_names, *content.faults), values)

    def _content(self, own: OwnData, user_data: Collection[str], judge: Judge | None) -> Checked:
        """What is wrong with what it says, as kept or checked now."""
        kept = self._kept.get(own.label, partial(os.path.realpath, own.path))
        if kept:
            return kept
        with self._directory.snapshot() as snapshot:
            about_mode = mode_faults(own.path, snapshot)
            stack, sources = self._stack(own, snapshot)
            if user_data and self._is_user_data(own, stack, user_data):
                checked = Checked((), is_user_data=True)
            else:
                faults, values = self._check(own, stack, sources, snapshot, judge)
                checked = Checked((*about_mode, *faults), values)
            self._kept.put(own.label, snapshot.token(), checked)
        return checked

    def values_of(self, own: OwnData) -> Sequence[distinct.Value]:
        """The values that no other VM may have; none of data that has a fault."""
        with self._directory.snapshot() as snapshot:
            try:
                stack, sources = self._stack(own, snapshot)
                instance, _ = self._files.merged(stack, sources, snapshot)
            except DriverError:
                return ()
        return distinct.values_of(instance, own.stem) if instance else ()

    def located(self, fault: Fault, own: OwnData) -> Fault:
        """The fault with its place: in the VM's own data, or in a layer."""
        with self._directory.snapshot() as snapshot:
            return located(fault, self._stack(own, snapshot)[0].files)

    def _stack(self, own: OwnData, snapshot: Snapshot) -> tuple[LayerStack, Callable[[], Sources]]:
        """What surely counts for the VM, as far as its name or UUID says."""
        uuid = parse_uuid(own.stem)
        machine = Machine(vc_uuid=uuid) if uuid else Machine(name=own.stem)
        stack = self._files.stack(own, machine, snapshot)
        return stack, partial(stand_in, machine, stack.captures)

    def _is_user_data(self, own: OwnData, stack: LayerStack, user_data: Collection[str]) -> bool:
        is_empty = stack.own is not None and not stack.own.mapping
        return is_empty and not own.line and os.path.realpath(own.path) in user_data

    def _check(
        self,
        own: OwnData,
        stack: LayerStack,
        sources: Callable[[], Sources],
        snapshot: Snapshot,
        judge: Judge | None,
    ) -> tuple[Sequence[Fault], Sequence[distinct.Value]]:
        path, stem, layers = own.path, own.stem, stack.files
        instance, faults = self._files.merged(stack, sources, snapshot)
        if instance is None:
            return faults, ()
        try:
            nocloud.render(instance, Machine(name=stem, vc_uuid=_NIL_UUID))
        except InvalidInstanceData as error:
            return [replace(fault, file=path) for fault in error.faults], ()
        of_sources = (mode_faults(source, snapshot) for source in instance.sources[1:])
        warnings = [fault for faults in of_sources for fault in faults]
        about_data = [*advice.warnings_of(instance), *(judge(instance) if judge else ())]
        name = instance.match.get("name") if parse_uuid(stem) else stem
        about_data += nocloud.hostname_warnings(instance, name or "")
        about_data += _match_faults(instance, stem)
        warnings += (located(warning, layers) for warning in about_data)
        return warnings, distinct.values_of(instance, stem)

    def _rivals_in_inventories(self, own: OwnData) -> Iterator[Fault]:
        """Other entries of the same VM; reported for the first place alone."""
        stem = usual_stem(own.stem)
        with self._directory.snapshot() as snapshot:
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


def _match_faults(instance: InstanceData, stem: str) -> Iterator[Fault]:
    """Yield the fault of a file that no VM gets: its own name and its `match` disagree."""
    wanted = instance.match.get("name")
    if wanted is not None and not parse_uuid(stem) and normal(wanted) != normal(stem):
        expected = "the VM name by which the file is named, or the file named by this one"
        yield Fault(("match", "name"), describe(wanted), expected, is_warning=True)
