"""How often a host may do something."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.protocol.rate import BURST_S, MAX_HOSTS, Rate

NOW_S = 1000.0


def passed(rate: Rate, count: int, now_s: float = NOW_S, host: str = "a") -> int:
    return sum(rate.passes(host, now_s) for _ in range(count))


def test_burst_passes_at_once_and_no_more() -> None:
    assert passed(Rate(4), 1000) == 4 * BURST_S


def test_as_much_comes_back_as_time_goes_by_and_never_more_than_a_burst() -> None:
    rate = Rate(4)
    passed(rate, 1000)
    assert passed(rate, 1000, NOW_S + 2) == 8
    assert passed(rate, 1000, NOW_S + 1000) == 4 * BURST_S


def test_hosts_do_not_cost_each_other_anything() -> None:
    rate = Rate(4)
    passed(rate, 1000)
    assert passed(rate, 1000, host="b") == 4 * BURST_S


def test_rate_of_0_is_no_limit_and_remembers_nothing() -> None:
    rate = Rate(0)
    assert passed(rate, 100_000) == 100_000
    assert len(rate) == 0


def test_rate_that_is_changed_counts_at_once() -> None:
    rate = Rate(4)
    passed(rate, 1000)
    rate.per_s = 0
    assert passed(rate, 1000) == 1000
    rate.per_s = 4
    assert passed(rate, 1000) == 0


@given(st.integers(1, 50), st.lists(st.floats(0, 5), max_size=300))
def test_no_pace_gets_more_than_burst_and_rate(per_s: int, pauses_s: list[float]) -> None:
    rate = Rate(per_s)
    now_s, count = NOW_S, 0
    for pause_s in pauses_s:
        now_s += pause_s
        count += passed(rate, 20, now_s)
        assert count <= per_s * (BURST_S + now_s - NOW_S) + 0.001


def test_table_is_bounded_in_bytes_and_keeps_the_hosts_that_hurry_most() -> None:
    tracemalloc.start()
    before_bytes, _ = tracemalloc.get_traced_memory()
    rate = Rate(1)
    for _ in range(int(BURST_S)):
        assert rate.passes("attacker", NOW_S)
    for number in range(3 * MAX_HOSTS):
        assert rate.passes(
            f"2001:db8:ffff:ffff:ffff:ffff:{number >> 16:x}:{number & 0xFFFF:x}", NOW_S
        )
        assert len(rate) <= MAX_HOSTS
    after_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after_bytes - before_bytes < 3_000_000
    assert not rate.passes("attacker", NOW_S)


def test_hosts_whose_bucket_is_full_again_go_first() -> None:
    rate = Rate(1, max_hosts=10)
    for number in range(10):
        rate.passes(f"early {number}", NOW_S)
    rate.passes("late", NOW_S + 100)
    assert len(rate) == 1
