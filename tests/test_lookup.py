"""The pooled look-up, seen from outside: a real server with a driver that is slow, or fails."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.process import ServerProcess
from tests.vm import KNOWN, LIMIT_S, Vm, suboption
from tests.waiting import wait_in_hub_until, wait_until
from vmw_cloudinit_metadata import Driver, Machine
from vmw_cloudinit_metadata.process.budget import Budget
from vmw_cloudinit_metadata.serving.lookup import Lookup

FRESH_S = 0.2  # within which the driver is not asked again
PROMPT_S = 0.05  # what one VM may lose through the look-ups of others


class Scripted:
    """A server with the scripted driver; `calls` are the names that it was asked for."""

    def __init__(self, start: Callable[..., ServerProcess], calls: Path, *options: str) -> None:
        self._calls = calls
        calls.touch()
        self.server = start(
            *("--driver", "tests.scripted_driver:ScriptedDriver", *options),
            driver_opts={"calls": str(calls)},
        )

    def vm(self, name: str, **settings: str) -> Vm:
        machine = Vm(self.server.port, name, **settings)
        machine.receive_until(suboption(71))
        return machine

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines()


@pytest.fixture
def scripted(start: Callable[..., ServerProcess], tmp_path: Path) -> Callable[..., Scripted]:
    return lambda *options: Scripted(start, tmp_path / "calls", *options)


def test_driver_sees_the_whole_machine(scripted: Callable[..., Scripted]) -> None:
    bios = "42010203-0405-0607-0809-0a0b0c0d0e0f"
    machine = scripted().vm("kept", bios_uuid=bios, uri="my-metadata?profile=web&x=", direction="S")
    told = machine.metadata()
    since = datetime.fromisoformat(told.pop("since"))
    assert timedelta() <= datetime.now(UTC) - since < timedelta(seconds=20)
    assert told == {
        "instance-id": "01234567-89ab-cdef-fedc-ba9800000001",
        "hostname": "kept",
        "local-hostname": "kept",
        "name": "kept",
        "bios": bios,
        "uri": "my-metadata?profile=web&x=",
        "query": {"profile": "web", "x": ""},
        "direction": "server",
        "peer": "127.0.0.1",
    }


def test_failures_of_a_driver_are_distinguished(scripted: Callable[..., Scripted]) -> None:
    server = scripted()
    for name, error in (
        ("none", "not-found"),
        ("invalid", "invalid"),
        ("fails", "failed"),
        ("raises", "failed"),
        ("exits", "failed"),
    ):
        assert server.vm(name).error("METADATA") == error, name
    assert "the database is down" in server.server.log
    assert server.vm("kept").metadata()["name"] == "kept"


def test_answer_is_kept_while_the_driver_says_that_it_holds(
    scripted: Callable[..., Scripted],
) -> None:
    server = scripted()
    for name in ("kept-yes", "kept-no", "other"):
        machine = server.vm(name)
        for document in ("METADATA", "USERDATA", "DIGEST"):
            time.sleep(FRESH_S)
            machine.document(document)
    assert sorted(server.calls) == ["kept-no"] * 3 + ["kept-yes"] + ["other"] * 3


def test_driver_whose_notifications_fail_is_asked_whether_the_answer_holds(
    scripted: Callable[..., Scripted],
) -> None:
    server = scripted()
    machine = server.vm("kept-raises")
    for document in ("METADATA", "USERDATA"):
        time.sleep(FRESH_S)
        assert machine.document(document)
    assert server.calls == ["kept-raises"]
    server.server.wait_for("ScriptedDriver: held_at failed")


def test_driver_is_asked_seldom_for_a_vm_that_fails_and_asks_without_a_pause(
    scripted: Callable[..., Scripted],
) -> None:
    server = scripted()
    machine = server.vm("none")
    end_s = time.monotonic() + 1
    asked = 0
    while time.monotonic() < end_s:
        machine.error("METADATA")
        asked += 1
    assert asked > 100
    assert len(server.calls) < 30
    time.sleep(FRESH_S + 0.1)
    before = len(server.calls)
    machine.error("METADATA")  # after a pause it is asked at once
    assert len(server.calls) == before + 1


def test_driver_is_not_asked_again_for_the_next_document_of_a_boot(
    scripted: Callable[..., Scripted],
) -> None:
    server = scripted()
    machine = server.vm("kept-no")
    machine.send(b"".join(b"!!REQUEST_%s#\n" % d for d in (b"METADATA", b"USERDATA", b"DIGEST")))
    assert [machine.answer()[0][:8] for _ in range(3)] == ["RESPONSE"] * 3
    assert server.calls == ["kept-no"]


def test_equal_look_ups_under_way_are_one(scripted: Callable[..., Scripted]) -> None:
    server = scripted()
    machines = [server.vm("sleep-1") for _ in range(20)]
    for machine in machines:
        machine.send(b"!!REQUEST_METADATA#\n!!REQUEST_USERDATA#\n")
    for machine in machines:
        assert [machine.answer()[0] for _ in range(2)] == ["RESPONSE_METADATA", "RESPONSE_USERDATA"]
    assert server.calls == ["sleep-1"]


def test_pool_less_one_blocked_delays_no_other_vm(scripted: Callable[..., Scripted]) -> None:
    server = scripted("--lookup-pool", "4")
    others = [server.vm(f"other{number}") for number in range(20)]
    for number in range(3):
        server.vm(f"sleep-2 {number}").send(b"!!REQUEST_METADATA#\n")
    waited_s = []
    for machine in others:
        started_s = time.monotonic()
        machine.metadata()
        waited_s.append(time.monotonic() - started_s)
    assert sorted(waited_s)[len(waited_s) // 2] < PROMPT_S
    assert sum(waited_s) < 2  # all of them while the three were blocked


def test_kept_answers_go_out_while_the_whole_pool_is_blocked(
    scripted: Callable[..., Scripted],
) -> None:
    server = scripted("--lookup-pool", "2", "--lookup-timeout", "20")
    kept = server.vm("kept")
    kept.metadata()
    blocked = [server.vm(f"sleep-3 {number}") for number in range(2)]
    for machine in blocked:
        machine.send(b"!!REQUEST_METADATA#\n")
    queued = server.vm("other")
    queued.send(b"!!REQUEST_METADATA#\n")
    started_s = time.monotonic()
    for _ in range(20):
        kept.metadata()
    assert time.monotonic() - started_s < 2.5
    assert b"!!" not in queued.hears(0.3)
    assert queued.answer()[0] == "RESPONSE_METADATA"
    for machine in blocked:
        assert machine.answer()[0] == "RESPONSE_METADATA"


def test_driver_that_takes_too_long_is_a_timeout_and_its_late_answer_is_kept(
    scripted: Callable[..., Scripted],
) -> None:
    server = scripted("--lookup-timeout", "0.5")
    machine = server.vm("sleep-3")
    started_s = time.monotonic()
    assert machine.error("METADATA") == "timeout"
    assert 0.4 < time.monotonic() - started_s < 2.9
    assert machine.error("METADATA") == "timeout"  # joins the one that is still under way
    wait_until(lambda: machine.ask("METADATA")[0] == "RESPONSE_METADATA")
    assert server.calls == ["sleep-3"]


def test_identity_sent_during_a_look_up_counts(scripted: Callable[..., Scripted]) -> None:
    server = scripted()
    machine = Vm(server.server.port, "sleep-1", vc_uuid=None, known=KNOWN)
    machine.send(suboption(2, b"\x51") + suboption(84) + suboption(86))
    machine.send(b"!!REQUEST_METADATA#\n")
    server.server.wait_for("identified")  # it does not know GET-VM-VC-UUID
    machine.send(suboption(80, b"42" * 16))
    assert machine.answer()[1].startswith(b'{"instance-id":"42424242-')


def test_term_finishes_the_answers_under_way_and_closes_the_driver(
    scripted: Callable[..., Scripted],
) -> None:
    server = scripted()
    idle, busy = server.vm("kept"), server.vm("sleep-1")
    idle.metadata()
    busy.send(b"!!REQUEST_METADATA#\n")
    wait_until(lambda: "sleep-1" in server.calls)
    server.server.signal(signal.SIGTERM)
    assert idle.receive_all() == b""
    with pytest.raises(ConnectionRefusedError):
        server.vm("kept")
    assert busy.answer()[0] == "RESPONSE_METADATA"
    assert busy.receive_all() == b""
    assert server.server.wait() == 0
    assert server.calls[-1] == "closed"


def test_term_waits_no_longer_than_the_drain_time(scripted: Callable[..., Scripted]) -> None:
    server = scripted("--drain", "0.5", "--lookup-timeout", "20")
    busy = server.vm("sleep-20")
    busy.send(b"!!REQUEST_METADATA#\n")
    wait_until(lambda: server.calls)
    started_s = time.monotonic()
    server.server.signal(signal.SIGTERM)
    assert server.server.wait() == 0
    assert 0.4 < time.monotonic() - started_s < 4


def test_second_signal_ends_the_drain(scripted: Callable[..., Scripted]) -> None:
    server = scripted("--lookup-timeout", "20")
    busy = server.vm("sleep-20")
    busy.send(b"!!REQUEST_METADATA#\n")
    wait_until(lambda: server.calls)
    started_s = time.monotonic()
    server.server.signal(signal.SIGINT)
    server.server.wait_for("stopping")
    server.server.signal(signal.SIGINT)
    assert server.server.wait() == 0
    assert time.monotonic() - started_s < 4


class Listing(Driver):
    """Lists the names of documents only when it may."""

    def __init__(self) -> None:
        super().__init__({})
        self.may_list = threading.Semaphore(1)

    def get_instance(self, machine: Machine) -> None:
        pass

    def document_names(self) -> frozenset[str]:
        assert self.may_list.acquire(timeout=LIMIT_S)
        return frozenset({"ROLE"})


def test_document_known_from_the_last_list_waits_for_no_new_one() -> None:
    driver = Listing()
    lookup = Lookup(driver, 1, LIMIT_S, Budget(2**30))
    found: list[object] = []
    try:
        lookup.ask_document_names("ROLE", found.append)
        wait_in_hub_until(lambda: found)
        lookup.ask_document_names("OTHER", found.append)
        lookup.ask_document_names("ROLE", found.append)
        assert len(found) == 1  # later
        wait_in_hub_until(lambda: len(found) == 2)
        assert lookup.running == 1
        driver.may_list.release()
        wait_in_hub_until(lambda: len(found) == 3)
        assert set(found) == {frozenset({"ROLE"})}
    finally:
        driver.may_list.release()
        lookup.close()
