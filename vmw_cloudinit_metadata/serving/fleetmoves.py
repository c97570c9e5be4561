"""FleetMoves: moves between this process and others, by way of the fleet's database.

    source                                        target
    begun ──────────> row
                      row <────────────── claim ──  VMOTION-PEER: the first use of the secret?
    target ─┐
            v
    (holds its answers)
                      row <───────────── wanted ──  VMOTION-COMPLETE
    wanted ─┐
            v
    (empties its socket)
    handed ─────────> row, sealed ──────> handed ┐
                      row deleted                v  goes on where the source stopped

Whatever does not come in time is done without: then it is as between servers that share nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from vmw_cloudinit_metadata.monitoring.onceaminute import OnceAMinute
from vmw_cloudinit_metadata.process.deadlines import Deadlines
from vmw_cloudinit_metadata.protocol.handover import Handover
from vmw_cloudinit_metadata.protocol.owed import InvalidOwedError
from vmw_cloudinit_metadata.serving.exchange import Fetched, MoveOver, Sources
from vmw_cloudinit_metadata.serving.seal import BrokenSealError, Seal
from vmw_cloudinit_metadata.serving.timeouts import CLAIM_S, CONNECTED_S, HAND_OVER_S

log = logging.getLogger(__name__)

_IS_OVER, _HANDED = b"\0", b"\1"  # the first byte of what is sealed
_WANTED = b"wanted"

# A move that ends some milliseconds after it began is not announced yet.
ASKED_AT_MOST = 4
ASKED_AGAIN_S = 0.1

Fields = Mapping[str, Any]


class Answered(Protocol):
    """What the fleet process replies."""

    @property
    def fields(self) -> Fields: ...


class MovesLink(Protocol):
    """The part of a FleetLink that moves use."""

    def tell(self, kind: str, fields: Fields, payload: bytes = b"") -> bool: ...

    def ask(
        self,
        kind: str,
        fields: Fields,
        payload: bytes,
        within_s: float,
        then: Callable[[Answered | None], None],
    ) -> None: ...

    def on(self, kind: str, handler: Callable[[Fields, bytes], None]) -> None: ...

    def when_connected(self, call: Callable[[], None]) -> None: ...

    @property
    def is_connected(self) -> bool: ...


class FleetMoves:
    """An Exchange; `key` is what all processes share that a VM can move between."""

    def __init__(self, link: MovesLink, key: bytes, deadlines: Deadlines) -> None:
        self._link = link
        self._seal = Seal(key)
        self._deadlines = deadlines
        self._throttle = OnceAMinute()
        self._sources: Sources | None = None
        self._announced: dict[str, tuple[int, bytes]] = {}  # by name: number and token
        self._names: dict[int, str] = {}  # of the announced moves, by number
        self._fetches: dict[str, _Fetch] = {}  # by name
        self._claims = 0  # that wait for their reply
        self._is_held = False
        self._held: list[Callable[[], None]] = []  # claims and fetches

    def attend(self, sources: Sources) -> None:
        """Answer, from now on, what targets in other processes ask of the sources here."""
        self._sources = sources
        self._link.on("move_target", partial(self._target_elsewhere, is_there=True))
        self._link.on("move_left", partial(self._target_elsewhere, is_there=False))
        self._link.on("move_wanted", self._wanted)
        self._link.on("move_handed", self._handed)
        self._link.when_connected(self._announce_all)

    # The source

    def announce(self, number: int, token: bytes) -> None:
        name = self._name(token)
        self._announced[name] = number, token
        self._names[number] = name
        self._link.tell("move", {"move": name, "now": "begun"})

    def _announce_all(self) -> None:
        """Announce again what began while the database was away, or what it has lost."""
        for name in self._announced:
            self._link.tell("move", {"move": name, "now": "begun"})

    def arrive(self, number: int) -> None:
        if name := self._names.get(number):
            self._link.tell("move", {"move": name, "now": "used"})

    def end(self, number: int, *, is_over: bool) -> None:
        if name := self._names.pop(number, None):
            del self._announced[name]
            self._link.tell("move", {"move": name, "now": "over" if is_over else "gone"})

    def _target_elsewhere(self, fields: Fields, _payload: bytes, *, is_there: bool) -> None:
        number, _ = self._announced.get(str(fields.get("move")), (None, b""))
        if number is not None and self._sources:
            self._sources.target_elsewhere(number, is_there=is_there)

    def _wanted(self, fields: Fields, payload: bytes) -> None:
        name = str(fields.get("move"))
        number, token = self._announced.get(name, (None, b""))
        if number is None or not self._sources:
            return
        try:
            self._seal.open(_WANTED + token, payload)
        except BrokenSealError as error:
            self._warn("a hand-over was asked for by somebody without the key", error)
            return
        handover = self._sources.hand_over(number)
        content = _HANDED + handover.to_bytes(time.time()) if handover else _IS_OVER
        sealed = self._seal.close(token, content)
        self._link.ask("move_handed", {"move": name}, sealed, HAND_OVER_S, _ignore)

    # The target

    def claim(self, token: bytes, then: Callable[[bool], None]) -> None:
        if self._is_held:
            self._held.append(partial(self.claim, token, then))
            return

        def claimed(reply: Answered | None) -> None:
            self._claims -= 1
            then(reply is None or reply.fields.get("is_first") is not False)

        self._claims += 1
        self._link.ask("move_claim", {"move": self._name(token)}, b"", CLAIM_S, claimed)

    def leave(self, token: bytes) -> None:
        self._link.tell("move", {"move": self._name(token), "now": "left"})

    def fetch(self, token: bytes, then: Callable[[Fetched], None]) -> None:
        if self._is_held:
            self._held.append(partial(self.fetch, token, then))
            return
        name = self._name(token)

        def fetched(found: Fetched) -> None:
            del self._fetches[name]
            then(found)

        wanted = self._seal.close(_WANTED + token, b"")
        move = _Wanted(name, token, wanted)
        self._fetches[name] = _Fetch(self._link, self._deadlines, move, fetched)
        self._fetches[name].begin()

    def _handed(self, fields: Fields, payload: bytes) -> None:
        if fetch := self._fetches.get(str(fields.get("move"))):
            try:
                fetch.end(self._opened(fetch.wanted.token, payload))
            except (BrokenSealError, InvalidOwedError) as error:
                self._warn("what a source has handed over cannot be used", error)
                fetch.end(None)

    def _opened(self, token: bytes, payload: bytes) -> Handover | MoveOver:
        content = self._seal.open(token, payload)
        if content == _IS_OVER:
            return MoveOver()
        return Handover.from_bytes(content.removeprefix(_HANDED), time.time())

    def _warn(self, what: str, error: ValueError) -> None:
        unreported = self._throttle.passes(what)
        if unreported is not None:
            log.warning("fleet: %s: %s%s", what, error, unreported)

    def _name(self, token: bytes) -> str:
        return self._seal.name_of(token).hex()

    # Upgrade

    @property
    def is_asking(self) -> bool:
        return bool(self._claims or self._fetches)

    def hold(self) -> None:
        self._is_held = True

    def go_on(self) -> None:
        self._is_held = False
        held, self._held = self._held, []
        for ask in held:
            ask()

    def when_connected(self, call: Callable[[], None]) -> None:
        """Call it, once, as soon as others can be asked, or after CONNECTED_S."""
        self._wait_for_link(call, self._deadlines.now_s() + CONNECTED_S)

    def _wait_for_link(self, call: Callable[[], None], end_s: float) -> None:
        if self._link.is_connected or self._deadlines.now_s() > end_s:
            call()
        else:
            again = partial(self._wait_for_link, call, end_s)
            self._deadlines.start(ASKED_AGAIN_S, again)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A move whose target has come; `proof` shows that its secret is known."""

    name: str
    token: bytes = field(repr=False)
    proof: bytes = field(repr=False)


