"""PageSize: how many virtual machines to ask for at a time, by how long it took before. Pure."""

from __future__ import annotations

MOST = 200  # 25 ms of CPU, for which other threads of the server may wait
LEAST = 100  # else what each page costs NetBox, whatever is in it, would be most of the work
MOST_BYTES = 4 * 1024 * 1024  # of an answer

_FIRST_RATE = 40.0


class PageSize:
    def __init__(self) -> None:
        self._rate = _FIRST_RATE  # virtual machines a second
        self._bytes = 0.0  # of one
        self._least = LEAST

    def of(self, aim_s: float) -> int:
        """Return how many can be read in about that time."""
        most = min(max(self._rate * aim_s, self._least), MOST)
        if self._bytes:
            most = min(most, MOST_BYTES / self._bytes)
        return max(int(most), 1)

    def took(self, count: int, seconds: float, size: int) -> None:
        """Note how long so many took, and the bytes of the answer."""
        self._rate = min(count / max(seconds, 0.001), 2 * self._rate)
        self._bytes = size / max(count, 1)
        self._least = min(2 * self._least, LEAST)

    def failed(self) -> None:
        self._rate = max(self._rate / 2, 1.0)
        self._least = max(self._least // 2, 1)
