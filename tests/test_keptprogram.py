"""A process that is kept running, from the side of its owner."""

from __future__ import annotations

import time
from collections.abc import Iterator

import gevent
import pytest

from tests.process import Constants
from tests.waiting import wait_in_hub_until
from vmw_cloudinit_metadata.process.keptprogram import KeptProgram

SILENT_S = 0.2
WORK = b'{"options": {"piece": ""}}\n'


class Kept:
    """One that gives a sign of life when a test says so."""

    def __init__(self) -> None:
        self.heard_s = 0.0
        self.ended: list[str] = []
        self.program = KeptProgram("tests.babbler", WORK, lambda: self.heard_s, self.ended.append)
        self.program.start()

    def lives(self) -> None:
        self.heard_s = time.monotonic()


@pytest.fixture
def kept(constants: Constants) -> Iterator[Kept]:
    constants(process__keptprogram__TURN_S=0.02, process__keptprogram__SILENT_S=SILENT_S)
    one = Kept()
    yield one
    one.program.stop()


def test_process_may_be_silent_for_longer_while_it_starts(kept: Kept) -> None:
    first = kept.program.pid
    gevent.sleep(3 * SILENT_S)
    assert (kept.program.pid, kept.ended) == (first, [])
    kept.lives()
    wait_in_hub_until(lambda: kept.ended)
    assert "silent" in kept.ended[0]
    wait_in_hub_until(lambda: kept.program.pid not in (None, first))
    gevent.sleep(3 * SILENT_S)
    assert len(kept.ended) == 1


def test_process_that_never_starts_to_speak_is_killed(constants: Constants, kept: Kept) -> None:
    constants(process__keptprogram__START_S=3 * SILENT_S)
    kept.lives()
    wait_in_hub_until(lambda: len(kept.ended) == 2)
    assert all("silent" in reason for reason in kept.ended)
