"""Greenlets that serve one connection after the other.

Each connection has a greenlet of its own. To begin a new one costs a sixth of what the kernel takes
for a whole boot, most of it for the memory of its frames, which the system gives and takes back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from greenlet import greenlet

_Work = tuple[Callable[..., None] | None, tuple[Any, ...]]

MAX_IDLE = 256  # a herd that has gone need not leave thousands


class Greenlets:
    """Nobody joins or kills them: what `spawn` is given is to catch its own errors."""

    def __init__(self) -> None:
        self._idle: list[greenlet] = []

    @property
    def idle(self) -> int:
        return len(self._idle)

    def spawn(self, function: Callable[..., None], *arguments: Any) -> None:
        """Calls `function` in a greenlet, in the hub's next turn."""
        if self._idle:
            gevent.get_hub().loop.run_callback(self._idle.pop().switch, function, arguments)
        else:
            gevent.spawn_raw(self._work, [(function, arguments)])

    def _work(self, first: list[_Work]) -> None:
        hub = gevent.get_hub()
        function, arguments = first.pop()  # a greenlet keeps what it was begun with
        while function:
            function(*arguments)
            function, arguments = None, ()
            if len(self._idle) < MAX_IDLE:
                self._idle.append(gevent.getcurrent())
                function, arguments = hub.switch()
