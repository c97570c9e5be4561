"""The guest agent and a port that appears after it has started."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.guest import QUICK, Guest, Serial
from tests.process import LIMIT_S
from tests.uart import DOCUMENTS, server_of, silent

LONG = ("--port-timeout", str(LIMIT_S))


@pytest.fixture
def agents() -> Iterator[list[subprocess.Popen[str]]]:
    """Agents that run; they are ended after the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def line_with(process: subprocess.Popen[str], words: str) -> str:
    """The next line of the agent's journal that has these words."""
    assert process.stderr
    return next(line for line in process.stderr if words in line)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (("--device", "/dev/ttyS1"), "/dev/ttyS1: No such file or directory: waiting for it, 60 s"),
        ((), "this machine has no serial port: add one to the VM: waiting for it, 60 s at most"),
    ],
    ids=["named", "found"],
)
def test_port_that_appears_late_is_waited_for(
    guest: Guest,
    serial: Serial,
    agents: list[subprocess.Popen[str]],
    device: tuple[str, ...],
    expected: str,
) -> None:
    agents.append(process := guest.start(*LONG, *device))
    assert expected in line_with(process, "waiting")
    serial(server_of(DOCUMENTS))
    assert process.wait(LIMIT_S) == 0
    assert guest.metadata["instance-id"] == "i-1"
    assert expected in guest.console


def test_link_that_appears_before_its_device_is_waited_for(
    guest: Guest, serial: Serial, agents: list[subprocess.Popen[str]]
) -> None:
    (guest.root / "dev/metadata").symlink_to(guest.root / "dev/ttyS1")
    agents.append(process := guest.start(*LONG, "--device", "/dev/metadata"))
    line_with(process, "waiting")
    serial(server_of(DOCUMENTS))
    assert process.wait(LIMIT_S) == 0
    assert guest.metadata["instance-id"] == "i-1"


def test_port_that_does_not_appear_costs_its_time_only(guest: Guest) -> None:
    began_s = time.monotonic()
    output = guest.fetch("--port-timeout", "0.4", "--device", "/dev/ttyS1")
    assert time.monotonic() - began_s > 0.4
    first, second = output.splitlines()
    assert first == "/dev/ttyS1: No such file or directory: waiting for it, 0.4 s at most"
    assert second == "/dev/ttyS1: No such file or directory: cloud-init continues without data"


@pytest.mark.parametrize("options", [(), ("--device", "/dev/ttyS0")], ids=["any", "named"])
def test_port_without_a_uart_is_not_waited_for(guest: Guest, options: tuple[str, ...]) -> None:
    """Kernels with a built-in driver have ttyS0 to ttyS3 on each machine."""
    guest.add_port("ttyS0", kind=0)
    began_s = time.monotonic()
    assert "waiting" not in guest.fetch(*LONG, *options)
    assert time.monotonic() - began_s < LIMIT_S / 2


def test_wait_for_a_port_ends_with_every_other_wait(guest: Guest) -> None:
    began_s = time.monotonic()
    guest.fetch(*LONG, "--timeout", "0.2", "--device", "/dev/ttyS1")
    assert time.monotonic() - began_s < LIMIT_S / 2


def test_port_that_appears_beside_a_silent_one_is_asked_too(
    guest: Guest, serial: Serial, agents: list[subprocess.Popen[str]]
) -> None:
    serial(silent, "ttyS0")
    agents.append(process := guest.start(*QUICK))
    line_with(process, "on /dev/ttyS0: retrying")
    serial(server_of(DOCUMENTS), "ttyS1")
    line_with(process, "/dev/ttyS1 has appeared")
    assert process.wait(LIMIT_S) == 0
    assert guest.metadata["instance-id"] == "i-1"


def test_port_that_is_unplugged_may_stay_away_for_longer(
    guest: Guest, serial: Serial, agents: list[subprocess.Popen[str]]
) -> None:
    uart = serial(silent)
    device = ("--device", "/dev/ttyS1")
    agents.append(process := guest.start(*QUICK, "--port-timeout", "0", *device))
    line_with(process, "retrying")
    (guest.root / "dev/ttyS1").unlink()
    uart.close()
    line_with(process, "/dev/ttyS1: No such file or directory: retrying")
    serial(server_of(DOCUMENTS))
    assert process.wait(LIMIT_S) == 0
    assert guest.metadata["instance-id"] == "i-1"
