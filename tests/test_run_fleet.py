"""`make run-fleet` shows what it says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable

import pytest

from tests.process import CHECKOUT, run
from tests.storm import free_port
from tests.vm import LIMIT_S
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


def test_three_servers_and_their_pages_are_there_until_it_is_interrupted(
    program: Callable[[str, str], str],
) -> None:
    program("haproxy", "haproxy")
    command = [sys.executable, "-m", "tests.load.runfleet", "--port", str(free_port())]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT, start_new_session=True
    ) as process:
        try:
            assert process.stdout
            told = "".join(iter(process.stdout.readline, "INT (Ctrl-C) ends all of it.\n"))
            found = re.search(r"fleet status --url (\S+)", told)
            assert found, told
            wait_until(lambda: "3 of 3 running" in run("fleet", "status", "--url", found[1]).stdout)
            (page,) = re.findall(r"the page of any server, by HAProxy: (\S+)", told)
            with urllib.request.urlopen(f"{page}readyz", timeout=LIMIT_S) as answer:
                assert answer.read().startswith(b"ready")
        finally:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does for Ctrl-C
        assert process.wait(LIMIT_S) == 0
