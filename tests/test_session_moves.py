"""A move between the sessions of two processes that share a key: what is asked, and handed over."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_session import HELLO, NAME, PROXY, UUID, new_session
from tests.vm import suboption
from vmw_cloudinit_metadata.protocol.arrival import MAX_BEHIND_BYTES
from vmw_cloudinit_metadata.protocol.events import (
    Event,
    MoveArrived,
    MoveBegun,
    MoveClaimed,
    MoveCompleted,
    Refused,
    TakenOver,
    Violation,
)
from vmw_cloudinit_metadata.protocol.handover import Handover
from vmw_cloudinit_metadata.protocol.owed import Owed
from vmw_cloudinit_metadata.protocol.packet import GuestRequest
from vmw_cloudinit_metadata.protocol.phases import ARRIVED, ARRIVING, IDENTIFIED, MUTE
from vmw_cloudinit_metadata.protocol.session import Policy, Session
from vmw_cloudinit_metadata.protocol.vmotion import KeyedSecrets, Moves

SEQUENCE = b"seq1"
COMPLETE = suboption(46, SEQUENCE)
PEER_OK = suboption(45, SEQUENCE)
REFUSED = suboption(3, b"\x2c")
GUEST = b"!!REQUEST_METADATA#\nnoise\n!!REQUEST_USERDATA#\r\n!!REQUEST_DIGEST#\n"
EXPECTED = ["METADATA", "USERDATA", "DIGEST"]


def process(*uris: str, asks: bool = True) -> Policy:
    """The policy of one of the processes that share a key."""
    secrets = KeyedSecrets(b"k" * 16, os.urandom, time.time)
    return Policy(frozenset(uris or ("my-metadata", "other")), Moves(10, secrets), asks_claims=asks)


def source_of(policy: Policy, uri: bytes = b"my-metadata?a=b") -> tuple[Session, bytes]:
    """A session whose VM begins to move, and the move's token."""
    source = new_session(policy)
    proxy = PROXY.replace(b"my-metadata", uri)
    happened = source.receive_data(HELLO + proxy + NAME + UUID + suboption(40, SEQUENCE))
    (begun,) = [event for event in happened if isinstance(event, MoveBegun)]
    return source, begun.token


def peer(token: bytes) -> bytes:
    return HELLO + suboption(44, token) + UUID


def of_type(events: list[Event], *kinds: type[Event]) -> list[type[Event]]:
    return [type(event) for event in events if isinstance(event, kinds)]


def documents(events: list[Event]) -> list[str]:
    return [event.document for event in events if isinstance(event, GuestRequest)]


def test_claim_is_asked_once_and_nothing_is_said_until_it_is_settled() -> None:
    _, token = source_of(process())
    target = new_session(process())
    happened = target.receive_data(peer(token) + NAME + COMPLETE)
    assert [event.token for event in happened if isinstance(event, MoveClaimed)] == [token]
    assert PEER_OK not in target.data_to_send()
    assert target.phase is ARRIVING
    happened = target.settle_claim(is_first=True)
    assert of_type(happened, MoveArrived, MoveCompleted) == [MoveArrived, MoveCompleted]
    assert target.data_to_send() == PEER_OK
    assert target.phase is ARRIVED


def test_claim_that_is_not_the_first_is_refused() -> None:
    _, token = source_of(process())
    target = new_session(process())
    target.receive_data(peer(token))
    assert of_type(target.settle_claim(is_first=False), Refused) == [Refused]
    assert target.data_to_send().endswith(REFUSED)
    assert target.settle_claim(is_first=True) == []
    assert target.phase is MUTE


def test_wrong_secret_is_refused_and_nobody_is_asked() -> None:
    _, token = source_of(process())
    target = new_session(process())
    happened = target.receive_data(peer(token[:-1] + bytes([token[-1] ^ 1])))
    assert of_type(happened, MoveClaimed, Refused) == [Refused]


def test_without_others_to_ask_a_claim_is_accepted_at_once() -> None:
    _, token = source_of(process(asks=False))
    target = new_session(process(asks=False))
    assert of_type(target.receive_data(peer(token)), MoveClaimed, MoveArrived) == [MoveArrived]


