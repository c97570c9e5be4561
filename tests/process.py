"""A real server process, started as an operator starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "vmw_cloudinit_metadata"]
LIMIT_S = 15.0


def with_constants(**constants: float) -> list[str]:
    """The command `run`, with other values of constants: `connection__MUTE_LINE_S=1.0`."""
    lines = ["import importlib"]
    for place, value in constants.items():
        module, _, name = place.rpartition("__")
        path = f"vmw_cloudinit_metadata.{module.replace('__', '.')}"
        lines.append(f"module = importlib.import_module({path!r})")
        lines.append(f"assert hasattr(module, {name!r}); module.{name} = {value!r}")
    lines += ["from vmw_cloudinit_metadata.cli import main", "main()"]
    return [sys.executable, "-c", "\n".join(lines), "run"]


def run(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Runs `vmw-cloudinit-metadata` to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=LIMIT_S, **settings
    )


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
    ) -> None:
        opts = {"directory": str(directory)} if driver_opts is None else driver_opts
        if "--admin-listen" not in options:  # servers of other tests have the default one
            options = (*options, "--admin-listen", "127.0.0.1:0")
        self._process = subprocess.Popen(
            [
                *(command or [*COMMAND, "run"]),
                *(("--uri", uri) if uri else ()),
                *("--listen", listen),
                *("--driver-opts", json.dumps(opts), *options),
            ],
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
        self.pid = self._process.pid
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(self.wait_for(r"listening on \S*:(\d+)")[1])

    def _read(self) -> None:
        assert self._process.stderr
        self.lines.extend(iter(self._process.stderr.readline, ""))

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait_for(self, pattern: str, limit_s: float = LIMIT_S) -> re.Match[str]:
        """Waits for a line of the log."""
        end_s = time.monotonic() + limit_s
        while time.monotonic() < end_s:
            if found := re.search(pattern, self.log):
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
        assert self._process.stderr
        self._process.stderr.close()


def counters(server: ServerProcess) -> Counter[str]:
    """Stops the server; what it has counted."""
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log
    _, found, counted = server.lines[-1].partition(" stopped; ")
    assert found, server.log
    pairs = re.findall(r"([^,]+): (\d+)(?:, |\n)", counted)
    return Counter({name: int(count) for name, count in pairs})


def descriptors(server: ServerProcess) -> int:
    return len(os.listdir(f"/proc/{server.pid}/fd"))
