"""conf/haproxy.cfg in a real HAProxy before two or three real servers."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.load.vm import write_instances
from tests.process import CHECKOUT, ServerProcess, counters
from tests.servers.haproxy import CONFIG, Balancer
from tests.storm import Storm
from tests.vm import Vm
from tests.waiting import wait_until
from vmw_cloudinit_metadata.process.listener import KEEPALIVE

IDLE_S = 2.5  # longer than the shortened timeouts
SHORT = "1s"
BOOTS = 2000

pytestmark = pytest.mark.slow

Program = Callable[[str, str], str]


class Balanced(NamedTuple):
    balancer: Balancer
    servers: list[ServerProcess]

    @property
    def port(self) -> int:
        return self.balancer.port


@pytest.fixture
def balance(
    start: Callable[..., ServerProcess], tmp_path: Path
) -> Iterator[Callable[..., Balanced]]:
    key = tmp_path / "vmotion.key"
    key.write_bytes(bytes(range(32)))
    options = ("--proxy-protocol", "127.0.0.1", "--vmotion-key-file", str(key))

    def begin(changes: str = "", count: int = 2) -> Balanced:
        servers = [start(*options) for _ in range(count)]
        balancer = Balancer(tmp_path, [f"127.0.0.1:{server.port}" for server in servers], changes)
        return Balanced(stack.enter_context(balancer), servers)

    with ExitStack() as stack:
        yield begin


def test_config_is_valid(program: Program) -> None:
    path = program("haproxy", "haproxy")
    ended = subprocess.run([path, "-c", "-f", CONFIG], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    warnings = re.findall(r"\[WARNING\].*", ended.stderr)
    assert [warning for warning in warnings if "missing timeouts" not in warning] == []


def test_one_of_two_servers_stops_in_a_storm_and_every_vm_is_served(
    balance: Callable[..., Balanced], own_instances: Path
) -> None:
    instances = write_instances(own_instances, 50)
    balanced = balance()
    storm = Storm(balanced.port, instances)
    storm.wait_for_boots(200)
    first, second = balanced.servers
    stopped = counters(first)
    storm.wait_for_boots(200)
    storm.stop()
    assert stopped["answered"] > 100
    assert counters(second)["answered"] > 100


def test_one_of_three_servers_is_killed_in_a_storm_and_cut_vms_are_served_by_the_others(
    balance: Callable[..., Balanced], own_instances: Path, tmp_path: Path
) -> None:
    write_instances(own_instances, BOOTS)
    (own_instances / "web1.yaml").unlink()
    balanced, file = balance(count=3), tmp_path / "result.json"
    storm = subprocess.Popen(
        [
            *(sys.executable, CHECKOUT / "bin/vmw-metadata-client", "storm"),
            *("--server", f"127.0.0.1:{balanced.port}", "--uri", "my-metadata"),
            *("--directory", own_instances, "-n", str(BOOTS), "-c", "100"),
            *("--pace", "1", "--redial", "1", "--json", file),  # paced: many are in the middle
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    killed, *others = balanced.servers
    wait_until(lambda: len(killed.lines) > BOOTS // 10)
    killed.signal(signal.SIGKILL)
    output, _ = storm.communicate(timeout=180)
    assert storm.returncode == 0, output
    result = json.loads(file.read_text())
    assert (result["boots"], result["failures"]) == (BOOTS, {})
    redial = result["redial"]
    assert redial["never_served"] == 0
    assert redial["redials"] == redial["lines_cut"] >= redial["served"] >= 5
    waited = result["phases"]["cut to served"]
    assert waited["count"] == redial["served"]
    assert waited["histogram"][0][0] > 900  # ms
    assert f"{redial['served']} boots served after a cut or refusal, 0 never served" in output
    assert min(counters(server)["boots"] for server in others) > BOOTS // 5


def test_vm_moves_from_one_server_to_the_other(balance: Callable[..., Balanced]) -> None:
    balanced = balance()
    source = Vm(balanced.port)
    assert source.metadata()
    target = Vm.arriving(balanced.port, source.begin_move())  # the other one has fewer lines
    target.is_welcome()
    target.complete()
    assert target.metadata()["instance-id"] == "my-instance"
    assert sum(counters(server)["vMotions from elsewhere"] for server in balanced.servers) == 1


def test_idle_line_stays(balance: Callable[..., Balanced]) -> None:
    machine = Vm(balance().port)
    assert machine.metadata()
    time.sleep(IDLE_S)
    assert machine.metadata()["instance-id"] == "my-instance"


@pytest.mark.parametrize("side", ["client", "server"])
def test_idle_line_is_dropped_by_a_wrong_timeout(
    balance: Callable[..., Balanced], side: str
) -> None:
    machine = Vm(balance(f"timeout {side} {SHORT}").port)
    assert machine.metadata()
    machine.receive_all(IDLE_S)  # to the end of the stream, or TimeoutError


def test_both_sides_of_haproxy_send_keepalives(
    balance: Callable[..., Balanced], program: Program
) -> None:
    balanced = balance()
    machine = Vm(balanced.port)
    assert machine.metadata()
    sockets = subprocess.run(
        [program("ss", "iproute2"), "--tcp", "--numeric", "--options", "--processes"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    ours = [line for line in sockets.splitlines() if f"pid={balanced.balancer.pid}," in line]
    assert len(ours) == 2, sockets
    assert all(re.search(r"timer:\(keepalive,[45]min", line) for line in ours), ours


def test_keepalives_of_haproxy_are_those_of_the_server() -> None:
    wanted = [value for _, value in KEEPALIVE]
    for side in ("cli", "srv"):
        found = re.findall(rf"{side}tcpka-(?:idle|intvl|cnt) (\d+)", CONFIG.read_text())
        assert list(map(int, found)) == wanted


def test_server_that_stops_finishes_behind_haproxy(balance: Callable[..., Balanced]) -> None:
    balanced = balance()
    machine = Vm(balanced.port)
    assert machine.metadata()
    for server in balanced.servers:
        server.signal(signal.SIGTERM)
    machine.receive_all()
    assert [server.wait() for server in balanced.servers] == [0, 0]
