"""A real server process, with the command line of an operator."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType

from tests.starter import Started, starter
from tests.vm import LIMIT_S
from vmw_cloudinit_metadata.monitoring.counters import FAMILIES

CHECKOUT = Path(__file__).parent.parent
PACKAGE = "vmw_cloudinit_metadata"
COMMAND = [sys.executable, "-m", "vmw_cloudinit_metadata"]
LOG_LAG_S = 0.03  # the server writes a line within 20 ms, once it has its turn
RESTS_S = 2.0  # until a server rests that is not kept busy
Constants = Callable[..., None]  # what the fixture `constants` is

DECLARED = {key for family in FAMILIES for key in family.keys.values()}  # all that is counted
_OF_THE_WATCH = re.compile(r"inotify$|/mountinfo$")  # what its descriptors lead to


class Program(list[str]):
    """A command that a starter may run, because it is this Python with the server alone."""


def place_of(constant: str) -> tuple[str, str]:
    """Split `serving__timeouts__STALLED_S` into the path of its module and its name."""
    module, _, name = constant.rpartition("__")
    return f"{PACKAGE}.{module.replace('__', '.')}", name


def modules_with(constant: str) -> list[ModuleType]:
    """Return the module of a constant, and those that import it by its name."""
    path, name = place_of(constant)
    value = getattr(import_module(path), name)  # raises AttributeError if there is none
    ours = [module for name, module in sys.modules.items() if name.startswith(PACKAGE)]
    return [module for module in ours if getattr(module, name, None) is value]


def with_constants(**constants: float | str) -> Program:
    """Return the command `run` with other constants, such as `serving__timeouts__STALLED_S=1.0`.

    Modules that import a constant by its name get the other value too. A name that does not exist
    ends the server at its start.
    """
    lines = ["import sys", "from importlib import import_module"]
    lines += ["from vmw_cloudinit_metadata.cli import main"]
    for place, value in constants.items():
        path, name = place_of(place)
        lines.append(f"was = import_module({path!r}).{name}")
        lines.append("for module in list(sys.modules.values()):")
        lines.append(f"    if getattr(module, {name!r}, None) is was: module.{name} = {value!r}")
    lines.append("main()")
    return Program([sys.executable, "-c", "\n".join(lines), "run"])


def with_descriptors(soft: int, hard: int) -> Program:
    """The command `run`, of a process with these limits of descriptors."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))"
    program = f"{limit}\nfrom vmw_cloudinit_metadata.cli import main; main()"
    return Program([sys.executable, "-c", program, "run"])


def begin(
    command: list[str], stdout: int, stderr: int, cwd: Path, env: Mapping[str, str]
) -> subprocess.Popen[bytes] | Started:
    """Starts a process, by the starter where that makes no difference but in time."""
    environment = {**os.environ, **env}
    if isinstance(command, Program) and cwd == CHECKOUT:
        return starter().start(command, stdout, stderr, environment)
    return subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=cwd, env=environment)


def run(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path = CHECKOUT
) -> subprocess.CompletedProcess[str]:
    """Runs `vmw-cloudinit-metadata` to its end."""
    command = Program([*COMMAND, *arguments])
    return ended(command, lambda out, err: begin(command, out, err, cwd, env or {}))


def ended(
    command: list[str], start: Callable[[int, int], subprocess.Popen[bytes] | Started]
) -> subprocess.CompletedProcess[str]:
    """Starts a process with these descriptors for its output, and waits for its end."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = start(out.fileno(), err.fileno())
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


class ServerProcess:
    """`run` on a free port of loopback; `lines` has what it wrote to standard error so far."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        driver_opts: Mapping[str, object] | None = None,
        listen: str = "127.0.0.1:0",
        uri: str | None = "my-metadata",
        command: list[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path = CHECKOUT,
        on_start: Callable[[int], None] = lambda _pid: None,
    ) -> None:
        opts = {"directory": str(directory)} if driver_opts is None else driver_opts
        if "--admin-listen" not in options:  # servers of other tests have the default one
            options = (*options, "--admin-listen", "127.0.0.1:0")
        if "--catalogue" not in options:  # a process more for each server of the tests
            options = (*options, "--no-catalogue")
        words = (
            *(("--uri", uri) if uri else ()),
            *("--listen", listen),
            *("--driver-opts", json.dumps(opts), *options),
        )
        program = command or Program([*COMMAND, "run"])
        read, write = os.pipe()
        self._stderr = open(read)  # noqa: PTH123, SIM115 - a descriptor; closed by `end`
        try:
            self._process = begin(type(program)([*program, *words]), 1, write, cwd, env or {})
        finally:
            os.close(write)
        self.pid = self._process.pid
        on_start(self.pid)  # before it listens
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(self.wait_for(r"listening on \S*:(\d+)")[1])

    def _read(self) -> None:
        self.lines.extend(iter(self._stderr.readline, ""))

    @property
    def log(self) -> str:
        """All that was logged until now."""
        end_s = time.monotonic() + RESTS_S
        while self._process.poll() is None:
            time.sleep(LOG_LAG_S)
            is_at_rest = not is_running(self.pid) and self._is_read
            if is_at_rest or time.monotonic() > end_s:
                break
        return "".join(self.lines)

    @property
    def _is_read(self) -> bool:
        """Whether our own thread has taken all that the server has written."""
        pipe = select.poll()  # `select` takes no descriptor above 1,023
        pipe.register(self._stderr, select.POLLIN)
        return not pipe.poll(0)

    def wait_for(self, pattern: str, limit_s: float = LIMIT_S) -> re.Match[str]:
        """Waits for a line of the log."""
        end_s = time.monotonic() + limit_s
        while time.monotonic() < end_s:
            if found := re.search(pattern, "".join(self.lines)):
                return found
            if self._process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.01)
        raise AssertionError(f"no {pattern!r} in the log:\n{self.log}")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """Waits for the end; returns the exit code."""
        code = self._process.wait(limit_s)
        self._reader.join(limit_s)
        return code

    def end(self) -> None:
        if self._process.poll() is None:
            self.signal(signal.SIGKILL)
            self.wait()
        self._stderr.close()


def counters(server: ServerProcess) -> Counter[str]:
    """Stops the server; what it has counted."""
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log
    _, found, counted = server.lines[-1].partition(" stopped; ")
    assert found, server.log
    pairs = re.findall(r"([^,]+): (\d+)(?:, |\n)", counted)
    assert {name for name, _ in pairs} <= DECLARED
    return Counter({name: int(count) for name, count in pairs})


def is_running(pid: int) -> bool:
    """Return whether a thread of the process, or of its children, runs or waits for a processor."""
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):  # it has ended
            state = (task / "stat").read_text().rpartition(") ")[2][0]
            children = (task / "children").read_text().split()
            if state == "R" or any(is_running(int(child)) for child in children):
                return True
    return False


def descriptors(server: ServerProcess) -> int:
    """Count open descriptors, without those of the watch on files.

    The watch closes its own and opens others whenever something is mounted on this machine.
    """
    place = Path(f"/proc/{server.pid}/fd")
    return sum(not _OF_THE_WATCH.search(_target(place / name)) for name in os.listdir(place))


def _target(link: Path) -> str:
    with suppress(FileNotFoundError):  # it is closed
        return os.readlink(link)
    return ""


def tree_of(pid: int) -> list[int]:
    """Return the process and those that it has started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):  # it has ended
            for child in (task / "children").read_text().split():
                found += tree_of(int(child))
    return found


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """These processes are stopped in the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
