"""Whoever reads the log of a real server, or does not."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.process import CHECKOUT, COMMAND, LIMIT_S, Program, ServerProcess, begin, with_constants
from tests.storm import free_port
from tests.test_admin import Admin
from tests.vm import SEQUENCE, Vm, suboption
from tests.waiting import wait_until

Start = Callable[..., ServerProcess]

F_SETPIPE_SZ = 1031
MAX_BYTES = 20_000
DRAIN_S = 1.0
END_S = DRAIN_S + 3 * 1.0 + 2.0  # workers and their parent try to write the rest; a busy machine

WORKERS = pytest.mark.parametrize(
    "workers", [1, pytest.param(4, marks=pytest.mark.slow)], ids=["alone", "workers"]
)


class Unread:
    """A server whose standard error is `descriptor`; it is read from `reader` only where a test
    says so."""

    def __init__(self, directory: Path, descriptor: int, reader: int, *options: str) -> None:
        self._reader = reader
        command = [
            *with_constants(monitoring__writer__MAX_BYTES=MAX_BYTES),
            *("--uri", "my-metadata", "--listen", "127.0.0.1:0"),
            *("--admin-listen", "127.0.0.1:0", "--drain", str(DRAIN_S)),
            *("--driver-opts", json.dumps({"directory": str(directory)}), *options),
        ]
        self._process = begin(Program(command), 1, descriptor, CHECKOUT, {})
        self.log = ""
        self.port = int(self.wait_for(r"listening on \S*:(\d+)")[1])
        self.admin_port = int(self.wait_for(r"admin on \S*:(\d+)")[1])

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Reads until a whole line has it."""
        end_s = time.monotonic() + LIMIT_S
        while not (found := re.search(pattern + r".*\n", self.log)):
            assert select.select([self._reader], [], [], max(end_s - time.monotonic(), 0))[0]
            self.log += os.read(self._reader, 4096).decode().replace("\r\n", "\n")
        return found

    def serves(self, count: int) -> None:
        """VMs boot, each of which is some lines."""
        for number in range(count):
            machine = Vm(self.port, f"nobody-{number}", vc_uuid=None)
            assert machine.error("METADATA", 5) == "not-found"
            machine.close()

    def get(self, path: str) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def dropped(self) -> int:
        name = 'vmw_metadata_dropped_total{what="log lines"}'
        found = re.search(rf"^{re.escape(name)} ([\d.]+)$", self.get("/metrics")[1], re.MULTILINE)
        assert found
        return int(float(found[1]))

    def ends(self) -> float:
        """Ends it by TERM; returns how long that took."""
        begun_s = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(LIMIT_S) == 0
        return time.monotonic() - begun_s

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


StartUnread = Callable[..., Unread]


@pytest.fixture
def start_unread(own_instances: Path) -> Iterator[StartUnread]:
    servers: list[Unread] = []
    descriptors: list[int] = []

    def start(*options: str, ends: tuple[int, int] | None = None) -> Unread:
        reader, descriptor = ends or os.pipe()
        if not ends:
            fcntl.fcntl(descriptor, F_SETPIPE_SZ, 4096)
        descriptors.append(reader)
        try:
            server = Unread(own_instances, descriptor, reader, *options)
        finally:
            os.close(descriptor)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.kill()
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


@WORKERS
def test_vms_are_served_and_term_is_obeyed_though_nobody_reads_the_log(
    start_unread: StartUnread, workers: int
) -> None:
    server = start_unread("--workers", str(workers))
    server.serves(200 * workers)
    wait_until(lambda: server.dropped() > 0)
    assert server.get("/readyz")[0] == 200
    assert server.ends() < END_S


@WORKERS
def test_reader_that_goes_on_reads_what_was_kept_and_how_much_was_not(
    start_unread: StartUnread, workers: int
) -> None:
    server = start_unread("--workers", str(workers))
    server.serves(200 * workers)
    wait_until(lambda: server.dropped() > 0)
    server.wait_for(r"WARNING (\[\d+\] )?(\d+) lines of the log were dropped here")
    wait_until(lambda: len(server.log) > 0)
    kept = re.findall(r"'nobody-(\d+)'.*: identified", server.log)
    assert kept[0] == "0"
    if workers == 1:
        assert list(map(int, kept)) == list(range(len(kept)))
        server.wait_for(rf"\b{server.dropped()} lines of the log were dropped here")
    wait_until(lambda: server.get("/readyz")[0] == 200)
    server.serves(1)
    whole = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ .+")
    assert all(whole.fullmatch(text) for text in server.log.splitlines())


