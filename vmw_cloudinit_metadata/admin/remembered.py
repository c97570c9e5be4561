"""The state files: what a restart of the server shall not lose, as lines of ASCII.

One has the VC UUIDs of connected machines, and nothing else: those that have not reconnected can be
named. The one beside it has the host keys that guests have reported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from vmw_cloudinit_metadata.monitoring.ownfile import open_own
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW

MAX_BYTES = 32 * 1024 * 1024  # host keys of some 40,000 machines


def default_state_file() -> Path | None:
    """Return the file in the service's StateDirectory=, if systemd has made one."""
    return _in_state_directory("machines")


def default_ledger() -> Path | None:
    """Return the file of what VMs have used up, likewise."""
    return _in_state_directory("ledger")


def _in_state_directory(name: str) -> Path | None:
    directories = os.environ.get("STATE_DIRECTORY", "").split(":")
    return Path(directories[0]) / name if directories[0] else None


def host_keys_beside(state_file: Path) -> Path:
    return state_file.with_name(f"{state_file.name}.host-keys")


def load(path: Path) -> list[str]:
    """Return the lines of the file; none if there is no file yet. Raise OSError."""
    try:
        descriptor = open_own(path, os.O_RDONLY)
    except FileNotFoundError:
        return []
    with os.fdopen(descriptor, "rb") as file:
        text = file.read(MAX_BYTES).decode("ascii", "replace")
    return text.splitlines()


def vc_uuids_in(lines: Iterable[str]) -> list[str]:
    return [uuid for line in lines if (uuid := parse_uuid(line))]


def require_own(lines: Iterable[str], is_own: Callable[[str], object]) -> None:
    """Raise OSError if a file has lines, and none of them is such a one: it is no state file, and
    would be overwritten."""
    others = [line for line in lines if line.strip()]
    if others and not any(map(is_own, others)):
        raise OSError("not a state file: name another file, or remove this one")


def save(path: Path, lines: Iterable[str]) -> None:
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
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(descriptor)
        os.replace(draft, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    finally:
        os.close(directory)
