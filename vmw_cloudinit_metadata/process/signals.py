"""Signals: handled in the hub, and neither lost nor deadly while one program replaces another.

    signal ─> C handler, in any thread ─> pipe ─> hub: callback
                                           │
    from `hold` on, blocked in this thread └──execv──> the next program's Signals reads the pipe
    until that program's handlers are there

A blocked signal stays pending through execv. The threads of the old program do not block it, and
one of them may take it in its last moment: what it has taken stands in the pipe, which stays open.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import gevent

from vmw_cloudinit_metadata.process.upgradereport import UPGRADE

STOPPING = (signal.SIGTERM, signal.SIGINT)
ALL = (*STOPPING, signal.SIGHUP, UPGRADE)

# They would end a program that has no handlers yet. `run` blocks them in its first line
# (__main__.py) until `Signals` handles them.
DEADLY_AT_START = (signal.SIGHUP, UPGRADE)

_READABLE = 1  # libev's EV_READ
_TURN = 256  # signals; a storm of one signal is one

Callback = Callable[[], None]


class Signals:
    """Calls back in the hub. Belongs to the main thread; `pipe` is that of the program before an
    upgrade."""

    def __init__(self, pipe: int | None = None) -> None:
        self._callbacks: dict[int, Callback] = {}
        self._before: set[signal.Signals | int] = set()  # what was blocked when `hold` was called
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watcher: Any = gevent.get_hub().loop.io(self._read, _READABLE)
        self._watcher.start(self._receive)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        if pipe is not None:
            os.set_inheritable(pipe, False)
            with suppress(OSError):
                os.write(self._write, _all_in(pipe))
            os.close(pipe)

    def handle(self, callbacks: Mapping[int, Callback]) -> None:
        """Call these for their signals from now on, and unblock those."""
        self._callbacks.update(callbacks)
        for number in callbacks:
            signal.signal(number, _nothing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, list(callbacks))

    def hold(self) -> int:
        """Block the signals; return the descriptor that the next program needs."""
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
        os.set_inheritable(self._read, True)
        return self._read

    def go_on(self) -> None:
        """Handle the signals again: there was no upgrade."""
        os.set_inheritable(self._read, False)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def let_go(self) -> None:
        """Close what is the parent's, in a forked child, whose signals are blocked."""
        signal.set_wakeup_fd(-1)
        self._watcher.stop()
        self._watcher.close()
        os.close(self._read)
        os.close(self._write)

    def _receive(self) -> None:
        for number in sorted(set(_all_in(self._read))):
            if number in self._callbacks:
                self._callbacks[number]()


def _all_in(pipe: int) -> bytes:
    """Return what is in the pipe; a storm is told by its first signals."""
    received = b""
    with suppress(BlockingIOError):
        while piece := os.read(pipe, _TURN):
            received = bytes({*received, *piece})
    return received


def _nothing(_number: int, _frame: object) -> None:
    """Python calls this in the main thread, beside the pipe."""
