"""RecordNotices: by which keys a store tells changes, for answers that are prepared."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vmw_cloudinit_metadata.drivers.answers.source import Notified
from vmw_cloudinit_metadata.drivers.records.recordview import RecordView
from vmw_cloudinit_metadata.drivers.revisions import Revisions
from vmw_cloudinit_metadata.drivers.store import IDENTITIES, LAYERS, Key


class RecordNotices(Notified[RecordView]):
    shared = (LAYERS,)

    def __init__(self, changes: Revisions) -> None:
        self.changes = changes

    def under(self, stem: str) -> Sequence[Key]:
        return [Key(kind, stem) for kind in IDENTITIES]

    def seen(self, view: RecordView) -> Collection[Key] | None:
        return None if view.moment.revision is None else view.keys_seen
