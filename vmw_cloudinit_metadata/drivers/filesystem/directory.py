"""Directory: the instance files in it, and whether it is still the operator's directory."""

from __future__ import annotations

import os

from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.filesystem.filename import (
    INVENTORIES,
    INVENTORY,
    LAYERS,
    SUFFIXES,
    is_instance_file,
)
from vmw_cloudinit_metadata.drivers.filesystem.filetoken import Looks
from vmw_cloudinit_metadata.drivers.filesystem.presence import Presence
from vmw_cloudinit_metadata.drivers.filesystem.root import Root
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import (
    Snapshot,
    cannot_read,
    require_reachable,
)
from vmw_cloudinit_metadata.drivers.revisions import Revisions


class Directory:
    """The directory at `path`; raises DriverError if there is none, unless it `may_be_absent`.

    With `links_outside`, links in it may lead out of it.
    """

    def __init__(
        self, path: str, *, links_outside: bool = False, may_be_absent: bool = False
    ) -> None:
        self.path = path
        self._links_outside = links_outside
        self.layers_path = os.path.join(path, LAYERS)
        self._prefix = os.path.join(path, "")
        self.changes = Revisions()
        self.shared = Presence(path, [LAYERS, *INVENTORIES])  # what has the data of several VMs
        if may_be_absent and not os.path.lexists(path):
            self._identity = (0, 0, "")  # the first one that appears is taken
            return
        require_reachable(path)
        if not os.path.isdir(path):
            if os.path.lexists(path):
                raise DriverError(f"directory: {path!r} is not a directory")
            raise DriverError(f"directory {path!r} does not exist")
        found = os.stat(path)
        self._identity = (found.st_dev, found.st_ino, os.path.realpath(path))

    def snapshot(self) -> Snapshot:
        """Return a Snapshot to look at its files, and at others, until it is closed.

        Raise DriverError if the directory is gone, or another file system is mounted over it.
        """
        revision = self.changes.revision  # before anything is looked at
        try:
            root = Root(self.path, links_outside=self._links_outside)
        except NotADirectoryError as error:
            raise DriverError(f"{self.path}: is no longer a directory") from error
        except OSError as error:
            raise cannot_read(self.path, error) from error
        try:
            self._check(root.status)
        except DriverError:
            root.close()
            raise
        place = (root.status.st_dev, root.status.st_ino)
        return Snapshot(root, self.changes.of(place, revision))

    def looks(self) -> Looks:
        """Looks at files by their paths, which may lead to another directory than before."""
        revision = self.changes.revision  # before anything is looked at
        try:
            found = os.stat(self.path)
        except OSError:
            return Looks()
        return Looks(self.changes.of((found.st_dev, found.st_ino), revision))

    def check(self) -> None:
        """Raise what `snapshot` does."""
        with self.snapshot():
            pass

    def _check(self, found: os.stat_result) -> None:
        device, inode, place = self._identity
        if (found.st_dev, found.st_ino) == (device, inode):
            return
        now_place = os.path.realpath(self.path)
        if found.st_dev != device and now_place == place:
            raise DriverError(
                f"{self.path}: is on another file system than at the start: "
                "mount the right one again, or restart the server to accept this one"
            )
        self._identity = (found.st_dev, found.st_ino, now_place)

    def paths_named(self, stem: str) -> list[str]:
        """Return the paths that an instance file of that name may have."""
        paths = [self._prefix + stem + suffix for suffix in SUFFIXES]
        return [] if stem == INVENTORY else paths

    def all_paths(self) -> list[str]:
        """Return every instance file; raise DriverError if the directory cannot be listed."""
        try:
            names = sorted(os.listdir(self.path))
        except OSError as error:
            raise cannot_read(self.path, error) from error
        return [self._prefix + name for name in names if is_instance_file(name)]

    def name_of(self, path: str) -> str | None:
        """Return the name of a file directly in the directory; None for another one."""
        name = path.removeprefix(self._prefix)
        return None if "/" in name else name

    def path_of(self, file: str) -> str:
        """Return the path of a file; one in the directory begins with `self.path`."""
        path = os.path.join(self.path, file)
        if os.path.realpath(os.path.dirname(path)) == os.path.realpath(self.path):
            return os.path.join(self.path, os.path.basename(path))
        return path
