"""Upgrades the workers of a parent, one after the other: the others serve meanwhile."""

from __future__ import annotations

from collections.abc import Mapping

import gevent

from vmw_cloudinit_metadata.process import channel
from vmw_cloudinit_metadata.process.deadlines import RunningClock
from vmw_cloudinit_metadata.process.upgradecheck import UpgradeError
from vmw_cloudinit_metadata.process.workers import READY_S, Worker

_POLL_S = 0.02


def upgrade_all(workers: Mapping[int, Worker], drain_s: float) -> None:
    """Upgrade all workers, which may take `drain_s` for their TLS lines; wait for each. Raise
    UpgradeError if one fails: those before it have the new version, the others the old one."""
    for pid, worker in list(workers.items()):
        worker.is_upgrading, worker.upgraded = True, None
        try:
            _upgrade(pid, worker, workers, drain_s)
        finally:
            worker.is_upgrading = False


def _upgrade(pid: int, worker: Worker, workers: Mapping[int, Worker], drain_s: float) -> None:
    if not worker.send(channel.UPGRADE):
        raise UpgradeError(f"worker {pid} does not listen")
    limit_s = drain_s + READY_S
    clock = RunningClock(_POLL_S)
    end_s = clock.now_s() + limit_s
    while worker.upgraded is None:
        if pid not in workers:
            raise UpgradeError(f"worker {pid} has ended: {worker.failure or 'see the log'}")
        if clock.now_s() > end_s:
            raise UpgradeError(f"worker {pid} has not answered for {limit_s:g} s")
        gevent.sleep(_POLL_S)
    if not worker.upgraded.is_done:
        raise UpgradeError(f"worker {pid}: {worker.upgraded.text}")
