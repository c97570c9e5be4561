"""A VM on its way from one line to another, and what waits for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmw_cloudinit_metadata.monitoring import counters
from vmw_cloudinit_metadata.monitoring.facts import VmotionExpired
from vmw_cloudinit_metadata.protocol import vmotion
from vmw_cloudinit_metadata.serving.shared import Shared

if TYPE_CHECKING:
    from vmw_cloudinit_metadata.serving.line import Line

EXPIRES_S = float(vmotion.EXPIRES_S)


class Journey:
    """From VMOTION-BEGIN to COMPLETE or ABORT, or until it expires: EXPIRES_S after it began, or
    after source or target went. While both are there, a move may take as long as it takes."""

    def __init__(self, shared: Shared, source: Line) -> None:
        self._shared = shared
        self.source = source
        self._target: Line | None = None
        self._is_over = False
        shared.journeys[source.session] = self
        self._begin_to_expire()

    def _begin_to_expire(self) -> None:
        self._shared.deadlines.start(EXPIRES_S, self._expire, self._hear)

    def _hear(self) -> Iterator[None]:
        """How it ended may have arrived already."""
        yield from self.source.hear()
        if self._target:
            yield from self._target.hear()

    @property
    def is_under_way(self) -> bool:
        return not self._is_over

    @property
    def has_target(self) -> bool:
        return self._target is not None

    def arrive(self, target: Line) -> None:
        """The target host has proved that it is expecting this VM."""
        self._target = target
        if self.source.is_open:
            self._shared.deadlines.cancel(self._expire)

    def end_is_gone(self) -> None:
        """One of the two lines is closed."""
        if self._is_over:
            return
        self._begin_to_expire()
        if not self.source.is_open and not (self._target and self._target.is_open):
            self.source.session.abandon_move()

    def complete(self) -> None:
        self._finish("completed")
        self.source.depart()

    def abort(self) -> None:
        self._finish("aborted")
        self._go_on()

    def replace(self) -> None:
        """Another VMOTION-BEGIN has come."""
        self._finish("replaced")
        self._dismiss_target()

    def make_room(self) -> None:
        """It was abandoned, and another move has its place in the table of moves."""
        untold = self._shared.throttle.passes("vMotions made room", self.source.host)
        level = logging.DEBUG if untold is None else logging.WARNING
        text = "vMotion ended to make room for another one: its source is gone, and no target came"
        self.source.report(VmotionExpired(f"{text}{untold or ''}"), level=level)
        self.source.session.end_move()
        self._finish("made room")
        self._go_on()

    def _expire(self) -> None:
        self.source.guarded(self._end)

    def _end(self) -> None:
        # Where the source is gone, another server may have completed it.
        level = logging.WARNING if self.source.is_open else logging.INFO
        text = "vMotion expired: neither completed nor aborted here"
        self.source.report(VmotionExpired(text), level=level)
        self.source.session.end_move()
        self._finish("expired")
        self._go_on()

    def _finish(self, outcome: counters.Move) -> None:
        self._is_over = True
        self._shared.counters[counters.MOVES[outcome]] += 1
        self._shared.deadlines.cancel(self._expire)
        self._shared.journeys.pop(self.source.session, None)

    def _go_on(self) -> None:
        """The VM stays, if it is still there."""
        self._dismiss_target()
        if self.source.is_open:
            self.source.guarded(self.source.proceed)
        else:
            self.source.end_dialogue()

    def _dismiss_target(self) -> None:
        if self._target:
            self._target.depart()
