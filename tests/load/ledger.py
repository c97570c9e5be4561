"""What each VM may be answered while the rows of a store change: versions, and when each counted.

A value has a version: its place among those that were written. An answer is right if its version
counted at one moment between the request, minus the time until a change is served, and the answer;
and if no VM has seen a later one of the same value before it asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

SERVED_AFTER_S = 1.0  # a change is served within this
ABSENT = -1  # the version of a value that does not exist


@dataclass
class _Written:
    begun_s: float
    ended_s: float = inf  # when the change was made: from then on the version before is old
    is_absent: bool = False


@dataclass
class _Value:
    written: list[_Written] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)  # by VM: no earlier version any more


class Ledger:
    def __init__(self, served_after_s: Mapping[str, float] | None = None) -> None:
        """`served_after_s` is longer for some values."""
        self._served_after_s = served_after_s or {}
        self._values: dict[str, _Value] = {}
        self._lenient: list[tuple[float, float]] = []  # while the last good answer is right

    def begin(self, name: str, now_s: float, *, is_absent: bool = False) -> int:
        """Record a change before it is made; return the version that it writes."""
        written = self._values.setdefault(name, _Value()).written
        written.append(_Written(now_s, is_absent=is_absent))
        return len(written) - 1

    def end(self, name: str, now_s: float) -> None:
        self._values[name].written[-1].ended_s = now_s

    def version(self, name: str) -> int:
        return len(self._values[name].written) - 1

    def is_absent(self, name: str) -> bool:
        return self._values[name].written[-1].is_absent

    def is_known(self, name: str, vm: str) -> bool:
        """Return whether the last answer of the VM had a version of the value."""
        value = self._values[name]
        return vm in value.seen and not value.written[value.seen[vm]].is_absent

    def lenient(self, from_s: float, until_s: float = inf) -> None:
        """State that the store is out of reach: answers may be old, but never go back."""
        if self._lenient and self._lenient[-1][1] == inf:
            from_s, _ = self._lenient.pop()
        self._lenient.append((from_s, until_s))

    def is_lenient(self, from_s: float, until_s: float) -> bool:
        """Return whether the store was out of reach for a part of that time."""
        return any(begin <= until_s and from_s <= end for begin, end in self._lenient)

    def fault_of(self, name: str, vm: str, version: int, from_s: float, until_s: float) -> str:
        """Return why the answer is wrong; "" if it is right. ABSENT is the version of no answer."""
        value = self._values[name]
        seen = value.seen.get(vm, 0)
        right = [
            number
            for number, one in enumerate(value.written)
            if one.begun_s <= until_s and (number == version or (one.is_absent and version < 0))
        ]
        if not right:
            return "never written"
        last = right[-1]
        if last < seen:
            return f"version {last}, after version {seen}"
        after_s = self._served_after_s.get(name, SERVED_AFTER_S)
        if not self.is_lenient(from_s - after_s, until_s):
            right = [one for one in right if self._ended_s(value, one) + after_s > from_s]
            if not right:
                late_s = from_s - self._ended_s(value, last)
                return f"version {last}, {late_s:.2f} s after it was replaced"
        value.seen[vm] = max(seen, next(number for number in right if number >= seen))
        return ""

    @staticmethod
    def _ended_s(value: _Value, number: int) -> float:
        """Return when the version after this one was made."""
        later = value.written[number + 1 :]
        return later[0].ended_s if later else inf
