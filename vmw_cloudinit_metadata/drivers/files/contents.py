"""The content of a file with instance data."""

from __future__ import annotations

from vmw_cloudinit_metadata.drivers.content import layer
from vmw_cloudinit_metadata.drivers.content.layer import MAX_FILE_BYTES, FileLayer
from vmw_cloudinit_metadata.drivers.filesystem.root import LeadsOut
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.instance.fault import Fault

OUTSIDE_FOUND = "a link that leads out of the directory"
OUTSIDE_EXPECTED = "a file inside it, or the driver option links_outside: true"


def read(path: str, snapshot: Snapshot) -> FileLayer:
    """Read and parse a file; raise DriverError if it cannot be read."""
    try:
        return layer.parse(path, snapshot.read(path, MAX_FILE_BYTES))
    except LeadsOut:
        return layer.unusable(Fault((), OUTSIDE_FOUND, OUTSIDE_EXPECTED, path, 1))
