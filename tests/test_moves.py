"""vMotion between real connections of real server processes."""

from __future__ import annotations

import base64
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peer import SocketVm, connected, refused_beyond_one_a_second
from tests.process import ServerProcess, counters, run, with_constants
from tests.test_admin import Admin
from tests.vm import KNOWN, SEQUENCE, Vm, suboption
from tests.waiting import wait_until

Connect = Callable[..., Vm]
Start = Callable[..., ServerProcess]

REFUSED = suboption(3, b"\x2c")


def moved(server: ServerProcess, source: Vm, sequence: bytes = SEQUENCE, **settings: str) -> Vm:
    """Begins a move of `source` and brings it to the point before VMOTION-COMPLETE."""
    target = Vm.arriving(server.port, source.begin_move(sequence), sequence, **settings)
    target.is_welcome(sequence)
    return target


def counted(server: ServerProcess, name: str, *machines: Vm) -> int:
    """Disconnects, stops the server; what it has counted under this name."""
    for machine in machines:
        machine.close()
    return counters(server)[name]


def requests(server: ServerProcess) -> int:
    """How many requests have arrived."""
    return int(Admin(server).json("/api/status")["counters"].get("requests", 0))


def slow(start: Start, calls: Path, *options: str, **settings: object) -> ServerProcess:
    calls.touch()
    return start(
        *("--driver", "tests.scripted_driver:ScriptedDriver", *options),
        driver_opts={"calls": str(calls)},
        **settings,
    )


# From one connection to another


def test_vm_that_has_moved_is_served_as_itself(vm: Connect, server: ServerProcess) -> None:
    source = vm()
    target = moved(server, source)
    target.complete()
    assert target.metadata()["instance-id"] == "my-instance"
    server.wait_for("has moved here by vMotion")


def test_identity_moves_with_the_vm_whose_new_host_sends_none(
    vm: Connect, server: ServerProcess
) -> None:
    target = Vm(server.port, silent=True)
    secret = vm(uri="my-metadata?a=b").begin_move()
    target.send(b"\xff\xfb\x00\xff\xfd\x00\xff\xfb\xe8" + suboption(0, KNOWN))
    target.send(suboption(44, SEQUENCE + secret) + suboption(46, SEQUENCE))
    started_s = time.monotonic()
    assert target.metadata()["instance-id"] == "my-instance"
    assert time.monotonic() - started_s < 1.8  # nobody waits 2 s for the identity


def test_go_ahead_secret_is_fresh_and_of_one_length(vm: Connect) -> None:
    machine = vm()
    secrets = {machine.begin_move() for _ in range(300)}
    assert len(secrets) == 300
    assert {len(secret) for secret in secrets} == {8}
    assert any(b"\xff" in secret for secret in secrets)


@pytest.mark.parametrize("place", range(4))
def test_0xff_in_the_sequence_survives(vm: Connect, server: ServerProcess, place: int) -> None:
    sequence = bytearray(b"\x01\xf0\xfa\x02")
    sequence[place] = 0xFF
    target = moved(server, vm(), bytes(sequence))
    target.complete(bytes(sequence))
    assert target.metadata()["instance-id"] == "my-instance"


def test_0xff_at_every_place_of_the_secret_survives(vm: Connect, server: ServerProcess) -> None:
    source, places = vm(), set(range(8))
    for _ in range(20_000):
        secret = source.begin_move()
        found = {place for place in places if secret[place] == 0xFF}
        if found:
            target = Vm.arriving(server.port, secret)
            target.is_welcome()
            target.close()
            places -= found
        if not places:
            return
    raise AssertionError(f"0xFF was never at {places}")


def test_half_request_is_completed_on_the_new_connection(
    vm: Connect, server: ServerProcess
) -> None:
    source = vm()
    source.send(b"!!REQUEST_META")
    target = moved(server, source)
    target.send(suboption(46, SEQUENCE) + b"DATA#\n")
    assert target.answer()[0] == "RESPONSE_METADATA"


