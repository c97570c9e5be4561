"""Mounts: the mounted file systems in /proc/self/mountinfo (proc(5)), and their changes."""

from __future__ import annotations

import os
import re
import select
from pathlib import Path

_TABLE = "/proc/self/mountinfo"
_ESCAPE = re.compile(rb"\\([0-7]{3})")  # of blanks and backslashes in paths


class Mounts:
    """Raises OSError where there is no /proc."""

    def __init__(self) -> None:
        self._descriptor = os.open(_TABLE, os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLPRI | select.POLLERR)

    def close(self) -> None:
        os.close(self._descriptor)

    def have_changed(self) -> bool:
        """Return whether anything was mounted or unmounted since the last call."""
        return bool(self._poll.poll(0))


def file_system_of(descriptor: int) -> str:
    """Return the type of the file system of an open file, `ext4`; "" if unknown."""
    with Path(f"/proc/self/fdinfo/{descriptor}").open("rb") as info:
        fields = dict(line.split(b":", 1) for line in info if b":" in line)
    mount = fields.get(b"mnt_id", b"").strip()
    for fields_of_mount in _rows():
        if fields_of_mount[0] == mount:
            return fields_of_mount[fields_of_mount.index(b"-") + 1].decode()
    return ""


def points_below(directory: str) -> list[str]:
    """Return the mount points below a directory."""
    prefix = os.path.join(os.fsencode(os.path.realpath(directory)), b"")
    points = (_ESCAPE.sub(_unescaped, fields[4]) for fields in _rows())
    return [os.fsdecode(point) for point in points if point.startswith(prefix)]


def _rows() -> list[list[bytes]]:
    with Path(_TABLE).open("rb") as table:
        return [line.split() for line in table]


def _unescaped(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 8)])
