"""vMotion: a VM on its way from one line to another. The source's line holds its answers back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from vmw_cloudinit_metadata.monitoring import counters
from vmw_cloudinit_metadata.monitoring.facts import (
    VmMoved,
    VmotionAborted,
    VmotionBegun,
    VmotionDeclined,
    VmotionExpired,
)
from vmw_cloudinit_metadata.protocol import events
from vmw_cloudinit_metadata.protocol.handover import Handover
from vmw_cloudinit_metadata.protocol.owed import Owed
from vmw_cloudinit_metadata.protocol.session import Session
from vmw_cloudinit_metadata.serving.dialogue import Dialogue, Owner
from vmw_cloudinit_metadata.serving.exchange import Exchange
from vmw_cloudinit_metadata.serving.passage import Passage
from vmw_cloudinit_metadata.serving.services import Services
from vmw_cloudinit_metadata.serving.standing import Standing
from vmw_cloudinit_metadata.serving.timeouts import MOVE_EXPIRES_S, MOVE_FROM_ELSEWHERE_S

log = logging.getLogger(__name__)

Event = (
    events.MoveBegun
    | events.MoveDeclined
    | events.MoveAborted
    | events.MoveClaimed
    | events.MoveArrived
    | events.MoveCompleted
    | events.TakenOver
)


# Ends after which the VM may run elsewhere all the same: nobody hears here what happens there.
_UNKNOWN: frozenset[counters.Move] = frozenset({"expired", "made room"})


class End(Owner, Protocol):
    """The part of a line that a journey uses: its source or its target."""

    session: Session
    dialogue: Dialogue
    journey: Journey | Passage | None

    @property
    def standing(self) -> Standing: ...

    @property
    def is_open(self) -> bool:
        """Whether the line is connected."""

    def hear(self) -> Iterator[None]:
        """Receive what has arrived, a turn at each step."""

    def hear_all(self) -> None:
        """Receive, at once, what has arrived."""

    def depart(self) -> None:
        """Go mute: the VM is on another line."""

    def handle(self, happened: list[events.Event]) -> None:
        """Handle events of the session."""


class JourneyState(NamedTuple):
    """What a journey of the next program goes on with."""

    number: int
    left_s: float | None  # until it expires
    is_target_elsewhere: bool


class Journey:
    """A vMotion from VMOTION-BEGIN to COMPLETE or ABORT, or until it expires: MOVE_EXPIRES_S after
    it began, or after source or target disconnected. While both are connected, it has no limit."""

    def __init__(
        self,
        services: Services,
        journeys: dict[int, Journey],
        exchange: Exchange | None,
        source: End,
        number: int,
    ) -> None:
        self._services = services
        self._journeys = journeys  # under way, by number
        self._exchange = exchange
        self._number = number
        self.source = source
        self._target: End | None = None
        self._is_target_elsewhere = False  # connected to another process
        self._is_over = False
        journeys[number] = self
        self._begin_to_expire()

    def _begin_to_expire(self) -> None:
        self._services.deadlines.start(MOVE_EXPIRES_S, self._expire, self._hear)

    def _hear(self) -> Iterator[None]:
        """Receive what has arrived at both ends: the end of the move may be in it."""
        yield from self.source.hear()
        if self._target:
            yield from self._target.hear()

    @property
    def ends(self) -> list[End]:
        """Source and, once it is connected, target."""
        return [self.source, self._target] if self._target else [self.source]

    @property
    def is_under_way(self) -> bool:
        return not self._is_over

    @property
    def has_target(self) -> bool:
        return self._target is not None or self._is_target_elsewhere

    @property
    def _is_expected(self) -> bool:
        """Whether the target is connected, here or elsewhere."""
        is_here = self._target is not None and self._target.is_open
        return is_here or self._is_target_elsewhere

    def arrive(self, target: End) -> None:
        """Note the target: its host has proved that it expects this VM."""
        self._target = target
        if self.source.is_open:
            self._services.deadlines.cancel(self._expire)
        if self._exchange:
            self._exchange.arrive(self._number)

    def arrive_elsewhere(self) -> None:
        """Note that the target has connected to another process."""
        self._is_target_elsewhere = True
        self.source.session.moves.target_elsewhere()
        if self.source.is_open:
            # Limited: that process may end without a word.
            self._services.deadlines.start(MOVE_FROM_ELSEWHERE_S, self._expire, self._hear)

    def leave_elsewhere(self) -> None:
        """Start to expire, as the target in another process has disconnected."""
        self._is_target_elsewhere = False
        self.end_is_gone()

    @property
    def state(self) -> JourneyState:
        left_s = self._services.deadlines.left_s(self._expire)
        return JourneyState(self._number, left_s, self._is_target_elsewhere)

    def restore(self, state: JourneyState, target: End | None) -> None:
        """Go on with a journey of the program before an upgrade."""
        self._target = target
        self._is_target_elsewhere = state.is_target_elsewhere
        self._services.deadlines.cancel(self._expire)
        if state.left_s is not None:
            self._services.deadlines.go_on(state.left_s, self._expire, self._hear)
        if not self.source.is_open and not self._is_expected:
            self.source.session.moves.abandon_move()
        if self._exchange and (move := self.source.session.moves.departure):
            self._exchange.announce(self._number, move.token)

    def end_is_gone(self) -> None:
        """Start to expire, as source or target has disconnected."""
        if self._is_over:
            return
        self._begin_to_expire()
        if not self.source.is_open and not self._is_expected:
            self.source.session.moves.abandon_move()

    def complete(self, target: End) -> None:
        """Let `target` continue where the source stopped."""
        source = self.source
        target.dialogue, source.dialogue = source.dialogue, target.dialogue
        target.dialogue.move_to(target)
        source.dialogue.move_to(source)
        if not source.is_open:
            source.dialogue.close()
        self._finish("completed")
        source.depart()

    def hand_over(self) -> Handover | None:
        """End here, and return what the target in another process goes on with; None if the move
        is over."""
        source = self.source
        source.hear_all()
        if self._is_over or self._target:
            return None
        unanswered, boot = source.dialogue.unanswered, source.dialogue.receipt.boot
        known, heard = source.session.moves.hand_over()
        source.dialogue.close()
        self._finish("handed over")
        source.depart()
        return Handover(known, Owed(heard, unanswered), boot)

    def abort(self) -> None:
        self._finish("aborted")
        self._go_on()

    def replace(self) -> None:
        """End this move for another VMOTION-BEGIN of the same VM."""
        self._finish("replaced")
        self._dismiss_target()

    def make_room(self) -> None:
        """End this abandoned move, whose place in the table of moves another one has."""
        unreported = self._services.throttle.passes(
            "vMotions made room", self.source.standing.peer.host
        )
        level = logging.DEBUG if unreported is None else logging.WARNING
        text = (
            "vMotion ended to make room for another one: "
            "its source is disconnected, and no target came"
        )
        self.source.report(VmotionExpired(f"{text}{unreported or ''}"), level=level)
        self.source.session.moves.end_move()
        self._finish("made room")
        self._go_on()

    def _expire(self) -> None:
        self.source.guarded(self._end)

    def _end(self) -> None:
        # Where the source is gone, another server may have completed it.
        level = logging.WARNING if self.source.is_open else logging.INFO
        text = "vMotion expired: neither completed nor aborted here"
        self.source.report(VmotionExpired(text), level=level)
        self.source.session.moves.end_move()
        self._finish("expired")
        self._go_on()

    def _finish(self, outcome: counters.Move) -> None:
        self._is_over = True
        self._services.counters[counters.MOVES[outcome]] += 1
        self._services.deadlines.cancel(self._expire)
        self._journeys.pop(self._number, None)
        if self._exchange:
            self._exchange.end(self._number, is_over=outcome not in _UNKNOWN)

    def _go_on(self) -> None:
        """Let the VM continue at its source, if that is connected."""
        self._dismiss_target()
        if self.source.is_open:
            self.source.guarded(self.source.proceed)
        else:
            self.source.dialogue.close()

    def _dismiss_target(self) -> None:
        if self._target:
            self._target.depart()


class Journeys:
    """All journeys of a process; handles the move events of the sessions at both ends."""

    def __init__(self, services: Services, exchange: Exchange | None = None) -> None:
        self._services = services
        self._exchange = exchange
        self._under_way: dict[int, Journey] = {}  # by the number of the move
        if exchange:
            exchange.attend(self)

    def handle(self, end: End, event: Event) -> list[events.Event]:
        """Handle an event of `end`'s session about its move; return what follows for that line."""
        match event:
            case events.MoveBegun(number, instead_of, token):
                if instead_of is not None:
                    self._under_way[instead_of].make_room()
                self._begin(end, number, token)
            case events.MoveDeclined(reason, is_of_rate):
                self._decline(end, reason, "declined by rate" if is_of_rate else "declined")
            case events.MoveAborted():
                end.report(VmotionAborted("vMotion aborted by its source"))
                assert isinstance(end.journey, Journey)
                end.journey.abort()
            case events.MoveClaimed(token):
                assert self._exchange
                end.journey = Passage(self._services, self._exchange, end, token)
                end.journey.claim()
            case events.MoveArrived(number):
                self._arrive(end, number)
            case events.MoveCompleted():
                if isinstance(end.journey, Passage):
                    end.journey.fetch()
                    return []
                if end.journey:
                    end.journey.source.hear_all()
                return end.session.take_over()
            case events.TakenOver():
                self._take_over(end)
        return []

    def target_elsewhere(self, number: int, *, is_there: bool) -> None:
        """Note that the target of a move has connected to another process, or disconnected."""
        if journey := self._under_way.get(number):
            if is_there:
                journey.arrive_elsewhere()
            else:
                journey.leave_elsewhere()

    def hand_over(self, number: int) -> Handover | None:
        """End a move here: the VM goes on elsewhere. None: the move is over."""
        journey = self._under_way.get(number)
        return journey.hand_over() if journey else None

    # Upgrade

    @property
    def ends_gone(self) -> Iterator[tuple[End, Journey]]:
        """The ends of journeys under way that have disconnected."""
        for journey in self._under_way.values():
            yield from ((end, journey) for end in journey.ends if not end.is_open)

    def restore(self, state: JourneyState, source: End, target: End | None) -> None:
        """Go on with a journey of the program before an upgrade."""
        number = state.number
        journey = Journey(self._services, self._under_way, self._exchange, source, number)
        journey.restore(state, target)
        for end in journey.ends:
            if end.is_open:  # else it would refer to its line for ever
                end.journey = journey

    def restore_passage(self, target: End) -> None:
        """Go on with a passage of the program before an upgrade."""
        session = target.session
        arrival = session.moves.arrival
        if arrival and self._exchange:
            passage = Passage(self._services, self._exchange, target, arrival.proof.token)
            target.journey = passage
            passage.go_on()
        elif arrival and arrival.is_over:  # the server is in no fleet any more
            target.guarded(lambda: target.handle(session.take_over()))
        elif arrival and arrival.is_checked:
            target.guarded(lambda: target.handle(session.settle_claim(is_first=True)))

    # Events of a session

    def _begin(self, source: End, number: int, token: bytes) -> None:
        self._replace(source)
        source.journey = Journey(self._services, self._under_way, self._exchange, source, number)
        if self._exchange:
            self._exchange.announce(number, token)
        source.report(VmotionBegun("vMotion begins"))

    def _decline(self, source: End, reason: str, outcome: counters.Move) -> None:
        self._replace(source)
        self._services.counters[counters.MOVES[outcome]] += 1
        host = source.standing.peer.host
        unreported = self._services.throttle.passes("move declined", outcome, host)
        level = logging.DEBUG if unreported is None else logging.WARNING
        text = f"vMotion declined (VMOTION-NOTNOW): {reason}{unreported or ''}"
        source.report(VmotionDeclined(text), level=level)

    def _replace(self, source: End) -> None:
        """Replace the journey of a VM whose host has sent another VMOTION-BEGIN."""
        journey = source.journey
        if isinstance(journey, Journey) and journey.source is source and journey.is_under_way:
            journey.replace()

    def _arrive(self, target: End, number: int | None) -> None:
        if number is not None:
            target.standing.accept()
            target.journey = self._under_way[number]
            target.journey.arrive(target)
        else:
            target.standing.accept(within_s=MOVE_FROM_ELSEWHERE_S)
        log.debug("%s: target of a vMotion", target.standing.peer)

    def _take_over(self, target: End) -> None:
        """Let `target` take over the VM."""
        if target.journey:
            target.journey.complete(target)
        else:
            self._services.counters[counters.MOVES["from elsewhere"]] += 1
        target.report(VmMoved("has moved here by vMotion"))
