"""FileCheck: every fault and warning of one instance file, for the command `validate`."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from vmw_cloudinit_metadata.drivers.content.instancefile import InstanceFiles
from vmw_cloudinit_metadata.drivers.content.layer import FileLayer, located
from vmw_cloudinit_metadata.drivers.content.rivals import ONE_OF_THEM, joined_names, two_files
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.filemode import mode_faults
from vmw_cloudinit_metadata.drivers.filesystem.filename import stem_in, unquoted_stem, usual_stem
from vmw_cloudinit_metadata.drivers.filesystem.listing import Listing
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.instance import advice, distinct, nocloud
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData, describe
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.vmname import normal
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid

Judge = Callable[[InstanceData], Iterable[Fault]]

_NIL_UUID = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Checked:
    """The faults and warnings of a file, and its values that no other file may have."""

    faults: tuple[Fault, ...]
    values: Sequence[distinct.Value] = ()
    is_user_data: bool = False  # another file names it as its user-data: no instance file


class FileCheck:
    """Checks files of a directory one by one."""

    def __init__(self, directory: Directory, listing: Listing, files: InstanceFiles) -> None:
        self._directory = directory
        self._listing = listing
        self._files = files

    def check(self, path: str, user_data: Collection[str], judge: Judge | None) -> Checked:
        """Check a file, unless it is one of `user_data`; `judge` adds warnings of what is served.

        A file that is named as user-data and has a key of an instance file is checked too.
        """
        with self._directory.snapshot() as snapshot:
            about_file = [*self._name_faults(path), *mode_faults(path, snapshot)]
            try:
                layers = self._files.layers(path, snapshot)
                if user_data and not layers[0].mapping and os.path.realpath(path) in user_data:
                    return Checked((), is_user_data=True)
                faults, values = self._check(layers, snapshot, judge)
            except DriverError as error:
                found = f"an error ({error})"
                faults, values = [Fault((), found, "a file that can be read", path, 1)], ()
        if any(fault.expected == ONE_OF_THEM for fault in about_file):
            values = ()  # another file of the same VM has them too
        return Checked((*about_file, *faults), values)

    def values_of(self, path: str) -> Sequence[distinct.Value]:
        """Return the values that no other file may have; none for a file with a fault."""
        with self._directory.snapshot() as snapshot:
            try:
                instance, _ = self._files.merged(self._files.layers(path, snapshot), snapshot)
            except DriverError:
                return ()
        return distinct.values_of(instance, stem_in(path)) if instance else ()

    def located(self, fault: Fault, path: str) -> Fault:
        """Return the fault with its place, in the file or in the defaults."""
        with self._directory.snapshot() as snapshot:
            return located(fault, self._files.layers(path, snapshot))

    def _check(
        self, layers: Sequence[FileLayer], snapshot: Snapshot, judge: Judge | None
    ) -> tuple[Sequence[Fault], Sequence[distinct.Value]]:
        path = layers[0].path
        stem = stem_in(path)
        instance, faults = self._files.merged(layers, snapshot)
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

    def _name_faults(self, path: str) -> Iterator[Fault]:
        """Yield other files of the same VM, and a name that differs from the one looked up."""
        stem = stem_in(path)
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
