"""Upgrade in place: a running server is replaced by the program on disk, and no line notices."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import make_pair
from tests.peer import SocketVm, connected
from tests.process import CHECKOUT, COMMAND, PACKAGE, ServerProcess, counters
from tests.test_tls import TlsVm
from tests.test_workers import children
from tests.vm import ALWAYS_KNOWN, BINARY, LIMIT_S, SEQUENCE, VC_UUID, Closed, Vm, suboption
from tests.waiting import wait_until

Start = Callable[..., ServerProcess]

RUN = [*COMMAND, "run"]
QUIET_S = 0.3  # after which all is said
IDENTITY = BINARY + b"\xff\xfb\xe8" + suboption(0, ALWAYS_KNOWN + bytes([80, 81, 82, 83]))
NAMED = suboption(80, VC_UUID.encode()) + suboption(82, b"web1")
PROXY = suboption(70, b"Cmy-metadata")
ASK = b"!!REQUEST_METADATA#\n"

pytestmark = pytest.mark.slow


@pytest.fixture
def start_plain(start: Start) -> Start:
    """Starts servers by their own command line: what a fork has been given is no command."""
    return lambda *options, **settings: start(*options, **{"command": RUN, **settings})


def upgrade(
    server: ServerProcess, *, code: int = 0, **settings: Any
) -> subprocess.CompletedProcess[str]:
    """Runs `upgrade` to its end."""
    found = subprocess.run(
        [*COMMAND, "upgrade", "--pid", str(server.pid)],
        **{"cwd": CHECKOUT, "capture_output": True, "text": True, "check": False, **settings},
    )
    assert found.returncode == code, (found.stdout, found.stderr, server.log)
    return found


def status(server: ServerProcess, path: str = "/api/status") -> Any:
    url = server.wait_for(r"admin on (http://\S+)")[1]
    with urllib.request.urlopen(url + path, timeout=LIMIT_S) as response:
        return json.loads(response.read())


# A line in any state

CASES: dict[str, tuple[bytes, bytes]] = {  # what comes before and after the upgrade
    "nothing": (b"", IDENTITY + NAMED + PROXY + ASK),
    "half a command": (b"\xff", (IDENTITY + NAMED + PROXY + ASK)[1:]),
    "half a negotiation": (BINARY + b"\xff\xfb", b"\xe8" + IDENTITY + NAMED + PROXY + ASK),
    "half a subnegotiation": (IDENTITY + NAMED[:9], NAMED[9:] + PROXY + ASK),
    "IAC in a subnegotiation": (IDENTITY + NAMED + PROXY[:-1], PROXY[-1:] + ASK),
    "requests that wait": (IDENTITY + NAMED + ASK + ASK, PROXY),
    "identified": (IDENTITY + NAMED + PROXY, ASK + b"!!REQUEST_USERDATA#\n"),
    "half a request": (IDENTITY + NAMED + PROXY + ASK + ASK[:7], ASK[7:] + ASK),
    "a line without end": (IDENTITY + NAMED + PROXY + b"x" * 5000, b"x\n" + ASK),
    "CR NUL": (IDENTITY[6:] + NAMED + PROXY + ASK[:-1] + b"\r", b"\0" + ASK),
    "another service URI": (IDENTITY + NAMED + suboption(70, b"Cother"), ASK),
    "few stray bytes": (b"abc", IDENTITY + NAMED + PROXY + ASK),
    "a line of text": (b"abc", b"def\r\n"),
}


# The server repeats its questions after a time, which is not the same for two servers.
QUESTIONS = re.compile(rb"\xff\xfa\xe8[\x51\x53\x55\x57]\xff\xf0")


def heard_by(peer: Vm) -> bytes:
    """All that the peer has received so far, but for questions."""
    try:
        peer.raw += peer.hears(0.01)
    except ConnectionError:
        peer.raw += b"(reset)"
    return QUESTIONS.sub(b"", peer.raw)


def test_lines_in_any_state_get_the_same_bytes_as_without_an_upgrade(start_plain: Start) -> None:
    servers = [start_plain(), start_plain()]
    peers = {what: [Vm(server.port, silent=True) for server in servers] for what in CASES}
    for what, (before, _) in CASES.items():
        for peer in peers[what]:
            peer.send(before)
    time.sleep(1)
    upgrade(servers[0])
    for what, (_, after) in CASES.items():
        for peer in peers[what]:
            peer.send(after)
    for _ in range(3):
        time.sleep(1)  # if more comes, it comes from both
        for upgraded, other in peers.values():
            wait_until(lambda: heard_by(upgraded) == heard_by(other))  # noqa: B023
    for upgraded, other in peers.values():
        upgraded.close()
        other.close()
    assert "cannot go on" not in servers[0].log
    assert "internal error" not in servers[0].log


# Answers

LONG = "x" * 400_000


def test_answer_half_sent_is_sent_to_its_end(start_plain: Start, own_instances: Path) -> None:
    path = own_instances / "web1.yaml"
    path.write_text(path.read_text().replace("#cloud-config", f"#cloud-config\n  # {LONG}"))
    server = start_plain()
    reader = Vm(server.port)
    expected = reader.document("USERDATA")
    slow = Vm(server.port, vc_uuid=VC_UUID[:-1] + "2", receive_buffer=4096)
    slow.send(b"!!REQUEST_USERDATA#\n" + ASK)
    slow.receive_until(b"!!RESPONSE_USERDATA#")
    upgrade(server)
    upgrade(server)
    slow.raw = b"!!RESPONSE_USERDATA#" + slow.raw
    assert slow.answer() == ("RESPONSE_USERDATA", expected)
    assert slow.answer()[0] == "RESPONSE_METADATA"
    reader.close()
    slow.close()


def test_look_up_under_way_is_asked_again(
    start_plain: Start, own_instances: Path, tmp_path: Path
) -> None:
    (tmp_path / "version").write_text("1")
    (own_instances / "web1").touch()
    opts = {"directory": str(own_instances)}
    driver = ("--driver", "tests.hanging_driver:HangingDriver", "--lookup-timeout", "60")
    server = start_plain(*driver, driver_opts=opts)
    machine = Vm(server.port)
    machine.send(ASK + b"!!REQUEST_USERDATA#\n")
    server.wait_for("identified")
    upgrade(server)
    (own_instances / "web1").unlink()
    assert json.loads(machine.answer()[1])["instance-id"] == "1"
    assert machine.answer()[0] == "RESPONSE_USERDATA"
    machine.close()


# vMotion


def test_move_goes_on_after_an_upgrade_at_each_step(start_plain: Start) -> None:
    server = start_plain()
    source = Vm(server.port)
    source.metadata()
    source.send(ASK[:9])
    secret = source.begin_move()
    source.send(ASK[9:])  # of a guest that runs on: its answer is held back
    upgrade(server)
    target = Vm.arriving(server.port, secret)
    target.is_welcome()
    upgrade(server)
    target.complete()
    assert target.answer()[0] == "RESPONSE_METADATA"
    assert target.metadata()["instance-id"] == "my-instance"
    assert source.hears(QUIET_S) == b""
    second = Vm.arriving(server.port, secret)  # it was used
    assert suboption(45, SEQUENCE) not in second.hears(QUIET_S)
    for machine in (source, target, second):
        machine.close()
    assert counters(server)["vMotions completed"] == 1


def test_move_whose_source_is_gone_completes_after_an_upgrade(start_plain: Start) -> None:
    server = start_plain()
    source = Vm(server.port)
    source.metadata()
    secret = source.begin_move()
    source.send(ASK + ASK[:9])
    source.hears(QUIET_S)
    source.close()
    server.wait_for("vMotion begins")
    time.sleep(0.2)
    upgrade(server)
    target = Vm.arriving(server.port, secret)
    target.is_welcome()
    target.complete()
    assert target.answer()[0] == "RESPONSE_METADATA"
    target.send(ASK[9:])
    assert target.answer()[0] == "RESPONSE_METADATA"
    target.close()


# TLS and balancers


@pytest.fixture
def pair(program: Callable[[str, str], str], tmp_path: Path) -> Any:
    return make_pair(program("openssl", "openssl"), tmp_path, "localhost")


def test_lines_with_tls_are_closed_after_their_answers_and_plain_ones_go_on(
    start_plain: Start, pair: Any
) -> None:
    server = start_plain(*pair.options)
    plain, secure = Vm(server.port), TlsVm(server.port, vc_uuid=VC_UUID[:-1] + "2")
    assert plain.metadata() == secure.metadata()
    upgrade(server)
    with pytest.raises(Closed):
        secure.receive_until(b"anything")
    assert plain.metadata()["instance-id"] == "my-instance"
    again = TlsVm(server.port, vc_uuid=VC_UUID[:-1] + "2")
    assert again.metadata() == plain.metadata()
    for machine in (plain, secure, again):
        machine.close()


def test_connections_behind_a_balancer_go_on(start_plain: Start) -> None:
    server = start_plain("--proxy-protocol", "127.0.0.1")
    header = b"PROXY TCP4 10.9.8.7 10.0.0.1 4567 13370\r\n"
    known = SocketVm(connected(server.port), header=header)
    known.metadata()
    half = connected(server.port)
    half.sendall(header[:20])
    server.wait_for("10.9.8.7:4567: 'web1'.*identified")
    upgrade(server)
    assert known.metadata()["instance-id"] == "my-instance"
    late = SocketVm(half, VC_UUID[:-1] + "2", header=header[20:])
    assert late.metadata()["instance-id"] == "my-instance"
    assert "10.9.8.7" in {one["esxi_host"] for one in status(server, "/api/machines")["machines"]}
    known.close()
    late.close()


# What operators see


def test_page_metrics_and_log_go_on(start_plain: Start, tmp_path: Path) -> None:
    server = start_plain("--state-file", str(tmp_path / "state"))
    machine = Vm(server.port)
    machine.metadata()
    wait_until(lambda: status(server)["machines"]["served"] == 1)
    before = status(server), status(server, "/api/machines")
    upgrade(server)
    after = status(server), status(server, "/api/machines")
    for name in ("machines", "started", "process", "problems"):
        assert after[0][name] == before[0][name], name
    assert sum(after[0]["pulse"]["served"]) == 1
    assert after[1]["machines"] == before[1]["machines"]
    assert after[0]["counters"]["boots"] == 1
    machine.metadata()
    machine.close()
    assert counters(server)["boots"] == 2


# Versions that do not start


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package that a server can run, and a test can break."""
    place = tmp_path / "copy"
    ignored = shutil.ignore_patterns("__pycache__", "guest", "client")
    shutil.copytree(CHECKOUT / PACKAGE, place / PACKAGE, ignore=ignored)
    return place


