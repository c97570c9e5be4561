"""Time in which the process did not run counts for no deadline."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fleet import connects, fleet_of
from tests.process import ServerProcess, stopped, tree_of, with_constants
from tests.servers.postgresql import PostgresqlBackend
from tests.vm import LIMIT_S, Vm
from tests.waiting import wait_in_hub_until
from vmw_cloudinit_metadata import Driver, Machine
from vmw_cloudinit_metadata.process import deadlines
from vmw_cloudinit_metadata.process.budget import Budget
from vmw_cloudinit_metadata.process.deadlines import LATE_S, RunningClock
from vmw_cloudinit_metadata.process.fleet import frames
from vmw_cloudinit_metadata.process.fleet.frames import Reply
from vmw_cloudinit_metadata.process.threads import Threads
from vmw_cloudinit_metadata.process.vcenter.vcenterlink import UNHEARD_S, VcenterLink
from vmw_cloudinit_metadata.process.vcenter.vcentertable import VcenterState
from vmw_cloudinit_metadata.protocol.identity import Identity
from vmw_cloudinit_metadata.serving.crosscheck import CrossCheck, LineCheck, VcenterCheck
from vmw_cloudinit_metadata.serving.health import HANGS_S, Health
from vmw_cloudinit_metadata.serving.lookuppool import LookupPool
from vmw_cloudinit_metadata.serving.recheck import Recheck

TIMEOUT_S = 3.0  # of what is under way
STOPPED_S = 4.0
AFTERWARDS_S = 0.4  # several ticks, less than TIMEOUT_S


# The law

TICK_S = 0.1
PAUSES_S = st.lists(st.floats(0.0, 3 * (TICK_S + LATE_S)), max_size=20)


@given(PAUSES_S)
def test_clock_counts_short_pauses_in_full_and_one_tick_of_each_long_one(
    pauses_s: list[float],
) -> None:
    time_s = 1000.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deadlines, "time", SimpleNamespace(monotonic=lambda: time_s))
        clock, other = RunningClock(TICK_S), RunningClock(TICK_S)
        begun_s, counted_s = clock.now_s(), 0.0
        for pause_s in pauses_s:
            before_s, time_s = time_s, time_s + pause_s
            is_long = time_s - before_s > TICK_S + LATE_S
            counts_s = TICK_S if is_long else pause_s
            counted_s += counts_s
            assert clock.now_s() - begun_s == pytest.approx(counted_s, abs=1e-6)
            assert other.passed_s() == pytest.approx(counts_s, abs=1e-6)


# In this process, whose hub stands still


class HeldDriver(Driver):
    """Its calls return when they are let go."""

    def __init__(self) -> None:
        super().__init__({})
        self.let_go = threading.Event()

    def get_instance(self, machine: Machine) -> None: ...

    def check(self) -> None:
        self.let_go.wait(LIMIT_S)

    def still_holds(self, token: Any) -> bool:  # noqa: ARG002
        return self.let_go.wait(LIMIT_S)


class Kept:
    token = ""
    seen_s = 0.0


@pytest.fixture
def held() -> Iterator[HeldDriver]:
    driver = HeldDriver()
    yield driver
    driver.let_go.set()


def hub_stands_still(seconds: float = STOPPED_S) -> None:
    """Let the loop turn, stop it, and let it turn a few times more."""
    gevent.sleep(0.15)
    time.sleep(seconds)
    gevent.sleep(AFTERWARDS_S)


def test_look_up_is_not_overdue_while_the_hub_stands_still(held: HeldDriver) -> None:
    threads, told = Threads(), list[object]()
    pool = LookupPool(threads, 1, TIMEOUT_S, Budget(10**9, lambda _: None))
    for key in ("runs", "waits for a place"):
        pool.ask(key, lambda: held.still_holds(""), told.append)
    hub_stands_still()
    assert told == []
    assert not pool.is_overdue("runs")
    held.let_go.set()
    wait_in_hub_until(lambda: told == [True, True])
    pool.close()
    threads.close()


def test_look_at_a_kept_answer_is_not_overdue_while_the_hub_stands_still(held: HeldDriver) -> None:
    looks, told = Recheck(held, TIMEOUT_S), list[bool | None]()
    looks.ask(Kept(), told.append)
    hub_stands_still()
    assert told == []
    held.let_go.set()
    wait_in_hub_until(lambda: told == [True])
    looks.close()


def test_driver_does_not_hang_while_the_hub_stands_still(held: HeldDriver) -> None:
    health = Health(held)
    health.start()
    before = health.problem
    hub_stands_still(HANGS_S + 0.5)
    assert health.problem == before
    held.let_go.set()
    wait_in_hub_until(lambda: not health.problem)
    health.stop()


def test_reply_of_the_fleet_that_waits_in_the_socket_counts(
    fleet_database: PostgresqlBackend,
) -> None:
    with fleet_of(fleet_database.url) as process:
        connects(process)
        told = list[Reply | None]()
        process.link.ask("servers", {}, b"", TIMEOUT_S, told.append)
        gevent.sleep(0)
        time.sleep(STOPPED_S)
        wait_in_hub_until(lambda: told)
        assert told[0] is not None


def test_vcenter_that_waits_in_the_socket_is_current(tmp_path: Path) -> None:
    address = f"vmw-cloudinit-metadata-{tmp_path}"
    state = {"kind": "state", "fields": VcenterState(is_connected=True, since_s=1.0).pack()}
    told = b"".join(frames.encode({"kind": kind, "fields": {}}) for kind in ("begin", "complete"))
    with socket.create_server(f"\0{address}", family=socket.AF_UNIX) as listener:
        link = VcenterLink(address)
        link.start()
        played, _ = listener.accept()
        played.sendall(told + frames.encode(state))
        wait_in_hub_until(lambda: link.is_current)
        line = LineCheck(
            CrossCheck(link, VcenterCheck.REQUIRE, TIMEOUT_S),
            Identity("10.0.0.1", datetime.now(UTC), {}),
        )
        failures = [line.refusal()]
        time.sleep(UNHEARD_S + 1.0)
        assert link.is_current
        failures.append(line.refusal())
        assert [failure and failure.error for failure in failures] == ["timeout"] * 2
        begun_s = time.monotonic()  # and now it runs, and hears nothing
        wait_in_hub_until(lambda: not link.is_current)
        assert time.monotonic() - begun_s > UNHEARD_S - 2.5
        failure = line.refusal()
        assert failure
        assert failure.error == "refused"
        link.stop()
        played.close()


# A real server that is stopped


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("is_kept", [False, True], ids=["look-up", "look at a kept answer"])
def test_request_under_way_is_answered_after_the_server_was_stopped(
    start: Callable[..., ServerProcess], tmp_path: Path, workers: int, is_kept: bool
) -> None:
    directory = tmp_path / "hangs"
    directory.mkdir()
    (tmp_path / "version").write_text("1")
    server = start(
        *("--driver", "tests.hanging_driver:HangingDriver", "--lookup-timeout", str(TIMEOUT_S)),
        *("--workers", str(workers)),
        command=with_constants(serving__recheck__OVERDUE_S=TIMEOUT_S),
        driver_opts={"directory": str(directory)},
    )
    machine = Vm(server.port, "web1")
    if is_kept:
        assert machine.metadata()["instance-id"] == "1"
        time.sleep(0.3)  # until it is looked at again
    (directory / "web1").touch()
    machine.send(b"!!REQUEST_METADATA#\n")
    assert b"!!" not in machine.hears(0.3)
    with stopped(*tree_of(server.pid)):
        time.sleep(STOPPED_S)
    time.sleep(AFTERWARDS_S)  # its loop turns, and the driver still hangs
    (directory / "web1").unlink()
    code, body = machine.answer()
    assert (code, b'"1"' in body) == ("RESPONSE_METADATA", True), body
    assert "silent" not in server.log
    machine.close()
