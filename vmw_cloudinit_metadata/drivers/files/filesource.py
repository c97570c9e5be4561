"""FileSource: a directory with one YAML file per VM, inventories of many VMs, and layers."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from vmw_cloudinit_metadata.drivers.answers.source import Source
from vmw_cloudinit_metadata.drivers.content.layer import FileLayer
from vmw_cloudinit_metadata.drivers.content.owndata import BY_LAYER, OwnData
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.drivererror import ChangedMeanwhile
from vmw_cloudinit_metadata.drivers.files import contents, documentfile
from vmw_cloudinit_metadata.drivers.files.defaults import Defaults
from vmw_cloudinit_metadata.drivers.files.documentnames import DocumentNames
from vmw_cloudinit_metadata.drivers.files.everyfile import EveryFile
from vmw_cloudinit_metadata.drivers.files.filecheck import FileCheck
from vmw_cloudinit_metadata.drivers.files.filehints import FileHints
from vmw_cloudinit_metadata.drivers.files.filenotices import FileNotices
from vmw_cloudinit_metadata.drivers.files.inventories import Inventories
from vmw_cloudinit_metadata.drivers.files.layerfiles import LayerFiles
from vmw_cloudinit_metadata.drivers.files.userdatafiles import UserDataFiles
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.filename import LAYERS, is_data_file
from vmw_cloudinit_metadata.drivers.filesystem.filetoken import Token
from vmw_cloudinit_metadata.drivers.filesystem.listing import Listing
from vmw_cloudinit_metadata.drivers.filesystem.root import LeadsOut
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.drivers.filesystem.watching import DirectoryWatch
from vmw_cloudinit_metadata.drivers.layers.sharedlayer import LayerSet
from vmw_cloudinit_metadata.drivers.store import BIOS_UUID, NAME, Key
from vmw_cloudinit_metadata.drivers.warming.preparedtoken import PreparedToken
from vmw_cloudinit_metadata.instance import fault
from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.process.budget import Table


class FileSource(Source[Snapshot]):
    """Reads `<VC UUID>.yaml`, `<BIOS UUID>.yaml` and `<VM name>.yaml` (or .yml, .json).

    And the VM's entry in an inventory. `defaults` is a file below all layers, or none. Raises
    DriverError if the directory, or that file, does not exist, unless it `may_be_absent`.
    """

    noun, place = "file", "directory"

    def __init__(
        self,
        path: str,
        defaults: str | None,
        *,
        links_outside: bool = False,
        may_be_absent: bool = False,
    ) -> None:
        directory = Directory(path, links_outside=links_outside, may_be_absent=may_be_absent)
        is_absent = may_be_absent and not os.path.isdir(path)
        self._directory = directory
        defaults_path = directory.path_of(defaults) if defaults else None
        if defaults_path and _is_among(defaults_path, directory.layers_path):
            raise DriverError(
                f"defaults: {defaults!r} is a layer, which counts already: remove this option"
            )
        self._defaults = Defaults(defaults_path, may_be_absent=is_absent)
        self._listing = Listing(directory, self._defaults.path)
        self._layers = LayerFiles(directory)
        self._inventories = Inventories(directory)
        self._every = EveryFile(self._listing, self._defaults, self._layers, self._inventories)
        self._document_names = DocumentNames(directory, self._every)
        self._user_data = UserDataFiles(directory, self._every)
        self._watch = DirectoryWatch(directory.path, LAYERS, directory.changes)
        self.hints = FileHints(directory.path, self._listing, self._inventories)
        self.notified = FileNotices(directory, self._defaults.path)
        self.prefix = os.path.join(directory.path, "")

    def view(self) -> Snapshot:
        return self._directory.snapshot()

    def layers(self, view: Snapshot) -> LayerSet:
        return self._layers.all(view)

    def lowest(self, view: Snapshot) -> Sequence[FileLayer]:
        return self._defaults.layers(view)

    def places(self, keys: Sequence[Key], view: Snapshot) -> Iterator[Sequence[OwnData]]:
        """Yield all that there is of each key; an inventory's UUIDs are VC UUIDs."""
        inventories = self._inventories.all(view)
        for kind, stem in keys:
            paths = self._paths(kind, stem, view)
            places = [OwnData(kind, path, stem) for path in paths]
            if inventories and kind != BIOS_UUID:
                for inventory in inventories:
                    places += inventory.places(stem, kind)
            yield places

    def _paths(self, kind: str, stem: str, view: Snapshot) -> list[str]:
        """Return the files in the usual spelling, otherwise those in others; a UUID has only
        one."""
        paths = self._listing.usual(stem, view)
        if paths or kind != NAME:
            return paths
        return self._listing.unusual(stem, view)

    def unread(self, view: Snapshot) -> Sequence[Fault]:
        """Raises ChangedMeanwhile if an inventory is another one than `places` has seen."""
        paths = self._inventories.paths(view)
        before = list(map(view.signature, paths))
        inventories = self._inventories.all(view)
        if list(map(view.signature, paths)) != before:
            raise ChangedMeanwhile("an inventory was changed while a VM was looked for in it")
        return [one for inventory in inventories for one in inventory.faults]

    def own(self, own: OwnData, view: Snapshot) -> FileLayer:
        if own.line:
            return self._inventories.of(own.path, view).read(own)
        return contents.read(own.path, view)

    def size_of(self, own: OwnData, view: Snapshot) -> int:
        return 0 if own.line or own.matched_by == BY_LAYER else view.size_of(own.path)

    def document(self, key: fault.Key, name: Any, view: Snapshot) -> tuple[str, bytes] | Fault:
        return documentfile.read(key, name, self._directory.path, view)

    def is_no_vm(self, own: OwnData) -> bool:
        return self._user_data.has(own.path)

    def exists(self, own: OwnData, view: Snapshot) -> bool:
        return view.exists(own.path)

    def short(self, label: str) -> str:
        return os.path.basename(label)

    def looks(self, layers: LayerSet, view: Snapshot) -> Callable[[OwnData], int]:
        """The number is a hash of the signatures of a file and of what lies below."""
        defaults = view.signature(self._defaults.path or "")

        def of(own: OwnData) -> int:
            path = own.path
            seen = view.signature(path)
            try:
                if seen is None and view.exists(path):
                    seen = view.signature(path)
            except DriverError:
                return 0
            return hash((seen, defaults, layers.version))

        return of

    def which_hold(self, tokens: Iterable[Token | PreparedToken]) -> Iterator[bool]:
        """Check tokens together: they share the directory and the defaults."""
        looks = self._directory.looks()
        return (token.holds(looks) for token in tokens)

    def watch(self, report: Callable[[str], None]) -> None:
        self._watch.start(report)

    def held_at(self, token: Token | PreparedToken, time_s: float) -> bool:
        return token.held_at(self._directory.changes, time_s)

    def revision(self) -> int | None:
        return self._directory.changes.latest()

    def close(self) -> None:
        self._watch.close()

    def document_names(self) -> Collection[str]:
        return self._document_names.all()

    def checks(self) -> FileCheck:
        return FileCheck(self._directory, self._every, self._user_data)

    def check(self) -> None:
        """Raise DriverError if the directory, or a file that every look-up reads, is unreadable."""
        with self.view() as view:
            inventories = filter(view.exists, self._inventories.paths(view))
            for path in (*self._defaults.paths, *self._layers.paths(view), *inventories):
                with suppress(LeadsOut):  # a fault of the data, no failure
                    view.read(path, 0)

    def tables(self) -> Mapping[str, Table]:
        return {"inventories": self._inventories, "file names": self._listing.spellings}


def _is_among(path: str, layers_path: str) -> bool:
    """Return whether a file is read as a layer too, perhaps by another path."""
    real = os.path.realpath(path)
    return os.path.dirname(real) == os.path.realpath(layers_path) and is_data_file(
        os.path.basename(real)
    )