class _Fetch:
    """What a target waits for, between VMOTION-COMPLETE and the hand-over."""

    def __init__(
        self,
        link: MovesLink,
        deadlines: Deadlines,
        wanted: _Wanted,
        then: Callable[[Fetched], None],
    ) -> None:
        self._link = link
        self._deadlines = deadlines
        self.wanted = wanted
        self._then = then
        self._asked = 0
        self._is_over = False

    def begin(self) -> None:
        self._deadlines.start(HAND_OVER_S, self._expire)
        self._ask()

    def _ask(self) -> None:
        self._asked += 1
        move = {"move": self.wanted.name}
        self._link.ask("move_wanted", move, self.wanted.proof, HAND_OVER_S, self._answered)

    def _answered(self, reply: Answered | None) -> None:
        """Wait for the hand-over if the source was asked for it."""
        answer = reply.fields if reply else {}
        if self._is_over or answer.get("is_asked") is True:
            return
        if answer.get("is_over") is True:
            self.end(MoveOver())
        elif answer.get("is_ended") is False and self._asked < ASKED_AT_MOST:
            self._deadlines.start(ASKED_AGAIN_S, self._ask)  # the move is announced just now
        else:
            self.end(None)

    def _expire(self) -> None:
        self.end(None)

    def end(self, fetched: Fetched) -> None:
        if not self._is_over:
            self._is_over = True
            self._deadlines.cancel(self._expire, self._ask)
            self._then(fetched)


def _ignore(_reply: Answered | None) -> None: ...
