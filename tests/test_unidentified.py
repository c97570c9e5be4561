"""Connections without a VM do not lock out VMs: real server processes, attacked from several hosts.

Addresses of loopback are the hosts. What is asserted is who was served, and how soon.
"""

from __future__ import annotations

import re
import resource
import select
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.certificates import make_pair
from tests.peer import (
    SocketVm,
    connected,
    identified,
    is_closed,
    is_served,
    refused_beyond_one_a_second,
)
from tests.process import ServerProcess, counters, descriptors, with_descriptors
from tests.vm import BINARY, Vm, suboption
from vmw_cloudinit_metadata.serving.admission import Admission

Start = Callable[..., ServerProcess]

ATTACKER, OTHER = "127.0.0.66", "127.0.0.2"
BALANCER = "127.0.0.9"

# A boot among thousands of silent connections, on a machine that does other things too.
SOON_S = 5.0

ROOM_TOLD = "closed to make room for another connection"


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """For both ends of thousands of connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 9000:
        pytest.skip("needs 9,000 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def silent(server: ServerProcess, peers: ExitStack, count: int, host: str = ATTACKER) -> None:
    for _ in range(count):
        peers.enter_context(connected(server.port, host))


def boots_soon(server: ServerProcess, host: str, *, header: bytes = b"") -> bool:
    """Whether a VM of this host is served in time, and goes away again."""
    began_s = time.monotonic()
    with connected(server.port, host) as peer:
        assert is_served(SocketVm(peer, header=header))
    return time.monotonic() - began_s < SOON_S


def header_of(host: str) -> bytes:
    return f"PROXY TCP4 {host} 10.9.9.9 1000 13370\r\n".encode()


# Full of those that say nothing


@pytest.mark.slow
@pytest.mark.usefixtures("many_descriptors")
def test_3968_silent_connections_of_one_host_close_nobody_out(
    start: Start, peers: ExitStack
) -> None:
    server = start(command=with_descriptors(4096, 4096))
    server.wait_for("limits: 3968 connections")
    silent(server, peers, 3968)
    assert [boots_soon(server, host) for host in (OTHER, "127.0.0.3", ATTACKER, ATTACKER)] == [
        True
    ] * 4
    assert server.log.count(ROOM_TOLD) == 1
    counted = counters(server)
    assert 1 <= counted["made room"] <= 4  # a boot that has left has room for the next one
    assert counted["refused: full"] == 0


def test_newcomer_is_served_and_the_oldest_silent_one_goes(start: Start, peers: ExitStack) -> None:
    server = start("--max-connections", "4")
    served = identified(server.port, 1)
    assert served
    peers.enter_context(served.socket)
    first, *later = [peers.enter_context(connected(server.port)) for _ in range(3)]
    for peer in (first, *later):
        assert not is_closed(peer)  # it is greeted
    assert boots_soon(server, OTHER)
    assert is_at_end(first)
    assert not any(map(has_ended, later))
    assert is_served(served)
    server.wait_for(rf"WARNING 127\.0\.0\.1:{first.getsockname()[1]}: {ROOM_TOLD}")


def test_host_with_the_most_silent_connections_makes_room_for_all(
    start: Start, peers: ExitStack
) -> None:
    server = start("--max-connections", "10")
    lonely = peers.enter_context(connected(server.port, OTHER))
    assert not is_closed(lonely)
    silent(server, peers, 9)
    for number in range(30):
        silent(server, peers, 1)
        assert boots_soon(server, f"127.0.1.{number + 1}")
    assert not has_ended(lonely)
    machine = SocketVm(lonely)
    assert is_served(machine)


def test_max_per_host_full_of_silent_ones_is_open_to_the_next_vm_of_that_host(
    start: Start, peers: ExitStack
) -> None:
    server = start("--max-per-host", "5")
    silent(server, peers, 5, "127.0.0.1")
    machines = [identified(server.port, number) for number in range(5)]
    for machine in machines:
        assert machine
        peers.enter_context(machine.socket)
    assert identified(server.port, 6) is None
    assert all(machine and is_served(machine) for machine in machines)
    counted = counters(server)
    assert (counted["made room"], counted["refused: host"]) == (5, 1)


def test_vm_that_is_identified_is_never_closed_for_another_connection(
    start: Start, peers: ExitStack
) -> None:
    server = start("--max-connections", "5")
    machines = [identified(server.port, number) for number in range(5)]
    for machine in machines:
        assert machine
        peers.enter_context(machine.socket)
    for _ in range(50):
        with connected(server.port, ATTACKER) as peer:
            assert is_closed(peer)
    assert all(machine and is_served(machine) for machine in machines)
    assert counters(server)["refused: full"] == 50


def test_last_place_is_nobodys_for_long(start: Start, peers: ExitStack) -> None:
    """All that dial in one turn of the hub are heard, one after the other."""
    server = start("--max-connections", "3")
    for number in range(2):
        machine = identified(server.port, number)
        assert machine
        peers.enter_context(machine.socket)
    silent(server, peers, 40)
    assert boots_soon(server, OTHER)
    counted = counters(server)
    assert (counted["made room"], counted["refused: full"]) == (40, 0)


@pytest.mark.parametrize("how", ["header", "TLS", "mute", "TLS silence"])
def test_connection_in_any_state_before_a_name_makes_room(
    start: Start, peers: ExitStack, how: str, pair: tuple[str, ...]
) -> None:
    server = start(*pair, "--proxy-protocol", BALANCER, "--max-connections", "5")
    for _ in range(20):
        peer = peers.enter_context(
            connected(server.port, BALANCER if how == "header" else ATTACKER)
        )
        peer.settimeout(10)
        with suppress(ConnectionError):
            match how:
                case "header":
                    peer.sendall(b"PROXY TCP4 10")
                case "TLS":
                    peer.sendall(b"\x16\x03\x01\x02\x00\x01")
                case "mute":
                    peer.sendall(BINARY + b"\xff\xfb\xe8" + suboption(70, b"Canother-service"))
                    while suboption(73) not in (said := peer.recv(4096)) and said:
                        pass
    assert boots_soon(server, OTHER)
    assert boots_soon(server, BALANCER, header=header_of("10.0.0.7"))
    assert counters(server)["refused: full"] == 0


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, program: Callable[[str, str], str]
) -> tuple[str, ...]:
    made = make_pair(program("openssl", "openssl"), tmp_path_factory.mktemp("pair"), "one")
    return tuple(made.options)


def test_silent_connections_through_and_from_a_balancer_close_nobody_behind_it_out(
    start: Start, peers: ExitStack
) -> None:
    server = start("--proxy-protocol", BALANCER, "--max-connections", "20", "--max-per-host", "15")
    silent(server, peers, 20, BALANCER)
    assert boots_soon(server, BALANCER, header=header_of("10.0.0.7"))
    for _ in range(30):
        peer = peers.enter_context(connected(server.port, BALANCER))
        peer.sendall(header_of("10.0.0.66"))
    assert boots_soon(server, BALANCER, header=header_of("10.0.0.7"))
    assert boots_soon(server, BALANCER, header=header_of("10.0.0.66"))
    counted = counters(server)
    assert counted["made room"] > 0
    assert counted["refused: full"] == counted["refused: host"] == 0


def test_input_that_is_not_read_yet_does_not_hold_the_place(start: Start, peers: ExitStack) -> None:
    """What has made room is gone at once, however much it has sent."""
    server = start("--max-connections", "1")
    talker = peers.enter_context(connected(server.port, ATTACKER))
    assert not is_closed(talker)
    server.signal(signal.SIGSTOP)
    talker.setblocking(False)
    sent = 0
    with suppress(BlockingIOError):
        while sent < 100_000_000:
            sent += talker.send(b"\xff\xf1" * 100_000)  # NOP
    newcomer = peers.enter_context(connected(server.port, OTHER))
    server.signal(signal.SIGCONT)
    assert is_served(SocketVm(newcomer))
    assert is_at_end(talker)
    assert sent > 500_000
    assert counters(server)["bytes received"] < 20_000


# Descriptors


def test_silent_connections_without_a_descriptor_left_close_nobody_out(
    start: Start, peers: ExitStack
) -> None:
    server = start("--max-connections", "1000", command=with_descriptors(64, 64))
    silent(server, peers, 200)
    before = descriptors(server)
    assert [boots_soon(server, host) for host in (OTHER, ATTACKER, OTHER, ATTACKER)] == [True] * 4
    assert before <= 64
    assert "Traceback" not in server.log
    counted = counters(server)
    assert counted["made room"] >= 150
    assert counted["refused: full"] == 0


def test_server_without_a_descriptor_left_idles_among_silent_connections(
    start: Start, peers: ExitStack
) -> None:
    server = start("--max-connections", "1000", command=with_descriptors(64, 64))
    silent(server, peers, 100)
    assert boots_soon(server, OTHER)
    before_s = cpu_s(server)
    time.sleep(0.5)
    assert cpu_s(server) - before_s < 0.1


def cpu_s(server: ServerProcess) -> float:
    """User and system time of the process."""
    return time.clock_gettime((~server.pid << 3) | 2)


# No attack


@pytest.mark.slow
@pytest.mark.usefixtures("many_descriptors")
def test_4000_vms_that_dial_at_once_from_one_address_are_all_served(start: Start) -> None:
    server = start()
    served = at_once(server, 4000)
    counted = counters(server)
    assert served == 4000, counted
    assert counted["boots"] == 4000
    lost = ("made room", "refused: rate", "refused: host", "refused: full", "unidentified")
    assert {name: counted[name] for name in lost} == dict.fromkeys(lost, 0)


def at_once(server: ServerProcess, count: int, limit_s: float = 60.0) -> int:
    """So many VMs of one host, all connected before one says a word; how many are served."""
    with ExitStack() as stack:
        waiting: dict[int, tuple[socket.socket, bytes]] = {}
        poll = select.epoll()
        stack.callback(poll.close)
        for _ in range(count):
            peer = stack.enter_context(socket.socket())
            peer.bind(("127.0.0.1", 0))
            peer.setblocking(False)
            peer.connect_ex(("127.0.0.1", server.port))
            waiting[peer.fileno()] = peer, b""
        for number, (peer, _) in enumerate(waiting.values()):
            peer.setblocking(True)
            machine = SocketVm(peer, f"{number:032x}")
            machine.send(b"!!REQUEST_METADATA#\n")
            poll.register(peer, select.EPOLLIN)
        served, end_s = 0, time.monotonic() + limit_s
        while waiting and time.monotonic() < end_s:
            for descriptor, _ in poll.poll(1.0):
                peer, heard = waiting[descriptor]
                data = peer.recv(65536)
                heard += data
                is_served = re.search(rb"!!RESPONSE_METADATA#[^\n]*\n", heard) is not None
                served += is_served
                waiting[descriptor] = peer, heard
                if is_served or not data:
                    poll.unregister(peer)
                    peer.close()
                    del waiting[descriptor]
        return served


# Rates


def test_host_that_connects_too_often_is_refused_and_no_other_one(start: Start) -> None:
    server = start("--max-connection-rate", "1")

    def connects() -> bool:
        with connected(server.port, ATTACKER) as peer:
            return not is_closed(peer)

    refused = refused_beyond_one_a_second(connects)
    assert boots_soon(server, OTHER)
    server.wait_for(rf"WARNING {ATTACKER}: connection refused: .* \(--max-connection-rate\)")
    assert server.log.count("--max-connection-rate") == 1
    assert counters(server)["refused: rate"] == refused


def test_rate_of_connections_looks_at_the_address_in_the_header(
    start: Start, peers: ExitStack
) -> None:
    server = start("--max-connection-rate", "1", "--proxy-protocol", BALANCER)

    def connects() -> bool:
        peer = peers.enter_context(connected(server.port, BALANCER))
        peer.sendall(header_of("10.0.0.66"))
        return not is_closed(peer)

    refused_beyond_one_a_second(connects)
    assert boots_soon(server, BALANCER, header=header_of("10.0.0.7"))
    server.wait_for(r"WARNING 10\.0\.0\.66:\d+: connection refused: .* \(--max-connection-rate\)")


def test_host_that_begins_tls_too_often_is_refused_and_no_other_one(
    start: Start, pair: tuple[str, ...]
) -> None:
    server = start(*pair, "--max-handshake-rate", "1")
    refused = refused_beyond_one_a_second(lambda: has_tls(server, ATTACKER))
    assert has_tls(server, OTHER)
    server.wait_for(rf"WARNING {ATTACKER}:\d+: connection refused: .* \(--max-handshake-rate\)")
    assert "Traceback" not in server.log
    assert counters(server)["refused: handshake rate"] == refused


def has_tls(server: ServerProcess, host: str) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connected(server.port, host) as peer:
        try:
            context.wrap_socket(peer).close()
        except (ssl.SSLError, ConnectionError):
            return False
    return True


def test_host_that_begins_tls_by_authentication_too_often_is_refused(
    start: Start, pair: tuple[str, ...]
) -> None:
    server = start(*pair, "--max-handshake-rate", "1")
    while has_tls(server, ATTACKER):
        pass
    with connected(server.port, ATTACKER) as peer:
        machine = Vm.__new__(Vm)
        machine.socket, machine.raw = peer, b""
        machine.send(b"\xff\xfb\x25")
        machine.receive_until(b"\xff\xfa\x25\x01")
        machine.send(b"\xff\xfa\x25\x00\x07\x00\x01\xff\xf0")
        assert b"\xff\xfa\x25\x02" in machine.receive_all(10)
    assert "Traceback" not in server.log


def test_rates_of_0_are_no_limit(start: Start, pair: tuple[str, ...]) -> None:
    options = ("--max-connection-rate", "0", "--max-handshake-rate", "0", "--max-move-rate", "0")
    server = start(*pair, *options)
    assert all(has_tls(server, ATTACKER) for _ in range(60))
    assert not {name for name in counters(server) if "rate" in name}


def test_rates_change_at_hup(start: Start, tmp_path: Path, pair: tuple[str, ...]) -> None:
    file = tmp_path / "server.yaml"
    names = ("max-connection-rate", "max-handshake-rate", "max-move-rate")
    file.write_text("".join(f"{name}: 1\n" for name in names))
    server = start(*pair, "--config", str(file))
    while has_tls(server, ATTACKER):
        pass
    file.write_text("".join(f"{name}: 0\n" for name in names))
    server.signal(signal.SIGHUP)
    for name in names:
        server.wait_for(rf"reload: {name} has changed \(.*server\.yaml:")
    server.wait_for("reload: certificate read")
    assert all(has_tls(server, ATTACKER) for _ in range(30))


# Workers


@pytest.mark.slow
def test_silent_connections_close_nobody_out_of_workers(start: Start, peers: ExitStack) -> None:
    server = start("--workers", "2", "--max-connections", "20")
    silent(server, peers, 200)
    assert [boots_soon(server, host) for host in (OTHER, ATTACKER) * 5] == [True] * 10


# Helpers


def has_ended(peer: socket.socket) -> bool:
    """Whether the server has closed it, behind what it has said."""
    peer.setblocking(False)
    try:
        while peer.recv(4096):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    finally:
        peer.settimeout(10)
    return True


def is_at_end(peer: socket.socket, limit_s: float = 5.0) -> bool:
    end_s = time.monotonic() + limit_s
    while not (ended := has_ended(peer)) and time.monotonic() < end_s:
        time.sleep(0.01)
    return ended


# The law


class Guest:
    """A connection, as Admission sees it."""

    def __init__(self, admission: Admission, host: str) -> None:
        self._admission = admission
        self.host = host
        self.is_identified = False
        self.has_made_room = False

    def make_room(self) -> None:
        assert not self.is_identified
        self.has_made_room = True
        self._admission.unidentified.discard(self.host, self)
        self._admission.leave(self.host)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["enter", "enter", "enter", "identify", "leave"]),
            st.integers(0, 5),
            st.integers(0, 50),
        ),
        max_size=300,
    )
)
def test_any_sequence_keeps_the_bounds_and_hears_newcomers_unless_all_are_identified(
    steps: list[tuple[str, int, int]],
) -> None:
    admission = Admission((), (), max_connections=12, max_per_host=4)
    here: list[Guest] = []
    for verb, number, which in steps:
        host = f"10.0.0.{number}"
        if verb == "enter":
            unidentified = [guest for guest in here if not guest.is_identified]
            is_full = len(here) >= admission.max_connections
            if is_full and not admission.make_room():
                assert not unidentified
                continue
            here = [guest for guest in here if not guest.has_made_room]
            own = [guest for guest in here if guest.host == host]
            if admission.enter(host):
                assert len(own) == 4
                assert all(guest.is_identified for guest in own)
                continue
            guest = Guest(admission, host)
            admission.unidentified.add(host, guest)
            here = [*(guest for guest in here if not guest.has_made_room), guest]
        elif here:
            guest = here[which % len(here)]
            admission.unidentified.discard(guest.host, guest)
            guest.is_identified = True
            if verb == "leave":
                admission.leave(guest.host)
                here.remove(guest)
        hosts = [guest.host for guest in here]
        assert len(here) <= 12
        assert all(hosts.count(one) <= 4 for one in hosts)
        assert len(admission.unidentified) == sum(not guest.is_identified for guest in here)
