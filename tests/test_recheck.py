"""For how long the hub waits while kept answers are looked at."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from vmw_cloudinit_metadata import Driver
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.recheck import NEVER_S, Recheck

MOMENT_S = 0.2


class SlowDriver(Driver):
    look_s = 0.0

    def get_instance(self, machine: Machine) -> InstanceData | None: ...

    def still_holds(self, token: Any) -> bool:  # noqa: ARG002
        time.sleep(self.look_s)
        return True


class Kept:
    token = ""
    seen_s = NEVER_S


@pytest.fixture
def driver() -> SlowDriver:
    return SlowDriver({})


@pytest.fixture
def looks(driver: SlowDriver) -> Iterator[Recheck]:
    looks = Recheck(driver, 10.0, MOMENT_S)
    yield looks
    looks.close()


def turn_of_one_look_s(looks: Recheck) -> float:
    """How long the hub's turn takes in which an answer is asked for; waits for its result too."""
    told: list[bool | None] = []
    looks.ask(Kept(), told.append)
    began_s = time.monotonic()
    gevent.sleep(0)
    took_s = time.monotonic() - began_s
    with gevent.Timeout(60):
        while not told:
            gevent.sleep(0.001)
    gevent.sleep(0.01)  # until the thread's return is heard
    assert told == [True]
    return took_s


def test_hub_waits_only_once_for_a_driver_that_is_slow(driver: SlowDriver, looks: Recheck) -> None:
    driver.look_s = 2 * MOMENT_S
    assert MOMENT_S <= turn_of_one_look_s(looks) < 2 * MOMENT_S
    for _ in range(3):
        assert turn_of_one_look_s(looks) < MOMENT_S


def test_hub_waits_again_once_the_driver_is_quick(driver: SlowDriver, looks: Recheck) -> None:
    driver.look_s = 2 * MOMENT_S
    turn_of_one_look_s(looks)
    driver.look_s = MOMENT_S / 4
    assert turn_of_one_look_s(looks) < MOMENT_S / 4
    assert turn_of_one_look_s(looks) >= MOMENT_S / 4
