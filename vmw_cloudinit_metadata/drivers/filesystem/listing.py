"""Listing: the instance files of a name, in the usual spelling or in others."""

from __future__ import annotations

import os

from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot, cannot_read
from vmw_cloudinit_metadata.drivers.filesystem.spellings import Spellings


class Listing:
    """The instance files of a directory, without the file at `defaults`."""

    def __init__(self, directory: Directory, defaults: str | None) -> None:
        self._directory = directory
        self._defaults = defaults
        self.spellings = Spellings(directory.path)

    def all_paths(self) -> list[str]:
        """Return every instance file; raise DriverError if the directory cannot be listed."""
        return [path for path in self._directory.all_paths() if path != self._defaults]

    def present(self, stem: str) -> list[str]:
        """Return the files of exactly this name, even the defaults; this look is not remembered."""
        return [path for path in self._directory.paths_named(stem) if os.path.exists(path)]

    def usual(self, stem: str, snapshot: Snapshot) -> list[str]:
        """Return the files in the spelling by which VMs are looked up."""
        paths = self._directory.paths_named(stem)
        return [path for path in paths if path != self._defaults and snapshot.exists(path)]

    def unusual(self, stem: str, snapshot: Snapshot) -> list[str]:
        """Return the files of that name in other spellings; raise DriverError."""
        self.look()
        paths = self.known_unusual(stem)
        if paths:
            snapshot.exists(self._directory.path)  # another one may come: the answer depends on it
        return [path for path in paths if path != self._defaults and snapshot.exists(path)]

    def look(self) -> None:
        """List the directory if it has changed; raise DriverError."""
        try:
            self.spellings.look()
        except OSError as error:
            raise cannot_read(self._directory.path, error) from error

    def known_unusual(self, stem: str) -> list[str]:
        """Return the last result of `unusual`, without another look."""
        return self._paths(self.spellings.others(stem))

    def nearly(self, stem: str) -> str | None:
        """Return the files probably meant for that name, as of the last `look`."""
        names = [*self.spellings.nearly(stem), *self.spellings.others(stem)]
        return next(iter(self._paths(names)), None)

    def _paths(self, names: list[str]) -> list[str]:
        return [os.path.join(self._directory.path, name) for name in names]
