"""Real servers with the data of VMs, for tests of stores: each in a directory of its own.

A server that has a port listens on loopback, runs as an unprivileged user, and is started and ended
by its Backend. Nothing of the package is in here.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml

from tests.process import tree_of

Data = Mapping[str, Any]  # what an instance file has

LIMIT_S = 60.0
UNPRIVILEGED = "nobody"


def written(data: Data) -> str:
    """Return the text that an instance file has."""
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(data, Dumper=dumper, sort_keys=False))


class Started(ABC):
    """It has a directory of its own; `with` starts it, and removes all of it at the end."""

    directory: Path

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    @abstractmethod
    def start(self) -> None:
        """Start it, for the first time or after `kill`; return when it serves."""

    def close(self) -> None:  # noqa: B027 - not each one has a process
        """End it, if it runs."""


class Backend(Started):
    """A server that a store asks.

    `put` and its kin return when the change is made, so that whoever asks afterwards may expect it.
    """

    name: ClassVar[str]
    driver: ClassVar[str]  # --driver
    layer_served_after_s: ClassVar[float] = 1.0  # within which a change counts for all VMs
    prepares: ClassVar[bool] = False  # the catalogue prepares answers of all its data

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))

    @property
    @abstractmethod
    def options(self) -> Mapping[str, Any]:
        """--driver-opts"""

    @property
    def environment(self) -> Mapping[str, str]:
        """What the metadata server needs in its environment."""
        return {}

    @property
    def server_options(self) -> Sequence[str]:
        """Further options of `run`, such as those of a webhook."""
        return ()

    @abstractmethod
    def put(self, vms: Mapping[str, Data]) -> None:
        """Give VMs data, by their names, in place of what they had."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove the data of a VM."""

    @abstractmethod
    def put_layer(self, name: str, data: Data) -> None:
        """Set a layer; layers count in the order of their names."""

    def attach(self, port: int, admin_port: int) -> None:  # few need it
        """Learn where the metadata server listens, before the first change: for webhooks."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once, as SIGKILL does."""

    @abstractmethod
    def stop(self) -> None:
        """Let it hang, as SIGSTOP does."""

    @abstractmethod
    def cont(self) -> None:
        """Let it go on after `stop`."""

    def restart(self) -> None:
        """End it as an operator does, and start it again."""
        self.kill()
        self.start()


class DaemonBackend(Backend):
    """A server whose processes, `daemons`, are all ended and stopped together."""

    ended_by: ClassVar[int] = signal.SIGTERM
    daemons: Sequence[Daemon]

    def kill(self) -> None:
        for one in self.daemons:
            one.kill()

    def stop(self) -> None:
        for one in self.daemons:
            one.stop()

    def cont(self) -> None:
        for one in self.daemons:
            one.cont()

    def restart(self) -> None:
        for one in self.daemons:
            one.end(self.ended_by)
        self.start()

    def close(self) -> None:
        for one in self.daemons:
            one.close()


class PlaceBackend(Backend):
    """Without a server: all of it is at one place, from which `kill` moves it away."""

    place_name: ClassVar[str]

    @property
    def place(self) -> Path:
        return self.directory / self.place_name

    @abstractmethod
    def make(self) -> None:
        """Make it, for the first time."""

    def start(self) -> None:
        away = self._away
        away.rename(self.place) if away.exists() else self.make()

    def kill(self) -> None:
        self.place.rename(self._away)

    @property
    def _away(self) -> Path:
        return self.directory / "away"


class Daemon:
    """A process of a backend, with those that it starts, as an unprivileged user, or `as_us`."""

    def __init__(self, directory: Path, *, as_us: bool = False) -> None:
        self._directory = directory
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0 and not as_us:
            user = pwd.getpwnam(UNPRIVILEGED)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self.own(directory)
        directory.chmod(0o755)

    def own(self, directory: Path) -> None:
        """Give a directory, and what is in it, to the user of the process."""
        if self._as:
            for path in (directory, *directory.rglob("*")):
                os.chown(path, self._as["user"], self._as["group"])

    def run(self, *command: str | Path) -> None:
        """Run a program of the backend to its end, such as one that makes a database."""
        with self._log.open("ab") as log:
            done = subprocess.run(
                command, stdout=log, stderr=log, cwd=self._directory, timeout=LIMIT_S, **self._as
            )
        assert done.returncode == 0, self.log

    def start(
        self, *command: str | Path, is_ready: Callable[[], object], limit_s: float = LIMIT_S
    ) -> None:
        """Start the server; return when `is_ready` is true. An OSError is taken for false."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._directory, **self._as
            )
        end_s = time.monotonic() + limit_s
        while True:
            with suppress(OSError):
                if is_ready():
                    return
            assert self._process.poll() is None, self.log
            assert time.monotonic() < end_s, self.log
            time.sleep(0.02)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")[-5000:]

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._wait()

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ask it to end, and wait until it has."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(number)
            self._wait()

    def stop(self) -> None:
        """Return when all its threads have stopped."""
        self._signal(signal.SIGSTOP)
        assert self._process
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def cont(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        if self._process and self._process.poll() is None:
            self.kill()

    def _signal(self, number: int) -> None:
        assert self._process
        assert self._process.poll() is None, self.log
        for pid in tree_of(self._process.pid):  # also of those with a session of their own
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _wait(self) -> None:
        assert self._process
        try:
            self._process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(LIMIT_S)
            raise
