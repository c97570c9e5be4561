"""Moves by themselves: secrets, and the table of what is under way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.protocol import vmotion
from vmw_cloudinit_metadata.protocol.vmotion import (
    EXPIRES_S,
    MAX_SEQUENCE_BYTES,
    Claim,
    KeyedSecrets,
    Move,
    Moves,
    RandomSecrets,
)

KEY = b"0123456789abcdef"
UUID = "01234567-89ab-cdef-fedc-ba9800000001"
NOW_S = 1_800_000_000.0
SEQUENCES = st.binary(max_size=MAX_SEQUENCE_BYTES)


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


class Counting:
    """Random bytes that differ, and are the same in every run."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return self._count.to_bytes(size, "big")


def keyed(clock: Clock | None = None, key: bytes = KEY, limit: int = 10) -> Moves[str]:
    return Moves(limit, KeyedSecrets(key, Counting(), clock or Clock()))


def local(limit: int = 10) -> Moves[str]:
    return Moves(limit, RandomSecrets(Counting()))


def begin(moves: Moves[str], sequence: bytes = b"seq1", source: str = "source") -> Move[str]:
    move = moves.begin(source, sequence, UUID)
    assert move
    return move


def claim(moves: Moves[str], argument: bytes) -> Claim:
    proof = moves.arrive(argument)
    assert isinstance(proof, Claim)
    return proof


@given(SEQUENCES)
def test_move_is_found_by_sequence_and_secret(sequence: bytes) -> None:
    for moves in (local(), keyed()):
        move = begin(moves, sequence)
        assert moves.arrive(sequence + move.secret) is move


def test_secret_has_one_length() -> None:
    assert {len(begin(local(), bytes(size)).secret) for size in range(9)} == {8}
    assert {len(begin(keyed(), bytes(size)).secret) for size in range(9)} == {24}


def test_moves_with_the_same_sequence_are_told_apart() -> None:
    moves = local()
    first, second = begin(moves, source="first"), begin(moves, source="second")
    assert moves.arrive(b"seq1" + second.secret) is second
    assert moves.arrive(b"seq1" + first.secret) is first


@pytest.mark.parametrize("place", range(12))
def test_wrong_bit_is_not_the_move_and_does_not_harm_it(place: int) -> None:
    moves = local()
    move = begin(moves)
    right = b"seq1" + move.secret
    wrong = right[:place] + bytes([right[place] ^ 0x80]) + right[place + 1 :]
    assert moves.arrive(wrong) is None
    assert moves.arrive(right) is move


@given(st.binary(max_size=100))
def test_any_argument_is_no_move(argument: bytes) -> None:
    for moves in (local(), keyed()):
        begin(moves)
        proof = moves.arrive(argument)
        assert not isinstance(proof, Move)
        assert proof is None or not moves.settle(proof, UUID)


def test_move_is_taken_once() -> None:
    for moves in (local(), keyed()):
        move = begin(moves)
        assert moves.arrive(b"seq1" + move.secret) is move
        assert moves.arrive(b"seq1" + move.secret) is None


def test_move_that_ended_is_none_even_though_its_hash_is_right() -> None:
    for moves in (local(), keyed()):
        move = begin(moves)
        moves.end(move)
        moves.end(move)
        assert len(moves) == 0
        assert moves.arrive(b"seq1" + move.secret) is None


def test_moves_are_limited_and_room_comes_back() -> None:
    moves = local(limit=2)
    first = begin(moves)
    begin(moves)
    assert moves.begin("third", b"seq3", UUID) is None
    moves.end(first)
    assert moves.begin("third", b"seq3", UUID)


def test_overlong_sequence_gets_no_move() -> None:
    assert local().begin("source", bytes(MAX_SEQUENCE_BYTES + 1), UUID) is None


def test_while_draining_only_shared_secrets_are_given() -> None:
    for moves, expected in ((local(), False), (keyed(), True)):
        moves.is_draining = True
        assert bool(moves.begin("source", b"seq1", UUID)) is expected


# A shared key


@given(SEQUENCES)
def test_secret_proves_the_move_to_another_process_once(sequence: bytes) -> None:
    here, there = keyed(), keyed()
    proof = claim(there, sequence + begin(here, sequence).secret)
    assert there.settle(proof, UUID)
    assert not there.settle(proof, UUID)
    assert there.arrive(sequence + proof.secret) is None


def test_move_of_a_vm_without_vc_uuid_is_proved_too() -> None:
    move = keyed().begin("source", b"seq1", None)
    assert move
    there = keyed()
    assert there.settle(claim(there, b"seq1" + move.secret), None)


def test_secret_proves_nothing_for_another_vm_sequence_or_key() -> None:
    secret = begin(keyed()).secret
    there, stranger = keyed(), keyed(key=b"another key of 16 bytes")
    assert not there.settle(claim(there, b"seq1" + secret), None)
    assert not there.settle(claim(there, b"seq1" + secret), UUID.replace("0", "1"))
    assert not there.settle(claim(there, b"seq2" + secret), UUID)
    assert not stranger.settle(claim(stranger, b"seq1" + secret), UUID)
    assert there.settle(claim(there, b"seq1" + secret), UUID)


@pytest.mark.parametrize("place", range(24))
def test_every_byte_of_a_shared_secret_counts(place: int) -> None:
    secret = begin(keyed()).secret
    wrong = secret[:place] + bytes([secret[place] ^ 1]) + secret[place + 1 :]
    there = keyed()
    proof = there.arrive(b"seq1" + wrong)
    assert proof is None or not there.settle(claim(there, b"seq1" + wrong), UUID)


@pytest.mark.parametrize("later_s", [-EXPIRES_S - 1, EXPIRES_S + 1])
def test_shared_secret_expires_everywhere(later_s: float) -> None:
    clock = Clock()
    secret = begin(keyed()).secret
    there = keyed(clock)
    proof = claim(there, b"seq1" + secret)
    clock.now_s += later_s
    assert there.arrive(b"seq1" + secret) is None
    assert not there.settle(proof, UUID)


def test_spent_secrets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vmotion, "MAX_SPENT", 10)
    moves = keyed()
    for _ in range(100):
        moves.end(begin(moves))
    assert len(moves._spent) <= 11


def test_spent_secrets_are_remembered_no_longer_than_they_are_fresh() -> None:
    clock = Clock()
    moves = keyed(clock, limit=1)
    for _ in range(1000):
        moves.end(begin(moves))
        clock.now_s += 1
    assert len(moves._spent) <= EXPIRES_S + 2
