"""Real servers that share a PostgreSQL: VMs that move, and what VMs have in common."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import ujson

from tests.fleet import asked, connects, fleet_of, rows
from tests.load.fleetmoves import PATIENT
from tests.peer import OTHER_VC_UUID
from tests.process import CHECKOUT, ServerProcess, counters, run, with_constants
from tests.servers.postgresql import PostgresqlBackend
from tests.vm import VC_UUID, Vm, suboption
from tests.waiting import wait_in_hub_until, wait_until
from vmw_cloudinit_metadata.process.fleet.fleetprocess import FleetProcess

pytestmark = pytest.mark.slow

REFUSED = suboption(3, b"\x2c")
URI = "my-metadata?profile=web"
BACK_S = 3.5  # within one second, on a busy machine; a hung database is noticed after 4 s
LOAD_S = 300.0
USED = "SELECT count(*)::integer FROM vmw_fleet.moves WHERE target IS NOT NULL OR is_over"


@pytest.fixture(scope="module")
def backend(fleet_backend: PostgresqlBackend) -> PostgresqlBackend:
    """The database, with the schema of the fleet as it is new."""
    with fleet_backend.admin("vms") as db:
        db.execute("DROP SCHEMA IF EXISTS vmw_fleet CASCADE")
    done = run("fleet", "init", "--url", fleet_backend.url)
    assert done.returncode == 0, done.stderr
    return fleet_backend


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "vmotion.key"
    path.write_bytes(b"k" * 32)
    path.chmod(0o600)
    return path


def started(
    count: int, instances: Path, backend: PostgresqlBackend, key: Path, **constants: float
) -> list[ServerProcess]:
    """Servers of one fleet, with one key; they are patient with a busy machine."""
    options = ("--fleet", backend.url, "--vmotion-key-file", str(key), "--uri", "other")
    program = with_constants(**{**PATIENT, **constants})
    found = [ServerProcess(instances, *options, command=program) for _ in range(count)]
    for server in found:
        server.wait_for("fleet: connected to")
    return found


@pytest.fixture(scope="module")
def servers(
    instances: Path, backend: PostgresqlBackend, key: Path
) -> Iterator[list[ServerProcess]]:
    """Three servers that the tests of this module share."""
    found = started(3, instances, backend, key)
    yield found
    for server in found:
        server.end()


@pytest.fixture
def vm(peers: ExitStack) -> Callable[..., Vm]:
    """Connects a VM to a server; it is disconnected after the test."""
    return lambda server, **settings: peers.enter_context(closing(Vm(server.port, **settings)))


def arriving(server: ServerProcess, secret: bytes, peers: ExitStack, vc_uuid: str = VC_UUID) -> Vm:
    return peers.enter_context(closing(Vm.arriving(server.port, secret, vc_uuid=vc_uuid)))


def test_half_line_held_requests_and_uri_go_to_the_other_server(
    servers: list[ServerProcess],
    vm: Callable[..., Vm],
    peers: ExitStack,
    backend: PostgresqlBackend,
) -> None:
    one, other, _ = servers
    source = vm(one, uri=URI)
    assert source.metadata()["instance-id"] == "my-instance"
    secret = source.begin_move()
    source.send(b"!!REQUEST_USERDATA#\n!!REQUEST_METADATA#\n!!REQUEST_NETW")
    target = arriving(other, secret, peers)
    target.is_welcome()
    target.complete()
    target.send(b"ORKDATA#\n")
    codes = [target.answer()[0] for _ in range(3)]
    assert codes == ["RESPONSE_USERDATA", "RESPONSE_METADATA", "RESPONSE_NETWORKDATA"]
    assert source.hears(0.1) == b""
    other.wait_for(r"has moved here by vMotion")
    assert rows(backend, "SELECT count(*) FROM vmw_fleet.handovers") == [(0,)]
    found = str(rows(backend, "SELECT * FROM vmw_fleet.moves"))
    assert secret.hex() not in found
    back = arriving(one, target.begin_move(), peers)  # and the URI is still known
    back.is_welcome()
    back.complete()
    assert back.metadata()["instance-id"] == "my-instance"


@pytest.mark.parametrize("how", ["elsewhere", "here", "aborted"])
def test_secret_that_was_used_is_refused_by_all_other_servers(
    servers: list[ServerProcess],
    vm: Callable[..., Vm],
    peers: ExitStack,
    backend: PostgresqlBackend,
    how: str,
) -> None:
    one, other, third = servers
    ((before,),) = rows(backend, USED)
    source = vm(one)
    secret = source.begin_move()
    if how == "aborted":
        source.send(suboption(48))
    else:
        arriving(one if how == "here" else other, secret, peers).is_welcome()
    wait_until(lambda: rows(backend, USED) == [(before + 1,)])
    for server in other, third:
        replayed = arriving(server, secret, peers)
        replayed.receive_until(REFUSED)
        replayed.complete()
        replayed.send(b"!!REQUEST_METADATA#\n")
        assert replayed.hears(0.1) == b""


# What VMs have in common, and should not

RIVAL = "of an older connection to another process"
SERVER_OF_THE_TARGET = "(SELECT target FROM vmw_fleet.moves ORDER BY id DESC LIMIT 1)"
SHARED = "which VMs of other processes get too"


def reported(servers: list[ServerProcess], text: str) -> list[str]:
    return [line for server in servers for line in server.lines if text in line]


def ports_of(backend: PostgresqlBackend, is_judged: str) -> int:
    """How many serial ports of VMs are known in the fleet, of those that are judged or not."""
    ((count,),) = rows(
        backend,
        f"SELECT count(*)::integer FROM vmw_fleet.uses WHERE used_by = '' AND {is_judged}",
    )
    return int(count)


def test_two_lines_of_one_vm_are_reported_by_the_server_of_the_newer_one(
    servers: list[ServerProcess], vm: Callable[..., Vm], backend: PostgresqlBackend
) -> None:
    one, other, _ = servers
    wait_until(lambda: ports_of(backend, "true") == 0)  # of the tests before
    vm(one).metadata()
    wait_until(lambda: ports_of(backend, "true") == 1)
    vm(one, uri="my-metadata?b").metadata()  # another port of the VM
    vm(other, uri="my-metadata?a").metadata()
    vm(other).metadata()
    other.wait_for(RIVAL)
    assert len(reported(servers, RIVAL)) == 1
    assert reported(servers, SHARED) == []


def test_two_vms_with_one_file_are_reported_once_in_the_fleet(
    servers: list[ServerProcess], vm: Callable[..., Vm], backend: PostgresqlBackend
) -> None:
    wait_until(lambda: ports_of(backend, "true") == 0)
    for number, server in enumerate(servers[:2]):
        vm(server, vc_uuid=f"{OTHER_VC_UUID[:-2]}1{number}").metadata()
    wait_until(lambda: reported(servers, SHARED))
    wait_until(lambda: ports_of(backend, "NOT is_judged") == 0)
    (line,) = reported(servers, SHARED)
    assert "01234567-89ab-cdef-fedc-ba980000001" in line


def test_vm_that_changes_the_server_is_no_rival_of_itself(
    servers: list[ServerProcess],
    vm: Callable[..., Vm],
    peers: ExitStack,
    backend: PostgresqlBackend,
) -> None:
    one, other, _ = servers
    before = reported(servers, RIVAL)
    wait_until(lambda: ports_of(backend, "true") == 0)
    source = vm(one, vc_uuid=OTHER_VC_UUID)
    source.metadata()
    wait_until(lambda: ports_of(backend, "true") == 1)
    target = arriving(other, source.begin_move(), peers, OTHER_VC_UUID)
    target.is_welcome()
    target.complete()
    target.metadata()
    wait_until(lambda: ports_of(backend, f"server = {SERVER_OF_THE_TARGET} AND is_judged") == 1)
    assert reported(servers, RIVAL) == before


def test_users_that_are_gone_count_no_more(
    servers: list[ServerProcess], backend: PostgresqlBackend
) -> None:
    wait_until(lambda: rows(backend, "SELECT count(*) FROM vmw_fleet.uses") == [(0,)])
    assert len(rows(backend, "SELECT * FROM vmw_fleet.processes")) >= len(servers)


def test_report_passes_once_a_minute_in_the_whole_fleet(backend: PostgresqlBackend) -> None:
    def passed(process: FleetProcess) -> object:
        told = ujson.dumps({"uses": [], "reports": ["duplicate a", "duplicate b"]})
        reply = asked(process.link, "uses", {"is_anew": False}, told.encode())
        assert reply
        return ujson.loads(reply.payload)["passed"]

    with fleet_of(backend.url) as one, fleet_of(backend.url, "server2") as other:
        connects(one)
        connects(other)
        assert passed(one) == [["duplicate a", 0], ["duplicate b", 0]]
        assert passed(other) == passed(one) == []
        later = "reported = reported - interval '61 s'"
        rows(backend, f"UPDATE vmw_fleet.reports SET {later} RETURNING 1")
        assert passed(other) == [["duplicate a", 2], ["duplicate b", 2]]


def test_source_that_announces_again_hears_that_its_move_is_wanted(
    backend: PostgresqlBackend,
) -> None:
    """While its link was cut, for an upgrade say, the notice of the target reached nobody."""
    move = "0123456789abcdef" * 2
    with fleet_of(backend.url) as source:
        heard: list[bytes] = []
        source.link.on("move_wanted", lambda _fields, proof: heard.append(proof))
        connects(source)
        source.link.tell("move", {"move": move, "now": "begun"})
        unheard = f"UPDATE vmw_fleet.moves SET wanted = 'proof' WHERE move = '{move}' RETURNING 1"
        wait_in_hub_until(lambda: rows(backend, unheard))
        source.link.tell("move", {"move": move, "now": "begun"})
        wait_in_hub_until(lambda: heard == [b"proof"])


# Servers of their own


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_vm_whose_server_has_ended_is_no_rival_of_itself(
    instances: Path,
    backend: PostgresqlBackend,
    key: Path,
    vm: Callable[..., Vm],
    number: signal.Signals,
) -> None:
    rows(backend, "DELETE FROM vmw_fleet.uses RETURNING 1")
    one, other = started(2, instances, backend, key)
    try:
        vm(one).metadata()
        wait_until(lambda: ports_of(backend, "true") == 1)
        one.signal(number)
        one.wait()
        # A part of the time after which a process that says nothing has ended for all.
        rows(backend, "UPDATE vmw_fleet.processes SET seen = seen - interval '15 s' RETURNING 1")
        ((ended,),) = rows(backend, "SELECT clock_timestamp()::text")
        vm(other).metadata()
        wait_until(lambda: ports_of(backend, f"is_judged AND since > '{ended}'") == 1)
        assert reported([other], RIVAL) == []
    finally:
        one.end()
        other.end()


def test_source_waits_for_a_target_elsewhere_and_goes_on_when_that_disconnects(
    instances: Path,
    backend: PostgresqlBackend,
    key: Path,
    vm: Callable[..., Vm],
    peers: ExitStack,
) -> None:
    one, other = started(2, instances, backend, key, serving__timeouts__MOVE_EXPIRES_S=3.0)
    peers.callback(one.end)
    peers.callback(other.end)
    for is_lost in (False, True):
        source = vm(one)
        target = arriving(other, source.begin_move(), peers)
        target.is_welcome()
        source.send(b"!!REQUEST_USERDATA#\n")
        assert source.hears(3.5) == b""  # longer than a move without a target lasts
        if is_lost:
            target.close()
            assert source.answer()[0] == "RESPONSE_USERDATA"
        else:
            target.complete()
            assert target.answer()[0] == "RESPONSE_USERDATA"


def has_moved_from_both(server: ServerProcess, backend: PostgresqlBackend) -> bool:
    """Begins a move at some worker; whether those of both are known in the fleet."""
    with closing(Vm(server.port)) as machine:
        machine.begin_move()
    newest = "(SELECT id FROM vmw_fleet.servers ORDER BY started DESC LIMIT 1)"
    query = f"SELECT count(DISTINCT source_process) FROM vmw_fleet.moves WHERE source = {newest}"
    return rows(backend, query) == [(2,)]


def test_vm_moves_between_workers_with_all_that_it_is_owed(
    instances: Path, backend: PostgresqlBackend, peers: ExitStack
) -> None:
    options = ("--fleet", backend.url, "--workers", "2")
    server = ServerProcess(instances, *options, command=with_constants(**PATIENT))
    peers.callback(server.end)
    wait_until(lambda: has_moved_from_both(server, backend))
    guest = peers.enter_context(closing(Vm(server.port)))
    for _ in range(12):  # to the other worker, or not
        guest.metadata()
        secret = guest.begin_move()
        guest.send(b"!!REQUEST_USERDATA#\n!!REQUEST_META")
        guest, source = arriving(server, secret, peers), guest
        guest.is_welcome()
        guest.complete()
        guest.send(b"DATA#\n")
        assert [guest.answer()[0] for _ in range(2)] == ["RESPONSE_USERDATA", "RESPONSE_METADATA"]
        source.close()
    guest.close()
    found = counters(server)
    assert found["vMotions from elsewhere"] == 0
    assert found["vMotions continued"] + found["vMotions completed"] == 12
    assert found["vMotions overdue"] == 0
    assert found["vMotions continued"] == found["vMotions handed over"] > 0


def test_every_second_vm_moves_with_half_an_answer_and_nothing_is_lost() -> None:
    command = [sys.executable, "-m", "tests.load.fleetmoves", "--moves", "40", "--patient"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=LOAD_S)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_without_the_database_a_move_is_as_ever_within_a_second(
    backend: PostgresqlBackend,
    instances: Path,
    key: Path,
    vm: Callable[..., Vm],
    peers: ExitStack,
    way: str,
) -> None:
    own = dict.fromkeys(PATIENT, 1.0)
    one, other = started(2, instances, backend, key, **own)
    peers.callback(one.end)
    peers.callback(other.end)
    source = vm(one)
    source.metadata()
    secret = source.begin_move()
    source.send(b"!!REQUEST_USERDATA#\n")
    {"kill": backend.kill, "stop": backend.stop}[way]()
    try:
        target = arriving(other, secret, peers)
        target.receive_until(suboption(45, b"\x00\x00\x01\x02"), BACK_S)
        target.complete()
        code, _ = target.ask("METADATA", BACK_S)  # of two URIs none is known, and the VM is served
        assert code == "RESPONSE_METADATA"
    finally:
        {"kill": backend.start, "stop": backend.cont}[way]()
