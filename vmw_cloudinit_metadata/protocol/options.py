"""Telnet option state by the Q method of RFC 1143, for both sides of a connection.

The method is one table: what we hear or wish, in the state that the option is in, gives the next
state and what we say, so that two polite parties always fall silent. Pure.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from functools import lru_cache
from typing import NamedTuple

from vmw_cloudinit_metadata.protocol.telnet import Negotiation, Verb


class Side(IntEnum):
    US = 0
    HIM = 1


class Q(Enum):
    """RFC 1143's states; OPPOSITE is its queue bit."""

    NO = "NO"
    YES = "YES"
    WANTNO = "WANTNO"
    WANTNO_OPPOSITE = "WANTNO OPPOSITE"
    WANTYES = "WANTYES"
    WANTYES_OPPOSITE = "WANTYES OPPOSITE"

    __hash__ = object.__hash__  # in C; Enum's own is not, and each negotiation needs it


_YES = Q.YES  # a member of an enumeration takes some time to get at


class Hears(Enum):
    """What can happen to one option of one side."""

    AGREEABLE = "WILL or DO, and we take part in it"
    DISAGREEABLE = "WILL or DO, and we do not"
    NEGATIVE = "WONT or DONT"
    ENABLE = "we wish it on"
    DISABLE = "we wish it off"

    __hash__ = object.__hash__


class Step(NamedTuple):
    state: Q
    say: bool | None  # True: WILL or DO, False: WONT or DONT, None: silence


TRANSITIONS = {
    (Q.NO, Hears.AGREEABLE): Step(Q.YES, True),
    (Q.NO, Hears.DISAGREEABLE): Step(Q.NO, False),
    (Q.NO, Hears.NEGATIVE): Step(Q.NO, None),
    (Q.NO, Hears.ENABLE): Step(Q.WANTYES, True),
    (Q.NO, Hears.DISABLE): Step(Q.NO, None),
    (Q.YES, Hears.AGREEABLE): Step(Q.YES, None),
    (Q.YES, Hears.DISAGREEABLE): Step(Q.YES, None),
    (Q.YES, Hears.NEGATIVE): Step(Q.NO, False),
    (Q.YES, Hears.ENABLE): Step(Q.YES, None),
    (Q.YES, Hears.DISABLE): Step(Q.WANTNO, False),
    # RFC 1143: "Error: DONT answered by WILL"; it counts as off.
    (Q.WANTNO, Hears.AGREEABLE): Step(Q.NO, None),
    (Q.WANTNO, Hears.DISAGREEABLE): Step(Q.NO, None),
    (Q.WANTNO, Hears.NEGATIVE): Step(Q.NO, None),
    (Q.WANTNO, Hears.ENABLE): Step(Q.WANTNO_OPPOSITE, None),
    (Q.WANTNO, Hears.DISABLE): Step(Q.WANTNO, None),
    # RFC 1143: "Error: DONT answered by WILL"; it counts as on, which is what we came to wish.
    (Q.WANTNO_OPPOSITE, Hears.AGREEABLE): Step(Q.YES, None),
    (Q.WANTNO_OPPOSITE, Hears.DISAGREEABLE): Step(Q.YES, None),
    (Q.WANTNO_OPPOSITE, Hears.NEGATIVE): Step(Q.WANTYES, True),
    (Q.WANTNO_OPPOSITE, Hears.ENABLE): Step(Q.WANTNO_OPPOSITE, None),
    (Q.WANTNO_OPPOSITE, Hears.DISABLE): Step(Q.WANTNO, None),
    (Q.WANTYES, Hears.AGREEABLE): Step(Q.YES, None),
    (Q.WANTYES, Hears.DISAGREEABLE): Step(Q.YES, None),
    (Q.WANTYES, Hears.NEGATIVE): Step(Q.NO, None),
    (Q.WANTYES, Hears.ENABLE): Step(Q.WANTYES, None),
    (Q.WANTYES, Hears.DISABLE): Step(Q.WANTYES_OPPOSITE, None),
    (Q.WANTYES_OPPOSITE, Hears.AGREEABLE): Step(Q.WANTNO, False),
    (Q.WANTYES_OPPOSITE, Hears.DISAGREEABLE): Step(Q.WANTNO, False),
    (Q.WANTYES_OPPOSITE, Hears.NEGATIVE): Step(Q.NO, None),
    (Q.WANTYES_OPPOSITE, Hears.ENABLE): Step(Q.WANTYES, None),
    (Q.WANTYES_OPPOSITE, Hears.DISABLE): Step(Q.WANTYES_OPPOSITE, None),
}

# Whose option a verb speaks of when it arrives, and whether it says yes.
_ARRIVES = {
    Verb.WILL: (Side.HIM, True),
    Verb.WONT: (Side.HIM, False),
    Verb.DO: (Side.US, True),
    Verb.DONT: (Side.US, False),
}

_LEAVES = {
    (Side.US, True): Verb.WILL,
    (Side.US, False): Verb.WONT,
    (Side.HIM, True): Verb.DO,
    (Side.HIM, False): Verb.DONT,
}


# Of each side and option that is not NO. A value, and the same object for all connections that have
# come the same way: there are thousands, and most of them do.
States = frozenset[tuple[Side, int, Q]]


class Options:
    """The options of one connection; `us` and `him` are those that each side may switch on."""

    __slots__ = ("_agreeable", "_states")

    def __init__(self, us: frozenset[int], him: frozenset[int]) -> None:
        self._agreeable = (us, him)
        self._states: States = frozenset()

    def copy(self) -> Options:
        options = Options(*self._agreeable)
        options._states = self._states
        return options

    def receive(self, negotiation: Negotiation) -> Negotiation | None:
        """Returns what to say to a negotiation that arrived, or None for silence."""
        self._states, said = _received(self._states, negotiation, self._agreeable)
        return said

    def wish(self, side: Side, option: int, on: bool) -> Negotiation | None:
        """Returns what to say so that `option` of `side` goes on or off, or None for nothing."""
        hears = Hears.ENABLE if on else Hears.DISABLE
        self._states, said = _after(self._states, side, option, hears)
        return said

    def is_on(self, side: Side, option: int) -> bool:
        return (side, option, _YES) in self._states


@lru_cache(maxsize=512)  # of one honest way, some dozen
def _received(
    states: States, negotiation: Negotiation, agreeable: tuple[frozenset[int], frozenset[int]]
) -> tuple[States, Negotiation | None]:
    side, positive = _ARRIVES[negotiation.verb]
    if not positive:
        hears = Hears.NEGATIVE
    elif negotiation.option in agreeable[side]:
        hears = Hears.AGREEABLE
    else:
        hears = Hears.DISAGREEABLE
    return _after(states, side, negotiation.option, hears)


@lru_cache(maxsize=512)  # of one honest way, some dozen
def _after(
    states: States, side: Side, option: int, hears: Hears
) -> tuple[States, Negotiation | None]:
    """The next states of all options, and what to say."""
    before = next((q for whose, number, q in states if (whose, number) == (side, option)), Q.NO)
    state, say = TRANSITIONS[before, hears]
    others = states - {(side, option, before)}
    after = others if state is Q.NO else others | {(side, option, state)}
    return after, None if say is None else Negotiation(_LEAVES[side, say], option)
