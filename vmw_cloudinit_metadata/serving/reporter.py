"""A worker's end of the socket pair with its parent: reports counters and happenings, and stops the
worker when the parent has ended."""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections import deque
from collections.abc import Callable

import gevent

from vmw_cloudinit_metadata.monitoring.counters import DROPPED
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.sourcestate import UNCHECKED
from vmw_cloudinit_metadata.process import channel
from vmw_cloudinit_metadata.process.upgradereport import UpgradeOutcome
from vmw_cloudinit_metadata.protocol.webhook import Taken
from vmw_cloudinit_metadata.serving.server import MetadataServer

log = logging.getLogger(__name__)

INTERVAL_S = 0.5  # each is also a sign of life: workers.SILENT_S
HAPPENINGS_S = 0.1  # happenings are collected for this long
LAST_WORDS_S = 2.0  # at the end, for the parent to take what is left

# While the parent is slow; further happenings are dropped and counted.
MAX_WAITING_BYTES = 4 * 1024 * 1024

_READABLE = 1  # libev's EV_READ
_FULL = (errno.EAGAIN, errno.ENOBUFS)


class Reporter:
    """Reports the figures and happenings of `server`. Calls `on_alone` when the parent has ended,
    and `on_upgrade` when it asks for an upgrade."""

    def __init__(
        self,
        pair: socket.socket,
        server: MetadataServer,
        on_alone: Callable[[], None],
        on_upgrade: Callable[[], None] = lambda: None,
    ) -> None:
        pair.setblocking(False)
        self._pair = pair
        self._server = server
        self._owes_figures = self._is_unchecked = False
        self._waiting: deque[bytes] = deque()  # happenings
        self._waiting_bytes = 0
        # The system accepts no message larger than half of this, whatever it was set to.
        buffer_bytes = pair.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self._room = channel.room_in(min(channel.MESSAGE_BYTES, buffer_bytes // 2))
        self._on_alone = on_alone
        self._on_upgrade = on_upgrade
        loop = gevent.get_hub().loop
        self._timer = loop.timer(INTERVAL_S, repeat=INTERVAL_S)
        self._soon = loop.timer(HAPPENINGS_S, repeat=HAPPENINGS_S)
        self._readable = loop.io(pair.fileno(), _READABLE)

    def start(self) -> None:
        """Report from now on: the worker accepts connections."""
        self.report()
        self._timer.start(self.report)
        self._readable.start(self._hear_parent)

    def stop(self) -> None:
        """Report the rest, within LAST_WORDS_S; the figures last."""
        for watcher in (self._timer, self._soon, self._readable):
            watcher.stop()
            watcher.close()
        end_s = time.monotonic() + LAST_WORDS_S
        while not self._send_happenings() and time.monotonic() < end_s:
            gevent.sleep(HAPPENINGS_S)
        self._drop(len(self._waiting))
        while not self._send_figures() and time.monotonic() < end_s + HAPPENINGS_S:
            gevent.sleep(HAPPENINGS_S)

    def tell_upgrade(self, outcome: UpgradeOutcome) -> None:
        """Report what became of an upgrade of this worker."""
        self._send(channel.of_upgrade(outcome))

    def send_all(self) -> None:
        """Report figures and happenings now, as far as the parent takes them: without this process
        none would be lost, but those that wait."""
        self._send_figures()
        if not self._send_happenings():
            self._drop(len(self._waiting))

    def hear(self, happening: Happening) -> None:
        """Pass on a happening; a listener."""
        try:
            packed = channel.of_happening(happening)
        except (
            Exception
        ):  # a driver is foreign code, and may have put in what JSON cannot represent
            log.debug("a happening cannot be sent to the parent", exc_info=True)
            self._drop(1)
            return
        size = len(packed) + 1  # and a comma
        if size > self._room or self._waiting_bytes + size > MAX_WAITING_BYTES:
            self._drop(1)
            return
        self._waiting.append(packed)
        self._waiting_bytes += size
        if len(self._waiting) == 1:
            self._soon.again(self._send_waiting)

    def report(self) -> None:
        """Report the figures; if there is no room now, before anything else later.

        Report them soon again before the first check of the data source has ended: the parent is
        not ready until then.
        """
        self._is_unchecked = self._server.problem == UNCHECKED
        self._owes_figures = not self._send_figures()
        if self._owes_figures or self._is_unchecked:
            self._soon.again(self._send_waiting)

    def _send_waiting(self) -> None:
        if self._owes_figures or self._is_unchecked:
            self.report()
        if not self._owes_figures and self._send_happenings() and not self._is_unchecked:
            self._soon.stop()

    def _send_figures(self) -> bool:
        server = self._server
        return self._send(channel.of_figures(server.figures, server.problem, server.source))

    def _send_happenings(self) -> bool:
        """Send the waiting happenings; return whether all are sent."""
        while self._waiting:
            some = self._first_ones()
            if not self._send(channel.together(some)):
                return False  # the timer tries again
            for packed in some:
                self._waiting.popleft()
                self._waiting_bytes -= len(packed) + 1
        return True

    def _first_ones(self) -> list[bytes]:
        """Return as many waiting happenings as one message has room for."""
        some: list[bytes] = []
        room = self._room
        for packed in self._waiting:
            room -= len(packed) + 1
            if room < 0:
                break
            some.append(packed)
        return some

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self._server.count(DROPPED["events"])

    def _send(self, message: bytes) -> bool:
        """Send a message; return whether the parent took it, or has ended."""
        try:
            self._pair.send(message)
        except OSError as error:
            if error.errno in _FULL:
                return False
            log.debug("nothing can be sent to the parent: %s", error)
        return True

    def _hear_parent(self) -> None:
        """Take a webhook or UPGRADE, or notice the end of the parent."""
        try:
            message = self._pair.recv(channel.MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._readable.stop()
            self._on_alone()
            return
        if message == channel.UPGRADE:
            self._on_upgrade()
            return
        number, hook = channel.decode_hook(message)
        # If there is no room for the answer, the parent has the sender send the webhook again.
        self._server.hooks.ask(hook, lambda taken: self._send_taken(number, taken))

    def _send_taken(self, number: int, taken: Taken) -> None:
        self._send(channel.of_taken(number, taken))
