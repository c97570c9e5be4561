"""Sightings: what this process has last seen under each key of a store that does not tell all
changes. No I/O.

If two readings of a key differ without a change that was told between them, one is older: so what
a look-up sees to differ counts as a change, and what was prepared is given only if it agrees.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable

from vmw_cloudinit_metadata.drivers.records.recordlayer import KeptRecord
from vmw_cloudinit_metadata.drivers.revisions import NEVER, Revisions
from vmw_cloudinit_metadata.drivers.store import Key

MAX_KEYS = 200_000
_KEY_BYTES = 350  # of memory, with the sign
_SIGN_BYTES = 12


def sign_of(records: Iterable[KeptRecord]) -> str:
    """Return another text for other data, the same in each process."""
    digest = hashlib.blake2b(digest_size=_SIGN_BYTES)
    for one in records:
        data = one.data if isinstance(one.data, bytes) else repr(one.data).encode(errors="replace")
        further = repr((len(data), one.fault, one.is_secret, one.vm_name))
        digest.update(further.encode(errors="replace"))
        digest.update(data)
    return digest.hexdigest()


class Sightings:
    """A table of the memory budget. Any thread may use it; none waits long for another."""

    def __init__(self, changes: Revisions) -> None:
        self._changes = changes
        self._lock = threading.Lock()
        self._signs: dict[Key, tuple[str, int]] = {}  # with the revision in which it was seen

    @property
    def kept_bytes(self) -> int:
        return len(self._signs) * _KEY_BYTES

    def shed(self) -> bool:
        """Forget the key that was seen first; what is kept of it does not hold any more."""
        with self._lock:
            oldest = next(iter(self._signs), None)
            if oldest is None:
                return False
            del self._signs[oldest]
            self._changes.changed(oldest)
        return True

    def see(self, key: Key, sign: str) -> None:
        """Note what a look-up has read; count a change if something else was seen before."""
        with self._lock:
            if self._seen(key) not in (None, sign):
                self._changes.changed(key)
            self._signs[key] = sign, self._changes.revision
        self._limit()

    def agrees(self, key: Key, sign: str) -> bool:
        """Return whether nothing else was seen, and note that this has been."""
        with self._lock:
            before = self._seen(key)
            if before is None:
                self._signs[key] = sign, self._changes.revision
        self._limit()
        return before in (None, sign)

    def _seen(self, key: Key) -> str | None:
        sign, revision = self._signs.get(key, (None, NEVER))
        return sign if self._changes.unchanged(revision, [key]) else None

    def _limit(self) -> None:
        if len(self._signs) > MAX_KEYS:
            self.shed()
