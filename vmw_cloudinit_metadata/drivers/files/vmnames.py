"""The VMs that a directory has data for, by the names or VC UUIDs of their files and entries."""

from __future__ import annotations

from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.files.inventories import Inventories
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.filename import stem_in
from vmw_cloudinit_metadata.instance.fault import joined


def vm_names(path: str, defaults: str | None) -> list[str]:
    """Each once, files first; `defaults` names no VM. Raises DriverError.

    VMs that layers alone serve are not known before they ask.
    """
    directory = Directory(path)
    shared = directory.path_of(defaults) if defaults else None
    found = [stem_in(file) for file in directory.all_paths() if file != shared]
    with directory.snapshot() as snapshot:
        for inventory in Inventories(directory).all(snapshot):
            if inventory.faults:
                raise DriverError(joined(map(str, inventory.faults)))
            found += inventory.entries
    return list(dict.fromkeys(found))
