"""Connect a raw serial byte stream to the server as its ESXi host, with vMotions on command.

A guest that closes its stream counts as powered off: the line to the server is closed. A broken
line is reconnected; what the guest writes meanwhile is lost, as on a real host. During a move the
guest is paused from VMOTION-BEGIN to COMPLETE, so no byte is lost or duplicated: its earlier bytes
have arrived when GOAHEAD comes, and later ones go to the target host's connection.
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
from vmw_cloudinit_metadata.client.stream import Report, Stream
from vmw_cloudinit_metadata.protocol.vmware import Machine

RECONNECT_S = 1.0
MOVE_S = 5.0  # ESXi's serialN.vmotionLimit: a longer move is cancelled
MOVE_REST_S = 0.1  # between two moves; a real host needs longer

_SEQUENCE_BYTES = 4


class Bridge:
    """Serves one guest at a time; passes messages for the user to `report`."""

    def __init__(self, manner: Manner, machine: Machine, report: Report) -> None:
        self._manner = manner
        self._machine = machine
        self._report = report
        self._line: PlayedVm | None = None  # None until it is ready
        self._may_write = Event()
        self._moves_to_do = 0
        self._began_s = 0.0
        self._sequence = b""  # of the move under way
        self._watch: Any = None  # cancels the move after MOVE_S

    def run(self, guests: Iterable[Stream]) -> None:
        """Serve one guest after the other, until there are no more."""
        for guest in guests:
            try:
                self._serve(guest)
            finally:
                guest.close()

    def move(self) -> None:
        """Start a vMotion as soon as the line is ready and no other move is under way."""
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
            self._report("the guest disconnected: line closed")
        finally:
            line.kill()

    def _write(self, data: bytes) -> None:
        while not self._may_write.is_set():  # it may be cleared again before this greenlet runs
            self._may_write.wait()
        if self._line:
            with suppress(VmFailure):  # the reader fails too, and reconnects
                self._line.write(data)

    # The line

    def _keep_line(self, guest: Stream) -> None:
        while True:
            try:
                self._hold_line(guest)
            except VmFailure as failure:
                self._report(f"{failure.message}; reconnecting in {RECONNECT_S:g} s")
            gevent.sleep(RECONNECT_S)

    def _hold_line(self, guest: Stream) -> None:
        line = PlayedVm(self._manner, self._machine)
        try:
            with within(self._manner.limit_s, line):
                line.connect()
                line.get_ready()
            self._report(f"line open: {self._machine}")
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
        guest.write(line.take_received())

    def _relay(self, guest: Stream) -> None:
        line = self._line
        assert line
        guest.write(line.receive())
        go_ahead = line.take(GoAhead)
        if go_ahead and go_ahead.arrival.sequence == self._sequence:
            self._travel(line, go_ahead.arrival, guest)
        elif line.take(NotNow):
            self._stay("the server sent VMOTION-NOTNOW")

    # vMotion

    def _begin_move(self, line: PlayedVm) -> None:
        self._moves_to_do -= 1
        self._may_write.clear()
        self._began_s = time.monotonic()
        self._sequence = secrets.token_bytes(_SEQUENCE_BYTES)
        self._watch = gevent.spawn_later(MOVE_S, self._cancel, line)
        gevent.spawn(self._send_begin, line)

    def _send_begin(self, line: PlayedVm) -> None:
        with suppress(VmFailure):  # the reader fails too
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
        self._report(f"moved in {(time.monotonic() - self._began_s) * 1000:.1f} ms")
        self._release()

    def _stay(self, reason: str) -> None:
        self._report(f"not moved: {reason}")
        self._release()

    def _end_watch(self) -> None:
        if self._watch:
            self._watch.kill(block=False)
            self._watch = None

    def _release(self) -> None:
        """End the move: resume the guest, and start the next move soon."""
        self._end_watch()
        self._sequence = b""
        self._may_write.set()
        if self._moves_to_do:
            gevent.spawn_later(MOVE_REST_S, self._begin_next)
