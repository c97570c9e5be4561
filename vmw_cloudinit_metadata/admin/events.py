"""What happens, as server-sent events: one ring for all who follow, each with a place in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import gevent
import ujson
from gevent.event import Event

from vmw_cloudinit_metadata.happenings import Happening, fields

KEPT = 4096  # who is slower than this misses some, and is told how many
MAX_FOLLOWERS = 32  # one more, and the oldest has to go
TOGETHER_S = 0.2
HEARTBEAT_S = 10.0


class Follower:
    """One who reads events; ended from outside by `end`."""

    def __init__(self, place: int, level: int) -> None:
        self.place = place  # the number of the next event
        self.level = level
        self.woken = Event()
        self.is_ended = False

    def end(self) -> None:
        self.is_ended = True
        self.woken.set()


class Events:
    """The last happenings, numbered, and those who follow them."""

    def __init__(self) -> None:
        self._ring: deque[Happening] = deque(maxlen=KEPT)
        self._next = 0
        self._followers: list[Follower] = []

    @property
    def follower_count(self) -> int:
        return len(self._followers)

    def hear(self, happenings: Sequence[Happening]) -> None:
        self._ring.extend(happenings)
        self._next += len(happenings)
        for follower in self._followers:
            if any(happening.level >= follower.level for happening in happenings):
                follower.woken.set()

    def follow(self, after: int | None, level: int) -> Follower:
        """From behind the event numbered `after` on, or from now on."""
        oldest = self._next - len(self._ring)
        place = self._next if after is None or after >= self._next else max(after + 1, oldest)
        follower = Follower(place, level)
        self._followers.append(follower)
        if len(self._followers) > MAX_FOLLOWERS:
            self._followers[0].end()
            del self._followers[0]
        if place < self._next:
            follower.woken.set()
        return follower

    def end(self) -> None:
        """Nothing more comes."""
        for follower in self._followers:
            follower.end()

    def stream(self, follower: Follower) -> Iterator[bytes]:
        """What is sent to a follower, as long as it reads."""
        try:
            yield b": events follow\n\n"
            while not follower.is_ended:
                if follower.woken.wait(HEARTBEAT_S):
                    gevent.sleep(TOGETHER_S)
                    follower.woken.clear()
                yield self._take(follower) or b": still here\n\n"
        finally:
            if follower in self._followers:
                self._followers.remove(follower)

    def _take(self, follower: Follower) -> bytes:
        oldest = self._next - len(self._ring)
        missed = max(oldest - follower.place, 0)
        told = [_left_out(missed)] if missed else []
        for number in range(follower.place + missed, self._next):
            happening = self._ring[number - oldest]
            if happening.level >= follower.level:
                told.append(_event(number, happening))
        follower.place = self._next
        return "".join(told).encode()


def _event(number: int, happening: Happening) -> str:
    data = ujson.dumps(fields(happening), escape_forward_slashes=False)
    return f"id: {number}\ndata: {data}\n\n"


def _left_out(count: int) -> str:
    return f'data: {{"kind": "left out", "count": {count}}}\n\n'