def test_move_within_the_process_asks_nobody() -> None:
    policy = process()
    _, token = source_of(policy)
    target = new_session(policy)
    assert of_type(target.receive_data(peer(token)), MoveClaimed, MoveArrived) == [MoveArrived]


def arrived(token: bytes) -> Session:
    """A session whose VM runs there since VMOTION-COMPLETE."""
    target = new_session(process())
    target.receive_data(peer(token))
    target.settle_claim(is_first=True)
    target.receive_data(COMPLETE)
    return target


def handed_by(source: Session) -> Handover:
    """What the source hands over, after its way through bytes."""
    known, heard = source.moves.hand_over()
    return Handover.from_bytes(Handover(known, Owed(heard)).to_bytes(0.0), 0.0)


@given(st.integers(0, len(GUEST)), st.integers(0, len(GUEST)), st.booleans())
def test_requests_are_the_same_wherever_the_guest_moves(
    one: int, other: int, is_awaited: bool
) -> None:
    moves, comes = sorted((one, other))
    source, token = source_of(process())
    if is_awaited:  # the source waits for the identity: its requests move, too
        source.receive_data(suboption(0, bytes([84, 85])))
    found = documents(source.receive_data(GUEST[:moves]))
    target = arrived(token)
    assert documents(target.receive_data(GUEST[moves:comes])) == []
    handed = handed_by(source)
    assert documents(source.receive_data(GUEST)) == []
    happened = target.take_over((handed.known, handed.owed.heard))
    assert type(happened[0]) is TakenOver
    found += documents(happened) + documents(target.receive_data(GUEST[comes:]))
    if is_awaited:
        found += documents(target.receive_data(suboption(84, b"00" * 16)))
    assert found == EXPECTED
    assert target.phase is IDENTIFIED
    assert target.machine.service_uri == "my-metadata?a=b"
    assert target.machine.name == "web1"


def test_vm_that_nobody_hands_over_is_taken_over_as_ever() -> None:
    _, token = source_of(process())
    target = arrived(token)
    target.receive_data(GUEST)
    happened = target.take_over(None)
    assert documents(happened + target.receive_data(NAME)) == EXPECTED
    assert target.machine.service_uri == ""  # there are two, and the target host sends none


def test_source_with_another_vc_uuid_hands_over_nothing() -> None:
    source, token = source_of(process())
    target = arrived(token)
    handed = handed_by(source)
    known = replace(handed.known, vc_uuid="11111111-1111-1111-1111-111111111111")
    happened = target.take_over((known, handed.owed.heard))
    assert of_type(happened, TakenOver, Refused) == [Refused]


def test_move_that_is_over_elsewhere_is_refused_after_complete() -> None:
    _, token = source_of(process())
    target = arrived(token)
    assert of_type(target.settle_claim(is_first=False), Refused) == [Refused]
    assert target.take_over(None) == []


def test_source_s_process_accepts_no_target_once_that_is_elsewhere() -> None:
    policy = process()
    source, token = source_of(policy)
    source.moves.target_elsewhere()
    target = new_session(policy)
    assert of_type(target.receive_data(peer(token)), MoveArrived, Refused) == [Refused]


@pytest.mark.parametrize("what", [b"x" * 1000, b"\xff\xfb\x2a", suboption(82, b"y" * 1000)])
def test_what_waits_behind_complete_is_bounded(what: bytes) -> None:
    _, token = source_of(process())
    target = arrived(token)
    kinds = set()
    for _ in range(MAX_BEHIND_BYTES // 100):
        happened = target.receive_data(what)
        kinds |= {event.kind for event in happened if isinstance(event, Violation)}
    assert kinds == {"too much behind VMOTION-COMPLETE"}


def test_events_do_not_show_the_secret() -> None:
    _, token = source_of(process())
    shown = repr([MoveBegun(1, None, token), MoveClaimed(token)])
    assert repr(token)[2:-1] not in shown
