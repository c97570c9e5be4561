"""The state file: the VC UUIDs of the machines that are connected, so that after a restart those
that are not back can be named. Nothing else is in it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vmw_cloudinit_metadata.protocol.vmware import parse_uuid

MAX_BYTES = 8 * 1024 * 1024  # some 200,000 machines


def default_state_file() -> Path | None:
    """In the directory that systemd has made for the service (StateDirectory=), if it has."""
    directories = os.environ.get("STATE_DIRECTORY", "").split(":")
    return Path(directories[0]) / "machines" if directories[0] else None


def load(path: Path) -> list[str]:
    """The VC UUIDs in the file; none if there is no file yet. Raises OSError."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES).decode("ascii", "replace")
    except FileNotFoundError:
        return []
    return [uuid for line in text.splitlines() if (uuid := parse_uuid(line))]


def save(path: Path, vc_uuids: Iterable[str]) -> None:
    """Writes the file whole or not at all. Raises OSError."""
    draft = path.with_name(f".{path.name}.new")
    with draft.open("w", encoding="ascii") as file:
        file.writelines(f"{uuid}\n" for uuid in vc_uuids)
    draft.replace(path)
