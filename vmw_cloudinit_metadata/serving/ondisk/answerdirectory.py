"""AnswerDirectory: the directory of --last-good-dir, and the files in it. Does file I/O.

Several processes may share it. A file is written under another name, and renamed. No link is
followed; a file that is not the server's own, or that others may write, counts as absent.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from vmw_cloudinit_metadata.monitoring.ownfile import of_another_user
from vmw_cloudinit_metadata.serving.ondisk.answerfile import MAX_BYTES, is_name
from vmw_cloudinit_metadata.settings.errors import ConfigError

MAX_DIRECTORY_BYTES = 512 * 1024 * 1024
MAX_FILES = 50_000
_SHED_TO = 0.9  # of either limit
_LOOK_AFTER = 0.02  # of either limit, written since the last look

_DRAFT = ".draft-"
_SEEN = ".source-answered"  # its time stamp says when
_DRAFT_AGE_S = 600.0  # of one whose process was killed

_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

_LIBC = ctypes.CDLL(None, use_errno=True)


class NotOurs(Exception):  # noqa: N818 - the name says what is wrong
    """A link, a pipe, another user's file, or one that others may write."""


def check(path: Path) -> None:
    """Raise ConfigError if the directory cannot be used; it may not exist yet."""
    try:
        with _opened(path):
            pass
    except FileNotFoundError as error:
        if not path.parent.is_dir():
            raise ConfigError(
                f"--last-good-dir: directory {str(path.parent)!r} does not exist"
            ) from error
    except OSError as error:
        raise ConfigError(f"--last-good-dir: {path}: {error.strerror or error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open the directory; raise OSError, also for a link to it, or if others may write to it."""
    try:
        descriptor = os.open(path, _LIST)
    except NotADirectoryError:
        raise OSError(errno.ENOTDIR, "not a directory, or a link to one") from None
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise of_another_user(found.st_uid)
        if found.st_mode & _OTHERS_WRITE:
            raise OSError(errno.EPERM, "other users may write to it: chmod 700 it")
        yield descriptor
    finally:
        os.close(descriptor)


class AnswerDirectory:
    """Made with mode 0700 if it does not exist. All methods may raise OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        check(path)
        try:
            path.mkdir(0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise ConfigError(f"--last-good-dir: {path}: {error.strerror or error}") from error
        self._bytes_since = MAX_DIRECTORY_BYTES  # so that the first `tidy` looks
        self._files_since = 0

    def read(self, name: str) -> tuple[bytes, float] | None:
        """Return the content and its time, in seconds since 1970; None if there is no such file.

        Raise NotOurs.
        """
        with _opened(self.path) as directory:
            return _read(directory, name, MAX_BYTES)

    def has(self, name: str, content: bytes, at_s: float) -> bool:
        """Return whether the file has this content, then of that time (in seconds since 1970).

        Or that of another process, which has looked it up later.
        """
        try:
            found = self.read(name)
        except NotOurs:
            return False
        if found is None or (found[0] != content and not _is_between(at_s, found[1])):
            return False
        if found[0] == content:
            with _opened(self.path) as directory, suppress(FileNotFoundError):
                os.utime(name, (at_s, at_s), dir_fd=directory, follow_symlinks=False)
        return True

    def write(self, contents: Mapping[str, tuple[bytes, float]]) -> int:
        """Write files of these times, and sync their file system once; return how many.

        One is left out whose name a directory has. A file of a later time stays: another process
        has written it meanwhile.
        """
        written = 0
        with _opened(self.path) as directory:
            drafts: dict[str, str] = {}
            try:
                for name, (content, at_s) in contents.items():
                    drafts[name] = self._write_draft(directory, content, at_s)
                _sync(directory)
                for name, (_, at_s) in contents.items():
                    if _is_later(directory, name, at_s):
                        written += 1
                        continue
                    with suppress(IsADirectoryError):
                        os.replace(drafts[name], name, src_dir_fd=directory, dst_dir_fd=directory)
                        del drafts[name]
                        written += 1
            finally:
                for draft in drafts.values():
                    _remove(directory, draft)
        self._files_since += len(contents)
        self._bytes_since += sum(len(content) for content, _ in contents.values())
        return written

    def _write_draft(self, directory: int, content: bytes, at_s: float) -> str:
        draft = f"{_DRAFT}{secrets.token_hex(8)}"  # process ids repeat, in containers
        descriptor = os.open(draft, _NEW, 0o600, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                left = memoryview(content)
                while left:
                    left = left[file.write(left) :]
                os.utime(descriptor, (at_s, at_s))
        except OSError:
            _remove(directory, draft)
            raise
        return draft

    def remove(self, name: str) -> bool:
        """Remove a file; return whether there was one."""
        with _opened(self.path) as directory:
            return _remove(directory, name)

    def note_source(self) -> None:
        """Note that the data source answers now."""
        with _opened(self.path) as directory:
            with suppress(FileExistsError):
                os.close(os.open(_SEEN, _NEW, 0o600, dir_fd=directory))
            os.utime(_SEEN, dir_fd=directory, follow_symlinks=False)

    def source_answered_at(self) -> float:
        """Return when the source answered, in seconds since 1970; 0 if that is unknown."""
        with _opened(self.path) as directory:
            try:
                found = _read(directory, _SEEN, 0)
            except NotOurs:
                return 0.0
        return found[1] if found else 0.0

    def tidy(self) -> int:
        """Remove old drafts, and the oldest answers beyond the limits; return how many answers.

        Looks only after much was written. Files of other names are left alone.
        """
        files = _LOOK_AFTER * MAX_FILES
        if self._files_since < files and self._bytes_since < _LOOK_AFTER * MAX_DIRECTORY_BYTES:
            return 0
        self._files_since = self._bytes_since = 0
        removed = 0
        with _opened(self.path) as directory:
            found = sorted(_answers(directory))
            size, count = sum(one[1] for one in found), len(found)
            if size <= MAX_DIRECTORY_BYTES and count <= MAX_FILES:
                return 0
            for _, own_size, name in found:
                if size <= _SHED_TO * MAX_DIRECTORY_BYTES and count <= _SHED_TO * MAX_FILES:
                    break
                removed += _remove(directory, name)
                size, count = size - own_size, count - 1
        return removed


def _answers(directory: int) -> Iterator[tuple[float, int, str]]:
    """Yield time, bytes and name of each answer; remove the drafts of processes that have ended."""
    with os.scandir(directory) as entries:
        for entry in entries:
            is_draft = entry.name.startswith(_DRAFT)
            if not is_draft and not is_name(entry.name):
                continue
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # another process has removed it
                continue
            if not is_draft:
                yield found.st_mtime, found.st_size, entry.name
            elif time.time() - found.st_mtime > _DRAFT_AGE_S:
                _remove(directory, entry.name)


def _read(directory: int, name: str, limit: int) -> tuple[bytes, float] | None:
    try:
        descriptor = os.open(name, _READ, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            raise NotOurs from error
        raise
    try:
        found = os.fstat(descriptor)
        is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if not is_ours or found.st_nlink > 1 or found.st_mode & _OTHERS_WRITE:
            raise NotOurs
        if found.st_size > MAX_BYTES:
            raise NotOurs
        return os.read(descriptor, limit), found.st_mtime
    finally:
        os.close(descriptor)


def _is_later(directory: int, name: str, at_s: float) -> bool:
    try:
        found = _read(directory, name, 0)
    except NotOurs:
        return False
    return found is not None and _is_between(at_s, found[1])


def _is_between(at_s: float, found_s: float) -> bool:
    """Return whether a file is of a later time; not of the future, after a correction."""
    return at_s < found_s <= time.time()


def _remove(directory: int, name: str) -> bool:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    except IsADirectoryError:
        return False
    return True


def _sync(descriptor: int) -> None:
    """Write the file system to its disk: one call for many files."""
    if _LIBC.syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