def test_request_after_begin_is_answered_on_the_new_connection_only(
    vm: Connect, server: ServerProcess
) -> None:
    source = vm()
    source.metadata()
    target = moved(server, source)
    source.send(b"!!REQUEST_USERDATA#\n!!REQUEST_METADATA#\n!!REQUEST_")
    assert source.hears(0.3) == b""
    assert target.hears(0.1).count(b"!!") == 0
    target.complete()
    assert [target.answer()[0] for _ in range(2)] == ["RESPONSE_USERDATA", "RESPONSE_METADATA"]
    target.send(b"NETWORKDATA#\n")
    assert target.answer()[0] == "RESPONSE_NETWORKDATA"


def test_what_the_source_has_sent_before_complete_is_not_lost(
    vm: Connect, server: ServerProcess
) -> None:
    for _ in range(20):  # whichever of the two connections is read first
        source = vm()
        target = moved(server, source)
        source.send(b"!!REQUEST_USERDATA#\n!!REQUEST_META")
        target.send(suboption(46, SEQUENCE) + b"DATA#\n")
        assert [target.answer()[0] for _ in range(2)] == ["RESPONSE_USERDATA", "RESPONSE_METADATA"]


@pytest.mark.parametrize("how", ["close", "reset"])
def test_source_may_close_before_complete(vm: Connect, server: ServerProcess, how: str) -> None:
    source = vm()
    target = moved(server, source)
    before = requests(server)
    source.send(b"!!REQUEST_USERDATA#\n!!REQ")
    wait_until(lambda: requests(server) == before + 1)  # a reset throws away what was not read
    if how == "reset":
        source.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    source.close()
    time.sleep(0.1)  # so that the server, as a rule, learns of that first
    target.send(suboption(46, SEQUENCE) + b"UEST_METADATA#\n")
    assert [target.answer()[0] for _ in range(2)] == ["RESPONSE_USERDATA", "RESPONSE_METADATA"]


def test_held_answers_of_some_kilobytes_are_all_sent_on_the_new_connection(
    vm: Connect, server: ServerProcess, instances: Path
) -> None:
    (instances / "some.yaml").write_text(f"metadata: {{}}\nuserdata: '{'x' * 1100}'\n")
    source = vm("some")
    target = Vm.arriving(server.port, source.begin_move(), name="some")
    target.is_welcome()
    source.send(b"!!REQUEST_USERDATA#\n" * 5)
    assert source.hears(0.2) == b""
    target.complete()
    assert [len(target.answer()[1]) for _ in range(5)] == [1100] * 5


def test_source_that_closes_after_complete_takes_nothing_along(
    vm: Connect, server: ServerProcess
) -> None:
    source = vm()
    target = moved(server, source)
    target.complete()
    target.metadata()
    source.send(b"!!REQUEST_METADATA#\n")
    source.close()
    assert target.hears(0.2) == b""
    assert target.metadata()["instance-id"] == "my-instance"


def test_long_answer_moves_in_the_middle(
    vm: Connect, server: ServerProcess, instances: Path
) -> None:
    (instances / "long.yaml").write_text(
        f"metadata: {{}}\nuserdata: |\n  #!/bin/sh\n  # {'x' * 700_000}\n"
    )
    source = vm("long", receive_buffer=16 * 1024)
    source.send(b"!!REQUEST_USERDATA#\n")
    beginning = b"!!RESPONSE_USERDATA#"
    source.receive_until(beginning)
    time.sleep(0.2)  # a guest that reads slowly: the system is full
    target = Vm.arriving(server.port, source.begin_move(), name="long")
    target.is_welcome()
    target.complete()
    at_source = source.before_go_ahead
    at_target = target.receive_until(b"\n").rpartition(b"\xf0")[2]
    assert len(at_source) < 300_000  # most of it was held back
    assert len(base64.b64decode((at_source + at_target).strip(), validate=True)) == 700_013


