"""Moves by themselves: secrets, and the table of what is under way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.protocol.rate import BURST_S, Rate
from vmw_cloudinit_metadata.protocol.vmotion import (
    EXPIRES_S,
    MAX_SEQUENCE_BYTES,
    MAX_SPENT,
    MIN_SHARE,
    SHARES,
    Begun,
    Claim,
    Declined,
    KeyedSecrets,
    Move,
    Moves,
    RandomSecrets,
)

KEY = b"0123456789abcdef"
UUID = "01234567-89ab-cdef-fedc-ba9800000001"
HOST, OTHER_HOST = "10.0.0.1", "10.0.0.2"
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


def keyed(
    clock: Clock | None = None, key: bytes = KEY, limit: int = 10, max_spent: int = MAX_SPENT
) -> Moves[str]:
    secrets = KeyedSecrets(key, Counting(), clock or Clock())
    return Moves(limit, secrets, max_spent=max_spent)


def local(limit: int = 10) -> Moves[str]:
    return Moves(limit, RandomSecrets(Counting()))


def begin(
    moves: Moves[str], sequence: bytes = b"seq1", source: str = "source", host: str = HOST
) -> Move[str]:
    begun = moves.begin(source, host, sequence, UUID)
    assert isinstance(begun, Begun)
    return begun.move


def reason(moves: Moves[str], sequence: bytes = b"seq1", host: str = HOST) -> str:
    declined = moves.begin("source", host, sequence, UUID)
    assert isinstance(declined, Declined)
    return declined.reason


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


def test_moves_with_the_same_sequence_are_distinguished() -> None:
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
        assert proof is None or not moves.settle(proof, UUID, HOST)


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
    assert "--max-pending-moves" in reason(moves)
    moves.end(first)
    assert begin(moves)


def test_overlong_sequence_gets_no_move() -> None:
    assert "64 bytes" in reason(local(), bytes(MAX_SEQUENCE_BYTES + 1))


def test_while_draining_only_shared_secrets_are_given() -> None:
    for moves, expected in ((local(), False), (keyed(), True)):
        moves.is_draining = True
        assert isinstance(moves.begin("source", HOST, b"seq1", UUID), Begun) is expected


# A shared key


@given(SEQUENCES)
def test_secret_proves_the_move_to_another_process_once(sequence: bytes) -> None:
    here, there = keyed(), keyed()
    proof = claim(there, sequence + begin(here, sequence).secret)
    assert there.settle(proof, UUID, HOST)
    assert not there.settle(proof, UUID, HOST)
    assert there.arrive(sequence + proof.secret) is None


def test_move_of_a_vm_without_vc_uuid_is_proved_too() -> None:
    begun = keyed().begin("source", HOST, b"seq1", None)
    assert isinstance(begun, Begun)
    there = keyed()
    assert there.settle(claim(there, b"seq1" + begun.move.secret), None, HOST)


def test_secret_proves_nothing_for_another_vm_sequence_or_key() -> None:
    secret = begin(keyed()).secret
    there, stranger = keyed(), keyed(key=b"another key of 16 bytes")
    assert not there.settle(claim(there, b"seq1" + secret), None, HOST)
    assert not there.settle(claim(there, b"seq1" + secret), UUID.replace("0", "1"), HOST)
    assert not there.settle(claim(there, b"seq2" + secret), UUID, HOST)
    assert not stranger.settle(claim(stranger, b"seq1" + secret), UUID, HOST)
    assert there.settle(claim(there, b"seq1" + secret), UUID, HOST)


@pytest.mark.parametrize("place", range(24))
def test_every_byte_of_a_shared_secret_counts(place: int) -> None:
    secret = begin(keyed()).secret
    wrong = secret[:place] + bytes([secret[place] ^ 1]) + secret[place + 1 :]
    there = keyed()
    proof = there.arrive(b"seq1" + wrong)
    assert proof is None or not there.settle(claim(there, b"seq1" + wrong), UUID, HOST)


@pytest.mark.parametrize("later_s", [-EXPIRES_S - 1, EXPIRES_S + 1])
def test_shared_secret_expires_everywhere(later_s: float) -> None:
    clock = Clock()
    secret = begin(keyed()).secret
    there = keyed(clock)
    proof = claim(there, b"seq1" + secret)
    clock.now_s += later_s
    assert there.arrive(b"seq1" + secret) is None
    assert not there.settle(proof, UUID, HOST)


def test_fresh_secret_is_never_forgotten_further_moves_are_declined() -> None:
    clock = Clock()
    moves = keyed(clock, max_spent=20)
    secrets = []
    for _ in range(20):
        moves.end(move := begin(moves, host=f"10.0.0.{len(secrets) % 4}"))
        secrets.append(move.secret)
    assert "last minute" in reason(moves, host="10.0.0.9")
    assert [moves.arrive(b"seq1" + secret) for secret in secrets] == [None] * 20
    clock.now_s += EXPIRES_S + 1
    begin(moves)


def test_host_that_spends_its_share_of_secrets_has_its_own_moves_declined() -> None:
    moves = keyed(max_spent=100)
    victim = begin(moves, host=OTHER_HOST)
    moves.end(victim)
    for _ in range(100 // SHARES):
        moves.end(begin(moves))
    assert "last minute" in reason(moves)
    assert moves.arrive(b"seq1" + victim.secret) is None
    begin(moves, host=OTHER_HOST)


def test_host_that_spends_its_share_of_secrets_cannot_settle_more() -> None:
    here, there = keyed(), keyed(max_spent=2 * MIN_SHARE)
    for _ in range(MIN_SHARE):
        there.end(begin(there))
    secret = begin(here, b"seq2", host=OTHER_HOST).secret
    proof = claim(there, b"seq2" + secret)
    assert not there.settle(proof, UUID, HOST)
    assert there.settle(proof, UUID, OTHER_HOST)


def test_spent_secrets_are_remembered_no_longer_than_they_are_fresh() -> None:
    clock = Clock()
    moves = keyed(clock, limit=1, max_spent=SHARES * (int(EXPIRES_S) + 3))
    for _ in range(1000):
        moves.end(begin(moves))  # is declined once its host has used up its share of secrets
        clock.now_s += 1


# Shares, and who gives way


def abandoned(moves: Moves[str], source: str, host: str = HOST) -> Move[str]:
    move = begin(moves, source=source, host=host)
    moves.abandon(move)
    return move


def instead_of(moves: Moves[str], host: str = HOST) -> str | None:
    """The source of the move that has to end for one more."""
    begun = moves.begin("newest", host, b"seq1", UUID)
    assert isinstance(begun, Begun)
    return begun.instead_of and begun.instead_of.source


def test_host_beyond_its_share_is_declined_and_another_one_is_not() -> None:
    moves = local(limit=SHARES * MIN_SHARE)
    for _ in range(MIN_SHARE):
        begin(moves)
    assert "share" in reason(moves)
    for _ in range(MIN_SHARE):
        begin(moves, host=OTHER_HOST)


def test_share_is_a_part_of_the_limit_and_never_more() -> None:
    shares = {limit: local(limit).share for limit in (0, 2, 16, 64, 100, 4000)}
    assert shares == {0: 0, 2: 2, 16: 16, 64: 16, 100: 25, 4000: 1000}


def test_oldest_abandoned_move_of_the_host_ends_for_one_beyond_its_share() -> None:
    moves = local(limit=SHARES * MIN_SHARE)
    abandoned(moves, "of another host", OTHER_HOST)
    first, second = abandoned(moves, "first"), abandoned(moves, "second")
    for _ in range(MIN_SHARE - 2):
        begin(moves)
    assert [instead_of(moves), instead_of(moves)] == ["first", "second"]
    assert moves.arrive(b"seq1" + first.secret) is None
    assert moves.arrive(b"seq1" + second.secret) is None
    assert "share" in reason(moves)
    assert len(moves) == MIN_SHARE + 1


def test_abandoned_move_of_whoever_has_the_most_ends_when_the_table_is_full() -> None:
    moves = local(limit=SHARES * MIN_SHARE)
    abandoned(moves, "the only one", "10.0.0.9")
    abandoned(moves, "one of two")
    abandoned(moves, "two of two")
    for number in range(len(moves), moves.limit):
        begin(moves, host=f"10.0.1.{number % SHARES}")
    assert instead_of(moves, OTHER_HOST) == "one of two"


def test_move_whose_target_has_come_is_not_abandoned() -> None:
    moves = local(limit=1)
    move = abandoned(moves, "source")
    assert moves.arrive(b"seq1" + move.secret) is move
    assert "--max-pending-moves" in reason(moves)
    assert moves.arrive(b"seq1" + move.secret) is None  # whoever tries the secret again
    assert "--max-pending-moves" in reason(moves)
    moves.abandon(move)  # the target is gone too
    assert instead_of(moves) == "source"


def test_move_that_has_ended_cannot_be_abandoned() -> None:
    moves = local(limit=1)
    move = begin(moves)
    moves.end(move)
    moves.abandon(move)
    begin(moves)
    assert "--max-pending-moves" in reason(moves)


def test_moves_beyond_the_rate_of_a_host_are_declined_and_distinguished() -> None:
    moves: Moves[str] = Moves(1000, RandomSecrets(Counting()), Rate(2))
    told = [moves.begin("source", HOST, b"seq1", UUID, now_s=100.0) for _ in range(100)]
    assert sum(isinstance(one, Begun) for one in told) == 2 * BURST_S
    declined = told[-1]
    assert isinstance(declined, Declined)
    assert declined.is_of_rate
    assert "--max-move-rate" in declined.reason
    assert isinstance(moves.begin("source", OTHER_HOST, b"seq1", UUID, now_s=100.0), Begun)
    assert isinstance(moves.begin("source", HOST, b"seq1", UUID, now_s=101.0), Begun)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["begin", "begin", "abandon", "arrive", "end", "guess"]),
            st.sampled_from(["attacker", "attacker", "attacker", "a", "b"]),
            st.integers(0, 100),
        ),
        max_size=400,
    ),
    st.booleans(),
)
def test_no_host_has_moves_of_another_one_declined_or_ended(
    steps: list[tuple[str, str, int]], are_shared: bool
) -> None:
    limit = SHARES * MIN_SHARE
    moves = keyed(limit=limit) if are_shared else local(limit)
    under_way: dict[str, list[Move[str]]] = {"attacker": [], "a": [], "b": []}
    gone: set[Move[str]] = set()
    for verb, host, which in steps:
        own = under_way[host]
        if verb == "begin":
            told = moves.begin(host, host, b"seq1", UUID)
            if isinstance(told, Declined):
                assert len(own) == moves.share
                assert not gone & set(own)
                continue
            if told.instead_of:
                assert told.instead_of in gone
                assert len(own) == moves.share
                own.remove(told.instead_of)
            own.append(told.move)
        elif own:
            move = own[which % len(own)]
            match verb:
                case "abandon":
                    moves.abandon(move)
                    gone.add(move)
                case "arrive":
                    moves.arrive(b"seq1" + move.secret)
                    if not move.is_taken:
                        raise AssertionError("it was not found")
                    gone.discard(move)
                case "end":
                    moves.end(move)
                    own.remove(move)
                case "guess":
                    assert not isinstance(moves.arrive(b"seq1" + bytes(8)), Move)
        assert len(moves) == sum(map(len, under_way.values())) <= limit
        assert all(len(own) <= moves.share for own in under_way.values())
