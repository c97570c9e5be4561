"""Hosts that die without a FIN: TCP keepalive finds them, in a network of the test's own."""

from __future__ import annotations

import ctypes
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.peer import SocketVm, connected, is_served
from tests.process import ServerProcess, with_constants
from vmw_cloudinit_metadata.process.listener import listen_on
from vmw_cloudinit_metadata.settings.values import Address

pytestmark = pytest.mark.slow

Start = Callable[..., ServerProcess]
Program = Callable[[str, str], str]

_CLONE_NEWNET = 0x40000000  # linux/sched.h


class Network:
    """An ESXi host, which is a network namespace, and its link to this machine, the server's."""

    def __init__(self, ip: str) -> None:
        self._ip = ip
        pid = os.getpid()  # in the names and addresses, for tests that run at the same time
        self._name = f"vmw{pid}"
        subnet = f"198.18.{pid // 64 % 256}"  # RFC 2544: for tests
        self.server, self.host = (f"{subnet}.{pid % 64 * 4 + place}" for place in (1, 2))
        here, there = f"{self._name}s", f"{self._name}h"
        self._run("netns", "add", self._name)
        try:
            self._run("link", "add", here, "type", "veth", "peer", there, "netns", self._name)
            self._run("address", "add", f"{self.server}/30", "dev", here)
            self._run("link", "set", here, "up")
            self._run("-n", self._name, "address", "add", f"{self.host}/30", "dev", there)
            self._run("-n", self._name, "link", "set", there, "up")
        except BaseException:
            self.close()
            raise

    def _run(self, *arguments: str) -> None:
        subprocess.run([self._ip, *arguments], check=True, capture_output=True, text=True)

    def connect(self, port: int) -> socket.socket:
        """A connection from the host to the server."""
        with ThreadPoolExecutor(1) as pool:  # for a thread that ends: it stays in the namespace
            return pool.submit(self._connect, port).result()

    def _connect(self, port: int) -> socket.socket:
        with Path(f"/run/netns/{self._name}").open() as namespace:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        return socket.create_connection((self.server, port), timeout=10)

    def cut(self) -> None:
        """From now on no packet arrives, in neither direction."""
        self._run("-n", self._name, "link", "set", f"{self._name}h", "down")

    def close(self) -> None:
        # The namespace lives on, without a name, for as long as the system has to send a FIN there.
        with suppress(subprocess.CalledProcessError):
            self._run("link", "delete", f"{self._name}s")
        self._run("netns", "delete", self._name)


def quick_keepalive(probes: int) -> list[str]:
    """The command `run` with a probe after each second of silence."""
    each_s = ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1))
    return with_constants(process__listener__KEEPALIVE=(*each_s, (socket.TCP_KEEPCNT, probes)))


@pytest.fixture
def network(program: Program) -> Iterator[Network]:
    ip = program("ip", "iproute2")
    try:
        network = Network(ip)
    except subprocess.CalledProcessError as error:
        if "not permitted" not in error.stderr:
            raise
        message = "needs a network namespace, which takes root"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    yield network
    network.close()


def test_host_that_dies_without_a_fin_is_found_and_no_other(
    start: Start, network: Network, peers: ExitStack
) -> None:
    server = start("--log-level", "debug", listen=f"{network.server}:0", command=quick_keepalive(2))
    dying = peers.enter_context(network.connect(server.port))
    other = SocketVm(
        peers.enter_context(connected(server.port, network.server, network.server)), "42" * 16
    )
    assert is_served(SocketVm(dying))
    assert is_served(other)
    network.cut()
    server.wait_for(rf" {network.host}:{dying.getsockname()[1]}: disconnected", 10)
    assert is_served(other)  # it has said as little meanwhile


def test_dead_host_makes_room_for_its_vms_to_come_back(
    start: Start, network: Network, peers: ExitStack
) -> None:
    options = ("--log-level", "debug", "--max-connections", "1")
    server = start(*options, listen=f"{network.server}:0", command=quick_keepalive(1))
    dying = peers.enter_context(network.connect(server.port))
    assert is_served(SocketVm(dying))
    network.cut()
    server.wait_for(rf" {network.host}:{dying.getsockname()[1]}: disconnected", 10)
    again = peers.enter_context(connected(server.port, network.server, network.server))
    assert is_served(SocketVm(again))


def test_keepalive_of_an_accepted_connection_finds_a_dead_host_within_about_6_minutes() -> None:
    (listener,) = listen_on([Address("127.0.0.1", 0)])
    with listener:
        with socket.create_connection(listener.getsockname(), timeout=10):
            accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            idle_s, interval_s, count = (
                accepted.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
    assert 300 <= idle_s + interval_s * count <= 420


def test_keepalive_of_a_server_process_waits_for_5_minutes_as_esxi_does(
    start: Start, program: Program, peers: ExitStack
) -> None:
    ss = program("ss", "iproute2")
    server = start()
    assert is_served(SocketVm(peers.enter_context(connected(server.port))))
    command = [ss, "--tcp", "--numeric", "--options", "--no-header", f"sport = :{server.port}"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.search(r"timer:\(keepalive,(5min|4min5\d)", shown), shown
