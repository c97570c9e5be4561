"""Documents that are served once: real servers, over the wire."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.fleet import two_servers
from tests.load.fleetmoves import PATIENT
from tests.peer import OTHER_VC_UUID
from tests.process import CHECKOUT, COMMAND, ServerProcess, counters, run, with_constants
from tests.servers.postgresql import PostgresqlBackend
from tests.test_admin import Admin
from tests.test_workers import children
from tests.vm import SEQUENCE, Vm
from tests.waiting import wait_in_hub_until, wait_until
from vmw_cloudinit_metadata.process.deadlines import Deadlines
from vmw_cloudinit_metadata.serving.ledger import (
    Claimed,
    Ledger,
    NoBook,
    Then,
    Unrecorded,
    Use,
    Verdict,
)

Start = Callable[..., ServerProcess]

SECRET = "hunter2"
FILE = """\
metadata: {{instance-id: {instance_id}}}
documents:
  joindata: {{text: {secret}, once: true}}
  plaindata: {{text: 0123, once: false}}
"""


def written(
    directory: Path, name: str = "web1", *, instance_id: str = "one", secret: str = SECRET
) -> None:
    text = FILE.format(instance_id=instance_id, secret=secret)
    (directory / f"{name}.yaml").write_text(text)


@pytest.fixture(autouse=True)
def data(own_instances: Path) -> None:
    written(own_instances)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


def asked(server: ServerProcess, name: str = "web1", **settings: str) -> str:
    """The document, or the error, on a line of its own."""
    with closing(Vm(server.port, name, **settings)) as vm:
        return answered(vm)


def answered(vm: Vm) -> str:
    code, body = vm.ask("JOINDATA")
    return str(json.loads(body)["error"]) if code == "RESPONSE_ERROR" else body.decode()


def test_document_with_once_is_served_once_to_each_instance(
    start: Start, ledger: Path, own_instances: Path
) -> None:
    server = start("--ledger", str(ledger))
    written(own_instances, "web2")
    with closing(Vm(server.port)) as vm:
        assert [answered(vm), answered(vm), answered(vm)] == [SECRET, "used", "used"]
        assert vm.document("PLAINDATA") == b"0123"
        assert "JOINDATA" not in json.loads(vm.document("DIGEST"))
        assert vm.document("PLAINDATA") == b"0123"
    assert asked(server) == "used"
    assert asked(server, "web2", vc_uuid=OTHER_VC_UUID) == SECRET
    written(own_instances, instance_id="two", secret="another")
    with closing(Vm(server.port)) as vm:
        wait_until(lambda: vm.metadata()["instance-id"] == "two")
    assert [asked(server), asked(server)] == ["another", "used"]
    server.wait_for("REQUEST_JOINDATA answered with used: the document is served once")
    assert SECRET not in server.log
    assert counters(server)["claims: first"] == 3
    assert counters(server)["claims: used"] == 4
    assert SECRET.encode() not in ledger.read_bytes()


def test_without_a_ledger_no_such_document_is_served(start: Start) -> None:
    server = start()
    assert [asked(server), asked(server)] == ["failed", "failed"]
    server.wait_for("nowhere to record what VMs use up: set --ledger FILE")
    with closing(Vm(server.port)) as vm:
        assert vm.metadata()["instance-id"] == "one"


def test_without_a_ledger_the_catalogue_warns_of_such_documents(start: Start, ledger: Path) -> None:
    def findings(server: ServerProcess) -> list[dict[str, object]]:
        server.wait_for("instance files: ")
        listed = Admin(server).json("/api/faults")
        return [one for one in listed["faults"] if "--ledger" in str(one["expected"])]

    (warning,) = findings(start("--catalogue"))
    assert (warning["severity"], warning["line"]) == ("warning", 3)
    assert str(warning["expected"]).startswith("a server with --ledger FILE or --fleet")
    assert not findings(start("--catalogue", "--ledger", str(ledger)))


def test_validate_says_what_such_documents_need(own_instances: Path, tmp_path: Path) -> None:
    settings = tmp_path / "server.yaml"
    settings.write_text(f"driver-opts: {{directory: {own_instances}}}\n")
    said = "1 VM has documents with `once`: the server serves them with --ledger FILE or --fleet"
    done = run("validate", "--config", str(settings))
    assert (done.returncode, said in done.stderr) == (0, True)
    settings.write_text(f"{settings.read_text()}ledger: {tmp_path}/ledger\n")
    assert said not in run("validate", "--config", str(settings)).stderr


def test_ledger_without_effect_is_warned_of(ledger: Path) -> None:
    fleet = "--fleet", "postgresql://vms@127.0.0.1/vms"
    done = run("check-config", "--uri", "u", *fleet, "--ledger", str(ledger))
    assert "warning: --ledger has no effect: --fleet records" in done.stderr
    assert "--ledger" not in run("check-config", "--uri", "u", *fleet).stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_use_survives_the_end_of_the_server(start: Start, ledger: Path, number: int) -> None:
    first = start("--ledger", str(ledger))
    assert asked(first) == SECRET
    first.signal(number)
    first.wait()
    assert asked(start("--ledger", str(ledger))) == "used"


def test_use_survives_another_program_that_has_the_ledger_open_for_a_while(
    start: Start, ledger: Path, own_instances: Path
) -> None:
    written(own_instances, "web2")
    server = start("--ledger", str(ledger))
    assert [asked(server), asked(server)] == [SECRET, "used"]
    log = ledger.with_name("ledger-wal")
    before = log.stat().st_ino
    reopened = run("window", "reopen", "--ledger", str(ledger), OTHER_VC_UUID)
    assert "no window" in reopened.stdout + reopened.stderr
    assert log.stat().st_ino == before
    assert asked(server, "web2", vc_uuid=OTHER_VC_UUID) == SECRET
    server.signal(signal.SIGKILL)
    server.wait()
    again = start("--ledger", str(ledger))
    assert asked(again, "web2", vc_uuid=OTHER_VC_UUID) == "used"


def test_of_many_lines_at_two_workers_one_has_the_document(start: Start, ledger: Path) -> None:
    server = start("--ledger", str(ledger), "--workers", "2")
    wait_until(lambda: len(children(server.pid)) >= 2)
    vms = [Vm(server.port) for _ in range(100)]
    for vm in vms:
        vm.send(b"!!REQUEST_METADATA#\n")
    for vm in vms:
        vm.answer()
    for vm in vms:
        vm.send(b"!!REQUEST_JOINDATA#\n")
    found = [body.decode() for _, body in (vm.answer() for vm in vms)]
    for vm in vms:
        vm.close()
    assert found.count(SECRET) == 1
    assert sum('"used"' in text for text in found) == 99


def test_grant_to_a_line_that_is_gone_is_given_back(start: Start, ledger: Path) -> None:
    server = start("--ledger", str(ledger))
    assert asked(server) == SECRET
    vms = [Vm(server.port, vc_uuid=f"{number:032x}") for number in range(1, 40)]
    for vm in vms:
        assert vm.metadata()
    lock = sqlite3.connect(ledger, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    for vm in vms:
        vm.send(b"!!REQUEST_JOINDATA#\n")
    for vm in vms:
        vm.socket.shutdown(socket.SHUT_RDWR)
        vm.close()
    wait_until(lambda: not open_lines(server))
    lock.execute("COMMIT")
    lock.close()
    wait_until(lambda: count(ledger) == 1)
    assert asked(server, vc_uuid=f"{1:032x}") == SECRET


def test_claim_that_goes_on_as_a_late_one_is_not_given_back_with_it(
    start: Start, ledger: Path
) -> None:
    patient = with_constants(
        serving__ondisk__ledgerfile__BUSY_S=30,
        serving__ledger__LATE_S=1.5,
        serving__ledger__SETTLED_S=0.2,
    )
    server = start("--ledger", str(ledger), command=patient)
    lock = sqlite3.connect(ledger, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    with closing(Vm(server.port)) as vm:
        assert answered(vm) == "failed"
        vm.send(b"!!REQUEST_JOINDATA#\n")
        assert not vm.hears(0.3)
        lock.execute("COMMIT")
        assert vm.answer() == ("RESPONSE_JOINDATA", SECRET.encode())
    lock.close()
    assert [asked(server), asked(server)] == ["used", "used"]


def open_lines(server: ServerProcess) -> list[str]:
    """The sockets of VMs that the server has open."""
    place = f"/proc/{server.pid}/fd"
    links = []
    for name in os.listdir(place):
        try:
            links.append(os.readlink(f"{place}/{name}"))
        except FileNotFoundError:
            continue
    inodes = {link[8:-1] for link in links if link.startswith("socket:")}
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    port = f":{server.port:04X}"
    return [
        line
        for line in lines
        if line.split()[1].endswith(port) and line.split()[3] == "01" and line.split()[9] in inodes
    ]


def count(ledger: Path) -> int:
    with closing(sqlite3.connect(ledger)) as connection:
        ((found,),) = connection.execute("SELECT count(*) FROM uses")
    return int(found)


class PlayedBook(NoBook):
    """Records nothing by itself: a test answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, Then]] = []

    def claim(self, _use: Use, claimant: bytes, then: Then) -> None:
        self.asked.append((claimant, then))