def test_long_answer_goes_on_when_the_source_closes(
    vm: Connect, server: ServerProcess, instances: Path
) -> None:
    (instances / "longer.yaml").write_text(f"metadata: {{}}\nuserdata: '{'x' * 700_000}'\n")
    source = vm("longer", receive_buffer=16 * 1024)
    source.send(b"!!REQUEST_USERDATA#\n")
    source.receive_until(b"!!RESPONSE_USERDATA#")
    target = Vm.arriving(server.port, source.begin_move(), name="longer", receive_buffer=16 * 1024)
    target.is_welcome()
    target.complete()
    source.close()
    server.wait_for(r"'longer'.*has moved here by vMotion")
    time.sleep(0.2)  # the server learns that the source is gone, with most still to be sent
    assert target.receive_until(b"\n").count(b"!!") == 0
    assert target.document("VENDORDATA") == b""


def test_move_back_and_forth_many_times(vm: Connect, server: ServerProcess) -> None:
    machine = vm()
    for number in range(20):
        sequence = number.to_bytes(4, "big")
        machine.send(b"!!REQUEST_META")
        target = moved(server, machine, sequence)
        target.complete(sequence)
        machine.close()
        target.send(b"DATA#\n")
        assert target.answer()[0] == "RESPONSE_METADATA"
        machine = target


def test_vm_may_move_on_at_once(vm: Connect, server: ServerProcess) -> None:
    between = moved(server, vm())
    between.send(suboption(46, SEQUENCE) + b"!!REQUEST_META")
    target = Vm.arriving(server.port, between.begin_move(b"next"), b"next")
    target.is_welcome(b"next")
    target.send(suboption(46, b"next") + b"DATA#\n")
    assert target.answer()[0] == "RESPONSE_METADATA"


def test_begin_in_one_segment_with_complete_is_granted(vm: Connect, server: ServerProcess) -> None:
    between = moved(server, vm())
    between.send(suboption(46, SEQUENCE) + b"!!REQUEST_METADATA#\n" + suboption(40, b"next"))
    between.receive_until(b"\xff\xfa\xe8\x29next")


def test_two_vms_with_the_same_sequence_move_each_to_its_own(
    vm: Connect, server: ServerProcess, instances: Path
) -> None:
    (instances / "other.yaml").write_text("metadata: {instance-id: the-other}\n")
    other_uuid = "42" * 16
    first, second = vm(), vm("other", vc_uuid=other_uuid)
    secrets = first.begin_move(), second.begin_move()
    targets = [
        Vm.arriving(server.port, secrets[1], name="other", vc_uuid=other_uuid),
        Vm.arriving(server.port, secrets[0]),
    ]
    for target in targets:
        target.is_welcome()
        target.complete()
    assert [target.metadata()["instance-id"] for target in targets] == ["the-other", "my-instance"]


def test_two_ports_of_one_vm_move_at_once(vm: Connect, server: ServerProcess) -> None:
    ports = [vm(), vm()]
    ports[0].send(b"!!REQUEST_META")
    ports[1].send(b"!!REQUEST_USER")
    targets = [Vm.arriving(server.port, port.begin_move()) for port in ports]
    for target in reversed(targets):
        target.is_welcome()
        target.complete()
        target.send(b"DATA#\n")
    assert [t.answer()[0] for t in targets] == ["RESPONSE_METADATA", "RESPONSE_USERDATA"]


# Abort, replace, expire


def test_abort_sends_the_held_answers_to_the_source(vm: Connect, server: ServerProcess) -> None:
    source = vm()
    target = moved(server, source)
    source.send(b"!!REQUEST_METADATA#\n!!REQUEST_USERDATA#\n")
    assert source.hears(0.2) == b""
    source.send(suboption(48))
    assert [source.answer()[0] for _ in range(2)] == ["RESPONSE_METADATA", "RESPONSE_USERDATA"]
    target.complete()
    target.send(b"!!REQUEST_METADATA#\n")
    assert b"!!" not in target.hears(0.3)


def test_abort_without_a_target_goes_on(vm: Connect) -> None:
    source = vm()
    source.begin_move()
    source.send(b"!!REQUEST_META" + suboption(48) + b"DATA#\n")
    assert source.answer()[0] == "RESPONSE_METADATA"


def test_second_begin_replaces_the_first(vm: Connect, server: ServerProcess) -> None:
    source = vm()
    first = source.begin_move()
    second = source.begin_move(b"\x09\x09\x09\x09")
    late = Vm.arriving(server.port, first)
    late.receive_until(REFUSED)
    target = Vm.arriving(server.port, second, b"\x09\x09\x09\x09")
    target.is_welcome(b"\x09\x09\x09\x09")
    target.complete(b"\x09\x09\x09\x09")
    assert target.metadata()["instance-id"] == "my-instance"