@pytest.fixture
def start_copy(start_plain: Start, copy: Path) -> Start:
    return lambda *options: start_plain(*options, cwd=copy, env={"PYTHONPATH": str(copy)})


def test_version_that_cannot_be_imported_leaves_the_old_one_serving(
    start_copy: Start, copy: Path
) -> None:
    server = start_copy()
    machine = Vm(server.port)
    machine.metadata()
    path = copy / PACKAGE / "serving/server.py"
    text = path.read_text()
    path.write_text(f"{text}\nraise RuntimeError('broken version')\n")
    said = upgrade(server, code=1)
    assert "RuntimeError: broken version" in said.stderr
    assert "serves on" in said.stderr
    server.wait_for("ERROR upgrade: .*broken version")
    assert machine.metadata()["instance-id"] == "my-instance"
    path.write_text(text)
    version = copy / PACKAGE / "__init__.py"
    version.write_text(version.read_text().replace('"0.1.0"', '"99.1"'))
    assert "to 99.1 in" in upgrade(server).stdout
    assert status(server)["version"] == "99.1"
    assert machine.metadata()["instance-id"] == "my-instance"
    machine.close()


def test_settings_with_a_fault_leave_the_old_version_serving(
    start_plain: Start, tmp_path: Path
) -> None:
    config = tmp_path / "server.yaml"
    config.write_text("drain: 20\n")
    server = start_plain("--config", str(config))
    machine = Vm(server.port)
    config.write_text("drain: never\n")
    said = upgrade(server, code=1)
    assert "server.yaml:1" in said.stderr
    assert machine.metadata()["instance-id"] == "my-instance"
    config.write_text("drain: 10\n")
    upgrade(server)
    assert machine.metadata()["instance-id"] == "my-instance"
    machine.close()


