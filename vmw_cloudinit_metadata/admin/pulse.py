"""Boots and failures of the last minutes, without those of tests."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from vmw_cloudinit_metadata.admin.machinerecord import FAILED, SERVED, problem_of
from vmw_cloudinit_metadata.monitoring.facts import (
    ConnectionClosed,
    DocumentsServed,
    PeerRejected,
    RequestFailed,
    VmotionExpired,
)
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.protocol.state import InvalidState, items

BUCKET_S = 10
BUCKETS = 90

_FAILURES = (RequestFailed, PeerRejected, ConnectionClosed, VmotionExpired)
COUNTED = (DocumentsServed, *_FAILURES)  # no other fact changes the pulse


class Pulse:
    """Counts boots and failures in buckets of BUCKET_S."""

    def __init__(self) -> None:
        self._buckets: deque[tuple[int, Counter[str]]] = deque(maxlen=BUCKETS)

    def hear(self, happening: Happening) -> None:
        if happening.machine and happening.machine.is_test:
            return
        fact = happening.fact
        if isinstance(fact, DocumentsServed) and "METADATA" in fact.answered:
            self._bucket(happening.at_s)[SERVED] += 1
        elif isinstance(fact, _FAILURES):
            counts = self._bucket(happening.at_s)
            counts[FAILED] += 1
            counts[f"{FAILED}: {problem_of(happening) or happening.kind}"] += 1

    def _bucket(self, at_s: float) -> Counter[str]:
        number = int(at_s) // BUCKET_S
        if not self._buckets or self._buckets[-1][0] < number:
            self._buckets.append((number, Counter()))
        return self._buckets[-1][1]

    def state(self) -> list[list[Any]]:
        """Return the buckets as JSON has them."""
        return [[number, counts] for number, counts in self._buckets]

    def restore(self, state: object) -> None:
        """Go on with the buckets of the program before an upgrade; raise InvalidState."""
        for bucket in items(state, BUCKETS):
            match bucket:
                case [int(number), dict(counts)] if {type(one) for one in counts.values()} <= {int}:
                    self._buckets.append((number, Counter(counts)))
                case _:
                    raise InvalidState("expected the boots of some seconds")

    def picture(self, now_s: float) -> dict[str, Any]:
        """Return the last BUCKETS, the newest last, and their failures by reason."""
        last = int(now_s) // BUCKET_S
        by_number = dict(self._buckets)
        counts = [by_number.get(last - ago, Counter()) for ago in reversed(range(BUCKETS))]
        total = sum(counts, Counter[str]())
        reasons = {
            name.removeprefix(f"{FAILED}: "): count
            for name, count in total.most_common()
            if name.startswith(f"{FAILED}: ")
        }
        return {
            "seconds_each": BUCKET_S,
            "served": [count[SERVED] for count in counts],
            "failed": [count[FAILED] for count in counts],
            "failures": reasons,
        }