def test_begin_that_is_declined_ends_the_move_before_it(vm: Connect, server: ServerProcess) -> None:
    source = vm()
    target = moved(server, source)
    source.send(suboption(40, bytes(65)))
    source.receive_until(suboption(43, bytes(65)))
    assert source.metadata()["instance-id"] == "my-instance"
    target.complete()
    target.send(b"!!REQUEST_METADATA#\n")
    assert b"!!" not in target.hears(0.3)


EXPIRY = with_constants(serving__timeouts__MOVE_EXPIRES_S=1.0)


def test_move_that_nobody_goes_on_with_expires(start: Start) -> None:
    server = start(command=EXPIRY)
    source = Vm(server.port)
    secret = source.begin_move()
    source.send(b"!!REQUEST_METADATA#\n")
    assert source.hears(0.5) == b""
    assert source.answer()[0] == "RESPONSE_METADATA"
    server.wait_for("vMotion expired")
    Vm.arriving(server.port, secret).receive_until(REFUSED)
    assert counted(server, "vMotions expired", source) == 1


def test_move_whose_source_is_gone_expires(start: Start) -> None:
    server = start(command=EXPIRY)
    source = Vm(server.port)
    target = moved(server, source)
    source.close()
    server.wait_for("vMotion expired")
    target.complete()
    target.send(b"!!REQUEST_METADATA#\n")
    assert b"!!" not in target.hears(0.3)


def test_move_with_both_ends_connected_may_take_its_time(start: Start) -> None:
    server = start(command=EXPIRY)
    source = Vm(server.port)
    target = moved(server, source)
    time.sleep(2)
    target.complete()
    assert target.metadata()["instance-id"] == "my-instance"


def test_target_that_goes_away_again_leaves_the_source_its_line(start: Start) -> None:
    server = start(command=EXPIRY)
    source = Vm(server.port)
    target = moved(server, source)
    source.send(b"!!REQUEST_METADATA#\n")
    target.close()
    assert source.answer()[0] == "RESPONSE_METADATA"


def test_target_refused_in_the_moment_it_completes_leaves_no_move_behind(start: Start) -> None:
    server = start(command=EXPIRY)
    source = Vm(server.port)
    target = moved(server, source)
    target.send(suboption(46, SEQUENCE) + suboption(70, b"Canother"))
    server.wait_for("refused: the VM asks for service URI 'another'")
    source.close()
    target.close()
    time.sleep(1.5)
    counted = counters(server)
    assert counted["vMotions completed"] == 1
    assert (counted["vMotions expired"], counted["internal errors"]) == (0, 0), server.log


# Who is not the VM


@pytest.mark.parametrize(
    ("sequence", "secret"),
    [
        (b"\x00\x00\x01\x03", None),
        (SEQUENCE, b"\x00" * 8),
        (SEQUENCE, b""),
        (b"", b""),
        (SEQUENCE, b"\xff" * 4000),
    ],
    ids=["sequence", "secret", "no secret", "nothing", "too long"],
)
def test_wrong_peer_is_never_the_vm_and_the_right_one_is_unharmed(
    vm: Connect, server: ServerProcess, sequence: bytes, secret: bytes | None
) -> None:
    source = vm()
    right = source.begin_move()
    wrong = Vm.arriving(server.port, right if secret is None else secret, sequence)
    wrong.receive_until(REFUSED)
    wrong.send(suboption(46, SEQUENCE) + suboption(70, b"Cmy-metadata") + b"!!REQUEST_METADATA#\n")
    assert wrong.hears(0.3) == b""
    target = Vm.arriving(server.port, right)
    target.is_welcome()
    target.complete()
    assert target.metadata()["instance-id"] == "my-instance"
    server.wait_for("refused: VMOTION-PEER of a move that is unknown, over, or used already")


