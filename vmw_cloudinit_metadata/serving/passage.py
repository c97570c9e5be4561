"""vMotion: the way of a VM to a line, from a source that is connected to another process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vmw_cloudinit_metadata.monitoring import counters
from vmw_cloudinit_metadata.protocol import events
from vmw_cloudinit_metadata.protocol.handover import Handover
from vmw_cloudinit_metadata.protocol.session import Session
from vmw_cloudinit_metadata.serving.dialogue import Dialogue
from vmw_cloudinit_metadata.serving.exchange import Exchange, Fetched, MoveOver
from vmw_cloudinit_metadata.serving.services import Services


class Target(Protocol):
    """The part of a line that a passage uses."""

    session: Session
    dialogue: Dialogue

    def guarded(self, step: Callable[[], None]) -> None:
        """Run `step`; an error in it ends this line and no other."""

    def handle(self, happened: list[events.Event]) -> None:
        """Handle events of the session."""


class Passage:
    """A move from VMOTION-PEER, with a secret that is right, until the VM is taken over.

    While it asks others, the target sends nothing to its guest, and keeps what that writes.
    """

    has_target = True

    def __init__(
        self, services: Services, exchange: Exchange, target: Target, token: bytes
    ) -> None:
        self._services = services
        self._exchange = exchange
        self._target = target
        self._token = token
        self._handed: Handover | None = None
        self.is_under_way = True

    def claim(self) -> None:
        """Ask whether this is the first use of the secret."""
        self._exchange.claim(self._token, self._claimed)

    def fetch(self) -> None:
        """Ask the source, after VMOTION-COMPLETE, for what it holds."""
        self._exchange.fetch(self._token, self._fetched)

    def go_on(self) -> None:
        """Ask what the program before an upgrade has not asked."""
        arrival = self._target.session.moves.arrival
        if self.is_under_way and arrival:
            if not arrival.is_accepted:
                self.claim()
            elif arrival.is_over:
                self.fetch()

    def complete(self, target: Target) -> None:
        """Let `target` continue where the source stopped, if that was handed over."""
        outcome: counters.Move = "continued" if self._handed else "from elsewhere"
        self._services.counters[counters.MOVES[outcome]] += 1
        if self._handed:
            target.dialogue.resume(self._handed.owed.unanswered)
            target.dialogue.receipt.boot = self._handed.boot
            self._handed = None

    def end_is_gone(self) -> None:
        """Let the source go on without the target, which has disconnected."""
        if self.is_under_way:
            self.is_under_way = False
            self._exchange.leave(self._token)

    def _claimed(self, is_first: bool) -> None:
        if self.is_under_way:
            self.is_under_way = is_first
            self._settle(is_first=is_first)

    def _settle(self, *, is_first: bool) -> None:
        self._go_on(lambda session: session.settle_claim(is_first=is_first))

    def _fetched(self, fetched: Fetched) -> None:
        if not self.is_under_way:
            return
        self.is_under_way = False
        if isinstance(fetched, MoveOver):
            self._settle(is_first=False)
            return
        self._handed = fetched
        handed = (fetched.known, fetched.owed.heard) if fetched else None
        self._go_on(lambda session: session.take_over(handed))

    def _go_on(self, step: Callable[[Session], list[events.Event]]) -> None:
        target = self._target
        target.guarded(lambda: target.handle(step(target.session)))
