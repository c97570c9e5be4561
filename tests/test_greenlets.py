"""Each connection has a greenlet of its own, which serves another one when that is over."""

from __future__ import annotations

import gc
import weakref

import gevent
import greenlet
import pytest

from vmw_cloudinit_metadata import greenlets as module
from vmw_cloudinit_metadata.greenlets import Greenlets


class Connections:
    """What runs where; each ends when it is told to."""

    def __init__(self) -> None:
        self.of: dict[int, greenlet.greenlet] = {}
        self.may_end = gevent.event.Event()

    def serve(self, number: int) -> None:
        self.of[number] = gevent.getcurrent()
        self.may_end.wait()


def spawn(greenlets: Greenlets, connections: Connections, *numbers: int) -> None:
    for number in numbers:
        greenlets.spawn(connections.serve, number)
    gevent.sleep(0)


def end(connections: Connections) -> None:
    connections.may_end.set()
    gevent.sleep(0)
    connections.may_end.clear()


def test_those_at_the_same_time_have_their_own() -> None:
    greenlets, connections = Greenlets(), Connections()
    spawn(greenlets, connections, 1, 2, 3)
    assert len(set(connections.of.values())) == 3
    assert greenlets.idle == 0
    end(connections)
    assert greenlets.idle == 3


def test_next_ones_have_those_of_before() -> None:
    greenlets, connections = Greenlets(), Connections()
    spawn(greenlets, connections, 1, 2)
    end(connections)
    spawn(greenlets, connections, 3, 4, 5)
    assert {connections.of[3], connections.of[4]} == {connections.of[1], connections.of[2]}
    assert connections.of[5] not in (connections.of[1], connections.of[2])
    end(connections)


def test_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IDLE", 2)
    greenlets, connections = Greenlets(), Connections()
    spawn(greenlets, connections, 1, 2, 3, 4)
    end(connections)
    assert greenlets.idle == 2
    assert sum(one.dead for one in connections.of.values()) == 2


def test_what_is_over_is_not_kept() -> None:
    class Socket:
        pass

    greenlets, sock = Greenlets(), Socket()
    greenlets.spawn(lambda _sock: None, sock)
    there = weakref.ref(sock)
    del sock
    gevent.sleep(0)
    gc.collect()
    assert greenlets.idle == 1
    assert there() is None


def test_nothing_runs_at_once() -> None:
    greenlets, ran = Greenlets(), []
    for _ in range(2):  # in a new one, and in one that is there
        greenlets.spawn(ran.append, 1)
        assert ran == []
        gevent.sleep(0)
        assert ran.pop() == 1
