"""Callbacks of the hub that fail: each is logged, and stops no other and no later one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gevent
import pytest

from tests.waiting import wait_in_hub_until
from vmw_cloudinit_metadata.admin.adminport import AdminPort, AdminSettings
from vmw_cloudinit_metadata.monitoring import uncaught
from vmw_cloudinit_metadata.monitoring.facts import DocumentsServed, VmIdentified
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.process.deadlines import Deadlines
from vmw_cloudinit_metadata.process.threads import Threads
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.settings.values import Address


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """The log, which also has uncaught exceptions, as in the program."""
    monkeypatch.setattr(gevent.get_hub(), "print_exception", uncaught.uncaught_in_greenlet)
    return caplog


def fails() -> None:
    raise KeyError("of a callback")


@pytest.fixture
def deadlines() -> Iterator[Deadlines]:
    made = Deadlines()
    yield made
    made.close()


def test_deadline_that_fails_costs_no_other(deadlines: Deadlines, log: Any) -> None:
    over: list[str] = []
    deadlines.start(0.01, fails)
    deadlines.start(0.01, lambda: over.append("with it"))
    deadlines.start(0.3, lambda: over.append("later"))
    wait_in_hub_until(lambda: over == ["with it", "later"])
    assert "KeyError: 'of a callback'" in log.text


def test_turn_that_fails_costs_no_other(deadlines: Deadlines, log: Any) -> None:
    over: list[str] = []
    deadlines.soon(fails)
    deadlines.soon(lambda: over.append("next"))
    wait_in_hub_until(lambda: over == ["next"])
    assert "KeyError: 'of a callback'" in log.text


def test_deadline_that_fails_while_it_receives_costs_no_other(
    deadlines: Deadlines, log: Any
) -> None:
    over: list[str] = []

    def receive(step: Callable[[], None]) -> Iterator[None]:
        yield
        step()
        yield

    deadlines.start(0.01, lambda: over.append("fails"), lambda: receive(fails))
    deadlines.start(0.01, lambda: over.append("with it"), lambda: receive(lambda: None))
    wait_in_hub_until(lambda: over == ["with it"])
    assert "KeyError: 'of a callback'" in log.text


def test_deadlines_of_many_peers_receive_in_the_same_turns(deadlines: Deadlines) -> None:
    """Else a flood of peers that never pause would put off each other's deadline."""
    peers, turns = 50, 20
    over: set[int] = set()

    def receive() -> Iterator[None]:
        for _ in range(turns):
            hub_turns_while_receiving.add(hub_turns)
            yield

    hub_turns, hub_turns_while_receiving = 0, set[int]()
    for number in range(peers):
        deadlines.start(0.01, partial(over.add, number), receive)
    while len(over) < peers:
        hub_turns += 1
        gevent.sleep(0)
    assert len(hub_turns_while_receiving) <= 2 * turns


def test_result_whose_callback_fails_costs_no_other(log: Any) -> None:
    threads = Threads()
    over: list[Any] = []
    threads.run(lambda: 1, lambda *_: fails())
    threads.run(lambda: 2, lambda result, _: over.append(result))
    wait_in_hub_until(lambda: over == [2])
    threads.run(lambda: 3, lambda result, _: over.append(result))
    wait_in_hub_until(lambda: over == [2, 3])
    threads.close()
    assert "KeyError: 'of a callback'" in log.text


def test_event_that_the_list_of_machines_cannot_take_in_costs_no_other(log: Any) -> None:
    """A `served` without what was answered; the decoder of the workers' messages lets none pass."""
    port = AdminPort(AdminSettings(Address("127.0.0.1", 0)))
    bad: Any = None
    facts = DocumentsServed("text", bad, 0.0, "", (), "", ""), VmIdentified("text")
    for fact, name in zip(facts, ("bad", "good"), strict=True):
        port.hear(Happening(fact, 20, time.time(), f"1-{name}", "", "", Machine(name), ""))
    wait_in_hub_until(lambda: port.chronicle.named("good"))
    port.hear(Happening(facts[1], 20, 1.0, "1-3", "", "", Machine("later"), ""))
    wait_in_hub_until(lambda: port.chronicle.get("later"))
    assert "cannot record" in log.text
