"""Long work in slices: what takes longer than VMs may wait is done with pauses for them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import gevent

SLICE_S = 0.001
PAUSE_S = 0.001  # between them; a timer, since what is ready at once comes before the sockets
_TOGETHER = 16  # items, between two looks at the clock

Item = TypeVar("Item")


def in_slices(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the same items, with pauses for the VMs."""
    end_s = time.monotonic() + SLICE_S
    for number, item in enumerate(items, 1):
        yield item
        if number % _TOGETHER == 0 and time.monotonic() > end_s:
            gevent.sleep(PAUSE_S)
            end_s = time.monotonic() + SLICE_S
