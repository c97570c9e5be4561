"""Waits for what happens in another process, thread or greenlet."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent

from tests.vm import LIMIT_S

LONGEST_PAUSE_S = 0.05


def wait_until(
    condition: Callable[[], object],
    limit_s: float = LIMIT_S,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Ask the condition again and again, at first often, until it is true."""
    begun_s = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - begun_s
        assert waited_s < limit_s, f"not within {limit_s} s"
        sleep(min(0.002 + waited_s / 10, LONGEST_PAUSE_S))


def wait_in_hub_until(condition: Callable[[], object]) -> None:
    """The same in a test whose own process runs greenlets."""
    wait_until(condition, sleep=gevent.sleep)
