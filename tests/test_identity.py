"""Who a VM is, over months: asked again after silence, several ports, and rivals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.process import ServerProcess, counters, with_constants
from tests.vm import Vm, suboption

Start = Callable[..., ServerProcess]

ASK_UUID, ASK_NAME = suboption(81), suboption(83)
ANOTHER_UUID = "42" * 16


@pytest.fixture(scope="module")
def hasty(instances: Path) -> Iterator[ServerProcess]:
    """A server that takes half a second for a long silence."""
    (instances / "renamed.yaml").write_text("metadata: {instance-id: of-the-new-name}\n")
    process = ServerProcess(instances, command=with_constants(protocol__session__SILENCE_S=0.5))
    yield process
    process.end()


def silent_vm(server: ServerProcess, **settings: str) -> Vm:
    """A VM that was asked for its identity once, has had an answer, and was silent since."""
    machine = Vm(server.port, **settings)
    machine.metadata()
    machine.raw = b""
    time.sleep(0.7)
    return machine


def test_first_request_after_silence_asks_who_the_vm_is(hasty: ServerProcess) -> None:
    machine = silent_vm(hasty)
    machine.send(b"!!REQUEST_METADATA#\n")
    assert machine.receive_until(ASK_NAME) == ASK_UUID + ASK_NAME
    assert b"!!" not in machine.hears(0.2)
    machine.send(suboption(80, b"01 23 45 67 89 ab cd ef-fe dc ba 98 00 00 00 01"))
    machine.send(suboption(82, b"renamed"))
    assert b"of-the-new-name" in machine.answer()[1]
    hasty.wait_for(r"'renamed', VC UUID \S+: was 'web1', VC UUID \S+ until now")


def test_request_without_silence_asks_nothing(hasty: ServerProcess) -> None:
    machine = silent_vm(hasty)
    machine.send(b"!!REQUEST_METADATA#\n" + suboption(82, b"web1") + suboption(80, b"01" * 16))
    machine.answer()
    machine.send(b"!!REQUEST_USERDATA#\n")
    assert machine.receive_until(b"\n").startswith(b"!!RESPONSE_USERDATA#")


def test_peer_that_does_not_answer_keeps_what_it_said(hasty: ServerProcess) -> None:
    machine = silent_vm(hasty)
    started_s = time.monotonic()
    machine.send(b"!!REQUEST_METADATA#\n!!REQUEST_USERDATA#\n")
    assert b"my-instance" in machine.answer()[1]
    assert 0.8 < time.monotonic() - started_s < 3
    assert machine.answer()[0] == "RESPONSE_USERDATA"


def test_peer_that_can_tell_nothing_is_not_asked(hasty: ServerProcess) -> None:
    machine = Vm(hasty.port, known=bytes([0, 1, 2, 3, 70, 71, 73]))
    machine.metadata()
    time.sleep(0.7)
    machine.send(b"!!REQUEST_METADATA#\n")
    assert machine.receive_until(b"\n").startswith(b"!!RESPONSE_METADATA#")


def test_unusable_answer_keeps_what_was_said(hasty: ServerProcess) -> None:
    machine = silent_vm(hasty)
    machine.send(b"!!REQUEST_METADATA#\n" + suboption(82, b"") + suboption(80, b"nonsense"))
    assert b"my-instance" in machine.answer()[1]


def test_vm_may_move_while_it_is_asked_again(hasty: ServerProcess) -> None:
    machine = silent_vm(hasty)
    machine.send(b"!!REQUEST_METADATA#\n")
    machine.receive_until(ASK_NAME)
    target = Vm.arriving(hasty.port, machine.begin_move())
    target.is_welcome()
    target.complete()
    assert target.answer()[0] == "RESPONSE_METADATA"
    assert machine.hears(0.2) == b""


def counted(server: ServerProcess, name: str, *machines: Vm) -> int:
    """Disconnects, stops the server; what it has counted under this name."""
    for machine in machines:
        machine.close()
    return counters(server)[name]


def test_ports_of_one_vm_are_lines_of_their_own(start: Start) -> None:
    server = start("--uri", "other")
    first, second = Vm(server.port), Vm(server.port, uri="other")
    first.send(b"!!REQUEST_META")
    assert second.metadata()["instance-id"] == "my-instance"
    first.send(b"DATA#\n")
    assert first.answer()[0] == "RESPONSE_METADATA"
    server.wait_for(r"identified, service URI '[a-z-]+'; 2 serial ports of this VM are connected")
    assert counted(server, "rival connections", first, second) == 0


def test_rival_is_reported_and_both_are_answered(start: Start) -> None:
    server = start()
    older = Vm(server.port)
    older.metadata()
    newer = Vm(server.port)
    newer.metadata()
    server.wait_for("this newer one counts as the VM, all are answered")
    assert older.metadata() == newer.metadata()
    server.wait_for("'web1', VC UUID [0-9a-f-]+, older connection: answered METADATA")
    assert counted(server, "answered on an older connection", older, newer) == 1


def test_older_connection_is_the_vm_again_when_the_newer_is_gone(start: Start) -> None:
    server = start("--log-level", "debug")
    older = Vm(server.port)
    older.metadata()
    newer = Vm(server.port)
    newer.metadata()
    older.metadata()
    newer.close()
    server.wait_for("disconnected")
    older.metadata()
    assert counted(server, "answered on an older connection", older) == 1  # beside the newer one


def test_older_connection_that_sends_more_stays_the_older_one(start: Start) -> None:
    server = start()
    older = Vm(server.port)
    older.metadata()
    newer = Vm(server.port)
    newer.metadata()
    older.send(suboption(84, b"42" * 16))
    older.metadata()  # on an older connection
    newer.metadata()
    assert counted(server, "answered on an older connection", older, newer) == 1


def test_rivals_without_end_cost_one_line_a_minute_and_little_each(start: Start) -> None:
    server = start()
    machines = []
    for _ in range(300):
        machines.append(Vm(server.port))
        machines[-1].receive_until(suboption(71))
    machines[-1].metadata()
    assert server.log.count("has the VC UUID and service URI") == 1
    assert max(map(len, server.lines)) < 1000
    assert counted(server, "rival connections", *machines) == 299


def test_vm_that_changes_its_uuid_all_the_time_fills_no_log(start: Start) -> None:
    server = start()
    machine = Vm(server.port)
    for number in range(50):
        machine.send(suboption(80, f"{number:032x}".encode()))
        machine.metadata()
    assert server.log.count("which other connected VMs get too") <= 1
    assert server.log.count(" until now") <= 1


def test_other_vc_uuid_is_no_rival(start: Start) -> None:
    server = start()
    machines = [Vm(server.port), Vm(server.port, vc_uuid=ANOTHER_UUID), Vm(server.port, vc_uuid="")]
    for machine in machines:
        machine.metadata()
    assert counted(server, "rival connections", *machines) == 0


def test_vm_that_moves_is_not_its_own_rival(start: Start) -> None:
    server = start()
    source = Vm(server.port)
    target = Vm.arriving(server.port, source.begin_move())
    target.is_welcome()
    target.complete()
    target.metadata()
    assert counted(server, "rival connections", source, target) == 0
