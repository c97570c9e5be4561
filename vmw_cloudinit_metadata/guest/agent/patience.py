"""How long to wait: for answers, and between retries."""

import time

SOON_S = 0.1  # before the first retry after a damaged answer; then twice as long each time


class Patience:
    """Two deadlines: until when to ask, and until when to wait for an answer that has begun."""

    def __init__(self, wait_s: float, silence_s: float, longest_s: float) -> None:
        self._silence_s = silence_s
        now_s = time.monotonic()
        self._longest_s = now_s + longest_s
        self._end_s = min(now_s + wait_s, self._longest_s)
        self._answer_s = self._end_s

    def progress(self) -> None:
        """Note that an answer is arriving: it gets its time, even past the end of asking."""
        later_s = time.monotonic() + self._silence_s
        self._answer_s = min(max(self._end_s, later_s), self._longest_s)

    @property
    def left_s(self) -> float:
        """Time left for asking."""
        return max(self._end_s - time.monotonic(), 0.0)

    @property
    def answer_left_s(self) -> float:
        """Time left for an answer."""
        return max(self._answer_s - time.monotonic(), 0.0)

    @property
    def is_over(self) -> bool:
        return self.left_s <= 0


def retry_delay_s(attempt: int, retry_s: float) -> float:
    """Return the pause after a damaged answer: short at first, in the end as after silence."""
    return min(SOON_S * (1 << min(attempt, 10)), retry_s)
