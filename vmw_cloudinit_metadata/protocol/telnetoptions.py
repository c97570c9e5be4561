"""Telnet option state by the Q method of RFC 1143, for both sides of a connection.

The method is one table: the state of an option, and what arrives or is wished, give the next state
and the answer. Two parties that follow it always fall silent. Pure.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from vmw_cloudinit_metadata.protocol.state import Form, InvalidState, State, items, mapping
from vmw_cloudinit_metadata.protocol.telnet import Negotiation, Verb


class Side(IntEnum):
    US = 0
    HIM = 1


class Q(StrEnum):
    """RFC 1143's states; OPPOSITE is its queue bit."""

    NO = "NO"
    YES = "YES"
    WANTNO = "WANTNO"
    WANTNO_OPPOSITE = "WANTNO OPPOSITE"
    WANTYES = "WANTYES"
    WANTYES_OPPOSITE = "WANTYES OPPOSITE"


# Each by its own name, as RFC 1143 writes it.
NO, YES, WANTNO, WANTNO_OPPOSITE, WANTYES, WANTYES_OPPOSITE = Q


class Cause(StrEnum):
    """The events of one option of one side."""

    AGREEABLE = "WILL or DO of an option that is allowed here"
    DISAGREEABLE = "WILL or DO of one that is not"
    NEGATIVE = "WONT or DONT"
    ENABLE = "we want it on"
    DISABLE = "we want it off"


AGREEABLE, DISAGREEABLE, NEGATIVE, ENABLE, DISABLE = Cause


class Step(NamedTuple):
    state: Q
    say: bool | None  # True: WILL or DO, False: WONT or DONT, None: silence


TRANSITIONS = {
    (NO, AGREEABLE): Step(YES, True),
    (NO, DISAGREEABLE): Step(NO, False),
    (NO, NEGATIVE): Step(NO, None),
    (NO, ENABLE): Step(WANTYES, True),
    (NO, DISABLE): Step(NO, None),
    (YES, AGREEABLE): Step(YES, None),
    (YES, DISAGREEABLE): Step(YES, None),
    (YES, NEGATIVE): Step(NO, False),
    (YES, ENABLE): Step(YES, None),
    (YES, DISABLE): Step(WANTNO, False),
    # RFC 1143: "Error: DONT answered by WILL"; it counts as off.
    (WANTNO, AGREEABLE): Step(NO, None),
    (WANTNO, DISAGREEABLE): Step(NO, None),
    (WANTNO, NEGATIVE): Step(NO, None),
    (WANTNO, ENABLE): Step(WANTNO_OPPOSITE, None),
    (WANTNO, DISABLE): Step(WANTNO, None),
    # RFC 1143: "Error: DONT answered by WILL"; it counts as on, which is what we want by now.
    (WANTNO_OPPOSITE, AGREEABLE): Step(YES, None),
    (WANTNO_OPPOSITE, DISAGREEABLE): Step(YES, None),
    (WANTNO_OPPOSITE, NEGATIVE): Step(WANTYES, True),
    (WANTNO_OPPOSITE, ENABLE): Step(WANTNO_OPPOSITE, None),
    (WANTNO_OPPOSITE, DISABLE): Step(WANTNO, None),
    (WANTYES, AGREEABLE): Step(YES, None),
    (WANTYES, DISAGREEABLE): Step(YES, None),
    (WANTYES, NEGATIVE): Step(NO, None),
    (WANTYES, ENABLE): Step(WANTYES, None),
    (WANTYES, DISABLE): Step(WANTYES_OPPOSITE, None),
    (WANTYES_OPPOSITE, AGREEABLE): Step(WANTNO, False),
    (WANTYES_OPPOSITE, DISAGREEABLE): Step(WANTNO, False),
    (WANTYES_OPPOSITE, NEGATIVE): Step(NO, None),
    (WANTYES_OPPOSITE, ENABLE): Step(WANTYES, None),
    (WANTYES_OPPOSITE, DISABLE): Step(WANTYES_OPPOSITE, None),
}

# A verb that arrives -> the side whose option it is about, and whether it is positive.
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


# Each side and option whose state is not NO.
States = frozenset[tuple[Side, int, Q]]

MAX_STATES = 512  # two sides, 256 options each


class Options(NamedTuple):
    """The options of a connection. All that have negotiated in the same way share one value: there
    are thousands of them, and most have."""

    us: frozenset[int]  # the options that we may switch on
    him: frozenset[int]
    states: States = frozenset()

    def is_on(self, side: Side, option: int) -> bool:
        return (side, option, YES) in self.states


@lru_cache(maxsize=512)  # 2.5 % of a cached boot; a connection has some dozen entries
def received(options: Options, negotiation: Negotiation) -> tuple[Options, Negotiation | None]:
    """Return the options after a negotiation that arrived, and the answer, or None for silence."""
    side, is_positive = _ARRIVES[negotiation.verb]
    cause = NEGATIVE
    if is_positive:
        is_agreeable = negotiation.option in (options.him if side is Side.HIM else options.us)
        cause = AGREEABLE if is_agreeable else DISAGREEABLE
    return _after(options, side, negotiation.option, cause)


def wished(
    options: Options, side: Side, option: int, *, on: bool
) -> tuple[Options, Negotiation | None]:
    """Return the options, and what to send, to have one of them on or off; None for nothing."""
    return _after(options, side, option, ENABLE if on else DISABLE)


def _after(
    options: Options, side: Side, option: int, cause: Cause
) -> tuple[Options, Negotiation | None]:
    before = NO
    for whose, number, state in options.states:
        if whose is side and number == option:
            before = state
    state, say = TRANSITIONS[before, cause]
    after = options.states - {(side, option, before)}
    if state is not NO:
        after |= {(side, option, state)}
    answer = None if say is None else Negotiation(_LEAVES[side, say], option)
    return options._replace(states=after), answer


def _write_options(options: Options) -> State:
    agreeable = [sorted(options.us), sorted(options.him)]
    states = {"states": sorted(options.states)} if options.states else {}
    return {"agreeable": agreeable, **states}


def _read_options(value: Any) -> Options:
    match mapping(value):
        case {"agreeable": [[*us], [*him]], **further} if all(map(_is_option, (*us, *him))):
            states = _read_states(further.pop("states", []))
            if not further:
                return Options(frozenset(us), frozenset(him), states)
    raise InvalidState("expected the options that may be on, and those that are")


def _is_option(value: object) -> bool:
    return type(value) is int and 0 <= value < 256


def _read_states(written: Any) -> States:
    match items(written, MAX_STATES):
        case [*entries] if all(isinstance(one, list) and len(one) == 3 for one in entries):
            try:
                return frozenset((Side(side), int(number), Q(q)) for side, number, q in entries)
            except (TypeError, ValueError) as error:
                raise InvalidState("an option with an unknown state") from error
    raise InvalidState("an option without its state")


OPTIONS = Form(None, _write_options, _read_options)