def test_claim_that_nobody_waits_for_and_may_be_recorded_goes_on_in_the_next_one() -> None:
    book, deadlines, served = PlayedBook(), Deadlines(), list[Verdict]()
    ledger, use = Ledger(book, deadlines, defaultdict(int)), Use("vm", b"instance", "JOINDATA")
    gone = ledger.claim(use, served.append)
    wait_in_hub_until(lambda: book.asked)
    gone.forsake()
    book.asked[0][1](Unrecorded("the database was restarted meanwhile"))
    ledger.claim(use, served.append)
    wait_in_hub_until(lambda: len(book.asked) == 2)
    assert book.asked[0][0] == book.asked[1][0]
    book.asked[1][1](Claimed(is_first=True, age_s=9.0))
    assert served == [Claimed(is_first=True, age_s=9.0)]
    deadlines.close()


def test_use_that_cannot_be_recorded_is_not_served(start: Start, ledger: Path) -> None:
    server = start("--ledger", str(ledger))
    ledger.rename(ledger.with_name("moved"))
    assert asked(server) == "failed"
    server.wait_for("WARNING.*--ledger: .*: No such file or directory")
    ledger.with_name("moved").rename(ledger)
    assert [asked(server), asked(server)] == [SECRET, "used"]
    assert counters(server)["claims: failed"] == 1