def test_terminal_that_nobody_reads_stops_nobody(start_unread: StartUnread) -> None:
    server = start_unread(ends=os.openpty())
    server.serves(300)
    wait_until(lambda: server.dropped() > 0)
    assert server.get("/readyz")[0] == 200
    assert server.ends() < END_S


def test_reader_that_is_stopped_and_goes_on_loses_nothing_that_fits(own_instances: Path) -> None:
    """supervisord, a container's log driver, `| less`: a process that reads, and then does not."""
    options = ("--uri", "my-metadata", "--listen", "127.0.0.1:0", "--admin-listen", "off")
    opts = json.dumps({"directory": str(own_instances)})
    log = own_instances.with_name("log")
    with log.open("wb") as file:
        reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
    assert reader.stdin
    command = Program([*COMMAND, "run", *options, "--driver-opts", opts])
    server = begin(command, 1, reader.stdin.fileno(), CHECKOUT, {})
    reader.stdin.close()
    try:
        wait_until(lambda: "listening on" in log.read_text())
        found = re.search(r"listening on \S*:(\d+)", log.read_text())
        assert found
        reader.send_signal(signal.SIGSTOP)
        for number in range(500):  # more than a pipe holds
            machine = Vm(int(found[1]), f"nobody-{number}", vc_uuid=None)
            machine.error("METADATA", 5)
            machine.close()
        reader.send_signal(signal.SIGCONT)
        server.send_signal(signal.SIGTERM)
        assert server.wait(LIMIT_S) == 0
        assert reader.wait(LIMIT_S) == 0
    finally:
        server.kill()
        server.wait()
        reader.kill()
        reader.wait()
    identified = re.findall(r"'nobody-(\d+)': identified", log.read_text())
    assert list(map(int, identified)) == list(range(500))
    assert "stopped; " in log.read_text().splitlines()[-1]


def test_closed_standard_error_is_no_error_and_no_other_file_gets_the_log(
    own_instances: Path, tmp_path: Path
) -> None:
    """Whatever is opened next has its number."""
    command = [*COMMAND, "run", "--uri", "my-metadata", "--admin-listen", "127.0.0.1:0"]
    command += ["--driver-opts", json.dumps({"directory": str(own_instances)})]
    command += ["--listen", f"127.0.0.1:{(port := free_port())}"]
    command += ["--audit-log", str(tmp_path / "audit")]
    server = subprocess.Popen(["sh", "-c", 'exec "$@" 2>&-', "sh", *command], cwd=CHECKOUT)
    try:
        wait_until(lambda: accepts(port))
        machine = Vm(port)
        assert machine.metadata()
        machine.close()
        server.terminate()
        assert server.wait(LIMIT_S) == 0
    finally:
        server.kill()
        server.wait()
    (line,) = (tmp_path / "audit").read_text().splitlines()
    assert json.loads(line)["kind"] == "served"


def accepts(port: int) -> bool:
    try:
        Vm(port, silent=True).close()
    except ConnectionRefusedError:
        return False
    return True


def test_error_at_the_start_is_whole_and_last_though_the_log_is_slow(own_instances: Path) -> None:
    program = "import time; time.sleep(0.5); import sys; sys.stdout.write(sys.stdin.read())"
    reader = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdin
    ended = subprocess.run(
        [
            *(*COMMAND, "run", "--uri", "x", "--listen", "127.0.0.1:0", "--admin-listen", "off"),
            *("--driver-opts", json.dumps({"directory": "/nowhere"})),
        ],
        stderr=reader.stdin,
        cwd=own_instances,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "VMW_METADATA_NO_SUCH": "x"},
        check=False,
    )
    reader.stdin.close()
    reader.stdin = None
    told, _ = reader.communicate(timeout=LIMIT_S)
    assert ended.returncode == 2
    assert "VMW_METADATA_NO_SUCH" in told.splitlines()[0]
    assert told.splitlines()[1].startswith("vmw-cloudinit-metadata: error: ")
    assert told.endswith("\n")


# What others print


