"""The hub's turn: all connections that have something to read are served, and then it waits again.

What is said in a turn is sent at its end. The peers are often one ESXi host, or one load generator:
a segment for each of them alone would wake it each time, which costs more than the segment.
"""

from __future__ import annotations

from typing import Protocol

import gevent

# A turn of a herd is long: so many do not wait for the others.
MAX_TOGETHER = 64


class Sender(Protocol):
    def send(self) -> bool:
        """Sends what waits; whether to call `all_is_sent`."""

    def all_is_sent(self) -> None:
        """May have more to say now."""


class Turn:
    """Has senders send together: at the end of the hub's turn, or MAX_TOGETHER at a time."""

    def __init__(self) -> None:
        self._loop = gevent.get_hub().loop
        self._waiting: list[Sender] = []
        self._done: list[Sender] = []
        self._has_end = False

    def add(self, sender: Sender) -> None:
        """`sender` has something to send."""
        self._waiting.append(sender)
        if not self._has_end:
            self._has_end = True
            self._loop.run_callback(self._end)
        if len(self._waiting) >= MAX_TOGETHER:
            self._send()

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._done += [sender for sender in waiting if sender.send()]

    def _end(self) -> None:
        self._has_end = False
        self._send()
        done, self._done = self._done, []
        for sender in done:  # not before: it could be in the middle of saying something
            sender.all_is_sent()
