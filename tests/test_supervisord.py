"""A real supervisord with conf/supervisord.conf: start, restart while VMs boot, crash, stop."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.load.vm import Guest, Instance, write_instances
from tests.process import CHECKOUT
from tests.storm import BOOT_S, Storm, free_port
from tests.vm import LIMIT_S, Vm

BIN = Path(sys.executable).parent
PROGRAM = "vmw-metadata-server"
LARGE_BYTES = 900_000


class Supervisor:
    """supervisord with conf/supervisord.conf as it is but for the port and further options."""

    def __init__(self, place: Path, *options: str) -> None:
        self.port = free_port()
        self.conf = place / "conf"
        shutil.copytree(CHECKOUT / "conf", self.conf)
        self._file = self.conf / "supervisord.conf"
        text = self._file.read_text().replace("%(here)s/../bin/", f"{CHECKOUT}/bin/")
        listen = " ".join(("--listen", f"127.0.0.1:{self.port}", *options))
        self._file.write_text(text.replace("--listen 0.0.0.0:13370", listen))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Supervisor:
        command = [BIN / "supervisord", "-n", "-c", self._file]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.wait_for(r"listening on ")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process
        self._process.terminate()
        self._process.wait(60)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Begins a command of supervisorctl."""
        command = [BIN / "supervisorctl", "-c", self._file, *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def ctl(self, *words: str) -> str:
        return self.begin(*words).communicate(timeout=60)[0]

    @property
    def pid(self) -> int:
        return int(self.ctl("pid", PROGRAM))

    @property
    def log(self) -> str:
        path = self.conf / "vmw-metadata-server.log"
        return path.read_text() if path.exists() else ""

    def wait_for(self, pattern: str, limit_s: float = LIMIT_S) -> None:
        """Waits for a line of the server's log."""
        end_s = time.monotonic() + limit_s
        while not re.search(pattern, self.log):
            assert time.monotonic() < end_s, f"no {pattern!r} in {self.log[-2000:]}"
            time.sleep(0.02)


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., Supervisor]]:
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(Supervisor(tmp_path, *options))


def test_supervisord_runs_and_stops_the_server(supervise: Callable[..., Supervisor]) -> None:
    supervisor = supervise()
    assert Vm(supervisor.port).metadata()["instance-id"] == "my-instance"
    pid = supervisor.pid
    supervisor.ctl("signal", "HUP", PROGRAM)
    supervisor.wait_for("reload: no setting has changed")
    assert "stopped" in supervisor.ctl("stop", PROGRAM)
    assert not Path(f"/proc/{pid}").exists()
    assert "exit status 0" in (supervisor.conf / "supervisord.log").read_text()
    assert "started" in supervisor.ctl("start", PROGRAM)
    supervisor.wait_for(r"(?s) stopped; .* listening on ")
    assert Vm(supervisor.port).metadata()["instance-id"] == "my-instance"


def test_supervisord_waits_longer_than_the_drain() -> None:
    text = (CHECKOUT / "conf/supervisord.conf").read_text()
    drain_s = int(re.search(r"--drain (\d+)", text)[1])  # type: ignore[index]
    assert int(re.search(r"stopwaitsecs=(\d+)", text)[1]) == drain_s + 10  # type: ignore[index]


def slow_reader(port: int, instance: Instance) -> Guest:
    """A VM that has asked for a document which does not fit into any buffer."""
    guest = Guest(port, instance)
    guest.ask_for(["USERDATA"])
    guest.receive_until(b"!!RESPONSE_USERDATA#")
    guest.raw = b"!!RESPONSE_USERDATA#" + guest.raw
    return guest


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_no_boot_is_lost_at_restart_kill_and_stop(
    supervise: Callable[..., Supervisor], workers: int
) -> None:
    supervisor = supervise("--workers", str(workers))
    instances = write_instances(supervisor.conf / "instances", 50)
    large = LargeInstance(50)
    (supervisor.conf / "instances" / f"{large.name}.yaml").write_text(large.file)
    storm = Storm(supervisor.port, instances)
    storm.wait_for_boots(100)

    guest = slow_reader(supervisor.port, large)
    restart = supervisor.begin("restart", PROGRAM)
    supervisor.wait_for("stopping: ")
    refused = storm.redials
    storm.wait_until(lambda: storm.redials > refused + 10)
    guest.get(["USERDATA"])  # to the last byte
    guest.close()
    assert "started" in restart.communicate(timeout=60)[0]
    storm.wait_for_boots(100)

    before, pid = supervisor.log.count("listening on"), supervisor.pid
    os.kill(pid, signal.SIGKILL)
    killed_s = time.monotonic()
    storm.wait_until(lambda: supervisor.log.count("listening on") > before)
    storm.wait_for_boots(100)
    assert time.monotonic() - killed_s < BOOT_S

    storm.stop()
    assert "stopped" in supervisor.ctl("stop", PROGRAM)
    log = (supervisor.conf / "supervisord.log").read_text()
    assert log.count("(exit status 0)") == 2, log
    assert log.count("(terminated by SIGKILL; not expected)") == 1, log


class LargeInstance(Instance):
    @property
    def userdata(self) -> str:
        line = f"# this is the user-data of {self.name}\n"
        return "#cloud-config\n" + line * (LARGE_BYTES // len(line))
