"""HUP: nothing that it reads stops a VM, and none ends the process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from tests.certificates import make_pair
from tests.fuse import HangingFiles
from tests.process import CHECKOUT, COMMAND, Constants, ServerProcess, with_constants
from tests.test_workers import children
from tests.vm import Vm
from tests.waiting import wait_in_hub_until, wait_until
from vmw_cloudinit_metadata.process.hup import Reload
from vmw_cloudinit_metadata.process.threads import Threads
from vmw_cloudinit_metadata.settings.errors import ConfigError

Start = Callable[..., ServerProcess]

WORKERS = pytest.mark.parametrize(
    "workers", ["1", pytest.param("2", marks=pytest.mark.slow)], ids=["alone", "workers"]
)
PROMPT_S = 2.0  # for what a hung file is not to hold up
ENDS_S = 15.0  # for the end, on a busy machine; a drain may take longer


def boots(server: ServerProcess, count: int = 10) -> None:
    for _ in range(count):
        begun_s = time.monotonic()
        machine = Vm(server.port)
        assert machine.metadata()["instance-id"] == "my-instance"
        machine.close()
        assert time.monotonic() - begun_s < PROMPT_S


def ends_well(server: ServerProcess) -> None:
    server.signal(signal.SIGTERM)
    begun_s = time.monotonic()
    assert server.wait() == 0
    assert time.monotonic() - begun_s < ENDS_S


# Files that hang


@pytest.fixture
def settings(hanging: HangingFiles) -> Path:
    hanging.write("server.yaml", "lookup-timeout: 3\n")
    return hanging.path / "server.yaml"


@WORKERS
def test_settings_that_hang_at_hup_stop_neither_vms_nor_term(
    start: Start, hanging: HangingFiles, settings: Path, workers: str
) -> None:
    server = start(
        *("--config", str(settings), "--workers", workers),
        command=with_constants(process__hup__READ_S=0.5),
    )
    hanging.hang()
    server.signal(signal.SIGHUP)
    server.wait_for("reload: the files cannot be read within 0.5 s")
    boots(server)
    ends_well(server)


@WORKERS
def test_settings_that_hung_are_taken_when_they_come_and_each_hup_counts(
    start: Start, hanging: HangingFiles, settings: Path, workers: str
) -> None:
    server = start(
        *("--config", str(settings), "--workers", workers),
        command=with_constants(process__hup__READ_S=0.5),
    )
    hanging.hang()
    server.signal(signal.SIGHUP)
    server.wait_for("reload: the files cannot be read")
    server.signal(signal.SIGHUP)  # for one more reading, after that which hangs
    time.sleep(0.1)
    hanging.write("server.yaml", "lookup-timeout: 7\n")
    hanging.resume()
    server.wait_for("reload: lookup-timeout has changed")
    boots(server)
    ends_well(server)
    assert server.log.count("lookup-timeout has changed") == 1


@WORKERS
def test_certificate_that_hangs_at_hup_stops_neither_vms_nor_term(
    start: Start,
    tmp_path: Path,
    hanging: HangingFiles,
    workers: str,
    program: Callable[[str, str], str],
) -> None:
    _, certificate, _, key = make_pair(program("openssl", "openssl"), tmp_path, "server").options
    hanging.write("server.pem", Path(certificate).read_text() + Path(key).read_text())
    server = start(
        *("--workers", workers, "--tls-cert", str(hanging.path / "server.pem")),
        command=with_constants(process__hup__READ_S=0.5),
    )
    hanging.hang()
    server.signal(signal.SIGHUP)
    server.wait_for("reload: the files cannot be read within 0.5 s")
    boots(server)
    ends_well(server)


@pytest.mark.slow
def test_worker_is_replaced_while_the_parents_settings_hang(
    start: Start, hanging: HangingFiles, settings: Path
) -> None:
    server = start(
        *("--config", str(settings), "--workers", "2"),
        command=with_constants(process__hup__READ_S=1.0),
    )
    hanging.hang()
    server.signal(signal.SIGHUP)
    before = children(server.pid)
    os.kill(min(before), signal.SIGKILL)
    server.wait_for("reload: the files cannot be read")
    wait_until(lambda: len(children(server.pid)) == 2 and children(server.pid) != before)
    boots(server)


# HUP from the first moment on

BIN = str(CHECKOUT / "bin/vmw-metadata-server")
_HUP = 1 << (signal.SIGHUP - 1)


def signals(pid: int, name: str) -> int:
    """`SigBlk`, `SigCgt`: a set of signals of a process."""
    found = re.search(rf"^{name}:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert found
    return int(found[1], 16)


class Storm:
    """HUP, again and again, to a process that has begun to run lines of ours."""

    def __init__(self) -> None:
        self.sent = 0
        self.fault = ""
        self._is_over = threading.Event()

    def begin(self, pid: int) -> None:
        self._thread = threading.Thread(target=self._run, args=(pid,), daemon=True)
        self._thread.start()

    def _run(self, pid: int) -> None:
        end_s = time.monotonic() + 10
        seen = 0
        while seen < 3:  # once it may be seen where a thread is started
            seen = seen + 1 if signals(pid, "SigBlk") & _HUP else 0
            time.sleep(0.0003)
            if time.monotonic() > end_s:
                self.fault = "HUP is not held back"
                return
        while not self._is_over.is_set():
            try:
                os.kill(pid, signal.SIGHUP)
            except ProcessLookupError:
                self.fault = "the process is gone"
                return
            self.sent += 1
            time.sleep(0.0005)

    def end(self) -> None:
        self._is_over.set()
        self._thread.join(10)
        assert not self.fault, self.fault
        assert self.sent > 20


@WORKERS
@pytest.mark.parametrize(
    "command", [[*COMMAND, "run"], [sys.executable, BIN]], ids=["module", "program"]
)
def test_storm_of_hup_from_the_first_line_on_ends_nothing(
    own_instances: Path, command: list[str], workers: str
) -> None:
    storm = Storm()
    server = ServerProcess(
        own_instances, "--workers", workers, command=command, on_start=storm.begin
    )
    try:
        boots(server)
        storm.end()
        server.wait_for("reload: no setting has changed")
        wait_until(lambda: not signals(server.pid, "SigBlk") & _HUP)
        ends_well(server)
        assert "ERROR" not in server.log
    finally:
        server.end()


@pytest.mark.slow
def test_hup_to_a_worker_that_loads_its_driver_ends_it_not(
    start: Start, own_instances: Path, tmp_path: Path
) -> None:
    hangs = tmp_path / "hangs"
    server = start(
        *("--workers", "2", "--driver", "tests.nonsense_driver:HangingDriver"),
        driver_opts={"directory": str(own_instances), "hangs": str(hangs)},
    )
    hangs.touch()
    before = children(server.pid)
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: len(children(server.pid) - before) == 1 and len(children(server.pid)) == 2)
    (new,) = children(server.pid) - before
    server.signal(signal.SIGHUP)
    os.kill(new, signal.SIGHUP)  # and from elsewhere, as `kill -HUP` of all of a group
    server.wait_for("reload: no setting has changed")
    hangs.unlink()
    server.wait_for(rf"\[{new}\] reload: there is no certificate to read again")
    assert new in children(server.pid)
    boots(server)


def test_other_commands_end_at_hup() -> None:
    """A terminal that is closed ends what runs in it."""
    program = "import signal, sys; from vmw_cloudinit_metadata.__main__ import main\n"
    told = f"{program}try: main()\nexcept SystemExit: print(signal.pthread_sigmask(0, []))"
    ended = subprocess.run(
        [sys.executable, "-c", told, "show", "--help"], capture_output=True, text=True, check=True
    )
    assert ended.stdout.endswith("set()\n")


# One reading after the other


class Files:
    """What is read; a reading takes as long as `open` is not set."""

    def __init__(self) -> None:
        self.readings = 0
        self.at_a_time = 0
        self.taken: list[int] = []
        self.told: list[str] = []
        self.open = threading.Event()
        self.error: Exception | None = None

    def read(self) -> Callable[[], None]:
        self.readings += 1
        self.at_a_time += 1
        assert self.at_a_time == 1
        assert self.open.wait(10)
        self.at_a_time -= 1
        if self.error:
            raise self.error
        number = self.readings
        return lambda: self.taken.append(number)


@pytest.fixture
def files() -> Files:
    return Files()


@pytest.fixture
def again(files: Files, constants: Constants) -> Iterator[Reload]:
    constants(process__hup__READ_S=0.3)  # the pause is longer than those of `wait_until`
    told = files.told.append
    threads = Threads()
    yield Reload(files.read, lambda: told("begin"), lambda: told("end"), threads)
    files.open.set()
    threads.close()  # one waits for the next HUP


def test_hup_while_files_are_read_is_remembered_once(files: Files, again: Reload) -> None:
    for _ in range(100):
        again.ask()
    wait_in_hub_until(lambda: files.readings == 1)
    files.open.set()
    wait_in_hub_until(lambda: files.taken == [1, 2])
    gevent.sleep(0.1)
    assert (files.readings, files.told) == (2, ["begin", "end"] * 2)


def test_hup_soon_after_a_reading_waits_for_its_pause(files: Files, again: Reload) -> None:
    files.open.set()
    again.ask()
    wait_in_hub_until(lambda: files.taken == [1])
    again.ask()
    assert not again.is_in_time
    wait_in_hub_until(lambda: files.taken == [1, 2])


def test_reading_that_hangs_is_reported_and_taken_when_it_comes(
    files: Files,
    again: Reload,
    caplog: pytest.LogCaptureFixture,
) -> None:
    again.ask()
    assert again.is_in_time
    wait_in_hub_until(lambda: files.told == ["begin", "end"])
    assert not again.is_in_time
    assert "cannot be read within 0.3 s" in caplog.text
    files.open.set()
    wait_in_hub_until(lambda: files.taken == [1])
    assert files.told == ["begin", "end"]


def test_reading_that_hung_is_old_if_another_was_asked_for(files: Files, again: Reload) -> None:
    again.ask()
    wait_in_hub_until(lambda: files.told == ["begin", "end"])
    again.ask()
    assert files.readings == 1
    files.open.set()
    wait_in_hub_until(lambda: files.taken == [2])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConfigError("x.yaml:3: no"), "x.yaml:3: no; nothing is changed"),
        (KeyError("x"), "KeyError"),
    ],
    ids=["of the operator", "of the server"],
)
def test_reading_that_fails_changes_nothing_and_is_reported(
    files: Files, again: Reload, caplog: pytest.LogCaptureFixture, error: Exception, told: str
) -> None:
    files.error = error
    files.open.set()
    again.ask()
    wait_in_hub_until(lambda: files.told == ["begin", "end"])
    assert told in caplog.text
    files.error = None
    again.ask()
    wait_in_hub_until(lambda: files.taken == [2])
