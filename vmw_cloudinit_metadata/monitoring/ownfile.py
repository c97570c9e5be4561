"""Files that the server itself writes: opened without following a link or waiting for a pipe."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe would wait for its other end


def open_own(path: Path, flags: int) -> int:
    """Open the file, or create it for its owner alone; return its descriptor. Raise OSError, also
    if `path` is a link, a pipe, a directory or a device."""
    try:
        descriptor = os.open(path, flags | _FLAGS, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a pipe without a reader
            raise _not_regular() from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular()
    return descriptor


def of_another_user(owner: int) -> OSError:
    """Return the error of a file or directory that must be our user's."""
    us = os.geteuid()
    return OSError(
        errno.EPERM,
        f"owned by user {owner}, and this program is run by user {us}: run it as the server's "
        f"user; if that is {us}, chown it",
    )


def _not_regular() -> OSError:
    return OSError(errno.EINVAL, "not a regular file")
