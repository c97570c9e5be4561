"""What is counted of the server's processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vmw_cloudinit_metadata.client.watched import Watched, measure
from vmw_cloudinit_metadata.settings.errors import ConfigError

BURN_S = 0.3
BURN = f"import time\nwhile time.process_time() < {BURN_S}: pass\n"
WAIT = "import sys; data = bytearray(b'x' * 2**25); print('here', flush=True); sys.stdin.read()"
NOBODY = 65534


def test_own_process_is_measured_as_the_kernel_counts() -> None:
    usage = measure([os.getpid()])[os.getpid()]
    assert usage.cpu_s == pytest.approx(sum(os.times()[:4]), abs=0.1)
    assert usage.pss_kb is not None
    assert 0 < usage.pss_kb <= usage.rss_kb * 1.2  # each is right but for some pages


def test_child_that_ended_is_counted() -> None:
    watched = Watched([os.getpid()])
    subprocess.run([sys.executable, "-c", BURN], check=True)
    told = watched.end(10)
    assert told
    assert told["cpu_s"] >= BURN_S - 0.05
    assert told["cpu_ms_per_boot"] == pytest.approx(told["cpu_s"] * 100)


@contextmanager
def family_of_two() -> Iterator[subprocess.Popen[str]]:
    """A process that has a child, for as long as its standard input is open."""
    program = f"import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', {WAIT!r}]); "
    command = [sys.executable, "-c", program + "c.wait()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "here\n"
        yield parent


def test_child_that_lives_is_counted() -> None:
    with family_of_two() as parent:
        told = Watched([parent.pid]).end(0)
        assert told
        assert (told["processes"], told["memory"], told["cpu_ms_per_boot"]) == (2, "PSS", None)
        assert told["memory_kb_before"] > 2**15
        both = Watched([parent.pid, parent.pid]).end(0)
        assert both
        assert both["processes"] == 2


def test_process_that_has_ended_is_reported() -> None:
    with family_of_two() as other:
        with family_of_two() as parent:
            watched = Watched([other.pid, parent.pid])
            parent.kill()
            os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)  # it is there, dead
            dead = watched.end(10)
        told = watched.end(10)
    assert told
    assert dead
    assert told["ended"] == dead["ended"] == [parent.pid]
    assert (told["processes"], told["cpu_s"], told["cpu_ms_per_boot"]) == (2, None, None)
    assert told["memory_kb_before"] > 2**15
    assert told["memory_kb_after"] is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_memory_of_another_user_is_rss() -> None:
    with family_of_two() as parent:
        os.seteuid(NOBODY)
        try:
            told = Watched([parent.pid]).end(0)
        finally:
            os.seteuid(0)
    assert told
    assert (told["processes"], told["memory"]) == (2, "RSS")
    assert told["memory_kb_after"] > 2**15


def test_process_that_is_not_there_is_an_error_of_the_operator() -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    with pytest.raises(ConfigError, match=f"--server-pid: process {gone.pid} does not exist"):
        Watched([os.getpid(), gone.pid])


def test_no_process_is_nothing_to_tell() -> None:
    assert Watched([]).end(10) is None