def test_program_that_vanishes_behind_the_check_leaves_everything_as_it_was(
    start_plain: Start, pair: Any, tmp_path: Path, own_instances: Path
) -> None:
    """Between check and execv, lines with TLS are drained: here, one that does not read."""
    path = own_instances / "web1.yaml"
    path.write_text(path.read_text().replace("#cloud-config", f"#cloud-config\n  # {LONG}"))
    program = tmp_path / "server"
    program.write_text(
        f"#!{COMMAND[0]}\nimport sys\nsys.path.insert(0, {str(CHECKOUT)!r})\n"
        "from vmw_cloudinit_metadata.cli import main\nmain()\n"
    )
    program.chmod(0o700)
    server = start_plain(*pair.options, "--drain", "2", command=[str(program), "run"])
    machine = Vm(server.port)
    reads_nothing = TlsVm(server.port, vc_uuid=VC_UUID[:-1] + "2", receive_buffer=4096)
    reads_nothing.send(b"!!REQUEST_USERDATA#\n" * 4)
    server.wait_for("00002: identified")
    os.kill(server.pid, signal.SIGUSR2)
    server.wait_for("upgrade: from version")
    program.unlink()
    server.wait_for("ERROR upgrade: cannot execute: No such file or directory")
    assert machine.metadata()["instance-id"] == "my-instance"
    new = Vm(server.port, vc_uuid=VC_UUID[:-1] + "3")
    assert new.metadata()["instance-id"] == "my-instance"
    for one in (machine, reads_nothing, new):
        one.close()
    assert counters(server)["boots"] == 2


