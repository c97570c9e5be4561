"""Hosts that die without a FIN: TCP keepalive finds them, in a network of the test's own."""

from __future__ import annotations

import ctypes
import re
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.namespaces import Namespace
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

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        link = namespace.link()
        self.server, self.host, self.cut = link.here, link.there, link.cut

    def connect(self, port: int) -> socket.socket:
        """A connection from the host to the server."""
        with ThreadPoolExecutor(1) as pool:  # for a thread that ends: it stays in the namespace
            return pool.submit(self._connect, port).result()

    def _connect(self, port: int) -> socket.socket:
        with Path(f"/run/netns/{self._namespace.name}").open() as namespace:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        return socket.create_connection((self.server, port), timeout=10)


def quick_keepalive(probes: int) -> list[str]:
    """The command `run` with a probe after each second of silence."""
    each_s = ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1))
    return with_constants(process__listener__KEEPALIVE=(*each_s, (socket.TCP_KEEPCNT, probes)))


@pytest.fixture
def network(namespace: Namespace) -> Network:
    return Network(namespace)


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
