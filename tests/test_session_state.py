"""The state of a session: one that goes on from it does as the first one would have done."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import ujson
from hypothesis import given
from hypothesis import strategies as st

from tests.test_session import TRANSCRIPTS, describe, new_policy, new_session
from tests.test_telnet import HOSTILE
from tests.transcript import Step, read, tls_policy
from tests.vm import ALWAYS_KNOWN, BINARY, suboption
from vmw_cloudinit_metadata.protocol.identitytoken import Proof, token
from vmw_cloudinit_metadata.protocol.policy import Departing
from vmw_cloudinit_metadata.protocol.session import Policy, Session, TlsPolicy
from vmw_cloudinit_metadata.protocol.sessionstate import restore, state_of
from vmw_cloudinit_metadata.protocol.state import InvalidState
from vmw_cloudinit_metadata.protocol.vmotion import KeyedSecrets, Moves, RandomSecrets, Secrets

UUID = "00112233-4455-6677-8899-aabbccddeeff"
KEY = b"k" * 16


def through_json(value: Any) -> Any:
    return ujson.loads(ujson.dumps(value))


def upgraded(session: Session, policy: Policy) -> Session:
    """A new session that goes on with the state of another one."""
    new = Session(policy, "10.0.0.9", datetime.now(UTC))
    restore(new, through_json(state_of(session)))
    new.resume(session.heard)
    return new


def next_policy(policy: Policy) -> Policy:
    """The same policy with a new table of moves, which goes on with the state of the other."""
    new = new_policy(policy.tls)
    new.moves.restore(through_json(policy.moves.state()))
    return new


def play(path: Path, size: int, *, is_upgraded: bool) -> tuple[bytes, list[str]]:
    """All output and events of input in pieces of `size`, with an upgrade after each of them."""
    policy = new_policy(tls_policy(path))
    session, said, told = new_session(policy), b"", []
    for step in [*read(path), Step(None), Step(None)]:
        heard = step.heard or b""
        for piece in [heard[i : i + size] for i in range(0, len(heard), size)] or [None]:
            is_overdue = piece is None and step.heard is None
            events = (
                session.identity_overdue() if is_overdue else session.receive_data(piece or b"")
            )
            told += [describe(event) for event in events]
            said += session.data_to_send()
            if is_upgraded:
                policy = next_policy(policy)
                session = upgraded(session, policy)
    return said, told


@TRANSCRIPTS
@pytest.mark.parametrize("size", [1, 7, 4096])
def test_upgrades_at_any_place_of_a_transcript_change_nothing(path: Path, size: int) -> None:
    assert play(path, size, is_upgraded=True) == play(path, size, is_upgraded=False)


@given(st.lists(HOSTILE, max_size=6), st.sampled_from(TlsPolicy))
def test_upgrades_between_any_bytes_change_nothing(pieces: list[bytes], tls: TlsPolicy) -> None:
    policy = new_policy(tls)
    staying, moving = new_session(policy), new_session(policy)
    for session in (staying, moving):
        session.data_to_send()
    for piece in [BINARY + suboption(0, ALWAYS_KNOWN), *pieces, b"!!REQUEST_METADATA#\n"]:
        policy = next_policy(policy)
        moving = upgraded(moving, policy)
        happened = [session.receive_data(piece, 5.0) for session in (staying, moving)]
        assert [*map(describe, happened[0])] == [*map(describe, happened[1])]
        assert staying.data_to_send() == moving.data_to_send()
    assert upgraded(moving, policy).heard == staying.heard
    assert state_of(upgraded(staying, policy)) == state_of(staying)


# Moves


class Pair:
    """Source and target of a move, and the table that they share."""

    def __init__(self, makes: Secrets) -> None:
        self._makes = makes
        self._begin(Moves(10, makes))
        self.source, self.target = (self._new() for _ in range(2))

    def _begin(self, moves: Moves[Departing]) -> None:
        self.policy = Policy(frozenset({"my-metadata"}), moves, identity_keys={1: KEY})

    def _new(self) -> Session:
        session = Session(self.policy, "10.0.0.1", datetime.now(UTC))
        session.data_to_send()
        return session

    def upgrade(self) -> None:
        before, moves = self.policy.moves, Moves[Departing](10, self._makes)
        moves.restore(through_json(before.state()))
        self._begin(moves)
        self.source = upgraded(self.source, self.policy)
        self.target = upgraded(self.target, self.policy)
        assert len(moves) == len(before)


IDENTITY = suboption(0, ALWAYS_KNOWN + bytes([80, 81])) + suboption(80, UUID.encode())
PROXY = suboption(70, f"Cmy-metadata?t={token(1, KEY, UUID)}".encode())
FROM_SOURCE = [
    BINARY + b"\xff\xfb\xe8" + IDENTITY + PROXY,
    b"!!REQUEST_METADATA#\n!!REQ",
    suboption(40, b"seq1"),
]
FROM_TARGET = [BINARY + b"\xff\xfb\xe8" + IDENTITY, b"", b"UEST_", suboption(46, b"seq1")]


@pytest.mark.parametrize("is_shared", [False, True], ids=["random secrets", "shared key"])
@pytest.mark.parametrize("place", range(7))
def test_move_goes_on_after_an_upgrade_in_each_of_its_steps(place: int, is_shared: bool) -> None:
    makes: Secrets = RandomSecrets(secrets.token_bytes)
    if is_shared:
        makes = KeyedSecrets(KEY, secrets.token_bytes, lambda: 1e9)
    pair = Pair(makes)
    said = b""
    for number, piece in enumerate([*FROM_SOURCE, *FROM_TARGET]):
        if number == place:
            pair.upgrade()
        if number < len(FROM_SOURCE):
            pair.source.receive_data(piece)
            said = pair.source.data_to_send()
            continue
        if number == len(FROM_SOURCE) + 1:
            secret = said.partition(suboption(41, b"seq1")[:-2])[2].removesuffix(b"\xff\xf0")
            piece = suboption(44, b"seq1" + secret.replace(b"\xff\xff", b"\xff"))
        events = [describe(event) for event in pair.target.receive_data(piece)]
    assert events == ["MoveCompleted"]
    assert "TakenOver" in map(describe, pair.target.take_over())
    assert pair.source.answer(b"") is None
    assert pair.target.machine.vc_uuid == UUID
    assert pair.target.machine.proof is Proof.TOKEN
    events = [describe(event) for event in pair.target.receive_data(b"USERDATA#\n")]
    assert "Requested USERDATA" in events
    assert len(pair.policy.moves) == 0


def test_spent_secret_stays_spent() -> None:
    makes = KeyedSecrets(KEY, secrets.token_bytes, lambda: 1e9)
    pair = Pair(makes)
    for piece in FROM_SOURCE:
        pair.source.receive_data(piece)
    secret = pair.source.data_to_send().partition(suboption(41, b"seq1")[:-2])[2][:-2]
    argument = b"seq1" + secret.replace(b"\xff\xff", b"\xff")
    pair.source.moves.end_move()
    pair.upgrade()
    assert pair.policy.moves.arrive(argument) is None


# What is no state


def damaged(state: Any, draw: st.DataObject) -> Any:
    """The state with something else at one place."""
    if isinstance(state, dict) and state and draw.draw(st.booleans()):
        name = draw.draw(st.sampled_from(sorted(state)))
        return state | {name: damaged(state[name], draw)}
    if isinstance(state, list) and state and draw.draw(st.booleans()):
        place = draw.draw(st.integers(0, len(state) - 1))
        return [*state[:place], damaged(state[place], draw), *state[place + 1 :]]
    others = [None, 7, -1.5, True, "x" * 5000, "€", [], [[]], {}, {"what": 1}]
    return draw.draw(st.sampled_from(others))


@given(st.integers(0, 400), st.data())
def test_damaged_state_is_refused_or_a_session(place: int, draw: st.DataObject) -> None:
    session = new_session()
    heard = b"".join(FROM_SOURCE)
    session.receive_data(heard[: place % len(heard)])
    session.data_to_send()
    new = Session(new_policy(), "10.0.0.1", datetime.now(UTC))
    try:
        restore(new, damaged(through_json(state_of(session)), draw))
    except InvalidState:
        return
    for one, other in pairwise([b"!!REQUEST_", b"METADATA#\n", suboption(40, b"seq2")]):
        new.receive_data(one + other)
    assert isinstance(new.data_to_send(), bytes)


def test_session_that_may_begin_tls_is_refused_where_tls_is_off() -> None:
    session = new_session(new_policy(TlsPolicy.ALLOW))
    session.data_to_send()
    with pytest.raises(InvalidState, match="TLS, which is off now"):
        restore(new_session(), through_json(state_of(session)))
