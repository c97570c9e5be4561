"""Each connection has a greenlet of its own, which serves another one when that is over."""

from __future__ import annotations

import gc
import socket
import weakref

import gevent
import greenlet

from vmw_cloudinit_metadata.process.greenlets import MAX_IDLE, Greenlets


class Connections:
    """Which greenlet serves which connection; `end` ends them all."""

    def __init__(self, max_idle: int = MAX_IDLE) -> None:
        self.greenlets = Greenlets(self._serve, max_idle)
        self.of: dict[int, greenlet.greenlet] = {}
        self.may_end = gevent.event.Event()

    def _serve(self, _sock: socket.socket, address: tuple[int]) -> None:
        self.of[address[0]] = gevent.getcurrent()
        self.may_end.wait()

    def begin(self, *numbers: int) -> None:
        for number in numbers:
            with socket.socket() as sock:
                self.greenlets.spawn(sock, (number,))
        gevent.sleep(0)

    def end(self) -> None:
        self.may_end.set()
        gevent.sleep(0)
        self.may_end.clear()


def test_those_at_the_same_time_have_their_own() -> None:
    connections = Connections()
    connections.begin(1, 2, 3)
    assert len(set(connections.of.values())) == 3
    assert connections.greenlets.idle == 0
    connections.end()
    assert connections.greenlets.idle == 3


def test_next_ones_have_those_of_before() -> None:
    connections = Connections()
    connections.begin(1, 2)
    connections.end()
    connections.begin(3, 4, 5)
    of = connections.of
    assert {of[3], of[4]} == {of[1], of[2]}
    assert of[5] not in (of[1], of[2])
    connections.end()


def test_few_are_kept() -> None:
    connections = Connections(max_idle=2)
    connections.begin(1, 2, 3, 4)
    connections.end()
    assert connections.greenlets.idle == 2
    assert sum(one.dead for one in connections.of.values()) == 2


def test_what_is_over_is_not_kept() -> None:
    greenlets = Greenlets(lambda sock, _connection: sock.close())
    for _ in range(2):  # in a new one, and in one that is there
        sock = socket.socket()
        there = weakref.ref(sock)
        greenlets.spawn(sock, ())
        del sock
        gevent.sleep(0)
        gc.collect()
        assert greenlets.idle == 1
        assert there() is None


def test_nothing_runs_at_once() -> None:
    ran = []
    greenlets = Greenlets(lambda _sock, address: ran.append(address))
    for _ in range(2):
        with socket.socket() as sock:
            greenlets.spawn(sock, ())
        assert ran == []
        gevent.sleep(0)
        assert ran.pop() == ()


def test_closed_ones_end_also_those_that_are_busy_yet() -> None:
    connections = Connections()
    connections.begin(1, 2)
    connections.end()
    connections.begin(3)
    there = weakref.ref(connections.greenlets)
    all_of_them = set(connections.of.values())
    connections.greenlets.close()
    gevent.sleep(0)
    assert sum(one.dead for one in all_of_them) == 1
    connections.end()
    assert all(one.dead for one in all_of_them)
    del connections, all_of_them
    gc.collect()
    assert there() is None
