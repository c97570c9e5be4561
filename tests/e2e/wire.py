"""A wire between a guest's serial port and its host: forwards, records, and triggers actions."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GUEST_LIMIT_S = 30.0


@dataclass(frozen=True)
class When:
    """Call `do` at the first match in one side's data, before the end of the match is forwarded."""

    pattern: bytes
    do: Callable[[], object]


class Side:
    """The data of one side, and the pending moments in order."""

    def __init__(self, moments: tuple[When, ...]) -> None:
        self.moments = list(moments)
        self.said = bytearray()

    def hear(self, data: bytes) -> None:
        self.said += data
        while self.moments and re.search(self.moments[0].pattern, self.said):
            self.moments.pop(0).do()

    def text(self) -> str:
        return self.said.decode(errors="backslashreplace")


class Wire:
    """The guest listens at `serial`; the host connects to `path`."""

    def __init__(
        self,
        serial: Path,
        path: Path,
        asked: tuple[When, ...] = (),
        answered: tuple[When, ...] = (),
    ) -> None:
        self.asked, self.answered = Side(asked), Side(answered)
        self._serial = serial
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._listener.settimeout(GUEST_LIMIT_S)
        self._failure: Exception | None = None
        self._threads: list[threading.Thread] = []
        self._sockets = [self._listener]
        self._start(self._connect)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=self._watch, args=(work, *arguments), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _watch(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except Exception as failure:
            self._failure = self._failure or failure

    def _connect(self) -> None:
        guest = connected(self._serial)
        host, _ = self._listener.accept()
        self._listener.close()
        host.settimeout(None)
        self._sockets += (guest, host)
        self._start(self._pump, guest, host, self.asked)
        self._start(self._pump, host, guest, self.answered)

    def _pump(self, source: socket.socket, target: socket.socket, side: Side) -> None:
        try:
            while data := source.recv(4096):
                side.hear(data)
                target.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return  # one end was powered off
        finally:
            hang_up(target)

    def close(self) -> None:
        for sock in self._sockets:
            hang_up(sock)
        for thread in self._threads:
            thread.join(GUEST_LIMIT_S)
        for sock in self._sockets:
            sock.close()

    def check(self) -> None:
        """Raise the first failure; fail if a moment did not occur."""
        if self._failure:
            raise self._failure
        missed = [moment.pattern for moment in self.asked.moments + self.answered.moments]
        assert not missed, f"not seen on the wire: {missed}"


def hang_up(sock: socket.socket) -> None:
    with suppress(OSError):  # not connected any more
        sock.shutdown(socket.SHUT_RDWR)


def connected(path: Path) -> socket.socket:
    """Connect to a socket that will exist within a limit."""
    end_s = time.monotonic() + GUEST_LIMIT_S
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            if time.monotonic() > end_s:
                raise
            time.sleep(0.05)
        else:
            return sock
