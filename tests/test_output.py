"""What is said in one turn of the hub goes out with it: all of it, in order, without blocking."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Iterator

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.process.budget import Budget
from vmw_cloudinit_metadata.process.deadlines import Deadlines
from vmw_cloudinit_metadata.serving.output import (
    CLEAR_BYTES,
    MAX_TOGETHER,
    MAX_WAITING_BYTES,
    Output,
    Turn,
)
from vmw_cloudinit_metadata.serving.unsent import Unsent


class Pair:
    """An output, and the peer that may read what it sends."""

    def __init__(self, turn: Turn) -> None:
        self.ours, self.peer = socket.socketpair()
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for end in (self.ours, self.peer):
            end.setblocking(False)
        self.emptied = 0
        self.waits_always = True
        self.unsent = Unsent(Budget(1 << 40))
        self.output = Output(
            self.ours,
            turn,
            Deadlines(),
            self.unsent,
            defaultdict(int),
            on_empty=self._emptied,
            on_stalled=lambda: None,
            on_shed=lambda: None,
        )
        self.output.await_empty()

    def _emptied(self) -> None:
        self.emptied += 1
        if self.waits_always:
            self.output.await_empty()

    def read(self) -> bytes:
        try:
            return self.peer.recv(1 << 20)
        except BlockingIOError:
            return b""

    def read_all(self, size: int) -> bytes:
        data = b""
        with gevent.Timeout(60):
            while len(data) < size:
                data += self.read()
                gevent.sleep(0)
        return data

    def close(self) -> None:
        self.output.close()
        self.ours.close()
        self.peer.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair(Turn())
    yield pair
    pair.close()


@given(st.lists(st.binary(max_size=9000), max_size=7))
def test_all_arrives_in_order(said: list[bytes]) -> None:
    pair = Pair(Turn())
    for data in said:
        pair.output.write(data)
    assert pair.read_all(sum(map(len, said))) == b"".join(said)
    gevent.sleep(0)
    assert pair.output.waiting_bytes == 0
    assert pair.output.is_clear
    assert pair.emptied == bool(b"".join(said))
    pair.close()


def test_nothing_is_sent_before_the_end_of_the_turn(pair: Pair) -> None:
    pair.output.write(b"one ")
    pair.output.write(b"turn")
    assert pair.read() == b""
    assert pair.emptied == 0
    gevent.sleep(0)
    assert pair.read() == b"one turn"
    assert pair.emptied == 1


def test_herd_does_not_wait_for_its_last() -> None:
    turn = Turn()
    pairs = [Pair(turn) for _ in range(MAX_TOGETHER + 3)]
    for pair in pairs:
        pair.output.write(b"hello")
    assert [bool(pair.read()) for pair in pairs] == [True] * MAX_TOGETHER + [False] * 3
    assert not any(pair.emptied for pair in pairs)  # each could be about to say more
    gevent.sleep(0)
    assert [pair.read() for pair in pairs[-3:]] == [b"hello"] * 3
    assert [pair.emptied for pair in pairs] == [1] * len(pairs)
    for pair in pairs:
        pair.close()


def test_who_says_more_in_the_same_turn_has_it_sent_too() -> None:
    turn = Turn()
    pairs = [Pair(turn) for _ in range(MAX_TOGETHER)]
    for pair in pairs:
        pair.output.write(b"hello")  # the last one's write sends all
    pairs[0].output.write(b", again")
    gevent.sleep(0)
    assert pairs[0].read() == b"hello, again"
    for pair in pairs:
        pair.close()


def test_what_the_socket_does_not_take_waits_for_it(pair: Pair) -> None:
    said = bytes(range(256)) * 256
    pair.output.write(said)
    gevent.sleep(0)
    assert 0 < pair.output.waiting_bytes < len(said)
    assert not pair.output.is_clear
    assert pair.emptied == 0
    assert pair.output.write(said)
    assert pair.output.waiting_bytes > MAX_WAITING_BYTES
    assert not pair.output.has_room
    assert not pair.output.write(b"this is left out")
    assert pair.read_all(2 * len(said)) == 2 * said
    gevent.sleep(0)
    assert pair.output.is_clear
    assert pair.emptied == 1


def test_much_that_waits_for_the_end_of_the_turn_is_not_clear(pair: Pair) -> None:
    pair.output.write(bytes(CLEAR_BYTES))
    assert pair.output.is_clear
    pair.output.write(b"!")
    assert not pair.output.is_clear


@pytest.mark.parametrize("size", [5, 60_000])
def test_end_of_sending_calls_back_once(pair: Pair, size: int) -> None:
    pair.waits_always = False  # but from the beginning, once
    for is_awaited, emptied in ((False, 1), (True, 2), (False, 2)):
        if is_awaited:
            pair.output.await_empty()
        pair.output.write(bytes(size))
        gevent.sleep(0)
        pair.read_all(size)
        gevent.sleep(0.01)
        assert pair.output.is_clear
        assert pair.emptied == emptied


def test_it_can_be_sent_at_once_and_only_once(pair: Pair) -> None:
    pair.output.write(b"farewell")
    pair.output.send()
    assert pair.read() == b"farewell"
    gevent.sleep(0)
    assert pair.read() == b""


def test_closed_output_says_nothing_more(pair: Pair) -> None:
    pair.output.write(b"too late")
    pair.output.close()
    gevent.sleep(0)
    assert pair.read() == b""
    assert pair.emptied == 0


def test_peer_that_is_gone_takes_all(pair: Pair) -> None:
    pair.peer.close()
    pair.output.write(b"nobody hears this")
    gevent.sleep(0)
    assert pair.output.waiting_bytes == 0
    assert pair.emptied == 1


def test_end_of_sending_calls_nobody_back_while_the_socket_is_full() -> None:
    turn = Turn()
    pairs = [Pair(turn) for _ in range(MAX_TOGETHER)]
    for pair in pairs:
        pair.output.write(b"hello")  # the last one's write sends all
    much = bytes(60_000)
    pairs[0].output.write(much)
    gevent.sleep(0)
    assert pairs[0].output.waiting_bytes > 0
    assert pairs[0].emptied == 0
    assert pairs[0].read_all(5 + len(much)) == b"hello" + much
    gevent.sleep(0)
    assert pairs[0].emptied == 1
    for pair in pairs:
        pair.close()
