"""Which member of a crowd goes first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.protocol.crowd import Crowd


def crowd_of(*members: str) -> Crowd[str]:
    """Each is named after its host: `a1`."""
    crowd: Crowd[str] = Crowd()
    for member in members:
        crowd.add(member[0], member)
    return crowd


def test_empty_crowd_has_nobody_to_go() -> None:
    crowd = crowd_of()
    assert (len(crowd), crowd.oldest(), crowd.oldest("a")) == (0, None, None)


def test_oldest_of_the_host_with_the_most_goes_first() -> None:
    assert crowd_of("a1", "b1", "b2", "c1").oldest() == "b1"
    assert crowd_of("a1", "b1", "b2", "c1", "a2", "a3").oldest() == "a1"


def test_oldest_of_one_host() -> None:
    crowd = crowd_of("a1", "a2", "b1", "b2", "b3")
    assert (crowd.oldest("a"), crowd.oldest("c")) == ("a1", None)


def test_member_that_is_none_may_be_discarded() -> None:
    crowd = crowd_of("a1")
    crowd.discard("a", "a2")
    crowd.discard("b", "a1")
    assert len(crowd) == 1


STEPS = st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 5), st.booleans())


@given(st.lists(STEPS))
def test_any_sequence_keeps_the_count_and_finds_the_first_to_go(
    steps: list[tuple[bool, int, int, bool]],
) -> None:
    crowd: Crowd[tuple[int, int]] = Crowd()
    expected: dict[str, list[tuple[int, int]]] = {str(host): [] for host in range(4)}
    for is_new, number, member, is_asked in steps:
        host = str(number)
        if is_new and (number, member) not in expected[host]:
            expected[host].append((number, member))
            crowd.add(host, (number, member))
        elif not is_new:
            if (number, member) in expected[host]:
                expected[host].remove((number, member))
            crowd.discard(host, (number, member))
        assert len(crowd) == sum(map(len, expected.values()))
        if not is_asked:
            continue
        most = max(map(len, expected.values()))
        first = crowd.oldest()
        assert first in [
            members[0] for members in expected.values() if len(members) == most > 0
        ] or (first is None and not most)
        for host, members in expected.items():
            assert crowd.oldest(host) == (members[0] if members else None)
