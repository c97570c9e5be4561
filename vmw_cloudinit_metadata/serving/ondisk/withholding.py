"""Withholding: which answers are never written to disk, and the log of those VMs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping

from cachetools import LRUCache

from vmw_cloudinit_metadata.instance.secretsearch import secret_in
from vmw_cloudinit_metadata.monitoring.onceaminute import OnceAMinute
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import Answer
from vmw_cloudinit_metadata.serving.ondisk import answerfile

log = logging.getLogger(__name__)

_MAX_NAMED = 20  # VMs that the log names in a minute
_MAX_DOCUMENTS = 5000  # whose search is remembered
_MAX_KNOWN = 20_000  # VMs whose reason is logged only once


class Withholding:
    """Belongs to one thread."""

    def __init__(self) -> None:
        self._throttle = OnceAMinute()
        # Where the secrets are in a document, by its digest: many VMs have the same user-data, and
        # to search 9 kB takes 3 ms.
        self._places: LRUCache[bytes, str] = LRUCache(_MAX_DOCUMENTS)
        self._reasons: LRUCache[str, str] = LRUCache(_MAX_KNOWN)

    def concerns(self, machine: Machine, answer: Answer, documents: Mapping[str, bytes]) -> bool:
        """Return whether the answer must not be written; log why."""
        reason = self._reason(answer, documents)
        name = answerfile.name_of(machine)
        if not reason:
            self._reasons.pop(name, None)
        elif self._reasons.get(name) != reason:
            self._reasons[name] = reason
            slot = hash(name) % _MAX_NAMED
            if (held_back := self._throttle.passes(slot)) is not None:
                log.info("%s: no last good answer on disk: %s%s", machine, reason, held_back)
        return bool(reason)

    def _reason(self, answer: Answer, documents: Mapping[str, bytes]) -> str:
        if answer.origin.is_secret:
            return "the driver says that it is secret"
        if answer.once:
            return "it has a document that is served once"
        for name, content in documents.items():
            if place := self._place(name, content):
                return f"it may hold a secret: {place}"
        size = sum(map(len, documents.values()))
        if size > answerfile.MAX_DOCUMENT_SUM or len(documents) > answerfile.MAX_DOCUMENTS:
            return "it is too large"
        return ""

    def _place(self, name: str, content: bytes) -> str:
        digest = hashlib.sha256(b"%s\n%s" % (name.encode(), content)).digest()
        found = self._places.get(digest)
        if found is None:
            found = self._places[digest] = secret_in({name: content})
        return found