def test_ledger_that_is_full_grants_nothing(start: Start, ledger: Path) -> None:
    small = with_constants(serving__ondisk__ledgerfile__MAX_BYTES=12 * 1024)
    server = start("--ledger", str(ledger), command=small)
    found = [asked(server, vc_uuid=f"{number:032x}") for number in range(1, 120)]
    assert SECRET in found[:10]
    assert "failed" in found
    assert SECRET not in found[found.index("failed") :]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no database, but some text of a certain length" * 10, "neither empty nor a whole"),
        (b"", "other users may write to it: chmod 600 it"),
        (None, "not a regular file"),
    ],
)
def test_ledger_that_cannot_be_used_is_told_at_the_start(
    own_instances: Path, ledger: Path, content: bytes | None, said: str
) -> None:
    if content is None:
        ledger.symlink_to("/dev/null")
    else:
        ledger.write_bytes(content)
        ledger.chmod(0o600 if content else 0o666)
    options = ("--uri", "u", "--driver-opts", json.dumps({"directory": str(own_instances)}))
    listen = ("--listen", "127.0.0.1:0", "--admin-listen", "off")
    done = run("run", *options, *listen, "--ledger", str(ledger))
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_database_of_another_program_is_refused_and_stays_as_it_is(ledger: Path) -> None:
    with closing(sqlite3.connect(ledger)) as other:
        other.execute("CREATE TABLE books (title TEXT)")
        other.commit()
    before = ledger.read_bytes()
    for words in (("check-config", "--full", "--uri", "u"), ("window", "reopen", OTHER_VC_UUID)):
        done = run(*words, "--ledger", str(ledger))
        assert (done.returncode, "a database of another program" in done.stderr) == (2, True)
    assert ledger.read_bytes() == before


def test_file_that_is_no_database_is_no_ledger_of_windows_and_stays_as_it_is(ledger: Path) -> None:
    ledger.write_bytes(b"x")
    ledger.chmod(0o600)
    done = run("window", "reopen", OTHER_VC_UUID, "--ledger", str(ledger))
    assert (done.returncode, "neither empty nor a whole database" in done.stderr) == (2, True)
    assert ledger.read_bytes() == b"x"


