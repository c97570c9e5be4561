"""FileHints: why a VM has no file, and which one was probably meant."""

from __future__ import annotations

import os
from collections.abc import Sequence

from vmw_cloudinit_metadata.drivers.answers.source import Hints
from vmw_cloudinit_metadata.drivers.files.inventories import Inventories
from vmw_cloudinit_metadata.drivers.filesystem.filename import SUFFIXES
from vmw_cloudinit_metadata.drivers.filesystem.listing import Listing
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.drivers.store import Key
from vmw_cloudinit_metadata.instance.counts import counted
from vmw_cloudinit_metadata.protocol.printable import quoted
from vmw_cloudinit_metadata.protocol.vmware import Machine

_NEARLY = "{0} exists, but no VM is looked up by that name: rename it to {1}"
_DANGLING = "{0} is a link to a file that does not exist"
_HIDDEN = "names that begin with a dot are not looked up: name the file by the VM's VC UUID"
_LEFT_OUT = (
    "the directory has too many files with unusual names, {0} are not considered: rename them as "
    "`validate` says"
)


class FileHints(Hints[Snapshot]):
    def __init__(self, directory: str, listing: Listing, inventories: Inventories) -> None:
        self._directory = directory
        self._listing = listing
        self._inventories = inventories

    def absence(self, keys: Sequence[Key], view: Snapshot) -> str:
        names = " or ".join(quoted(self.called(key.value)) for key in keys)
        reason = f"no file named {names or 'after it'} in {self._directory}"
        inventories = " or ".join(map(os.path.basename, self._inventories.paths(view)))
        return f"{reason}, and no entry in {inventories}" if inventories else reason

    def called(self, value: str) -> str:
        return f"{value}.yaml"

    def named(self, key: Key, view: Snapshot) -> str | None:
        """Return the file of that name, in any spelling."""
        self._listing.look()
        paths = self._listing.usual(key.value, view) or self._listing.unusual(key.value, view)
        return next(iter(paths), None)

    def nearly(self, keys: Sequence[Key]) -> str:
        self._listing.look()
        for key in keys:
            if file := self._listing.nearly(key.value):
                return _NEARLY.format(file, self.called(key.value))
            if link := self._link(key.value):
                return _DANGLING.format(link)
        return ""

    def _link(self, value: str) -> str | None:
        """Return the link of that name, which leads nowhere if there is no such file."""
        paths = (os.path.join(self._directory, value + suffix) for suffix in SUFFIXES)
        return next(filter(os.path.islink, paths), None)

    def unseen(self, machine: Machine) -> str:
        if machine.name and machine.name.startswith("."):
            return _HIDDEN
        left_out = self._listing.spellings.left_out
        return _LEFT_OUT.format(counted(left_out, "file")) if left_out else ""
