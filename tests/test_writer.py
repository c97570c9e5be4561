"""The thread that writes: bounded, in order, in whole lines; it blocks no other thread."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.process import CHECKOUT, LIMIT_S, Constants
from vmw_cloudinit_metadata.monitoring.writer import Writer, end_of_piece, rest_all
from vmw_cloudinit_metadata.settings.errors import ConfigError

PIPE_BYTES = 4096  # the smallest that there is
F_SETPIPE_SZ = 1031

Pipe = tuple[int, int]


def told(count: int) -> bytes:
    return b"dropped %d\n" % count


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A small one: its end to read from, and that to write to."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES)
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


@pytest.fixture(autouse=True)
def retired(pipe: Pipe) -> Iterator[None]:
    """No thread of a test outlives it: its descriptor will be another file's."""
    yield
    with suppress(OSError):
        os.close(pipe[0])  # one that hangs ends
    threads = [thread for thread in threading.enumerate() if thread.name == "writer"]
    rest_all()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()


@pytest.fixture
def small(constants: Constants) -> None:
    constants(monitoring__writer__MAX_BYTES=20_000)


def read_until(descriptor: int, end: bytes) -> bytes:
    read = b""
    while not read.endswith(end):
        assert select.select([descriptor], [], [], LIMIT_S)[0], read[-100:]
        read += os.read(descriptor, 65536)
    return read


def line(number: int, size: int = 100) -> bytes:
    return b"%d ".ljust(size - 1, b".") % number + b"\n"


@given(st.lists(st.binary(max_size=9000).map(lambda text: text.replace(b"\n", b"") + b"\n")))
def test_pieces_are_whole_lines_and_no_longer_than_a_pipe_keeps_together(
    lines: list[bytes],
) -> None:
    whole = b"".join(lines)
    start, pieces = 0, []
    while start < len(whole):
        end = end_of_piece(whole, start)
        pieces.append(whole[start:end])
        start = end
    assert b"".join(pieces) == whole
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert all(len(piece) <= select.PIPE_BUF or piece.count(b"\n") == 1 for piece in pieces)


@pytest.mark.usefixtures("small")
def test_lines_that_nobody_reads_cost_nobody_time_and_are_bounded_in_bytes(pipe: Pipe) -> None:
    lines = Writer(pipe[1], told)
    begun_s = time.monotonic()
    for number in range(1000):
        lines.put(line(number))
    assert time.monotonic() - begun_s < 5
    kept = 1000 - lines.dropped
    assert 195 <= kept <= 200 + 2 * PIPE_BYTES // 100
    last = b"dropped %d\n" % lines.dropped
    assert read_until(pipe[0], last) == b"".join(map(line, range(kept))) + last
    lines.flush()
    lines.put(line(1000))
    assert read_until(pipe[0], b"\n") == line(1000)


@pytest.mark.usefixtures("small")
def test_each_drop_is_reported_once_and_where_it_was(pipe: Pipe) -> None:
    lines = Writer(pipe[1], told)
    read = b""
    for _ in range(3):
        before = lines.dropped
        for number in range(500):
            lines.put(line(number))
        read += read_until(pipe[0], b"dropped %d\n" % (lines.dropped - before))
        lines.flush()
    notes = [int(text.split()[1]) for text in read.splitlines() if text.startswith(b"dropped")]
    assert len(notes) == 3
    assert sum(notes) == lines.dropped
    assert read.count(b"\n") == 1500 - lines.dropped + 3


def test_flush_waits_for_what_is_read_and_not_for_what_is_not(pipe: Pipe) -> None:
    lines = Writer(pipe[1], told)
    lines.put(line(1))
    lines.flush()
    assert os.read(pipe[0], 4096) == line(1)
    lines.put(b"".join(map(line, range(100))))
    begun_s = time.monotonic()
    lines.flush(0.2)
    assert 0.15 < time.monotonic() - begun_s < 10


def test_reader_that_is_gone_is_no_error_and_counted(pipe: Pipe) -> None:
    os.close(pipe[0])
    lines = Writer(pipe[1], told)
    for number in range(5):
        lines.put(line(number))
        lines.flush()
    assert lines.dropped == 5


def test_closed_descriptor_is_no_error() -> None:
    lines = Writer(-1, told)
    lines.put(line(1))
    lines.flush()
    assert lines.dropped == 1


def test_descriptor_that_somebody_has_made_nonblocking_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe[1], False)
    lines = Writer(pipe[1], told)
    whole = b"".join(map(line, range(1000)))
    lines.put(whole)
    assert read_until(pipe[0], line(999)) == whole
    assert lines.dropped == 0


def test_file_that_is_full_loses_lines_that_are_reported_when_there_is_room(tmp_path: Path) -> None:
    file = tmp_path / "log"
    program = (
        "import os, resource, sys\n"
        "from vmw_cloudinit_metadata.monitoring.writer import Writer\n"
        "lines = Writer(os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY), lambda n: b'%d\\n' % n)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150, resource.RLIM_INFINITY))\n"
        "for number in range(3):\n"
        "    lines.put(b'.' * 99 + b'\\n'); lines.flush()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))\n"
        "lines.put(b'again\\n'); lines.flush()\n"
        "print(lines.dropped)\n"
    )
    command = [sys.executable, "-c", program, str(file)]
    ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("2\n", "")
    assert file.read_text().splitlines() == ["." * 99, "." * 50, "again", "2"]


