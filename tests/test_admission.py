"""Who may connect, and how many at once: real server processes, connected to from several hosts."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.peer import OTHER_VC_UUID, SocketVm, connected, identified, is_closed, is_served
from tests.process import (
    LIMIT_S,
    ServerProcess,
    counters,
    descriptors,
    run,
    with_constants,
    with_descriptors,
)
from tests.vm import VC_UUID
from tests.waiting import wait_until

Start = Callable[..., ServerProcess]


def cpu_s(server: ServerProcess) -> float:
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def vm(server: ServerProcess, peers: ExitStack, number: int = 0) -> SocketVm:
    """One that is identified, and stays."""
    machine = identified(server.port, number)
    assert machine
    peers.enter_context(machine.socket)
    return machine


# --allow


@pytest.fixture(scope="module")
def fenced(instances: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(instances, "--allow", "127.0.0.2", "--allow", "127.0.1.0/24")
    yield process
    process.end()


@pytest.mark.parametrize("host", ["127.0.0.2", "127.0.1.0", "127.0.1.255"])
def test_host_in_any_allow_network_is_served(fenced: ServerProcess, host: str) -> None:
    with connected(fenced.port, host) as peer:
        assert is_served(SocketVm(peer))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.3", "127.0.2.0"])
def test_host_outside_every_allow_network_is_closed_at_once(
    fenced: ServerProcess, host: str
) -> None:
    with connected(fenced.port, host) as peer:
        assert is_closed(peer)
    fenced.wait_for(rf"WARNING {host}:\d+: connection refused: it is in no --allow network\n")


def test_host_outside_allow_is_counted_at_every_connection(start: Start) -> None:
    server = start("--allow", "127.0.0.2")
    for host in ["127.0.0.1"] * 3 + ["127.0.0.3"]:
        with connected(server.port, host) as peer:
            assert is_closed(peer)
    assert counters(server)["refused: network"] == 4


def test_host_outside_allow_is_logged_once_for_each_address(start: Start) -> None:
    server = start("--allow", "127.0.0.2")
    for host in ["127.0.0.1"] * 3 + ["127.0.0.3"] * 2:
        with connected(server.port, host) as peer:
            assert is_closed(peer)
    assert counters(server)["refused: network"] == 5
    assert re.findall(r"(\S+):\d+: connection refused", server.log) == ["127.0.0.1", "127.0.0.3"]


def test_host_outside_allow_is_logged_again_after_a_while_with_the_unlogged(start: Start) -> None:
    server = start(
        "--allow", "127.0.0.2", command=with_constants(monitoring__onceaminute__QUIET_S=0.5)
    )
    refused = 0
    end_s = time.monotonic() + LIMIT_S
    while "since the last such line" not in server.log and time.monotonic() < end_s:
        with connected(server.port) as peer:
            assert is_closed(peer)
        refused += 1
    told = int(server.wait_for(r"connection refused: .* \((\d+) more since the last")[1])
    assert 1 <= told <= refused - 2  # the first and the last one have their own lines


@pytest.mark.parametrize(
    ("host", "to"), [("127.0.0.2", "127.0.0.1"), ("::1", "::1")], ids=["IPv4", "IPv6"]
)
def test_host_in_allow_is_served_on_a_listener_for_both_families(
    start: Start, host: str, to: str
) -> None:
    server = start("--allow", "127.0.0.2", "--allow", "::1", listen="[::]:0")
    with connected(server.port, host, to) as peer:
        assert is_served(SocketVm(peer))


def test_host_outside_allow_is_closed_on_a_listener_for_both_families(start: Start) -> None:
    server = start("--allow", "127.0.0.2", "--allow", "::1", listen="[::]:0")
    with connected(server.port, "127.0.0.3") as peer:
        assert is_closed(peer)
    server.wait_for(r" 127\.0\.0\.3:\d+: connection refused")


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
def test_listening_to_everyone_without_allow_is_said_loudly(start: Start, listen: str) -> None:
    server = start("--log-level", "error", listen=listen)
    address = re.escape(listen.removesuffix(":0"))
    server.wait_for(rf"WARNING EVERYONE who can reach {address}:\d+ .*--allow")


@pytest.mark.parametrize(
    ("listen", "options"),
    [
        ("127.0.0.2:0", []),
        ("localhost:0", []),
        ("[::1]:0", []),
        ("0.0.0.0:0", ["--allow", "127.0.0.1"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "allow" if value else "everyone",
)
def test_listening_on_loopback_or_with_allow_is_no_reason_to_warn(
    start: Start, listen: str, options: list[str]
) -> None:
    server = start(*options, listen=listen)
    counters(server)  # the whole log is there
    assert "EVERYONE" not in server.log


@pytest.mark.parametrize(
    ("option", "network"),
    [
        ("--allow", "10.0.0.1/24"),
        ("--allow", "10.0.0.0/33"),
        ("--allow", "esx1.example.com"),
        ("--proxy-protocol", "fd00::1/8"),
    ],
)
def test_network_that_is_none_is_exit_2_and_one_clear_line(option: str, network: str) -> None:
    ended = run("run", "--uri", "x", "--listen", "127.0.0.1:0", option, network)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert option in ended.stderr
    assert f"found '{network}', expected a network such as 10.0.0.0/24" in ended.stderr


# --max-connections, --max-per-host


def test_max_connections_are_served_and_one_more_is_closed_with_a_reason(
    start: Start, peers: ExitStack
) -> None:
    server = start("--max-connections", "3")
    served = [SocketVm(peers.enter_context(connected(server.port))) for _ in range(3)]
    assert all(map(is_served, served))
    assert is_closed(peers.enter_context(connected(server.port, "127.0.0.2")))
    server.wait_for(
        r"WARNING 127\.0\.0\.2: connection refused: .* 3 connections already \(--max-connections\)"
    )
    assert all(map(is_served, served))


def test_refused_connections_beyond_max_connections_are_counted_and_logged_once(
    start: Start, peers: ExitStack
) -> None:
    server = start("--max-connections", "1")
    vm(server, peers)
    for _ in range(5):
        assert is_closed(peers.enter_context(connected(server.port)))
    peers.close()
    assert counters(server)["refused: full"] == 5
    assert server.log.count("--max-connections") == 1


@pytest.mark.parametrize("option", ["--max-connections", "--max-per-host"])
def test_connection_that_leaves_makes_room_for_another_one(
    start: Start, peers: ExitStack, option: str
) -> None:
    server = start(option, "2", "--log-level", "debug")
    leaver = vm(server, peers, 1).socket
    vm(server, peers, 2)
    for _ in range(10):  # none of them counts for longer than it is there
        assert is_closed(peers.enter_context(connected(server.port)))
    left = rf" {leaver.getsockname()[0]}:{leaver.getsockname()[1]}: disconnected"
    leaver.close()
    server.wait_for(left)
    assert is_served(vm(server, peers, 3))
    assert is_closed(peers.enter_context(connected(server.port)))


def test_max_per_host_closes_further_ones_of_that_host_and_of_no_other(
    start: Start, peers: ExitStack
) -> None:
    server = start("--max-per-host", "2")
    served = [SocketVm(peers.enter_context(connected(server.port))) for _ in range(2)]
    assert all(map(is_served, served))
    assert is_closed(peers.enter_context(connected(server.port)))
    server.wait_for(
        r" 127\.0\.0\.1:\d+: .*refused: it has 2 connections already \(--max-per-host\)"
    )
    served.append(SocketVm(peers.enter_context(connected(server.port, "127.0.0.2"))))
    assert all(map(is_served, served))


def test_host_is_the_same_one_by_ipv4_and_by_a_listener_for_both_families(
    start: Start, peers: ExitStack
) -> None:
    server = start("--max-per-host", "1", "--listen", "127.0.0.3:0", listen="[::1]:0")
    port = int(server.wait_for(r"listening on 127\.0\.0\.3:(\d+)")[1])
    machine = SocketVm(peers.enter_context(connected(port, to="127.0.0.3")))
    assert is_served(machine)
    assert is_closed(peers.enter_context(connected(port, to="127.0.0.3")))
    assert not is_closed(peers.enter_context(connected(server.port, "::1", "::1")))


def test_thousands_of_connections_of_one_host_leave_room_for_others(
    start: Start, peers: ExitStack
) -> None:
    server = start("--max-per-host", "50")
    before = descriptors(server)
    refused = 0
    for number in range(50):
        vm(server, peers, number)
    for _ in range(1950):
        with connected(server.port) as peer:
            refused += is_closed(peer)
    assert refused == 1950
    wait_until(lambda: descriptors(server) <= before + 50 + 1)
    assert is_served(SocketVm(peers.enter_context(connected(server.port, "127.0.0.2"))))
    assert server.log.count("--max-per-host") == 1
    peers.close()
    assert counters(server)["refused: host"] == refused


@pytest.mark.parametrize("option", ["--max-connections", "--max-per-host"])
def test_limit_of_no_connections_is_exit_2(option: str) -> None:
    ended = run("run", "--uri", "x", "--listen", "127.0.0.1:0", option, "0")
    assert ended.returncode == 2
    assert option in ended.stderr


# Descriptors


def test_soft_limit_of_descriptors_is_raised_to_the_hard_one(start: Start) -> None:
    server = start(command=with_descriptors(256, 4096))
    limits = Path(f"/proc/{server.pid}/limits").read_text()
    assert re.search(r"Max open files +4096 +4096 ", limits)


@pytest.mark.parametrize(
    ("soft", "hard", "connections"),
    [(256, 4096, 4096 - 128), (1024, 1024, 1024 - 128), (100, 100, 50)],
    ids=["raised", "as it was", "small"],
)
def test_default_of_max_connections_leaves_descriptors_for_the_rest_and_is_printed(
    start: Start, soft: int, hard: int, connections: int
) -> None:
    server = start(command=with_descriptors(soft, hard))
    server.wait_for(
        rf"limits: {connections} connections, 4096 per host; "
        rf"descriptors: {hard} \(soft limit was {soft}\)"
    )


def test_default_of_max_connections_can_be_had_with_a_look_up_for_each(
    start: Start, peers: ExitStack
) -> None:
    server = start(command=with_descriptors(64, 64))
    limit = int(server.wait_for(r"limits: (\d+) connections")[1])
    for number in range(limit):
        peer = peers.enter_context(connected(server.port))
        assert is_served(SocketVm(peer, f"{number:032x}"))
    assert is_closed(peers.enter_context(connected(server.port)))
    assert "no descriptor" not in server.log


def test_max_connections_beyond_the_descriptors_is_warned_of(start: Start) -> None:
    server = start("--max-connections", "64", command=with_descriptors(64, 64))
    server.wait_for("WARNING --max-connections is higher than the limit of descriptors")


def test_max_connections_within_the_descriptors_is_no_reason_to_warn(start: Start) -> None:
    server = start("--max-connections", "63", command=with_descriptors(64, 64))
    counters(server)  # the whole log is there
    assert "higher than the limit of descriptors" not in server.log


class Exhausted:
    """A server that has no descriptor left, for it has as many connections as it can get."""

    def __init__(self, start: Start, peers: ExitStack) -> None:
        options = ("--max-connections", "1000", "--log-level", "debug")
        self.server = start(*options, command=with_descriptors(64, 64))
        self.vm = SocketVm(peers.enter_context(connected(self.server.port)))
        assert is_served(self.vm)
        self.others: list[socket.socket] = []
        while machine := identified(self.server.port, len(self.others)):
            self.others.append(peers.enter_context(machine.socket))
        assert 20 < len(self.others) < 64

    def lose_one(self) -> None:
        leaver = self.others.pop()
        port = leaver.getsockname()[1]
        leaver.close()
        self.server.wait_for(rf":{port}: disconnected")


@pytest.fixture
def exhausted(start: Start, peers: ExitStack) -> Iterator[Exhausted]:
    exhausted = Exhausted(start, peers)
    yield exhausted
    assert "Traceback" not in exhausted.server.log


def test_connection_without_a_descriptor_is_closed_at_once_and_counted(
    exhausted: Exhausted, peers: ExitStack
) -> None:
    for _ in range(100):
        assert is_closed(peers.enter_context(connected(exhausted.server.port)))
    exhausted.server.wait_for(r" 127\.0\.0\.1: connection refused: .* no descriptor left")
    peers.close()
    assert counters(exhausted.server)["refused: full"] == 101


def test_vm_that_is_connected_is_answered_without_a_descriptor_left(exhausted: Exhausted) -> None:
    assert all(is_served(exhausted.vm) for _ in range(3))


def test_server_without_a_descriptor_left_idles(exhausted: Exhausted) -> None:
    before_s = cpu_s(exhausted.server)
    time.sleep(0.5)
    assert cpu_s(exhausted.server) - before_s < 0.1


def test_descriptors_that_come_back_serve_new_vms(exhausted: Exhausted, peers: ExitStack) -> None:
    for _ in range(4):
        exhausted.lose_one()
    # Two of them: the others are for the directory and the file of the look-up.
    for vc_uuid in (VC_UUID, OTHER_VC_UUID):
        assert is_served(SocketVm(peers.enter_context(connected(exhausted.server.port)), vc_uuid))


def test_look_ups_that_take_the_last_descriptor_leave_no_connection_hanging(
    start: Start, peers: ExitStack, own_instances: Path
) -> None:
    (own_instances / "web1.yaml").write_text("metadata: 5\n")  # it is read at every request
    server = start("--max-connections", "1000", command=with_descriptors(64, 64))
    hungry = [
        SocketVm(peers.enter_context(connected(server.port)), f"{number:032x}")
        for number in range(12)
    ]
    for machine in hungry:
        assert machine.error("METADATA") == "invalid"
    while machine_beside := identified(server.port, 100):
        peers.enter_context(machine_beside.socket)
    for machine in hungry:
        machine.send(b"!!REQUEST_METADATA#\n" * 200)
    for _ in range(200):
        is_closed(peers.enter_context(connected(server.port)))  # or served, but not forgotten
