"""RecordNotices: by which keys a store tells changes, for answers that are prepared."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vmw_cloudinit_metadata.drivers.answers.source import Notified
from vmw_cloudinit_metadata.drivers.content.owndata import OwnData
from vmw_cloudinit_metadata.drivers.records.recordview import RecordView
from vmw_cloudinit_metadata.drivers.records.sightings import Sightings, sign_of
from vmw_cloudinit_metadata.drivers.revisions import Revisions
from vmw_cloudinit_metadata.drivers.store import IDENTITIES, LAYERS, Key, Store


class RecordNotices(Notified[RecordView]):
    shared = (LAYERS,)

    def __init__(self, changes: Revisions, store: Store, sightings: Sightings | None) -> None:
        """`sightings` are those of a store that does not tell all changes."""
        self.changes = changes
        self._store = store
        self._sightings = sightings
        self.tells_versions = store.tells_versions

    def under(self, stem: str) -> Sequence[Key]:
        return [Key(kind, stem) for kind in IDENTITIES]

    def seen(self, view: RecordView) -> Collection[Key] | None:
        return None if view.moment.revision is None else view.keys_seen

    def signs(self, own: OwnData, view: RecordView) -> Sequence[str]:
        key = Key(own.matched_by, own.stem)
        if self.tells_versions:
            return ["".join(record.version for record in view.of(key))]  # several: not prepared
        if self._sightings is None:
            return ()
        return [sign_of(view.of(one)) for one in (key, LAYERS)]

    def agree(self, key: Key, signs: Sequence[str]) -> bool:
        if self.tells_versions:
            return [self.present_version(key)] == list(signs)
        if self._sightings is None:
            return True
        return all(map(self._sightings.agrees, (key, LAYERS), signs))

    def present_version(self, key: Key) -> str | None:
        return self._store.record_version(key)
