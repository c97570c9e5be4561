"""The side of a kept program that is the other process, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, signal
from vmw_cloudinit_metadata.process import keptchild

async def work(line):
    os.kill(os.getpid(), signal.SIGTERM)  # the server's: nothing happens
    if line != b"well\\n":
        raise ValueError(line)
    print(line)

keptchild.run(work, 1 << 40)
"""


def run(first_line: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-u", "-c", PROGRAM]
    return subprocess.run(command, input=first_line, capture_output=True, text=True, timeout=60)


def test_child_that_fails_tells_the_place_and_not_the_text_of_its_error() -> None:
    done = run("pass: s3cret\n")
    assert (done.returncode, done.stderr) == (1, "internal error: ValueError in work\n")


def test_child_that_has_done_its_work_exits_with_0() -> None:
    done = run("well\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'well\\n'\n", "")


def test_child_of_a_server_that_is_gone_exits() -> None:
    assert run("half a line").returncode == 0