def test_lines_of_two_processes_are_never_mixed(pipe: Pipe) -> None:
    program = (
        "import sys\n"
        "from vmw_cloudinit_metadata.monitoring.writer import Writer\n"
        "lines = Writer(1, lambda n: b'')\n"
        "for number in range(100):\n"
        "    lines.put(sys.argv[1].encode() * 99 + b'\\n' + sys.argv[1].encode() * 3999 + b'\\n')\n"
        "lines.flush(10)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, name], cwd=CHECKOUT, stdout=pipe[1])
        for name in "ab"
    ]
    os.close(pipe[1])
    with os.fdopen(os.dup(pipe[0]), "rb") as file:
        read = file.read().splitlines()
    assert [process.wait(LIMIT_S) for process in processes] == [0, 0]
    assert len(read) == 400
    assert {(len(text), len(set(text))) for text in read} == {(99, 1), (3999, 1)}


def in_child(work: Callable[[], None]) -> int:
    """Forks; returns the exit code of the child, which does `work`."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def test_process_forks_without_the_thread_and_both_write_on(pipe: Pipe) -> None:
    lines = Writer(pipe[1], told)
    lines.put(line(1))

    def work() -> None:
        assert [thread.name for thread in threading.enumerate()].count("writer") == 0
        lines.put(line(2))
        lines.flush()

    assert in_child(work) == 0
    lines.put(line(3))
    assert read_until(pipe[0], line(3)) == line(1) + line(2) + line(3)


def test_process_forks_although_nobody_reads(pipe: Pipe, tmp_path: Path) -> None:
    lines = Writer(pipe[1], told)
    for number in range(1000):
        lines.put(line(number))

    def work() -> None:
        assert lines.dropped == 0
        other = Writer(os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY), told)
        other.put(line(1))
        other.flush()
        lines.put(line(1000))
        lines.flush(0.1)

    begun_s = time.monotonic()
    assert in_child(work) == 0
    assert time.monotonic() - begun_s < 10
    assert (tmp_path / "log").read_bytes() == line(1)


@pytest.mark.usefixtures("small")
def test_lines_of_more_than_may_wait_are_reported_though_nothing_follows(pipe: Pipe) -> None:
    lines = Writer(pipe[1], told)
    lines.put(b"".join(map(line, range(300))))
    assert read_until(pipe[0], b"\n") == b"dropped 300\n"
    lines.put(line(1))
    assert read_until(pipe[0], b"\n") == line(1)


def test_thread_that_hung_before_a_fork_goes_on_behind_it(pipe: Pipe) -> None:
    lines = Writer(pipe[1], told)
    whole = b"".join(map(line, range(100)))
    lines.put(whole)
    assert in_child(lambda: None) == 0
    lines.put(line(100))
    assert read_until(pipe[0], line(100)) == whole + line(100)
    assert in_child(lambda: None) == 0
    lines.put(line(101))
    assert read_until(pipe[0], line(101)) == line(101)


def test_line_that_the_garbage_collector_makes_while_another_is_put_hangs_nobody(
    pipe: Pipe, constants: Constants
) -> None:
    lines = Writer(pipe[1], told)

    class Counted(bytes):
        """Its lines are counted when there is no room for it."""

        def count(self, *_: object) -> int:
            lines.put(line(2))
            return 1

    constants(monitoring__writer__MAX_BYTES=10)
    lines.put(Counted(line(1)))
    assert read_until(pipe[0], b"\n").startswith(b"dropped")


def test_file_is_opened_again_in_the_thread(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"

    def opener() -> int:
        assert threading.current_thread().name == "writer"
        return os.open(second, os.O_CREAT | os.O_WRONLY)

    lines = Writer(os.open(first, os.O_CREAT | os.O_WRONLY), told)
    lines.put(line(1))
    lines.flush()
    lines.reopen(opener)
    lines.flush()
    lines.put(line(2))
    lines.flush()
    assert (first.read_bytes(), second.read_bytes()) == (line(1), line(2))


def test_file_that_cannot_be_opened_again_leaves_the_old_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def opener() -> int:
        raise ConfigError("--audit-log: it is away")

    lines = Writer(os.open(tmp_path / "file", os.O_CREAT | os.O_WRONLY), told)
    lines.reopen(opener)
    lines.flush()
    lines.put(line(1))
    lines.flush()
    assert (tmp_path / "file").read_bytes() == line(1)
    assert caplog.messages == ["--audit-log: it is away; the open file stays in use"]


def test_lines_wait_for_a_thread_that_the_system_does_not_give() -> None:
    """The next line tries again."""
    program = (
        "import os, sys, threading\n"
        "from vmw_cloudinit_metadata.monitoring.writer import Writer\n"
        "begin = threading._start_new_thread\n"
        "def fail(*_): raise RuntimeError('no thread')\n"
        "threading._start_new_thread = fail\n"
        "lines = Writer(1, lambda n: b'')\n"
        "lines.put(b'1\\n')\n"
        "threading._start_new_thread = begin\n"
        "lines.put(b'2\\n')\n"
        "lines.flush()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert (ended.stdout, ended.stderr) == ("1\n2\n", "")