def test_secret_used_twice_is_refused_and_the_first_goes_on(
    vm: Connect, server: ServerProcess
) -> None:
    source = vm()
    secret = source.begin_move()
    first = Vm.arriving(server.port, secret)
    first.is_welcome()
    second = Vm.arriving(server.port, secret)
    second.receive_until(REFUSED)
    first.complete()
    assert first.metadata()["instance-id"] == "my-instance"
    third = Vm.arriving(server.port, secret)
    third.receive_until(REFUSED)


def test_target_of_another_vm_is_refused(vm: Connect, server: ServerProcess) -> None:
    source = vm()
    target = Vm.arriving(server.port, source.begin_move(), vc_uuid="42" * 16)
    target.is_welcome()
    target.complete()
    target.receive_until(REFUSED)
    source.send(suboption(48))
    assert source.metadata()["instance-id"] == "my-instance"


@pytest.mark.parametrize(
    "said",
    [suboption(46, SEQUENCE), suboption(46), suboption(48), suboption(41, b"x"), suboption(45)],
    ids=["complete", "empty complete", "abort", "go ahead", "peer ok"],
)
def test_move_command_out_of_place_is_nothing(vm: Connect, said: bytes) -> None:
    machine = vm()
    machine.send(said)
    assert machine.metadata()["instance-id"] == "my-instance"


def test_complete_with_another_sequence_is_nothing(vm: Connect, server: ServerProcess) -> None:
    target = moved(server, vm())
    target.send(suboption(46, b"\x07\x07\x07\x07") + b"!!REQUEST_METADATA#\n")
    assert b"!!" not in target.hears(0.3)
    target.complete()
    assert target.answer()[0] == "RESPONSE_METADATA"


def test_begin_of_an_unidentified_peer_is_not_now(server: ServerProcess) -> None:
    machine = Vm(server.port, silent=True)
    machine.send(b"\xff\xfb\xe8" + suboption(0, KNOWN) + suboption(40, SEQUENCE))
    machine.receive_until(suboption(43, SEQUENCE))


# Limits, slow drivers, draining


def test_not_now_only_beyond_the_limit(start: Start) -> None:
    server = start("--max-pending-moves", "2")
    machines = [Vm(server.port, vc_uuid=f"{number:02}" * 16) for number in range(3)]
    for machine in machines[:2]:
        machine.begin_move()
    machines[2].send(suboption(40, SEQUENCE))
    machines[2].receive_until(suboption(43, SEQUENCE))
    assert machines[2].metadata()["instance-id"] == "my-instance"
    machines[0].send(suboption(48))
    machines[0].metadata()
    machines[2].begin_move()
    assert counted(server, "vMotions declined", *machines) == 1


# Hosts that begin more than their share


ATTACKER, OTHER = "127.0.0.66", "127.0.0.2"


def begins(server: ServerProcess, host: str, number: int = 0) -> bool:
    """Whether a VM of this host that begins to move, and is gone at once, gets GOAHEAD."""
    with connected(server.port, host) as peer:
        machine = SocketVm(peer, f"{number:032x}")
        machine.send(suboption(40, SEQUENCE))
        heard = machine.receive_matching(rb"\xff\xfa\xe8[\x29\x2b]")
    return heard.endswith(b"\x29")


def test_moves_that_one_host_leaves_behind_decline_nobody_elses(start: Start) -> None:
    server = start("--max-pending-moves", "200", "--max-move-rate", "0")
    with connected(server.port, OTHER) as peer:
        secret = SocketVm(peer).begin_move()  # its source goes before its target comes
    assert all(begins(server, ATTACKER, number) for number in range(400))
    assert begins(server, "127.0.0.3")
    target = Vm.arriving(server.port, secret)
    target.is_welcome()
    target.complete()
    assert target.metadata()["instance-id"] == "my-instance"
    target.close()
    assert server.log.count("vMotion ended to make room") == 1
    counted = counters(server)
    assert counted["vMotions made room"] == 400 - 50
    assert counted["vMotions completed"] == 1
    assert counted["vMotions declined"] == 0


