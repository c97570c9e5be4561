"""LastGood: the last good answer of each VM, while its file is invalid or out of reach."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from operator import attrgetter

from cachetools import LRUCache

from vmw_cloudinit_metadata.drivers.content.owndata import OwnData
from vmw_cloudinit_metadata.drivers.shedding import shed_one
from vmw_cloudinit_metadata.instance.documents import USER_DATA
from vmw_cloudinit_metadata.instance.model import InstanceData

MAX_BYTES = 256 * 1024 * 1024
_ABOUT_BYTES = 2048  # an answer without its parts
_BYTES_PER_BYTE = 8  # memory of a value, for each byte of its file
_SIZE = attrgetter("size")
_SERVED = "the last good answer is served, because: "


@dataclass(frozen=True, slots=True)
class _LastAnswer:
    own: OwnData
    instance: InstanceData
    size: int
    broken_since_s: float | None = None  # of time.monotonic()


class LastGood:
    """Answers by VC UUID. A VM without one gets none: its other identities may change owners."""

    def __init__(self, max_age_s: float) -> None:
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        self._entries: LRUCache[str, _LastAnswer] = LRUCache(
            MAX_BYTES, getsizeof=attrgetter("size")
        )

    @property
    def kept_bytes(self) -> int:
        return int(self._entries.currsize)

    def shed(self) -> bool:
        """Drop the least recently used answer; return False if there is none."""
        return shed_one(self._entries, self._lock)

    def remember(
        self, vc_uuid: str | None, own: OwnData, instance: InstanceData, file_bytes: int
    ) -> None:
        """Keep an answer that was made of files of this size, all together."""
        if vc_uuid and self._max_age_s:
            answer = _LastAnswer(own, instance, _size(instance, file_bytes))
            with self._lock:
                self._entries[vc_uuid] = answer

    def forget(self, vc_uuid: str | None) -> None:
        with self._lock:
            self._entries.pop(vc_uuid or "", None)

    def recall(self, vc_uuid: str | None) -> tuple[OwnData, InstanceData, float] | None:
        """Where it was found, the answer, and until when it may be given; or None."""
        with self._lock:
            entry = self._entries.get(vc_uuid or "")
            if entry is None:
                return None
            now_s = time.monotonic()
            since_s = now_s if entry.broken_since_s is None else entry.broken_since_s
            self._entries[vc_uuid or ""] = replace(entry, broken_since_s=since_s)
        until_s = since_s + self._max_age_s
        return (entry.own, entry.instance, until_s) if now_s < until_s else None


def served_because(reason: object) -> str:
    """Return the problem of an answer that is a last good one."""
    return f"{_SERVED}{reason}"


def reason_in(problem: str) -> str:
    """Return the reason in such a problem; a driver may word it otherwise."""
    return problem.removeprefix(_SERVED)


def _size(instance: InstanceData, file_bytes: int) -> int:
    """Estimate the bytes of an answer: measuring the mappings took 4 % of a first read."""
    texts = sum(len(instance.content_of(document)) for document in USER_DATA)
    return _ABOUT_BYTES + texts + _BYTES_PER_BYTE * max(file_bytes - texts, 0)
