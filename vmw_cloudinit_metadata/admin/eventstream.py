"""Happenings as server-sent events: one ring for all followers, each with a place in it.

An event is formatted when the first follower reaches it; all others get the same bytes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Sequence
from sys import getsizeof

import gevent
import ujson
from gevent.event import Event

from vmw_cloudinit_metadata.admin.api import KEPT
from vmw_cloudinit_metadata.monitoring.counters import ADMIN_SHED, Key
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.jsonobject import fields
from vmw_cloudinit_metadata.monitoring.kept import MAX_MACHINE_BYTES, kept

KEPT_BYTES = 8 * 1024 * 1024

MAX_FOLLOWERS = 32  # one more closes the oldest
TOGETHER_S = 0.2
HEARTBEAT_S = 10.0

# What one follower gets at a time; then VMs and the other followers have their turn.
PIECE_BYTES = 64 * 1024
PIECE_EVENTS = 100
PAUSE_S = 0.002


class Follower:
    """One reader of events; `end` ends it from outside."""

    def __init__(self, place: int, level: int) -> None:
        self.place = place  # the number of the next event
        self.level = level
        self.woken = Event()
        self.is_ended = False

    def end(self) -> None:
        self.is_ended = True
        self.woken.set()


class Events:
    """The last happenings, numbered, and their followers."""

    def __init__(self) -> None:
        self._ring: deque[tuple[Happening, int]] = deque()  # each with the bytes that it holds
        self._next = 0
        self._texts: dict[int, bytes] = {}  # by number, as far as somebody has read them
        self._followers: list[Follower] = []
        self.kept_bytes = 0  # that all of it holds
        self.shed_counts: Counter[Key] = Counter()

    @property
    def _oldest(self) -> int:
        return self._next - len(self._ring)

    @property
    def follower_count(self) -> int:
        return len(self._followers)

    def hear(self, happenings: Sequence[Happening]) -> None:
        self.take([kept(happening) for happening in happenings])

    def take(self, weighed: Sequence[tuple[Happening, int]]) -> None:
        """Add happenings that were cut and weighed."""
        first = self._next
        self._next += len(weighed)
        self._ring.extend(weighed)
        self.kept_bytes += sum([size for _, size in weighed], MAX_MACHINE_BYTES * len(weighed))
        self._keep_within(KEPT_BYTES)
        for follower in self._followers:
            if any(happening.level >= follower.level for happening, _ in weighed):
                follower.woken.set()
            elif follower.place == first:
                follower.place = self._next  # it has missed nothing

    def shed(self) -> int:
        """Forget the older half; return how many bytes that frees."""
        before = self.kept_bytes
        self._keep_within(before // 2)
        return before - self.kept_bytes

    def _keep_within(self, most_bytes: int) -> None:
        ring, texts, held = self._ring, self._texts, self.kept_bytes
        while held > most_bytes or len(ring) > KEPT:
            if texts and (text := texts.pop(self._oldest, b"")):
                held -= getsizeof(text)
            held -= MAX_MACHINE_BYTES + ring.popleft()[1]
        self.kept_bytes = held

    def follow(self, after: int | None, level: int, last: int = 0) -> Follower:
        """Return a follower that starts behind the event numbered `after`, or with the `last` ones
        of its level."""
        if after is None or after >= self._next:
            place = self._place_of_last(last, level)
        else:
            place = max(after + 1, self._oldest)
        follower = Follower(place, level)
        self._followers.append(follower)
        if len(self._followers) > MAX_FOLLOWERS:
            self._followers[0].end()
            del self._followers[0]
        if place < self._next:
            follower.woken.set()
        return follower

    def _place_of_last(self, last: int, level: int) -> int:
        """Return the number of the event with which the `last` ones of a level begin."""
        place = self._next
        for happening, _ in reversed(self._ring):
            if not last:
                break
            place -= 1
            last -= happening.level >= level
        return place

    def end(self) -> None:
        """End all followers."""
        for follower in self._followers:
            follower.end()

    def stream(self, follower: Follower) -> Generator[bytes, None, None]:
        """Yield the bytes for a follower, as long as it reads."""
        try:
            yield b": events follow\n\n"
            while not follower.is_ended:
                if not follower.woken.wait(HEARTBEAT_S):
                    yield b": still here\n\n"
                    continue
                gevent.sleep(TOGETHER_S)
                follower.woken.clear()
                while follower.place < self._next:
                    if piece := self.next_piece(follower):
                        yield piece
                    gevent.sleep(PAUSE_S)
        finally:
            if follower in self._followers:
                self._followers.remove(follower)
            if not self._followers:
                self._forget_texts()

    def next_piece(self, follower: Follower) -> bytes:
        """Return the next bytes for a follower; b"" if no event in them has its level."""
        place = max(follower.place, self._oldest)
        missed = place - follower.place
        self.shed_counts[ADMIN_SHED["events"]] += missed
        texts = [_left_out(missed)] if missed else []
        size = 0
        while self._oldest <= place < self._next and len(texts) < PIECE_EVENTS:
            if self._ring[place - self._oldest][0].level >= follower.level:
                text = self._text_of(place)
                size += len(text)
                if texts and size > PIECE_BYTES:
                    break
                texts.append(text)
            place += 1
        follower.place = place
        return b"".join(texts)

    def _text_of(self, number: int) -> bytes:
        text = self._texts.get(number)
        if text is None:
            text = _event(number, self._ring[number - self._oldest][0])
            self._texts[number] = text
            self.kept_bytes += getsizeof(text)
            self._keep_within(KEPT_BYTES)
        return text

    def _forget_texts(self) -> None:
        self.kept_bytes -= sum(map(getsizeof, self._texts.values()))
        self._texts.clear()


def _event(number: int, happening: Happening) -> bytes:
    data = ujson.dumps(fields(happening), escape_forward_slashes=False)
    return b"id: %d\ndata: %b\n\n" % (number, data.encode())


def _left_out(count: int) -> bytes:
    return b'data: {"kind": "left out", "count": %d}\n\n' % count
