"""RFC 1143: two machines back to back, and the table's promises."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.protocol.telnet import Negotiation, Verb
from vmw_cloudinit_metadata.protocol.telnetoptions import (
    TRANSITIONS,
    Cause,
    Options,
    Q,
    Side,
    received,
    wished,
)

OPTIONS = st.sampled_from([0, 1, 3])
AGREEABLE = st.frozensets(OPTIONS)
NOTHING: frozenset[int] = frozenset()
WISHES = st.lists(st.tuples(st.booleans(), st.sampled_from(Side), OPTIONS, st.booleans()))


@given(AGREEABLE, AGREEABLE, AGREEABLE, AGREEABLE, WISHES, st.randoms())
def test_two_machines_fall_silent_and_agree(
    us: frozenset[int],
    him: frozenset[int],
    his_us: frozenset[int],
    his_him: frozenset[int],
    wishes: list[tuple[bool, Side, int, bool]],
    random: object,
) -> None:
    machines = [Options(us, him), Options(his_us, his_him)]
    to_first: deque[Negotiation] = deque()
    to_second: deque[Negotiation] = deque()
    inboxes = (to_first, to_second)
    said = 0
    while wishes or to_first or to_second:
        if wishes and random.random() < 0.5:  # type: ignore[attr-defined]
            is_first, side, option, on = wishes.pop()
            speaker = 0 if is_first else 1
            machines[speaker], answer = wished(machines[speaker], side, option, on=on)
        else:
            speaker = 0 if to_first else 1
            if not inboxes[speaker]:
                continue
            heard = inboxes[speaker].popleft()
            machines[speaker], answer = received(machines[speaker], heard)
        if answer:
            inboxes[1 - speaker].append(answer)
            said += 1
        assert said < 1000
    for option in (0, 1, 3):
        assert machines[0].is_on(Side.US, option) == machines[1].is_on(Side.HIM, option)
        assert machines[0].is_on(Side.HIM, option) == machines[1].is_on(Side.US, option)


def test_table_has_a_row_for_every_case() -> None:
    assert set(TRANSITIONS) == {(state, cause) for state in Q for cause in Cause}


def test_what_is_off_and_refused_is_answered_with_silence() -> None:
    options = Options(NOTHING, NOTHING)
    assert received(options, Negotiation(Verb.WONT, 1)) == (options, None)
    assert received(options, Negotiation(Verb.DONT, 1)) == (options, None)


def test_unwanted_option_is_refused_each_time_and_not_remembered() -> None:
    options = Options(NOTHING, NOTHING)
    for option in range(256):
        refusals = {Verb.WILL: Verb.DONT, Verb.DO: Verb.WONT}
        for verb, refusal in refusals.items():
            answered = received(options, Negotiation(verb, option))
            assert answered == (options, Negotiation(refusal, option))


def test_repeated_yes_is_answered_once() -> None:
    options, answer = received(Options(NOTHING, frozenset({0})), Negotiation(Verb.WILL, 0))
    assert answer == Negotiation(Verb.DO, 0)
    assert received(options, Negotiation(Verb.WILL, 0)) == (options, None)