def test_move_whose_source_is_there_never_makes_room(start: Start) -> None:
    server = start("--max-pending-moves", "64")
    sources = [SocketVm(connected(server.port, ATTACKER), f"{n:032x}") for n in range(17)]
    secrets = [machine.begin_move() for machine in sources[:16]]
    sources[16].send(suboption(40, SEQUENCE))
    sources[16].receive_until(suboption(43, SEQUENCE))
    server.wait_for(r"vMotion declined \(VMOTION-NOTNOW\): its host has 16 under way, its share")
    assert begins(server, OTHER)
    target = Vm.arriving(server.port, secrets[0], vc_uuid=f"{0:032x}")
    target.is_welcome()
    target.complete()
    assert target.metadata()["instance-id"] == "my-instance"
    sources[16].begin_move()
    assert counted(server, "vMotions declined", target, *sources) == 1


def test_moves_beyond_the_rate_of_a_host_are_not_now_counted_and_reported_once(
    start: Start,
) -> None:
    server = start("--max-move-rate", "1")
    refused = refused_beyond_one_a_second(lambda: begins(server, ATTACKER))
    assert begins(server, OTHER)
    server.wait_for("--max-move-rate")
    assert server.log.count("--max-move-rate") == 1
    assert counters(server)["vMotions declined by rate"] == refused


def test_go_ahead_comes_at_once_while_all_drivers_hang(start: Start, tmp_path: Path) -> None:
    server = slow(start, tmp_path / "calls", "--lookup-pool", "1", "--lookup-timeout", "20")
    machines = [Vm(server.port, f"sleep-2 {number}") for number in range(3)]
    for machine in machines:
        machine.send(b"!!REQUEST_METADATA#\n")
    wait_until(lambda: (tmp_path / "calls").read_text())
    started_s = time.monotonic()
    secrets = [machine.begin_move() for machine in machines]
    assert time.monotonic() - started_s < 1.5  # the driver takes 2 s
    targets = [
        Vm.arriving(server.port, secret, name=f"sleep-2 {number}")
        for number, secret in enumerate(secrets)
    ]
    for target in targets[:2]:
        target.is_welcome()
        target.complete()
    machines[2].send(suboption(48))
    for machine in (*targets[:2], machines[2]):
        assert machine.answer()[0] == "RESPONSE_METADATA"
        assert machine.hears(0.1) == b""


@pytest.mark.parametrize("has_key", [False, True])
def test_begin_while_draining(start: Start, tmp_path: Path, has_key: bool) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"k" * 16)
    options = ["--vmotion-key-file", str(key)] if has_key else []
    server = slow(start, tmp_path / "calls", *options)
    machine = Vm(server.port, "sleep-2")
    machine.send(b"!!REQUEST_METADATA#\n")
    wait_until(lambda: (tmp_path / "calls").read_text())
    server.signal(signal.SIGTERM)
    server.wait_for("stopping")
    if has_key:
        assert len(machine.begin_move()) == 24
    else:
        machine.send(suboption(40, SEQUENCE))
        machine.receive_until(suboption(43, SEQUENCE))
        assert machine.answer()[0] == "RESPONSE_METADATA"
    assert server.wait() == 0


def test_move_whose_target_is_connected_is_completed_while_draining(start: Start) -> None:
    server = start("--drain", "5")
    source = Vm(server.port)
    source.metadata()
    target = moved(server, source)
    source.send(b"!!REQUEST_METADATA#\n")
    server.signal(signal.SIGTERM)
    server.wait_for("stopping")
    target.complete()
    assert target.answer()[0] == "RESPONSE_METADATA"
    assert server.wait() == 0


# From one process to another


@pytest.fixture
def pair(start: Start, tmp_path: Path) -> tuple[ServerProcess, ServerProcess]:
    """Two servers that share a key."""
    key = tmp_path / "key"
    key.write_bytes(b"\xff" * 16)
    options = ("--vmotion-key-file", str(key))
    return start(*options), start(*options)


def test_vm_moves_to_another_process(pair: tuple[ServerProcess, ServerProcess]) -> None:
    here, there = pair
    secret = Vm(here.port).begin_move()
    assert len(secret) == 24
    target = Vm.arriving(there.port, secret)
    target.is_welcome()
    target.complete()
    assert target.metadata()["instance-id"] == "my-instance"


