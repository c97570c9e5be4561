"""Warnings about the permissions of instance files, which hold secrets."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from vmw_cloudinit_metadata.drivers.filesystem.root import LeadsOut
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.instance.fault import Fault


def mode_faults(path: str, snapshot: Snapshot) -> Iterator[Fault]:
    """Yield a warning if every user of the system can read the file."""
    try:
        mode = snapshot.mode(path)
    except (OSError, LeadsOut):
        return  # reported when the file is read
    if mode & stat.S_IROTH:
        found = f"mode {stat.S_IMODE(mode):04o}: every user of this system can read the file"
        yield Fault((), found, "no rights for others, such as 0640", path, 1, is_warning=True)
