"""Meter: bytes between libpq and the server, and their bound. A few lines play libpq."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.abc import PQGen
from psycopg.waiting import Wait, wait_selector

from tests.process import Constants
from tests.waiting import LIMIT_S
from vmw_cloudinit_metadata.drivers.stores.sql.meter import Meter
from vmw_cloudinit_metadata.drivers.stores.sql.rowrecords import TooLargeError


class World:
    def __init__(self) -> None:
        self.server, self.client = socket.socketpair()
        self.client.setblocking(False)
        self.meter = Meter(self.client.fileno())

    def answer(self, steps: PQGen[bytes]) -> bytes:
        return wait_selector(
            self.meter.passing(steps), self.meter.server.fileno(), interval=0.1, timeout=LIMIT_S
        )

    def received(self, size: int, most: int) -> PQGen[bytes]:
        """Read until there are so many bytes, at most `most` at a time, as libpq does."""
        found = b""
        while len(found) < size:
            while not (yield Wait.R):
                continue
            piece = self.client.recv(min(most, size - len(found)))
            if not piece:
                raise EOFError
            found += piece
        return found

    def close(self) -> None:
        self.meter.close()
        self.server.close()
        self.client.close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@given(size=st.integers(1, 150_000), most=st.integers(1_000, 100_000))
def test_each_byte_comes_through_however_few_are_read_at_a_time(size: int, most: int) -> None:
    world = World()
    sent = bytes(range(256)) * (size // 256 + 1)
    world.server.sendall(sent[:size])
    assert world.answer(world.received(size, most)) == sent[:size]
    world.close()


def test_what_libpq_sends_comes_through(world: World) -> None:
    asked = bytes(400_000)  # more than a socket takes at once

    def steps() -> PQGen[bytes]:
        left = asked
        while left:
            try:
                left = left[world.client.send(left) :]
            except BlockingIOError:
                yield Wait.RW
        return b""

    with world.server.makefile("rb") as line, ThreadPoolExecutor(1) as reader:
        heard = reader.submit(line.read, len(asked))
        world.answer(steps())
        assert heard.result(LIMIT_S) == asked


def test_server_that_has_gone_is_the_end_of_what_comes(world: World) -> None:
    world.server.sendall(b"last")
    world.server.close()
    assert world.answer(world.received(4, 10)) == b"last"
    with pytest.raises(EOFError):
        world.answer(world.received(1, 10))


class Severed(socket.socket):
    """To a server that is out of reach: TCP has given up."""

    def send(self, *_: object) -> int:
        raise TimeoutError

    def recv(self, *_: object) -> bytes:
        raise TimeoutError


def test_server_out_of_reach_is_the_end_of_what_comes(world: World) -> None:
    world.server.close()
    world.meter.server = Severed(fileno=world.meter.server.detach())
    world.client.send(b"asked")
    with pytest.raises(EOFError):
        world.answer(world.received(1, 10))


def test_last_words_of_libpq_come_through(world: World) -> None:
    world.client.send(b"bye")
    world.client.close()
    world.meter.close()
    with world.server.makefile("rb") as line:
        assert line.read() == b"bye"


def test_answer_may_have_so_many_bytes_and_the_next_one_again(
    world: World, constants: Constants
) -> None:
    constants(drivers__stores__sql__rowrecords__MAX_ANSWER_BYTES=1_000)
    for _ in range(2):
        world.server.sendall(bytes(1_000))
        assert world.answer(world.received(1_000, 100)) == bytes(1_000)
    world.server.sendall(bytes(1_001))
    with pytest.raises(TooLargeError):
        world.answer(world.received(1_001, 100))
