"""Starts a program from a process that has imported it already: the package's, or a single file.

An ordinary start takes 0.4 s of CPU, most of it for imports. Here one process per test process
imports the program once, and forks for each start, which takes 0.02 s. What it forks is a process
of its own. It runs `__main__`, or the text behind `-c`, from first line to last, and ends as the
interpreter does: it waits for threads, calls what `atexit` has, and flushes its output. It frees
nothing then, as that would copy the memory of all modules, which takes longer than most commands.
What PYTHONPATH has is found as always, unless it stands in the place of what is imported already.
Not for tests of the start or the end itself, of imports, of a time zone, or of a directory that
changes what is imported: these use `subprocess`. The starter of a single file, which the agent in
guests is, has compiled it, and imported what it imports.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

MAX_REQUEST_BYTES = 100_000
START_S = 60.0  # of the starter, on a busy machine
CHECKOUT = Path(__file__).parent.parent


class Started:
    """A process that was started; as much of `subprocess.Popen` as tests need."""

    def __init__(self, told: socket.socket) -> None:
        self._told = told  # the process, and later its exit code
        self.returncode: int | None = None
        pid = self._next(START_S)
        assert pid, "the starter does not answer"
        self.pid = pid

    def _next(self, limit_s: float | None) -> int | None:
        told = select.poll()  # `select` takes no descriptor above 1,023, and a load has many
        told.register(self._told, select.POLLIN)
        is_there = told.poll(None if limit_s is None else 1000 * limit_s)
        return int(self._told.recv(64)) if is_there else None

    def poll(self) -> int | None:
        return self._ended_within(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended_within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def _ended_within(self, limit_s: float | None) -> int | None:
        if self.returncode is None:
            self.returncode = self._next(limit_s)
            if self.returncode is not None:
                self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Starter:
    """The process that forks; for this file, or for the package."""

    def __init__(self, *file: Path) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.starter", str(theirs.fileno()), *map(str, file)],
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for whoever ends the processes
            )

    def start(
        self, command: Sequence[str], stdout: int, stderr: int, env: Mapping[str, str]
    ) -> Started:
        """Starts `python -m NAME …`, `python -c TEXT …` or `python FILE …` in the checkout."""
        request = json.dumps({"command": list(command), "env": dict(env)}).encode()
        assert len(request) <= MAX_REQUEST_BYTES
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._requests, [request], [stdout, stderr, theirs.fileno()])
        return Started(ours)

    def end(self) -> None:
        self._requests.close()
        self._process.wait()


@functools.cache
def starter(*file: Path) -> Starter:
    """That of this process; started when it is needed first."""
    made = Starter(*file)
    atexit.register(made.end)
    return made


def _next_command(requests: socket.socket) -> list[str]:
    """Forks for each request; returns in the new process, with what it is to run."""
    running: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
    while True:
        ready, _, _ = select.select([requests, *running], [], [])
        for pidfd in set(ready) & running.keys():
            pid, told = running.pop(pidfd)
            os.close(pidfd)
            with told:
                _tell(told, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        if requests in ready:
            data, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 3)
            if not data:
                os._exit(0)
            request = json.loads(data)
            pid = os.fork()
            if not pid:
                os.dup2(descriptors[0], 1)
                os.dup2(descriptors[1], 2)
                os.closerange(3, os.sysconf("SC_OPEN_MAX"))
                os.environ.clear()
                os.environ.update(request["env"])
                sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
                return list(request["command"])
            for descriptor in descriptors[:2]:
                os.close(descriptor)
            told = socket.socket(fileno=descriptors[2])
            running[os.pidfd_open(pid)] = pid, told
            _tell(told, pid)


def _tell(told: socket.socket, number: int) -> None:
    with suppress(ConnectionError):  # the test does not wait for it
        told.send(str(number).encode())


def _run(command: list[str]) -> None:
    _, flag, what, *words = command
    sys.argv = [flag, *words]
    if flag == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


def _import_package() -> None:
    """Import commands, and a driver: each is imported where it is used first."""
    import encodings.idna  # noqa: F401 - when an address is looked up

    from vmw_cloudinit_metadata.cli import COMMANDS
    from vmw_cloudinit_metadata.cli.commandlist import ListedGroup
    from vmw_cloudinit_metadata.drivers import file  # noqa: F401

    for command in COMMANDS.values():
        assert not isinstance(command, ListedGroup) or all(command.listed.values())


def _serve(requests: socket.socket, file: str) -> None:
    loader = SourceFileLoader("program", file)
    program = compile(loader.get_data(file), file, "exec")
    loader.exec_module(ModuleType(loader.name))
    gc.freeze()  # its memory stays shared by the forks
    sys.argv = _next_command(requests)[1:]
    exec(program, {"__name__": "__main__", "__file__": file})


def _serve_package(requests: socket.socket) -> None:
    _import_package()
    gc.freeze()
    _run(_next_command(requests))


@contextmanager
def _exit_code_kept() -> Iterator[None]:
    """Keep the code that a program exits with, unless the interpreter prints why it ends."""
    try:
        yield
        _exit_codes.append(0)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _exit_codes.append(end.code or 0)
        raise


def _exit_without_freeing() -> None:
    if _exit_codes:
        with suppress(OSError, ValueError):  # the interpreter knows what to do with such output
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(_exit_codes[-1] & 0xFF)


_exit_codes: list[int] = []

if __name__ == "__main__":
    atexit.register(_exit_without_freeing)  # before all others, so it is called as the last one
    _socket, *_files = sys.argv[1:]
    _requests = socket.socket(fileno=int(_socket))
    with _exit_code_kept():
        if _files:
            _serve(_requests, *_files)
        else:
            _serve_package(_requests)
