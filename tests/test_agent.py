"""The guest agent as a real process: what it asks, what it publishes, and when it gives up."""

from __future__ import annotations

import ast
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.guest import AGENT, MEMORY, UUID, Guest
from tests.uart import (
    DOCUMENTS,
    METADATA,
    Answers,
    ScriptedServer,
    Uart,
    old_server,
    refusal,
    response,
)

OTHER_UUID = "564d0000-0000-0000-0000-000000000001"
QUICK = ("--retry", "0.3")


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path / "root")


Connected = Callable[..., Uart]


@pytest.fixture
def connected(guest: Guest) -> Iterator[Connected]:
    """Puts a server behind the guest's port: what it answers, then how the line behaves."""
    made: list[Any] = []

    def connect(answers: Answers, name: str = "ttyS1", **line: Any) -> Uart:
        server = ScriptedServer(answers)
        uart = Uart(server.near, **line)
        uart.server = server  # type: ignore[attr-defined]
        made.extend([uart, server])
        guest.add_port(name, uart)
        return uart

    yield connect
    for one in made:
        one.close()


def asked(uart: Uart) -> list[str]:
    return list(uart.server.asked)  # type: ignore[attr-defined]


def test_old_server_is_enough_and_costs_no_wait(guest: Guest, connected: Connected) -> None:
    uart = connected(old_server(DOCUMENTS))
    began_s = time.monotonic()
    guest.fetch("--retry", "5")
    assert time.monotonic() - began_s < 3
    assert guest.files == {"meta-data": METADATA, "user-data": DOCUMENTS["USERDATA"]}
    assert "VENDORDATA" not in asked(uart)
