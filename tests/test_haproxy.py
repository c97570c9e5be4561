"""conf/haproxy.cfg in a real HAProxy before two real servers."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.load.vm import write_instances
from tests.process import CHECKOUT, ServerProcess, counters
from tests.storm import Storm, free_port
from tests.vm import Vm
from vmw_cloudinit_metadata.process.listener import KEEPALIVE

CONFIG = CHECKOUT / "conf/haproxy.cfg"
IDLE_S = 2.5  # longer than the shortened timeouts
SHORT = "1s"

pytestmark = pytest.mark.slow

Program = Callable[[str, str], str]


class Balanced:
    """HAProxy with conf/haproxy.cfg, but for ports and `changes`, before two servers."""

    def __init__(self, path: str, place: Path, servers: list[ServerProcess], changes: str) -> None:
        self.port = free_port()
        self.servers = servers
        text = CONFIG.read_text().replace("bind :13370", f"bind 127.0.0.1:{self.port}")
        for number, server in enumerate(servers, 11):
            text = text.replace(f"192.0.2.{number}:13370", f"127.0.0.1:{server.port}")
        for name, value in (change.rsplit(" ", 1) for change in changes.splitlines()):
            text, count = re.subn(rf"^( +{name}) .*$", rf"\1 {value}", text, flags=re.MULTILINE)
            assert count == 1
        file = place / "haproxy.cfg"
        file.write_text(text)
        self._process = subprocess.Popen([path, "-f", file, "-db"], stderr=subprocess.PIPE)

    def __enter__(self) -> Balanced:
        end_s = time.monotonic() + 10
        while True:
            try:
                Vm(self.port).close()
                return self
            except OSError:
                assert self._process.poll() is None, self._process.communicate()
                assert time.monotonic() < end_s
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid


@pytest.fixture
def balance(
    start: Callable[..., ServerProcess], program: Program, tmp_path: Path
) -> Iterator[Callable[..., Balanced]]:
    key = tmp_path / "vmotion.key"
    key.write_bytes(bytes(range(32)))
    options = ("--proxy-protocol", "127.0.0.1", "--vmotion-key-file", str(key))

    def begin(changes: str = "") -> Balanced:
        path = program("haproxy", "haproxy")
        servers = [start(*options) for _ in range(2)]
        return stack.enter_context(Balanced(path, tmp_path, servers, changes))

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
    ours = [line for line in sockets.splitlines() if f"pid={balanced.pid}," in line]
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
