"""What systemd hears of a server that it has started with Type=notify."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.process import ServerProcess
from tests.vm import Vm

Start = Callable[..., ServerProcess]

WORKERS = pytest.mark.parametrize(
    "workers", ["1", pytest.param("2", marks=pytest.mark.slow)], ids=["alone", "workers"]
)


class Systemd:
    """The end of NOTIFY_SOCKET where systemd listens."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.settimeout(10)

    def hears(self) -> dict[str, str]:
        """The next message."""
        pairs = (line.partition("=") for line in self._socket.recv(4096).decode().split("\n"))
        return {name: value for name, _, value in pairs}

    def hears_nothing(self) -> bool:
        self._socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            self._socket.recv(1)
        return True

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["a path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "a path" else f"@{tmp_path.name}-notify"


@pytest.fixture
def systemd(address: str) -> Iterator[Systemd]:
    listener = Systemd(address)
    yield listener
    listener.close()


@WORKERS
def test_systemd_hears_of_start_reload_and_stop_once(
    start: Start, systemd: Systemd, address: str, workers: str
) -> None:
    server = start("--workers", workers, env={"NOTIFY_SOCKET": address})
    told = systemd.hears()
    assert (told["READY"], told["STATUS"]) == ("1", f"listening on 127.0.0.1:{server.port}")
    assert Vm(server.port).metadata()
    server.signal(signal.SIGHUP)
    told = systemd.hears()
    assert (told["RELOADING"], told["MONOTONIC_USEC"].isdigit()) == ("1", True)
    assert systemd.hears() == {"READY": "1"}
    server.signal(signal.SIGTERM)
    assert systemd.hears()["STOPPING"] == "1"
    assert server.wait() == 0
    assert systemd.hears_nothing()


def test_server_that_cannot_start_is_never_ready(
    start: Start, systemd: Systemd, address: str
) -> None:
    with pytest.raises(AssertionError, match="found no directory"):
        start(driver_opts={"directory": "/nowhere"}, env={"NOTIFY_SOCKET": address})
    assert systemd.hears_nothing()


def test_systemd_that_is_gone_costs_nothing(start: Start, tmp_path: Path) -> None:
    server = start(env={"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert Vm(server.port).metadata()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