def test_target_that_is_never_completed_is_closed(start: Start, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"k" * 16)
    here = start("--vmotion-key-file", str(key))
    hasty = with_constants(serving__timeouts__MOVE_FROM_ELSEWHERE_S=0.5)
    there = start("--vmotion-key-file", str(key), command=hasty)
    target = Vm.arriving(there.port, Vm(here.port).begin_move())
    target.is_welcome()
    target.receive_all(10)
    there.wait_for("closed: the vMotion to it was not completed in time")


def test_peer_of_another_process_is_checked_when_the_vc_uuid_is_known(
    pair: tuple[ServerProcess, ServerProcess],
) -> None:
    here, there = pair
    secret = Vm(here.port).begin_move()
    target = Vm(there.port, silent=True)
    target.send(b"\xff\xfb\xe8" + suboption(0, KNOWN) + suboption(44, SEQUENCE + secret))
    target.receive_until(suboption(81))
    heard = target.hears(0.3)
    assert suboption(45, SEQUENCE) not in heard
    assert REFUSED not in heard
    target.send(suboption(80, b"01 23 45 67 89 ab cd ef-fe dc ba 98 00 00 00 01"))
    target.is_welcome()


@pytest.mark.parametrize(
    ("vc_uuid", "reason"),
    [
        pytest.param("42" * 16, "with a secret that is not of this VM's move", id="another"),
        pytest.param("", "with a secret that is not of this VM's move", id="none"),
        pytest.param(None, "of a VM whose host does not send its VC UUID", id="never told"),
    ],
)
def test_secret_of_another_vm_is_refused(
    pair: tuple[ServerProcess, ServerProcess], vc_uuid: str | None, reason: str
) -> None:
    here, there = pair
    secret = Vm(here.port).begin_move()
    wrong = Vm.arriving(there.port, secret, vc_uuid=vc_uuid)
    if vc_uuid == "":
        wrong.send(suboption(80))  # it has none
    wrong.receive_until(REFUSED)
    there.wait_for(f"refused: VMOTION-PEER {reason}")
    target = Vm.arriving(there.port, secret)
    target.is_welcome()


def test_complete_that_comes_before_the_vc_uuid_counts(
    pair: tuple[ServerProcess, ServerProcess],
) -> None:
    here, there = pair
    secret = Vm(here.port).begin_move()
    target = Vm(there.port, silent=True)
    target.send(b"\xff\xfb\x00\xff\xfd\x00\xff\xfb\xe8" + suboption(0, KNOWN))
    target.send(suboption(44, SEQUENCE + secret) + suboption(46, SEQUENCE))
    target.send(b"!!REQUEST_METADATA#\n")
    target.send(suboption(82, b"web1") + suboption(80, b"0123456789abcdeffedcba9800000001"))
    target.send(suboption(2, b"\x55") + suboption(2, b"\x57"))
    target.is_welcome()
    assert target.answer()[0] == "RESPONSE_METADATA"


def test_secret_of_a_stranger_key_or_without_key_is_refused(start: Start, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"k" * 16)
    here = start("--vmotion-key-file", str(key))
    secret = Vm(here.port).begin_move()
    Vm.arriving(start().port, secret).receive_until(REFUSED)
    key.write_bytes(b"l" * 16)
    Vm.arriving(start("--vmotion-key-file", str(key)).port, secret).receive_until(REFUSED)


def test_used_twice_is_reported_within_one_process(
    pair: tuple[ServerProcess, ServerProcess],
) -> None:
    here, there = pair
    secret = Vm(here.port).begin_move()
    Vm.arriving(there.port, secret).is_welcome()
    Vm.arriving(there.port, secret).receive_until(REFUSED)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"k" * 15, "has 15 bytes, expected at least 16"), (None, "No such file")],
)
def test_unusable_key_file_is_reported(tmp_path: Path, content: bytes | None, told: str) -> None:
    key = tmp_path / "key"
    if content is not None:
        key.write_bytes(content)
    ended = run("run", "--uri", "x", "--vmotion-key-file", str(key))
    assert ended.returncode == 2
    assert told in ended.stderr
    assert ended.stderr.count("\n") == 1
