"""Files that the server trusts: read without waiting, and who else may read or write them.

Whoever may write a token, a key or the settings is master of the server: that is an error. That
every user can read a secret is a warning, as the server works all the same, and some systems
(Kubernetes' volumes) give files that mode by default. So is a directory in which others may write,
as file systems of networks show such modes for all that they hold.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from vmw_cloudinit_metadata.settings.errors import ConfigError


def read(option: str, path: Path, limit: int) -> bytes:
    """The content of a regular file that only its owner and group may write.

    Raises ConfigError, also for a pipe or a device, which would not be waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(mode):
                raise ConfigError(f"{option}: {path}: expected a regular file")
            if mode & stat.S_IWOTH:
                raise ConfigError(
                    f"{option}: {path}: every user of this system may write it, and so change "
                    f"what the server does: chmod o-w {path}"
                )
            content = file.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"{option}: {path}: {error.strerror or error}") from error
    if len(content) > limit:
        raise ConfigError(f"{option}: {path} has more than {limit:,} bytes")
    return content


def secret_warnings(option: str, path: Path) -> Iterator[str]:
    """Who else can read a file with a secret, and what `trust_warnings` tells."""
    found = _stat(path)
    if found and found.st_mode & stat.S_IROTH:
        mode = stat.S_IMODE(found.st_mode)
        yield (
            f"{option}: {path}: every user of this system can read it (mode {mode:04o}), "
            f"and it holds a secret: chmod o= {path}"
        )
    yield from trust_warnings(option, path)


def trust_warnings(option: str, path: Path) -> Iterator[str]:
    """Who else can change a file or directory, or put another one in its place."""
    found = _stat(path)
    if found is None:
        return  # it is told when it is read
    if found.st_uid not in (0, os.geteuid()):
        yield (
            f"{option}: {path}: its owner, user {found.st_uid}, is neither root nor the server's "
            f"user, and can change it: chown root {path}"
        )
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_IWOTH:
        yield _writable(option, path)
    for directory in {Path(os.path.abspath(path)).parent, *Path(os.path.realpath(path)).parents}:
        above = _stat(directory)
        if above and above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
            yield _writable(option, directory)


def _writable(option: str, directory: Path) -> str:
    return (
        f"{option}: every user of this system may put files into {directory}, in the place of "
        f"yours: chmod o-w {directory}"
    )


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
