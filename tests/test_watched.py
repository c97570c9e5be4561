"""What is counted of the server's processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.client.watched import (
    MAX_PROCESSES,
    Watched,
    family,
    parse_stat,
    pss_kb,
    read_stats,
)
from vmw_cloudinit_metadata.settings.errors import ConfigError

PIDS = st.integers(1, 12)
BURN_S = 0.3
BURN = f"import time\nwhile time.process_time() < {BURN_S}: pass\n"
WAIT = "import sys; data = bytearray(b'x' * 2**25); print('here', flush=True); sys.stdin.read()"
NOBODY = 65534


def descends(pid: int, pids: list[int], parents: dict[int, int]) -> bool:
    above = {pid}
    while pid not in pids and parents.get(pid) not in above | {None}:
        pid = parents[pid]
        above.add(pid)
    return pid in pids


@given(st.lists(PIDS, min_size=1, max_size=3), st.dictionaries(PIDS, PIDS))
def test_family_is_all_that_descend_each_once(pids: list[int], parents: dict[int, int]) -> None:
    found = family(pids, parents)
    assert len(found) == len(set(found))
    assert set(found) == set(pids) | {pid for pid in parents if descends(pid, pids, parents)}


def test_family_is_bounded_and_keeps_the_nearest() -> None:
    chain = {pid: pid - 1 for pid in range(2, 5000)}
    assert family([1], chain) == list(range(1, MAX_PROCESSES + 1))


@given(st.binary(max_size=15))
def test_stat_is_read_whatever_the_name(name: bytes) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    numbers = [b"7", *[b"0"] * 9, *(b"%d" % (n * ticks) for n in (1, 2, 3, 4)), *[b"0"] * 6, b"5"]
    stat = parse_stat(b"12 (%s) S %s 0 0\n" % (name, b" ".join(numbers)))
    assert (stat.parent, stat.cpu_s) == (7, 10.0)
    assert stat.rss_kb == 5 * os.sysconf("SC_PAGE_SIZE") // 1024


def test_own_process_is_among_all() -> None:
    stat = read_stats()[os.getpid()]
    assert stat.parent == os.getppid()
    assert stat.cpu_s == pytest.approx(sum(os.times()[:4]), abs=0.1)
    shared = pss_kb(os.getpid())
    assert shared is not None
    assert 0 < shared <= stat.rss_kb * 1.2  # each is right but for some pages


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


def test_of_one_that_has_ended_that_is_told() -> None:
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
    with pytest.raises(ConfigError, match=f"--server-pid {gone.pid}: there is no such process"):
        Watched([os.getpid(), gone.pid])


def test_no_process_is_nothing_to_tell() -> None:
    assert Watched([]).end(10) is None
