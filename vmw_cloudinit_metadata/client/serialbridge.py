"""The ESXi side between a raw serial byte stream and the server, with vMotions on command.

A guest that closes its stream is a VM that is switched off: the line to the server is closed. A
line that breaks is dialled again; what the guest writes meanwhile is lost, as it is on a host.
During a move the guest stands still from VMOTION-BEGIN until COMPLETE, so not a byte is lost or
doubled: what it wrote before has arrived when GOAHEAD comes, and what it writes then goes to the
target host's connection.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import gevent
from gevent.event import Event

from vmw_cloudinit_metadata.client.expectation import VmFailure
from vmw_cloudinit_metadata.client.hypervisor import ArrivingMove, GoAhead, NotNow
from vmw_cloudinit_metadata.client.played import Manner, PlayedVm, within
from vmw_cloudinit_metadata.client.stream import Stream, Tell
from vmw_cloudinit_metadata.protocol.vmware import Machine

REDIAL_S = 1.0
MOVE_S = 5.0  # ESXi's serialN.vmotionLimit: then a move is cancelled
MOVE_REST_S = 0.1  # between two moves: a host needs longer

_SEQUENCE_BYTES = 4


class Bridge:
    """Serves one guest at a time; `tell` takes lines for people."""

    def __init__(self, manner: Manner, machine: Machine, tell: Tell) -> None:
        self._manner = manner
        self._machine = machine
        self._tell = tell
        self._line: PlayedVm | None = None  # when it is ready
        self._may_write = Event()
        self._moves_to_do = 0
        self._began_s = 0.0
        self._sequence = b""  # of the move that is under way
        self._watch: Any = None  # ends it when it takes too long

    def run(self, guests: Iterable[Stream]) -> None:
        """Until there are no more guests."""
        for guest in guests:
            try:
                self._serve(guest)
            finally:
                guest.close()

    def move(self) -> None:
        """Makes a vMotion as soon as the line is ready and no other is under way."""
        self._moves_to_do += 1
        self._begin_next()

    def _begin_next(self) -> None:
        if self._moves_to_do and self._line and not self._sequence:
            self._begin_move(self._line)

    def _serve(self, guest: Stream) -> None:
        self._may_write.clear()
        line = gevent.spawn(self._keep_line, guest)
        try:
            while data := guest.read():
                self._write(data)
            self._tell("the guest is gone: the line is closed")
        finally:
            line.kill()

    def _write(self, data: bytes) -> None:
        while not self._may_write.is_set():  # it may be cleared again before we have our turn
            self._may_write.wait()
        if self._line:
            with suppress(VmFailure):  # the reader finds it too, and dials again
                self._line.write(data)

    # The line

    def _keep_line(self, guest: Stream) -> None:
        while True:
            try:
                self._hold_line(guest)
            except VmFailure as failure:
                self._tell(f"{failure.message}; dialling again in {REDIAL_S:g} s")
            gevent.sleep(REDIAL_S)

    def _hold_line(self, guest: Stream) -> None:
        line = PlayedVm(self._manner, self._machine)
        try:
            with within(self._manner.limit_s, line):
                line.connect()
                line.get_ready()
            self._tell(f"the line is open: {self._machine}")
            self._use(line, guest)
            self._release()
            while True:
                self._relay(guest)
        finally:
            if self._line:
                line, self._line = self._line, None
            line.close()
            self._release()

    def _use(self, line: PlayedVm, guest: Stream) -> None:
        self._line = line
        guest.write(line.take_heard())

    def _relay(self, guest: Stream) -> None:
        line = self._line
        assert line
        guest.write(line.receive())
        go_ahead = line.take(GoAhead)
        if go_ahead and go_ahead.arrival.sequence == self._sequence:
            self._travel(line, go_ahead.arrival, guest)
        elif line.take(NotNow):
            self._stay("the server says VMOTION-NOTNOW")

    # vMotion

    def _begin_move(self, line: PlayedVm) -> None:
        self._moves_to_do -= 1
        self._may_write.clear()
        self._began_s = time.monotonic()
        self._sequence = secrets.token_bytes(_SEQUENCE_BYTES)
        self._watch = gevent.spawn_later(MOVE_S, self._cancel, line)
        gevent.spawn(self._say_begin, line)

    def _say_begin(self, line: PlayedVm) -> None:
        with suppress(VmFailure):  # the reader finds it too
            line.begin_move(self._sequence)

    def _cancel(self, line: PlayedVm) -> None:
        self._watch = None
        with suppress(VmFailure):
            line.abort_move()
        self._stay(f"no GOAHEAD within {MOVE_S:g} s")

    def _travel(self, source: PlayedVm, arrival: ArrivingMove, guest: Stream) -> None:
        self._end_watch()
        try:
            with within(MOVE_S, source):
                target = source.arrive(arrival)
        except VmFailure as failure:
            source.abort_move()
            self._stay(failure.message)
            return
        target.take_over(source)
        source.close()
        self._use(target, guest)
        self._tell(f"moved in {(time.monotonic() - self._began_s) * 1000:.1f} ms")
        self._release()

    def _stay(self, reason: str) -> None:
        self._tell(f"not moved: {reason}")
        self._release()

    def _end_watch(self) -> None:
        if self._watch:
            self._watch.kill(block=False)
            self._watch = None

    def _release(self) -> None:
        """No move is under way: the guest goes on, and soon the next move begins."""
        self._end_watch()
        self._sequence = b""
        self._may_write.set()
        if self._moves_to_do:
            gevent.spawn_later(MOVE_REST_S, self._begin_next)
