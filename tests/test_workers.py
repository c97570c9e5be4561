"""Several processes on one port."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process import CHECKOUT, ServerProcess, run, with_constants
from tests.test_admin import Admin
from tests.vm import SEQUENCE, Vm, suboption
from tests.waiting import wait_until
from vmw_cloudinit_metadata.process.workers import RETRY_S

Start = Callable[..., ServerProcess]

pytestmark = pytest.mark.slow


_LISTEN = "0A"  # of /proc/net/tcp


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def listens(pid: int, port: int) -> bool:
    """Whether a process accepts connections; a child has its parent's other sockets at first."""
    listening = {
        f"socket:[{fields[9]}]"
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if (fields := line.split())[3] == _LISTEN and fields[1].endswith(f":{port:04X}")
    }
    try:
        links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except FileNotFoundError:  # it has just closed one
        return False
    return not listening.isdisjoint(links)


def wait_for_new_worker(server: ServerProcess, before: set[int]) -> None:
    """Wait until a worker accepts that was not there before; others may have failed to start."""
    wait_until(lambda: any(listens(one, server.port) for one in children(server.pid) - before))


def connections(pid: int) -> int:
    """How many sockets a process has."""
    links = Path(f"/proc/{pid}/fd").iterdir()
    return sum("socket:" in str(link.readlink()) for link in links)


def counted(server: ServerProcess, name: str) -> int:
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    found = re.search(rf"[;,] {re.escape(name)}: (\d+)", server.lines[-1])
    return int(found[1]) if found else 0


def served(server: ServerProcess) -> None:
    machine = Vm(server.port)
    assert machine.metadata()["instance-id"] == "my-instance"
    machine.close()


def test_all_workers_serve_and_their_counters_are_one_sum(start: Start) -> None:
    server = start("--workers", "2")
    assert server.log.count("listening on") == 1
    machines = [Vm(server.port) for _ in range(30)]
    workers = children(server.pid)
    assert len(workers) == 2
    assert {machine.metadata()["instance-id"] for machine in machines} == {"my-instance"}
    assert all(connections(worker) > 5 for worker in workers)
    for machine in machines:
        machine.close()
    assert counted(server, "answered") == 30


def test_worker_that_dies_is_started_again_soon(start: Start) -> None:
    server = start("--workers", "2")
    for _ in range(10):
        served(server)
    answered = {"document": "METADATA", "outcome": "answered"}
    wait_until(lambda: Admin(server).metric("vmw_metadata_requests_total", **answered) == 10)
    before = children(server.pid)
    os.kill(next(iter(before)), signal.SIGKILL)
    killed_s = time.monotonic()
    wait_until(lambda: len(children(server.pid)) == 2 and children(server.pid) != before)
    assert time.monotonic() - killed_s < RETRY_S  # as if it could not start
    server.wait_for("has ended with -9: starting another one")
    wait_for_new_worker(server, before)
    for _ in range(10):
        served(server)
    assert counted(server, "answered") == 20


def test_worker_that_cannot_start_again_is_reported_and_tried_again(
    start: Start, own_instances: Path
) -> None:
    server = start("--workers", "2", command=with_constants(process__workers__RETRY_S=0.5))
    own_instances.rename(own_instances.with_name("moved"))
    before = children(server.pid)
    os.kill(next(iter(before)), signal.SIGKILL)
    server.wait_for("a worker cannot start: .*directory '.*' does not exist")
    own_instances.with_name("moved").rename(own_instances)
    wait_for_new_worker(server, before)
    served(server)


def test_term_finishes_the_answers_of_all_workers(start: Start, tmp_path: Path) -> None:
    (tmp_path / "calls").touch()
    server = start(
        *("--workers", "2", "--driver", "tests.scripted_driver:ScriptedDriver"),
        driver_opts={"calls": str(tmp_path / "calls")},
    )
    machines = [Vm(server.port, f"sleep-1 {number}") for number in range(10)]
    for machine in machines:
        machine.receive_until(suboption(71))
        machine.send(b"!!REQUEST_METADATA#\n")
    wait_until(lambda: (tmp_path / "calls").read_text().count("sleep") == 10)
    server.signal(signal.SIGTERM)
    for machine in machines:
        assert machine.answer()[0] == "RESPONSE_METADATA"
        machine.close()
    assert server.wait() == 0
    assert (tmp_path / "calls").read_text().count("closed") == 2


