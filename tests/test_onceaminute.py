"""What is reported at most once a minute."""

from __future__ import annotations

import time

from tests.process import Constants
from vmw_cloudinit_metadata.monitoring.onceaminute import OnceAMinute


def test_key_passes_once_and_then_again_with_the_count_held_back(
    constants: Constants,
) -> None:
    constants(monitoring__onceaminute__QUIET_S=0.05)
    throttle = OnceAMinute()
    passed = [throttle.passes("failed", "vm-1"), throttle.passes("failed", "vm-2")]
    held_back = [throttle.passes("failed", "vm-1") for _ in range(3)]
    time.sleep(0.06)
    again = [throttle.passes("failed", "vm-1"), throttle.passes("failed", "vm-2")]

    assert passed == ["", ""]
    assert held_back == [None, None, None]
    assert again == [" (3 more since the last such line)", ""]


def test_table_is_full_forgets_the_key_that_passed_longest_ago(
    constants: Constants,
) -> None:
    constants(monitoring__onceaminute__MAX_KEYS=2)
    throttle = OnceAMinute()
    for name in ("vm-1", "vm-2", "vm-3"):
        throttle.passes(name)

    assert [throttle.passes(name) for name in ("vm-3", "vm-2", "vm-1")] == [None, None, ""]
