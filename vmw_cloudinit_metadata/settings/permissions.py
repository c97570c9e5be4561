"""Files that the server trusts: how to read them safely, and who else may read or write them.

Whoever may write a token, a key or the settings controls the server, so a world-writable file is an
error. A world-readable secret is a warning: the server works, and Kubernetes volumes have that mode
by default. A world-writable directory is a warning too: network file systems show such modes for
everything they hold.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from vmw_cloudinit_metadata.settings.errors import ConfigError

MAX_KEY_BYTES = 64 * 1024


def read(option: str, path: Path, limit: int) -> bytes:
    """Return the content of a regular file that only its owner and group may write.

    Raise ConfigError for anything else, also for a pipe or a device, without blocking on it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(mode):
                raise ConfigError(f"{option}: {path} is not a regular file")
            if mode & stat.S_IWOTH:
                raise ConfigError(
                    f"{option}: {path} is world-writable, so any user can change what the server "
                    f"does: chmod o-w {path}"
                )
            content = file.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"{option}: {path}: {error.strerror or error}") from error
    if len(content) > limit:
        raise ConfigError(f"{option}: {path} has more than {limit:,} bytes")
    return content


def read_key(option: str, path: Path, least: int) -> bytes:
    """Return the bytes of a file that is a key; raise ConfigError."""
    key = read(option, path, MAX_KEY_BYTES)
    if len(key) < least:
        raise ConfigError(
            f"{option}: {path} has {len(key)} bytes, expected at least {least}: "
            f"create one with: (umask 077; head -c 32 /dev/urandom > {path})"
        )
    return key


def secret_warnings(option: str, path: Path) -> Iterator[str]:
    """Warn about who else can read a file with a secret; includes `trust_warnings`."""
    found = _stat(path)
    if found and found.st_mode & stat.S_IROTH:
        mode = stat.S_IMODE(found.st_mode)
        yield (
            f"{option}: {path} holds a secret and is world-readable (mode {mode:04o}): "
            f"chmod o= {path}"
        )
    yield from trust_warnings(option, path)


def trust_warnings(option: str, path: Path) -> Iterator[str]:
    """Warn about who else can change a file or directory, or replace it."""
    found = _stat(path)
    if found is None:
        return  # reading it reports the error
    if found.st_uid not in (0, os.geteuid()):
        yield (
            f"{option}: {path} is owned by user {found.st_uid}, neither root nor the server's "
            f"user, who can change it: chown root {path}"
        )
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_IWOTH:
        yield _writable(option, path)
    for directory in {Path(os.path.abspath(path)).parent, *Path(os.path.realpath(path)).parents}:
        above = _stat(directory)
        if above and above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
            yield _writable(option, directory)


def _writable(option: str, directory: Path) -> str:
    return (
        f"{option}: {directory} is world-writable, so any user can replace files in it: "
        f"chmod o-w {directory}"
    )


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
