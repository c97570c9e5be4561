"""What systemd hears of a server that it has started with Type=notify."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.process import CHECKOUT, LIMIT_S, Program, ServerProcess
from tests.test_workers import children
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
        self._socket.settimeout(LIMIT_S)

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

    def hears_that_it_lives(self, count: int) -> None:
        """So many times in a row."""
        for _ in range(count):
            assert self.hears() == {"WATCHDOG": "1"}

    def hears_until_silent(self, limit_s: float) -> list[dict[str, str]]:
        """All messages, until none has come for so long."""
        heard = []
        self._socket.settimeout(limit_s)
        with suppress(TimeoutError):
            while True:
                heard.append(self.hears())
        self._socket.settimeout(LIMIT_S)
        return heard


@pytest.fixture(params=["a path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "a path":
        return str(tmp_path / "notify")
    return f"@{os.getpid()}-{tmp_path.name}"  # one name space for all processes


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
    with pytest.raises(AssertionError, match=r"directory '.*' does not exist"):
        start(driver_opts={"directory": "/nowhere"}, env={"NOTIFY_SOCKET": address})
    assert systemd.hears_nothing()


def test_systemd_that_is_gone_costs_nothing(start: Start, tmp_path: Path) -> None:
    server = start(env={"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert Vm(server.port).metadata()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


# Whose hub does not run as long as there is a file.
BLOCKED = """\
import gevent, os, signal, time
def block(path):
    while os.path.exists(path):
        time.sleep(0.01)
gevent.signal_handler(signal.SIGUSR1, block, {path!r})
from vmw_cloudinit_metadata.cli import main
main()
"""


@WORKERS
def test_systemd_hears_that_the_hub_runs_and_nothing_of_one_that_is_blocked(
    start: Start, systemd: Systemd, address: str, workers: str, tmp_path: Path
) -> None:
    (tmp_path / "blocks").touch()
    program = BLOCKED.format(path=str(tmp_path / "blocks"))
    server = start(
        *("--workers", workers),
        command=Program([sys.executable, "-c", program, "run"]),
        env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"},
    )
    assert systemd.hears()["READY"] == "1"
    begun_s = time.monotonic()
    systemd.hears_that_it_lives(10)
    assert 1.5 < time.monotonic() - begun_s < 6  # twice in 0.4 s
    server.signal(signal.SIGUSR1)
    assert all(told == {"WATCHDOG": "1"} for told in systemd.hears_until_silent(1.0))
    (tmp_path / "blocks").unlink()
    systemd.hears_that_it_lives(2)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
    ],
    ids=["not asked", "another process", "never", "nonsense"],
)
def test_watchdog_hears_nothing_where_it_did_not_ask(
    start: Start, systemd: Systemd, address: str, variables: dict[str, str]
) -> None:
    start(env={"NOTIFY_SOCKET": address, **variables})
    told = systemd.hears()
    assert (told["READY"], "WATCHDOG_USEC" in told) == ("1", False)
    assert systemd.hears_until_silent(0.5) == []


def test_watchdog_hears_of_the_process_that_it_has_named(
    start: Start, systemd: Systemd, address: str
) -> None:
    program = (
        "import os; os.environ['WATCHDOG_PID'] = str(os.getpid())\n"
        "from vmw_cloudinit_metadata.cli import main; main()"
    )
    start(
        command=Program([sys.executable, "-c", program, "run"]),
        env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"},
    )
    assert systemd.hears()["READY"] == "1"
    systemd.hears_that_it_lives(3)


def test_systemd_that_does_not_read_holds_up_nobody_and_misses_nothing(
    start: Start, systemd: Systemd, address: str
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                other.sendto(b"X=1", address.replace("@", "\0", 1))
    server = start(env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "100000"})
    boots_s = []
    for _ in range(3):
        server.signal(signal.SIGHUP)
        begun_s = time.monotonic()
        assert Vm(server.port).metadata()
        boots_s.append(time.monotonic() - begun_s)
    assert min(boots_s) < 0.9  # a message that is waited for takes 1 s
    heard = systemd.hears_until_silent(0.05)  # of the watchdog comes one each 0.05 s
    while {"WATCHDOG": "1"} not in heard:
        heard.append(systemd.hears())
    told = [next(iter(one)) for one in heard if one != {"X": "1"}]
    assert told[:3] == ["READY", "RELOADING", "READY"]
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


# Whose next program, behind the check, needs longer to start than the watchdog allows.
SLOW_TO_START = """\
import os, time
if os.environ.get("VMW_CLOUDINIT_METADATA_UPGRADE", "").startswith("state:"):
    time.sleep({start_s})
