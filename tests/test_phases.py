"""The table of phases: what leads where."""

from __future__ import annotations

import pytest

from vmw_cloudinit_metadata.protocol.phases import (
    ANSWERED,
    FRESH,
    MUTE,
    PROXIED,
    SERIAL,
    SILENCE,
    SPEAKING,
    TRANSITIONS,
    SessionPhase,
)

PHASES = sorted({phase for phase, _ in TRANSITIONS}, key=repr)


def test_every_phase_is_reached_from_the_first() -> None:
    reached, todo = {FRESH}, [FRESH]
    while todo:
        before = todo.pop()
        new = {after for (phase, _), after in TRANSITIONS.items() if phase is before} - reached
        reached |= new
        todo += new
    assert reached == set(PHASES)


@pytest.mark.parametrize("phase", PHASES, ids=repr)
def test_silence_leads_to_mute(phase: SessionPhase) -> None:
    assert TRANSITIONS[phase, SILENCE] is MUTE


def test_nothing_leads_out_of_mute() -> None:
    assert {after for (phase, _), after in TRANSITIONS.items() if phase is MUTE} == {MUTE}


def test_a_vm_that_is_served_stays_served_or_is_mute() -> None:
    afters = {after for (phase, _), after in TRANSITIONS.items() if phase in PROXIED}
    assert afters == PROXIED | {MUTE}


def test_requests_are_answered_only_where_the_guest_is_heard_and_may_be_written_to() -> None:
    assert ANSWERED < PROXIED < SERIAL < SPEAKING
    assert MUTE not in SPEAKING