# Signals


class SignalStorm:
    """Sends signals to a process without a pause, until `end`."""

    def __init__(self, pid: int, *numbers: int) -> None:
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(pid, numbers), daemon=True)
        self.sent = 0
        self._thread.start()

    def _run(self, pid: int, numbers: tuple[int, ...]) -> None:
        while not self._is_over.is_set():
            for number in numbers:
                os.kill(pid, number)
                self.sent += 1
            time.sleep(0.001)

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()


def test_storm_of_hup_and_usr2_during_upgrades_ends_nothing(start_plain: Start) -> None:
    server = start_plain()
    machine = Vm(server.port)
    machine.metadata()
    storm = SignalStorm(server.pid, signal.SIGHUP, signal.SIGUSR2)
    try:
        wait_until(lambda: "".join(server.lines).count("upgraded from") >= 2)
        assert machine.metadata()["instance-id"] == "my-instance"
    finally:
        storm.end()
    assert storm.sent > 100
    machine.metadata()
    machine.close()
    assert "Traceback" not in server.log


@pytest.mark.parametrize("later_s", [0.0, 0.3])
def test_term_during_an_upgrade_ends_the_server_well(start_plain: Start, later_s: float) -> None:
    server = start_plain()
    machine = Vm(server.port)
    machine.metadata()
    os.kill(server.pid, signal.SIGUSR2)
    server.wait_for("upgrade: from version")
    time.sleep(later_s)
    os.kill(server.pid, signal.SIGTERM)
    assert server.wait() == 0, server.log
    assert "stopped; " in server.lines[-1]
    machine.close()


# Workers


def test_workers_are_upgraded_one_after_the_other(start_plain: Start) -> None:
    server = start_plain("--workers", "2")
    machines = [Vm(server.port, vc_uuid=f"{number:032x}") for number in range(16)]
    for machine in machines:
        machine.metadata()
        machine.send(ASK[:9])
    before = children(server.pid)
    assert "2 workers go on" in upgrade(server).stdout
    assert "2 workers go on" in upgrade(server).stdout
    assert children(server.pid) == before
    for machine in machines:
        machine.send(ASK[9:])
        assert machine.answer()[0] == "RESPONSE_METADATA"
    wait_until(lambda: status(server)["counters"]["boots"] == 32)
    wait_until(lambda: status(server)["machines"]["served"] == 16)
    os.kill(min(before), signal.SIGKILL)  # the new parent watches and replaces them
    server.wait_for("has ended with -9: starting another one")
    wait_until(lambda: len(children(server.pid)) == 2 and children(server.pid) != before)
    new = Vm(server.port, vc_uuid=f"{99:032x}")
    new.metadata()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert server.lines[-1].count("boots: 33") == 1
    for machine in (*machines, new):
        machine.close()


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_change_of_the_number_of_workers_is_logged_once(
    start_plain: Start, tmp_path: Path, before: int, after: int
) -> None:
    config = tmp_path / "server.yaml"
    config.write_text(f"workers: {before}\n")
    server = start_plain("--config", str(config))
    config.write_text(f"workers: {after}\n")
    upgrade(server)
    server.wait_for("upgraded from")
    server.wait_for("a change of --workers takes effect at the next start")
    assert server.log.count("a change of --workers takes effect at the next start") == 1
    assert len(children(server.pid)) == (0 if before == 1 else 2)


def test_key_file_that_was_replaced_takes_effect_in_workers(
    start_plain: Start, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"1" * 32)
    options = ("--vmotion-key-file", str(key))
    here = start_plain("--workers", "2", *options)
    key.write_bytes(b"2" * 32)
    there = start_plain(*options)
    upgrade(here)
    source = Vm(here.port)
    target = Vm.arriving(there.port, source.begin_move())
    target.is_welcome()
    for machine in (source, target):
        machine.close()


def test_signal_to_a_worker_from_elsewhere_does_nothing(start_plain: Start) -> None:
    server = start_plain("--workers", "2")
    worker = min(children(server.pid))
    said = subprocess.run(
        [*COMMAND, "upgrade", "--pid", str(worker)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 2
    assert "give the process id of their parent" in said.stderr
    os.kill(worker, signal.SIGUSR2)
    time.sleep(0.3)
    assert worker in children(server.pid)
    assert "upgrade" not in server.log
