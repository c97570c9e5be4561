"""LedgerOnDisk: records claims in the file of --ledger, in a thread; many in one transaction."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import gevent

from vmw_cloudinit_metadata.monitoring.onceaminute import OnceAMinute
from vmw_cloudinit_metadata.process.threads import Threads
from vmw_cloudinit_metadata.serving.ledger import Then, Unrecorded, Use, Verdict
from vmw_cloudinit_metadata.serving.ondisk.ledgerfile import LedgerEntry, LedgerFile

log = logging.getLogger(__name__)

TOGETHER = 500  # of one transaction
_CLOSE_S = 2.0
_MAX_WAITING = 20_000  # of some 500 bytes; a slow disk records no more within LATE_S

_Waiting = tuple[LedgerEntry, Then]


class LedgerOnDisk:
    """A Book. Belongs to the hub."""

    def __init__(self, path: Path) -> None:
        """Raise ConfigError if the file cannot be used."""
        self._file = LedgerFile(path)
        self._threads = Threads()
        self._waiting: list[_Waiting] = []
        self._is_recording = False
        self._throttle = OnceAMinute()

    def claim(self, use: Use, claimant: bytes, then: Then) -> None:
        if len(self._waiting) >= _MAX_WAITING:
            then(Unrecorded("the ledger is too slow"))
            return
        self._add(LedgerEntry(use, claimant), then)

    def give_back(self, use: Use, claimant: bytes) -> None:
        self._add(LedgerEntry(use, claimant, is_claim=False), _ignore)

    @property
    def is_busy(self) -> bool:
        return self._is_recording or bool(self._waiting)

    def close(self) -> None:
        end_s = time.monotonic() + _CLOSE_S
        while self.is_busy and time.monotonic() < end_s:
            gevent.sleep(0.01)
        self._threads.close()

    def _add(self, entry: LedgerEntry, then: Then) -> None:
        self._waiting.append((entry, then))
        self._begin()

    def _begin(self) -> None:
        if self._is_recording or not self._waiting:
            return
        self._is_recording = True
        batch, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
        work = partial(self._file.record, [entry for entry, _ in batch])
        self._threads.run(work, partial(self._recorded, batch))

    def _recorded(self, batch: list[_Waiting], verdicts: Any, error: BaseException | None) -> None:
        self._is_recording = False
        self._begin()
        if error:
            log.error("ledger: internal error", exc_info=error)
            verdicts = [Unrecorded(f"internal error: {type(error).__name__}")] * len(batch)
        failed = next((one for one in verdicts if isinstance(one, Unrecorded)), None)
        if failed and (unreported := self._throttle.passes(failed.reason)) is not None:
            log.warning("%s%s", failed.reason, unreported)
        for (_, then), verdict in zip(batch, verdicts, strict=True):
            then(verdict)


def _ignore(_verdict: Verdict) -> None:
    pass
