"""A directory that is the root of a system: no path leaves it, whatever its links say.

An image is not trusted: its links may be absolute, or lead outside by `..`. Each directory is
opened relative to the previous one without following links; links are resolved here, from the root
of the image. So nothing outside is read or written, even if the tree changes meanwhile.
Does file I/O.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vmw_cloudinit_metadata.guest.image.selinuxlabel import copy_label, label_of
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.settings.errors import ConfigError

MAX_LINKS = 40  # as Linux
MAX_FILE_BYTES = 8 * 1024 * 1024
MAX_READ_BYTES = 256 * 1024 * 1024  # of a tree in all: one large file may have many names

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Opening a pipe must not block.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class File:
    """A regular file."""

    content: bytes
    mode: int


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    target: str


Entry = File | Link


@dataclass(frozen=True, slots=True)
class _Place:
    """A name in an open directory; `path` is its path within the tree."""

    directory: int
    name: str
    path: str


class Tree:
    """The tree below `root`. Paths are as the system itself sees them: `/etc/hostname`.

    Errors of the operating system and invalid paths raise ConfigError.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._left = MAX_READ_BYTES

    def find(self, path: str) -> str | None:
        """Return the path with its links resolved, or None if nothing is there."""
        with self._reported(path):
            try:
                with self._place(path, follow=True) as place:
                    os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
                    return place.path
            except (FileNotFoundError, NotADirectoryError):
                return None

    def is_directory(self, path: str) -> bool:
        return self._is(path, stat.S_ISDIR)

    def is_file(self, path: str) -> bool:
        return self._is(path, stat.S_ISREG)

    def is_program(self, path: str) -> bool:
        return self._is(path, lambda mode: stat.S_ISREG(mode) and mode & 0o111 != 0)

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, following links; None if there is no file."""
        real = self.find(path)
        found = self.entry(real) if real else None
        return found.content if isinstance(found, File) else None

    def text(self, path: str) -> str:
        """Like `read`, as text; "" if there is no file. Bytes that are not UTF-8 survive."""
        return (self.read(path) or b"").decode("utf-8", "surrogateescape")

    def entry(self, path: str) -> Entry | None:
        """Return the file or link at the path, without following it; None if there is neither."""
        with self._reported(path):
            try:
                with self._place(path, follow=False) as place:
                    found = _entry_of(place)
            except (FileNotFoundError, NotADirectoryError):
                return None
            if isinstance(found, File):
                self._left -= len(found.content)
            if self._left < 0:
                raise OSError(errno.EFBIG, f"more than {MAX_READ_BYTES >> 20} MiB of files in all")
            return found

    def selinux_label(self, path: str) -> bytes | None:
        """Return the SELinux label of a file or link, without following it; None if it has none."""
        with self._reported(path), self._place(path, follow=False) as place:
            return label_of(f"/proc/self/fd/{place.directory}/{place.name}")

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match, sorted; `*` does not match `/`. Links are followed."""
        found = [""]
        for part in pattern.strip("/").split("/"):
            found = [f"{path}/{name}" for path in found for name in self._names(path, part)]
        return sorted(found)

    def missing_directories(self, path: str) -> list[str]:
        """Return the directories above `path` that do not exist, the topmost first."""
        above = map(str, [*PurePosixPath(path).parents][::-1])
        return [directory for directory in above if self.find(directory) is None]

    def write(self, path: str, entry: Entry) -> None:
        """Write the entry atomically; create the directories that it needs.

        A file that is replaced passes on its owner and its SELinux label.
        """
        with self._reported(path):
            for directory in self.missing_directories(path):
                with self._place(directory, follow=True) as place:
                    os.mkdir(place.name, 0o755, dir_fd=place.directory)
            with self._place(path, follow=False) as place:
                _replace(place, entry)

    def remove(self, path: str) -> None:
        with self._reported(path), self._place(path, follow=False) as place:
            os.unlink(place.name, dir_fd=place.directory)

    def remove_if_empty(self, path: str) -> None:
        with (
            suppress(OSError, ConfigError),
            self._place(path, follow=False) as place,
        ):
            os.rmdir(place.name, dir_fd=place.directory)

    def _is(self, path: str, test: Callable[[int], bool]) -> bool:
        with self._reported(path):
            try:
                with self._place(path, follow=True) as place:
                    status = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
                    return test(status.st_mode)
            except (FileNotFoundError, NotADirectoryError):
                return False

    def _names(self, directory: str, pattern: str) -> list[str]:
        if "*" not in pattern:
            return [pattern] if self.find(f"{directory}/{pattern}") else []
        with self._reported(directory):
            try:
                with self._place(directory, follow=True) as place:
                    opened = os.open(place.name, _DIRECTORY, dir_fd=place.directory)
            except (FileNotFoundError, NotADirectoryError):
                return []
            try:
                return fnmatch.filter(os.listdir(opened), pattern)
            finally:
                os.close(opened)

    @contextmanager
    def _place(self, path: str, *, follow: bool) -> Iterator[_Place]:
        """Open the directory that holds the last name of the path."""
        with ExitStack() as opened:
            root = os.open(self.root, _DIRECTORY & ~os.O_NOFOLLOW)
            opened.callback(os.close, root)
            yield _walk(opened, root, path, follow=follow)

    @contextmanager
    def _reported(self, path: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: not a valid file name
            place = f"{self.root}{path if path.startswith('/') else '/' + path}"
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(one_line(f"{place}: {reason}")) from error


def _walk(opened: ExitStack, root: int, path: str, *, follow: bool) -> _Place:
    directories, names = [root], list[str]()
    pending = _parts(path)
    links = 0
    while pending:
        name = pending.pop(0)
        if name == "..":
            del names[-1:]
            del directories[len(names) + 1 :]  # never the root itself
            continue
        target = _target(directories[-1], name) if pending or follow else None
        if target is not None:
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if target.startswith("/"):
                directories, names = [root], []
            pending = _parts(target) + pending
        elif pending:
            directory = os.open(name, _DIRECTORY, dir_fd=directories[-1])
            opened.callback(os.close, directory)
            directories.append(directory)
            names.append(name)
        else:
            return _Place(directories[-1], name, "/" + "/".join([*names, name]))
    return _Place(directories[-1], ".", "/" + "/".join(names))


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _target(directory: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):  # not a link; does not exist
            return None
        raise


def _entry_of(place: _Place) -> Entry | None:
    status = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        return Link(os.readlink(place.name, dir_fd=place.directory))
    if not stat.S_ISREG(status.st_mode):
        return None
    with os.fdopen(os.open(place.name, _READ, dir_fd=place.directory), "rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return File(content, stat.S_IMODE(status.st_mode))


def _replace(place: _Place, entry: Entry) -> None:
    """Write under another name, then rename, so that no half-written file is seen."""
    name = f".{place.name}.{os.getpid()}.new"
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=place.directory)
    try:
        if isinstance(entry, Link):
            os.symlink(entry.target, name, dir_fd=place.directory)
        else:
            _create(place, name, entry)
        os.rename(name, place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=place.directory)
        raise


def _create(place: _Place, name: str, entry: File) -> None:
    with os.fdopen(os.open(name, _CREATE, 0o600, dir_fd=place.directory), "wb") as file:
        file.write(entry.content)
        _copy_owner_and_selinux_label(place, file.fileno())
        os.fchmod(file.fileno(), entry.mode)
        file.flush()
        os.fsync(file.fileno())


def _copy_owner_and_selinux_label(place: _Place, file: int) -> None:
    """Take them from the file that is replaced, if there is one."""
    try:
        status = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        return
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(file, status.st_uid, status.st_gid)
    with os.fdopen(os.open(place.name, _READ, dir_fd=place.directory), "rb") as old:
        copy_label(old.fileno(), file)