def test_what_a_driver_prints_and_warns_of_is_an_object_too(start: Start, tmp_path: Path) -> None:
    (tmp_path / "printer.py").write_text(
        "import sys, traceback, warnings\n"
        "from vmw_cloudinit_metadata import Driver\n"
        "class Ghost:\n"
        "    def __del__(self):\n"
        "        raise ValueError('in __del__')\n"
        "class Printer(Driver):\n"
        "    def get_instance(self, machine):\n"
        "        print('printed\\nin lines', file=sys.stderr)\n"
        "        warnings.warn('warned')\n"
        "        Ghost()\n"
        "        try: 1 / 0\n"
        "        except ZeroDivisionError: traceback.print_exc()\n"
    )
    server = start(
        *("--driver", "printer:Printer", "--log-format", "json"),
        driver_opts={},
        env={"PYTHONPATH": str(tmp_path)},
    )
    Vm(server.port).error("METADATA")
    server.wait_for("not-found")
    told = [json.loads(text) for text in server.lines]
    events = [text["event"] for text in told]
    assert {"printed", "in lines", "ZeroDivisionError: division by zero"} <= set(events)
    assert any("UserWarning: warned" in event for event in events)
    assert any("in __del__" in text.get("traceback", "") for text in told)


# What one VM or host says


def test_moves_begun_and_aborted_for_ever_fill_the_log_with_64_kib(start: Start) -> None:
    server = start("--max-move-rate", "0", command=with_constants(monitoring__logs__LEFT_OUT_S=0.5))
    machine = Vm(server.port)
    machine.metadata()
    for _ in range(100):
        machine.send((suboption(40, SEQUENCE) + suboption(48)) * 30)
        machine.receive_matching(rb"(?:\xff\xfa\xe8\x29.*?\xff\xf0){30}")
    assert machine.metadata()  # it is served all the same
    server.wait_for(r"\d+ more lines of 127\.0\.0\.1 were left out")
    assert len(server.log) < 80_000
    begun = re.findall(r"'web1'.*: vMotion begins", server.log)
    assert len(begun) > 100
    told = re.compile(r"(\d+) more lines of 127")
    wait_until(lambda: sum(map(int, told.findall(server.log))) >= 5000)


def test_lines_of_a_host_that_were_left_out_are_counted_and_happen_all_the_same(
    start: Start,
) -> None:
    server = start(
        command=with_constants(
            monitoring__logs__LEFT_OUT_S=0.5,
            monitoring__quota__HOST_BURST_BYTES=5000,
            monitoring__quota__HOST_BYTES_PER_S=1,
        )
    )
    admin = Admin(server)
    for number in range(100):
        machine = Vm(server.port, f"nobody-{number}", vc_uuid=None)
        machine.error("METADATA")
        machine.close()
    server.wait_for(r"\d+ more lines of 127\.0\.0\.1 were left out")
    assert server.log.count("nobody-") < 60
    assert admin.metric("vmw_metadata_dropped_total", what="lines of busy hosts") > 100
    wait_until(lambda: len(admin.machines("?state=failed&per_page=1000")) == 100)


def test_tracebacks_of_a_driver_are_bounded_too(start: Start, tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(
        "from vmw_cloudinit_metadata import Driver\n"
        "class Failing(Driver):\n"
        "    def get_instance(self, machine): raise type('New', (Exception,), {})\n"
        "    def document_names(self): raise type('New', (Exception,), {})\n"
    )
    server = start(
        *("--driver", "failing:Failing"),
        driver_opts={},
        env={"PYTHONPATH": str(tmp_path)},
        command=with_constants(
            monitoring__logs__LEFT_OUT_S=0.5,
            monitoring__quota__HOST_BURST_BYTES=20_000,
            monitoring__quota__HOST_BYTES_PER_S=1,
        ),
    )
    machine = Vm(server.port)
    for _ in range(100):
        machine.error("METADATA")
        machine.error("OTHER")
    server.wait_for(r"\d+ more lines of 127\.0\.0\.1 were left out")
    server.wait_for(r"\d+ more lines of vmw_cloudinit_metadata\.serving\.driverlog were left out")
    assert len(server.log) < 60_000


def test_debug_lines_of_a_host_leave_room_for_its_others(start: Start) -> None:
    server = start(
        *("--log-level", "debug"),
        command=with_constants(
            monitoring__logs__LEFT_OUT_S=0.5,
            monitoring__quota__HOST_BURST_BYTES=20_000,
            monitoring__quota__HOST_BYTES_PER_S=1,
        ),
    )
    machine = Vm(server.port)
    for _ in range(300):
        machine.metadata()
    server.wait_for(r"\d+ more lines of 127\.0\.0\.1 were left out")
    Vm(server.port, "other", vc_uuid=None).error("METADATA")
    server.wait_for("'other': identified")
    assert len(server.log) < 60_000
    assert "more lines of vmw_" not in server.log  # each counts for its host