from vmw_cloudinit_metadata.cli import main
main()
"""
# Whose check ends it: the file, which is to be executed, is gone then.
GONE_WHEN_CHECKED = """\
import os
from vmw_cloudinit_metadata.cli import main
if os.environ.get("VMW_CLOUDINIT_METADATA_UPGRADE", "").startswith("check:"):
    os.unlink(__file__)
main()
"""
WATCHDOG_S = 2.0  # a sign of life comes twice as often, on a busy machine later
WATCHDOG_USEC = f"{WATCHDOG_S * 1e6:.0f}"


def upgraded_within_the_watchdog(systemd: Systemd) -> list[dict[str, str]]:
    """The messages from the begin of an upgrade to its end, none of which came too late."""
    limit_s, heard_s, messages = WATCHDOG_S, time.monotonic(), list[dict[str, str]]()
    while not messages or "READY" not in messages[-1]:
        told, now_s = systemd.hears(), time.monotonic()
        assert now_s - heard_s < limit_s, messages
        if "WATCHDOG" in told or "WATCHDOG_USEC" in told:
            heard_s, limit_s = now_s, int(told.get("WATCHDOG_USEC", limit_s * 1e6)) / 1e6
        if messages or "RELOADING" in told:
            messages.append(told)
    return messages


@WORKERS
def test_watchdog_waits_for_the_next_program_of_an_upgrade(
    start: Start, systemd: Systemd, address: str, workers: str
) -> None:
    server = start(
        *("--workers", workers),
        command=[sys.executable, "-c", SLOW_TO_START.format(start_s=2 * WATCHDOG_S), "run"],
        env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": WATCHDOG_USEC},
    )
    assert systemd.hears()["WATCHDOG_USEC"] == WATCHDOG_USEC
    server.signal(signal.SIGUSR2)
    begun, *_, ended = upgraded_within_the_watchdog(systemd)
    assert (begun["RELOADING"], begun["WATCHDOG_USEC"]) == ("1", "300000000")
    assert ended["STATUS"].startswith("listening on")
    assert ended["WATCHDOG_USEC"] == WATCHDOG_USEC
    systemd.hears_that_it_lives(2)


def test_watchdog_is_as_before_when_an_upgrade_fails(
    start: Start, systemd: Systemd, address: str, tmp_path: Path
) -> None:
    program = tmp_path / "server"
    program.write_text(f"#!{sys.executable}\n{GONE_WHEN_CHECKED}")
    program.chmod(0o700)
    server = start(
        command=[str(program), "run"],
        env={
            "NOTIFY_SOCKET": address,
            "WATCHDOG_USEC": WATCHDOG_USEC,
            "PYTHONPATH": str(CHECKOUT),
        },
    )
    assert systemd.hears()["READY"] == "1"
    server.signal(signal.SIGUSR2)
    begun, *_, ended = upgraded_within_the_watchdog(systemd)
    assert begun["WATCHDOG_USEC"] == "300000000"
    assert ended == {"READY": "1", "WATCHDOG_USEC": WATCHDOG_USEC}
    server.wait_for("cannot execute")


@pytest.mark.slow
def test_workers_do_not_speak_for_the_parent(start: Start, systemd: Systemd, address: str) -> None:
    server = start("--workers", "2", env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000000"})
    assert systemd.hears()["READY"] == "1"
    for pid in children(server.pid):
        os.kill(pid, signal.SIGHUP)
    server.wait_for("reload: there is no certificate to read again")
    assert systemd.hears_until_silent(0.5) == []
