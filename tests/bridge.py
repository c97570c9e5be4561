"""A real bridge process: `vmw-cloudinit-metadata client bridge`."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time

from tests.process import CHECKOUT, COMMAND, LIMIT_S


class BridgeProcess:
    """The program, for the VM web1."""

    def __init__(self, port: int, *options: str) -> None:
        self._process = subprocess.Popen(
            [
                *(*COMMAND, "client", "bridge", "web1", "--uri", "my-metadata"),
                *("--server", f"127.0.0.1:{port}", *options),
            ],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
        )
        self.log = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self.log += line

    def wait_for(self, pattern: str, times: int = 1) -> re.Match[str]:
        """Waits until so many lines match; returns the last of them."""
        end_s = time.monotonic() + LIMIT_S
        while time.monotonic() < end_s:
            found = list(re.finditer(pattern, self.log))
            if len(found) >= times:
                return found[times - 1]
            time.sleep(0.005)
        raise AssertionError(f"not {times} times {pattern!r} in:\n{self.log}")

    def move(self, times: int = 1) -> None:
        self.write("move\n" * times)

    def write(self, text: str) -> None:
        """Writes to the program's standard input."""
        assert self._process.stdin
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        self.signal(signal.SIGTERM)
        code = self._process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        for stream in (self._process.stdin, self._process.stderr):
            assert stream
            stream.close()
        return code