def test_move_in_the_middle_of_the_answer_goes_on_with_it(
    start: Start, ledger: Path, own_instances: Path
) -> None:
    secret = "s" * 900_000
    written(own_instances, secret=secret)
    server = start("--ledger", str(ledger))
    source = Vm(server.port, receive_buffer=4096)
    assert source.metadata()
    source.send(b"!!REQUEST_JOINDATA#\n")
    begun = source.receive_until(b"!!RESPONSE_JOINDATA#" + b"c3Nz" * 1000)[-4000:]
    move = source.begin_move()
    with closing(Vm.arriving(server.port, move)) as target:
        target.is_welcome()
        target.complete(SEQUENCE)
        rest = target.receive_until(b"\n").rpartition(b"\xf0")[2]
        assert answered(target) == "used"
    answer = begun + source.before_go_ahead + rest
    assert base64.b64decode(answer.strip(), validate=True) == secret.encode()
    assert source.hears(0.1) == b""
    source.close()


@pytest.mark.slow
def test_use_survives_an_upgrade(start: Start, ledger: Path) -> None:
    server = start("--ledger", str(ledger), command=[*COMMAND, "run"])
    with closing(Vm(server.port)) as vm:
        assert answered(vm) == SECRET
        done = subprocess.run(
            [*COMMAND, "upgrade", "--pid", str(server.pid)],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (done.stderr, server.log)
        assert answered(vm) == "used"
    assert asked(server) == "used"


@pytest.mark.slow
def test_claims_under_way_during_an_upgrade_are_granted_once(
    start: Start, ledger: Path, own_instances: Path
) -> None:
    written(own_instances, "default")
    server = start("--ledger", str(ledger), command=[*COMMAND, "run"])
    upgrading = threading.Thread(
        target=lambda: subprocess.run([*COMMAND, "upgrade", "--pid", str(server.pid)], check=True)
    )
    vms = [Vm(server.port, vc_uuid=f"{number:032x}") for number in range(1, 200)]
    for vm in vms:
        assert vm.metadata()
    upgrading.start()
    while upgrading.is_alive() and vms:
        vm = vms.pop()
        assert answered(vm) == SECRET
        vm.close()
    upgrading.join()
    for vm in vms:
        vm.close()


# In a fleet


@pytest.fixture
def fleet(
    own_instances: Path, fleet_database: PostgresqlBackend, tmp_path: Path
) -> Iterator[list[ServerProcess]]:
    key = tmp_path / "vmotion.key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    options = "--vmotion-key-file", str(key)
    with two_servers(own_instances, fleet_database, *options, **PATIENT) as servers:
        yield servers


@pytest.mark.slow
def test_of_two_servers_of_a_fleet_one_serves_the_document(
    fleet: list[ServerProcess], fleet_backend: PostgresqlBackend
) -> None:
    vms = [Vm(fleet[number % 2].port) for number in range(100)]
    for vm in vms:
        assert vm.metadata()
    for vm in vms:
        vm.send(b"!!REQUEST_JOINDATA#\n")
    found = [body.decode() for _, body in (vm.answer() for vm in vms)]
    for vm in vms:
        vm.close()
    assert found.count(SECRET) == 1
    assert sum('"used"' in text for text in found) == 99
    fleet_backend.kill()
    try:
        wait_until(lambda: asked(fleet[0], vc_uuid=OTHER_VC_UUID) == "failed")
        with closing(Vm(fleet[0].port)) as vm:
            assert vm.metadata()
    finally:
        fleet_backend.start()
    wait_until(lambda: asked(fleet[1], vc_uuid=OTHER_VC_UUID) == SECRET)
    wait_until(lambda: Admin(fleet[0]).metric("vmw_metadata_fleet_connected") == 1)
    assert asked(fleet[0], vc_uuid=OTHER_VC_UUID) == "used"


@pytest.mark.slow
def test_hand_over_to_another_server_while_a_claim_is_under_way_serves_it_once(
    fleet: list[ServerProcess], fleet_backend: PostgresqlBackend
) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    source = Vm(fleet[0].port)
    assert source.metadata()
    with fleet_backend.admin("vms") as db:
        with db.transaction():
            db.execute("LOCK TABLE vmw_fleet.ledger IN EXCLUSIVE MODE")
            source.send(b"!!REQUEST_JOINDATA#\n")
            wait_until(lambda: db.execute(waiting).fetchone() == (1,))
            target = Vm.arriving(fleet[1].port, source.begin_move())
        with closing(target):
            target.is_welcome()
            target.complete()
            assert target.answer() == ("RESPONSE_JOINDATA", SECRET.encode())
            assert answered(target) == "used"
        assert SECRET.encode() not in source.before_go_ahead + source.hears(0.1)
        assert db.execute("SELECT count(*) FROM vmw_fleet.ledger").fetchone() == (1,)
    source.close()
    assert asked(fleet[0]) == "used"
