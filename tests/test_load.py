"""Short runs of the load programs; CI and `make` run longer ones."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.process import CHECKOUT

LIMIT_S = 60.0
RUN_S = 300.0  # of a run that takes 10 to 20 s on a quiet machine

pytestmark = pytest.mark.slow
SHORT_RUNS = (
    ("fuzz", "--messages", "20000"),
    ("fuzz", "--messages", "20000", "--workers", "2"),
    ("soak", "--minutes", "0.05"),
    ("changes", "--files", "500", "--seconds", "5"),
    ("stores", "--backends", "sqlite", "--vms", "100", "--seconds", "2"),
    ("stores", "--backends", "postgresql", "--vms", "100", "--seconds", "2"),
    ("stores", "--backends", "http", "--vms", "100", "--seconds", "2"),
    ("moves", "--seconds", "2", "--boots", "200", "--moves", "50"),
)


def command(name: str, *options: str) -> list[str]:
    return [sys.executable, "-m", f"tests.load.{name}", *options]


@pytest.mark.parametrize("run", SHORT_RUNS, ids=lambda run: run[0])
def test_server_under_load_does_all_that_it_promises(
    run: tuple[str, ...], program: Callable[[str, str], str]
) -> None:
    program("openssl", "openssl")
    ended = subprocess.run(
        command(*run), capture_output=True, text=True, timeout=RUN_S, cwd=CHECKOUT
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_load_program_interrupted_ends_by_itself() -> None:
    running = subprocess.Popen(
        command("moves", "--seconds", "1000"), stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    )
    assert running.stdout
    assert running.stdout.readline().startswith("moves: server")
    running.send_signal(signal.SIGINT)
    output, _ = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 130
    assert "moves: interrupted" in output
