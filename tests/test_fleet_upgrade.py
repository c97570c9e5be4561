"""Upgrade in place of servers that share a PostgreSQL: their lines, moves and rows go on."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.fleet import rows
from tests.process import CHECKOUT, COMMAND, PACKAGE, ServerProcess, counters, with_constants
from tests.servers.postgresql import PostgresqlBackend
from tests.vm import VC_UUID, Vm
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

Start = Callable[..., ServerProcess]

ASK = b"!!REQUEST_METADATA#\n"
SHOWN = "SELECT count(*)::integer FROM vmw_fleet.machines WHERE connected AND state = 'served'"
SERVERS = "SELECT id, stopped IS NULL FROM vmw_fleet.servers"
VERSIONS = "SELECT version FROM vmw_fleet.servers"
BOOTS = "SELECT count(*)::integer FROM vmw_fleet.boots WHERE outcome = 'served'"
CONNECTED = "fleet: connected to"
PATIENT = {"serving__timeouts__CLAIM_S": 30.0, "serving__timeouts__HAND_OVER_S": 30.0}


@pytest.fixture
def started(start: Start, fleet_database: PostgresqlBackend, tmp_path: Path) -> Start:
    """Starts a server of the fleet, by its own command line."""
    key = tmp_path / "vmotion.key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)

    def begin(*options: str, **settings: object) -> ServerProcess:
        shared = ("--fleet", fleet_database.url, "--vmotion-key-file", str(key))
        server = start(*shared, *options, **{"command": [*COMMAND, "run"], **settings})
        server.wait_for(CONNECTED)
        return server

    return begin


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, of which a test can change the version."""
    place = tmp_path / "copy"
    ignored = shutil.ignore_patterns("__pycache__", "guest", "client")
    shutil.copytree(CHECKOUT / PACKAGE, place / PACKAGE, ignore=ignored)
    return place


@pytest.fixture
def vm(peers: ExitStack) -> Callable[..., Vm]:
    """Connects a VM to a server; it is disconnected after the test."""
    return lambda server, **settings: peers.enter_context(closing(Vm(server.port, **settings)))


def arriving(server: ServerProcess, secret: bytes, peers: ExitStack, vc_uuid: str = VC_UUID) -> Vm:
    return peers.enter_context(closing(Vm.arriving(server.port, secret, vc_uuid=vc_uuid)))


def upgrade(server: ServerProcess) -> None:
    """Upgrade it, and wait until it is in the fleet again."""
    command = [*COMMAND, "upgrade", "--pid", str(server.pid)]
    connected = server.log.count(CONNECTED)
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stderr, server.log)
    wait_until(lambda: server.log.count(CONNECTED) > connected)


@contextmanager
def watched(backend: PostgresqlBackend, query: str) -> Iterator[set[tuple[object, ...]]]:
    """Collects all rows that a query finds while something happens."""
    found: set[tuple[object, ...]] = set()
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.05):
            found.update(rows(backend, query))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        is_over.set()
        thread.join()


@pytest.mark.parametrize("workers", [1, 2])
def test_held_lines_go_on_and_their_machines_are_never_missing(
    started: Start,
    vm: Callable[..., Vm],
    fleet_database: PostgresqlBackend,
    copy: Path,
    workers: int,
) -> None:
    server = started("--workers", str(workers), cwd=copy, env={"PYTHONPATH": str(copy)})
    machines = [vm(server, vc_uuid=f"{number:032x}") for number in range(8)]
    for machine in machines:
        machine.metadata()
        machine.send(ASK[:9])
    wait_until(lambda: rows(fleet_database, SHOWN) == [(8,)])
    before = rows(fleet_database, SERVERS)
    module = copy / PACKAGE / "__init__.py"
    module.write_text(module.read_text().replace('"0.1.0"', '"99.1"'))
    with watched(fleet_database, SHOWN) as shown, watched(fleet_database, SERVERS) as servers:
        upgrade(server)
        wait_until(lambda: rows(fleet_database, VERSIONS) == [("99.1",)])
    assert (shown, servers) == ({(8,)}, set(before))
    for machine in machines:
        machine.send(ASK[9:])
        assert machine.answer()[0] == "RESPONSE_METADATA"
    wait_until(lambda: rows(fleet_database, BOOTS) == [(16,)])
    assert "Traceback" not in server.log


@pytest.mark.parametrize("workers", [1, 2])
def test_move_goes_on_after_upgrades_of_source_and_target(
    started: Start, vm: Callable[..., Vm], peers: ExitStack, workers: int
) -> None:
    command = list(with_constants(**PATIENT))
    one, other = (started("--workers", str(workers), command=command) for _ in range(2))
    source = vm(one, uri="my-metadata?profile=web")
    source.metadata()
    secret = source.begin_move()
    source.send(b"!!REQUEST_USERDATA#\n!!REQUEST_NETW")  # the answer is held back
    upgrade(one)
    target = arriving(other, secret, peers)
    target.is_welcome()
    upgrade(other)
    upgrade(one)
    target.complete()
    target.send(b"ORKDATA#\n")
    codes = [target.answer()[0] for _ in range(2)]
    assert codes == ["RESPONSE_USERDATA", "RESPONSE_NETWORKDATA"]
    assert source.hears(0.1) == b""
    found = counters(one)["vMotions handed over"], counters(other)["vMotions continued"]
    assert found == (1, 1)


@pytest.mark.parametrize("upgraded", [0, 1], ids=["source", "target"])
def test_moves_while_a_server_is_upgraded_lose_no_vm(
    started: Start, vm: Callable[..., Vm], peers: ExitStack, upgraded: int
) -> None:
    """Whatever is handed over goes on; any other VM asks again, and is answered."""
    servers = [started() for _ in range(2)]
    count = 24
    uuids = [f"{number:032x}" for number in range(count)]
    sources = [vm(servers[0], vc_uuid=uuid) for uuid in uuids]
    secrets = []
    for source in sources:
        source.metadata()
        secrets.append(source.begin_move())
        source.send(b"!!REQUEST_USERDATA#\n")
    thread = threading.Thread(target=upgrade, args=(servers[upgraded],))
    thread.start()
    servers[upgraded].wait_for("upgrade: from version")
    targets = []
    for uuid, secret in zip(uuids, secrets, strict=True):
        targets.append(arriving(servers[1], secret, peers, uuid))
        targets[-1].complete()
        time.sleep(0.1)
    thread.join()
    for target in targets:
        target.is_welcome()
        target.send(ASK)
        codes = [target.answer()[0]]
        if codes == ["RESPONSE_USERDATA"]:
            codes.append(target.answer()[0])
        assert codes[-1] == "RESPONSE_METADATA"
    found = counters(servers[1])
    print(found)
    continued = found["vMotions continued"]
    assert continued + found["vMotions from elsewhere"] == count
    assert continued == count or upgraded == 0
    for server in servers:
        assert "Traceback" not in server.log
