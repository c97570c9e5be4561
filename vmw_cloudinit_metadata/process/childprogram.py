"""ChildProgram: another process of this program, whose pipes the hub never waits for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import IO, Any

import gevent

from vmw_cloudinit_metadata.process.interpreter import command_of
from vmw_cloudinit_metadata.protocol.printable import shortened

_PIECE_BYTES = 16 * 1024  # read in one turn of the hub
_ERROR_BYTES = 4096  # kept of its standard error
_READABLE = 1  # libev's EV_READ


class ChildProgram:
    """Runs a module of ours. It ends at the end of its standard input, at the latest."""

    def __init__(self, module: str, receive: Callable[[bytes], None] | None = None) -> None:
        """Start it; `receive` is called with each piece of its standard output. Raises OSError."""
        # This Python with a module of ours. What may be secret is written to it: no argument.
        self._process = subprocess.Popen(  # nosec B603
            command_of(module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if receive else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self._receive = receive
        self._errors = b""  # the end of its standard error
        self._watchers: list[Any] = []
        for pipe in self._pipes:
            os.set_blocking(pipe.fileno(), False)
        if self._process.stdout:
            self._watch(self._process.stdout, self.receive)
        if self._process.stderr:
            self._watch(self._process.stderr, self._receive_errors)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_heard(self) -> bool:
        """Whether its pipes are open."""
        return bool(self._watchers)

    @property
    def last_line(self) -> str:
        """The last line of its standard error, such as that of a traceback, after ": "."""
        self._receive_errors()
        lines = self._errors.decode(errors="replace").strip().splitlines()
        return f": {shortened(lines[-1])}" if lines else ""

    def poll(self) -> int | None:
        """Return the exit code of a process that has ended."""
        return self._process.poll()

    def write(self, text: bytes) -> bool:
        """Write a line to its standard input; return whether there was room for all of it. One that
        has ended takes everything."""
        if not self._watchers or not self._process.stdin:
            return True
        try:
            return os.write(self._process.stdin.fileno(), text) == len(text)
        except BrokenPipeError:
            return True
        except OSError:
            return False

    def receive(self) -> None:
        """Receive one piece of its output, if there is one. What `receive` raises is its own."""
        if not (self._watchers and self._process.stdout and self._receive):
            return
        if piece := self._piece_of(self._process.stdout, self._watchers[0]):
            self._receive(piece)

    def kill(self) -> None:
        """Close the pipes and kill it; it may take time to end."""
        self.close()
        self._process.kill()

    def close(self) -> None:
        """Close the pipes, as a forked child does too with its parent's."""
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()
        self._watchers.clear()
        for pipe in self._pipes:
            pipe.close()

    @property
    def _pipes(self) -> list[IO[bytes]]:
        found = (self._process.stdin, self._process.stdout, self._process.stderr)
        return [pipe for pipe in found if pipe]

    def _watch(self, pipe: IO[bytes], callback: Callable[[], None]) -> None:
        watcher = gevent.get_hub().loop.io(pipe.fileno(), _READABLE)
        watcher.start(callback)
        self._watchers.append(watcher)

    def _receive_errors(self) -> None:
        if self._watchers and self._process.stderr:
            piece = self._piece_of(self._process.stderr, self._watchers[-1])
            self._errors = (self._errors + piece)[-_ERROR_BYTES:]

    def _piece_of(self, pipe: IO[bytes], watcher: Any) -> bytes:
        """Read what is there; at the end of the pipe, stop to watch it."""
        try:
            piece = os.read(pipe.fileno(), _PIECE_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            piece = b""
        if not piece:
            watcher.stop()
        return piece
