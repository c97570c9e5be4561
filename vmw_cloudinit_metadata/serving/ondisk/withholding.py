"""Withholding: which answers are never written to disk, and the log of those VMs."""

from __future__ import annotations

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
_MAX_KNOWN = 20_000  # VMs whose reason is logged only once


class Withholding:
    """Belongs to one thread."""

    def __init__(self) -> None:
        self._throttle = OnceAMinute()
        self._reasons: LRUCache[str, str] = LRUCache(_MAX_KNOWN)

    def concerns(self, machine: Machine, answer: Answer, documents: Mapping[str, bytes]) -> bool:
        """Return whether the answer must not be written; log why."""
        reason = _reason(answer, documents)
        name = answerfile.name_of(machine)
        if not reason:
            self._reasons.pop(name, None)
        elif self._reasons.get(name) != reason:
            self._reasons[name] = reason
            slot = hash(name) % _MAX_NAMED
            if (held_back := self._throttle.passes(slot)) is not None:
                log.info("%s: no last good answer on disk: %s%s", machine, reason, held_back)
        return bool(reason)


def _reason(answer: Answer, documents: Mapping[str, bytes]) -> str:
    if answer.origin.is_secret:
        return "the driver says that it is secret"
    if place := secret_in(documents):
        return f"it may hold a secret: {place}"
    size = sum(map(len, documents.values()))
    if size > answerfile.MAX_DOCUMENT_SUM or len(documents) > answerfile.MAX_DOCUMENTS:
        return "it is too large"
    return ""
