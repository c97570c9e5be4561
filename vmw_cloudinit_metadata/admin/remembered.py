"""The state file: the VC UUIDs of connected machines, and nothing else, so that after a restart the
server can name those that have not reconnected."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from vmw_cloudinit_metadata.monitoring.ownfile import open_own
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW

MAX_BYTES = 8 * 1024 * 1024  # some 200,000 machines


def default_state_file() -> Path | None:
    """Return the file in the service's StateDirectory=, if systemd has made one."""
    directories = os.environ.get("STATE_DIRECTORY", "").split(":")
    return Path(directories[0]) / "machines" if directories[0] else None


def load(path: Path) -> list[str]:
    """Return the VC UUIDs in the file; none if there is no file yet. Raise OSError."""
    try:
        descriptor = open_own(path, os.O_RDONLY)
    except FileNotFoundError:
        return []
    with os.fdopen(descriptor, "rb") as file:
        text = file.read(MAX_BYTES).decode("ascii", "replace")
    return [uuid for line in text.splitlines() if (uuid := parse_uuid(line))]


def save(path: Path, vc_uuids: Iterable[str]) -> None:
    """Write the file atomically and sync it to the disk. Raise OSError.

    Anything under its name, or the draft's, is replaced: no link is followed, no pipe opened.
    """
    draft = f".{path.name}.new"
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=directory)
        descriptor = os.open(draft, _NEW, 0o600, dir_fd=directory)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.writelines(f"{uuid}\n" for uuid in vc_uuids)
            file.flush()
            os.fsync(descriptor)
        os.replace(draft, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    finally:
        os.close(directory)
