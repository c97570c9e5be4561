"""Dial again, as an ESXi host does whose connection was cut or refused. Uses gevent."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import gevent
from gevent.lock import BoundedSemaphore

from vmw_cloudinit_metadata.client.expectation import DialRefused, LineCut, VmFailure
from vmw_cloudinit_metadata.client.played import PlayedVm, within
from vmw_cloudinit_metadata.client.tally import Tally

# A host dials up to a tenth of the interval earlier: hosts do not dial all at the same instant.
EARLIEST = 0.9

# What is counted: connections, then boots.
CUT, REFUSED, AGAIN = "lines_cut", "dials_refused", "redials"
SERVED, NEVER_SERVED = "served", "never_served"

Dial = Callable[[PlayedVm], None]


def redialled(tally: Tally) -> dict[str, int]:
    return {name: tally.redial[name] for name in (CUT, REFUSED, AGAIN, SERVED, NEVER_SERVED)}


class Redialler:
    """Dials again for the VMs of one process, `at_once` at most; never if `every_s` is None."""

    def __init__(
        self, every_s: float | None, at_once: int, tally: Tally, chance: random.Random
    ) -> None:
        self._every_s = every_s
        self._room = BoundedSemaphore(at_once)
        self._tally = tally
        self._chance = chance

    @property
    def is_on(self) -> bool:
        return self._every_s is not None

    def restore(self, played: PlayedVm, cut: LineCut, dial: Dial) -> None:
        """Dial until the line is open again; raise the cut if hosts do not dial again.

        The caller limits the time.
        """
        if self._every_s is None:
            raise cut
        began_s = time.monotonic()
        stage = played.stage
        stage.is_cut = True
        stage.cut_s = stage.cut_s or began_s
        while True:
            self._tally.redial[REFUSED if isinstance(cut, DialRefused) else CUT] += 1
            stage.last_cut = cut.message
            stage.name = "redial"
            played.hang_up()
            gevent.sleep(self._every_s * self._chance.uniform(EARLIEST, 1))
            with self._room:
                self._tally.redial[AGAIN] += 1
                try:
                    dial(played)
                except LineCut as another:
                    cut = another
                else:
                    break
        self._tally.measure("redial", time.monotonic() - began_s)

    def complete(self, played: PlayedVm) -> None:
        """Count a VM that was served, if its line was cut before."""
        stage = played.stage
        if stage.is_cut:
            self._tally.redial[SERVED] += 1
        if stage.cut_s is not None:
            self._tally.measure("cut to served", time.monotonic() - stage.cut_s)
        stage.is_cut, stage.cut_s = False, None

    def fail(self, played: PlayedVm, failure: VmFailure) -> VmFailure:
        """Count a VM that failed; return the failure, with the last cut if there was one."""
        stage = played.stage
        if not stage.is_cut:
            return failure
        self._tally.redial[NEVER_SERVED] += 1
        return VmFailure(failure.kind, f"{failure.message}; last cut: {stage.last_cut}")


class KeptLine:
    """The open line of a VM whose guest is silent; it is dialled again if it is cut."""

    def __init__(self, played: PlayedVm, redialler: Redialler, dial: Dial, limit_s: float) -> None:
        self.played = played
        played.stage.cut_s = None  # the guest waits for nothing yet
        self._redialler = redialler
        self._dial = dial
        self._limit_s = limit_s
        self._failure: VmFailure | None = None
        self._is_open = True
        self._is_wanted = False
        self._keeper = gevent.spawn(self._keep) if redialler.is_on else None

    def _keep(self) -> None:
        try:
            while not self._is_wanted:
                self._wait_and_restore()
        except VmFailure as failure:
            self._failure = failure

    def _wait_and_restore(self) -> None:
        try:
            if self.played.receive():
                raise VmFailure("no packet", "idle: received data that no guest requested")
        except LineCut as cut:
            self._is_open = False
            with within(self._limit_s, self.played):
                self._redialler.restore(self.played, cut, self._dial)
            self._is_open = True
            self.played.stage.cut_s = None

    def take(self) -> PlayedVm:
        """Stop keeping the line, once it is open; raise VmFailure if it cannot be opened."""
        self._is_wanted = True
        if self._keeper is not None:
            if self._is_open:
                self._keeper.kill()
            self._keeper.get()
        if self._failure:
            raise self._failure
        return self.played