def test_workers_stop_when_their_parent_is_killed(start: Start) -> None:
    server = start("--workers", "2")
    workers = children(server.pid)
    server.signal(signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, workers)))


def test_hup_reaches_all_workers(start: Start) -> None:
    server = start("--workers", "3")
    server.signal(signal.SIGHUP)
    wait_until(lambda: server.log.count("there is no certificate to read again") == 3)


def test_port_in_use_is_reported_once(own_instances: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run(
            *("run", "--uri", "x", "--workers", "2"),
            *("--listen", f"127.0.0.1:{taken.getsockname()[1]}"),
            *("--driver-opts", json.dumps({"directory": str(own_instances)})),
        )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "Address already in use" in ended.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--driver-opts", '{"directory": "/nowhere"}'], "'/nowhere'"),
        (["--driver", "no.such:Driver"], "cannot import 'no.such'"),
    ],
    ids=["directory", "driver"],
)
def test_driver_that_cannot_be_loaded_is_reported_once(options: list[str], told: str) -> None:
    ended = run("run", "--uri", "x", "--workers", "2", "--listen", "127.0.0.1:0", *options)
    assert ended.returncode == 2
    assert told in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_prepared_memory_without_effect_is_reported_once(
    start: Start, tmp_path: Path, workers: str
) -> None:
    server = start(
        *("--driver", "tests.ledger_driver:LedgerDriver", "--workers", workers),
        *("--catalogue", "--prepared-memory", "1M"),
        driver_opts={"directory": str(tmp_path)},
    )
    assert server.log.count("--prepared-memory has no effect: LedgerDriver prepares no") == 1


@pytest.mark.parametrize("place", [1, 2], ids=["first", "second"])
def test_term_while_a_worker_starts_ends_all(tmp_path: Path, place: int) -> None:
    (tmp_path / "stopping.py").write_text(
        "import os, signal, time\n"
        "from vmw_cloudinit_metadata import Driver\n"
        "class Stopping(Driver):\n"
        "    def __init__(self, options):\n"
        "        super().__init__(options)\n"
        "        with open('loaded', 'a') as file:\n"
        "            file.write('x')\n"
        f"        if os.path.getsize('loaded') == {place}:\n"
        "            os.kill(os.getppid(), signal.SIGTERM)\n"
        "            time.sleep(10)\n"
        "    def get_instance(self, machine): ...\n"
        "    def still_holds(self, token): ...\n"
    )
    ended = run(
        *("run", "--uri", "x", "--workers", "3", "--listen", "127.0.0.1:0"),
        *("--admin-listen", "off", "--driver", "stopping:Stopping"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert ended.returncode == 0, ended.stderr


def test_vm_moves_from_any_worker_to_any_other(start: Start) -> None:
    server = start("--workers", "2")
    for number in range(20):
        source = Vm(server.port)
        target = Vm.arriving(server.port, source.begin_move())
        target.is_welcome()
        target.complete()
        assert target.metadata()["instance-id"] == "my-instance", number
        source.close()
        target.close()
    server.signal(signal.SIGTERM)
    server.wait()
    told = server.lines[-1]
    here, elsewhere = (
        int(found[1]) if (found := re.search(rf"vMotions {name}: (\d+)", told)) else 0
        for name in ("completed", "from elsewhere")
    )
    assert here + elsewhere == 20
    assert elsewhere > 0


def test_wrong_secret_is_refused_by_every_worker(start: Start) -> None:
    server = start("--workers", "2")
    source = Vm(server.port)
    secret = source.begin_move()
    for _ in range(10):
        wrong = Vm.arriving(server.port, secret[:-1] + bytes([secret[-1] ^ 1]))
        wrong.receive_until(suboption(3, b"\x2c"))
    source.send(suboption(48))
    assert source.metadata()["instance-id"] == "my-instance"
    assert len(SEQUENCE + secret) == 28
