"""PreparedFollower: gives a worker what its parent has prepared for all of them."""

from __future__ import annotations

import logging

import gevent

from vmw_cloudinit_metadata.drivers.preparedanswers import PreparedKeeper
from vmw_cloudinit_metadata.drivers.warming.preparedlog import FollowedLog, PreparedLogReader

log = logging.getLogger(__name__)

# A worker notes its revision within NOTED_S of the entry.
TURN_S = 0.1


class PreparedFollower:
    def __init__(self, written: FollowedLog, keeper: PreparedKeeper) -> None:
        keeper.limit_bytes = written.limit_bytes  # of places, beside the lines that all share
        self._reader = PreparedLogReader(written.file)
        self._keeper = keeper
        self._timer = gevent.get_hub().loop.timer(TURN_S, repeat=TURN_S)

    def start(self) -> None:
        self._timer.start(self._turn)

    def stop(self) -> None:
        self._timer.stop()
        self._timer.close()

    def _turn(self) -> None:
        try:
            self._reader.follow(self._keeper)
        except Exception:  # a timer's callback: nothing would catch it
            log.exception("cannot read the prepared answers: VMs are looked up instead")
            self._timer.stop()
            self._keeper.forget()
