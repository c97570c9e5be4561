"""FileNotices: by which names of files the changes of a directory are told."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vmw_cloudinit_metadata.drivers.answers.source import Notified
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.filename import INVENTORIES, LAYERS, SUFFIXES
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot

_BELOW = f"{LAYERS}/"  # of files there: a change of one is a change of LAYERS too


class FileNotices(Notified[Snapshot]):
    """`defaults` is the path of the file below all layers, or None."""

    def __init__(self, directory: Directory, defaults: str | None) -> None:
        self.changes = directory.changes
        shared = [LAYERS, *INVENTORIES]
        name = directory.name_of(defaults) if defaults else None
        self.shared = [*shared, name] if name else shared

    def under(self, stem: str) -> Sequence[str]:
        return [stem + suffix for suffix in SUFFIXES]

    def seen(self, view: Snapshot) -> Collection[str] | None:
        names = view.names_told()
        return None if names is None else [name for name in names if not name.startswith(_BELOW)]
