"""Root: an open directory, and the files below it. No link leads out of it, not even in a race.

Links are resolved by hand: each directory is opened relative to the one before, without following
links, as in guest/image/tree.py. openat2(2) is missing on systems and containers in use. Does file
I/O.
"""

from __future__ import annotations

import errno
import os

MAX_STEPS = 40  # links to follow, as in Linux; directories open at once

# O_NONBLOCK: a FIFO must not block the thread.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class LeadsOut(Exception):  # noqa: N818 - the name says what is wrong
    """A link of the directory leads out of it."""


class Anywhere:
    """Paths that the operator named: taken as they are."""

    def directory(self, place: str) -> os.stat_result | None:
        try:
            return os.stat(place)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, path: str) -> int:
        return os.open(path, _READ)

    def look(self, path: str) -> os.stat_result:
        return os.stat(path)

    def look_at(self, path: str) -> os.stat_result:
        return os.lstat(path)


class Root:
    """Opens the directory at `path`; raises OSError if there is none.

    All paths begin with `prefix`. With `links_outside`, links may lead anywhere.
    """

    def __init__(self, path: str, *, links_outside: bool = False) -> None:
        self.prefix = path if path.endswith("/") else f"{path}/"
        self._links_outside = links_outside
        self.descriptor = os.open(path, _DIRECTORY)
        self.status = os.fstat(self.descriptor)  # before any file in it is looked for
        self.present: tuple[str, ...] | None = None  # of presence.py, once looked for

    def close(self) -> None:
        os.close(self.descriptor)

    def directory(self, place: str) -> os.stat_result | None:
        """Return the directory's own status; None for a subdirectory, whose path may lead
        elsewhere."""
        return self.status if place == self.prefix else None

    def open(self, path: str) -> int:
        """Return a descriptor for reading; raise OSError, and LeadsOut."""
        name = path[len(self.prefix) :]
        if self._links_outside:
            return os.open(name, _READ, dir_fd=self.descriptor)
        if "/" not in name:
            try:
                return os.open(name, _READ | os.O_NOFOLLOW, dir_fd=self.descriptor)
            except OSError as error:
                if error.errno != errno.ELOOP:  # otherwise it is a link
                    raise
        return self._walk(name, _READ)

    def names(self, path: str) -> tuple[os.stat_result, list[str], bool]:
        """Status of a directory below, its entries in order, and whether a link has a part in it.

        Raises OSError, and LeadsOut.
        """
        name = path[len(self.prefix) :]
        if self._links_outside:
            descriptor = os.open(name, _LIST, dir_fd=self.descriptor)
        else:
            descriptor = self._walk(name, _LIST)
        try:
            status = os.fstat(descriptor)
            with os.scandir(descriptor) as entries:
                links = {entry.name: entry.is_symlink() for entry in entries}
        finally:
            os.close(descriptor)
        has_links = any(links.values()) or _target(self.descriptor, name) is not None
        return status, sorted(links), has_links

    def look(self, path: str) -> os.stat_result:
        """Return the status of the file, following links; raise OSError, and LeadsOut."""
        name = path[len(self.prefix) :]
        if self._links_outside:
            return os.stat(name, dir_fd=self.descriptor)
        descriptor = self._walk(name, _LOOK)
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def look_at(self, path: str) -> os.stat_result:
        """Return the status of the entry, even of a link; like `look` below a subdirectory."""
        name = path[len(self.prefix) :]
        if "/" in name:
            return self.look(path)
        return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)

    def _walk(self, name: str, flags: int) -> int:
        directories = [self.descriptor]  # from the root to here
        try:
            return self._opened(name, flags, directories)
        finally:
            _close_below(directories)

    def _opened(self, name: str, flags: int, directories: list[int]) -> int:
        pending = _parts(name)
        links = 0
        while pending:
            part = pending.pop(0)
            if part == "..":
                if len(directories) == 1:
                    raise LeadsOut
                os.close(directories.pop())
                continue
            target = _target(directories[-1], part)
            if target is not None:
                links += 1
                if target.startswith("/"):
                    target = self._below(target)
                    _close_below(directories)
                pending = _parts(target) + pending
            elif pending:
                inner = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directories[-1])
                directories.append(inner)
            else:
                return os.open(part, flags | os.O_NOFOLLOW, dir_fd=directories[-1])
            if max(links, len(directories)) > MAX_STEPS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return os.open(".", flags, dir_fd=directories[-1])

    def _below(self, target: str) -> str:
        """Return the part of an absolute path below the directory; raise LeadsOut."""
        absolute = os.path.join(os.path.abspath(self.prefix), "")
        if not target.startswith(absolute):
            raise LeadsOut
        return target[len(absolute) :]


def _close_below(directories: list[int]) -> None:
    """Close all but the first, which is the root."""
    while len(directories) > 1:
        os.close(directories.pop())


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _target(directory: int, name: str) -> str | None:
    """Return the target of a link; None for anything else."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise
