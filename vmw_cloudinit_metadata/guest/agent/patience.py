"""How long to wait: for answers, between retries, and with systemd's consent."""

import os
import socket
import time
from contextlib import suppress

from vmw_cloudinit_metadata.guest.agent.conf import Settings

SOON_S = 0.1  # before the first retry after a damaged answer; then twice as long each time


class Patience:
    """Two deadlines: until when to ask, and until when to wait for an answer that has begun."""

    def __init__(self, wait_s: float, settings: Settings, hold: bool) -> None:
        self._silence_s: float = settings["silence-timeout"]
        now_s = time.monotonic()
        self._longest_s: float = now_s + settings["longest-wait"]
        self._end_s: float = min(now_s + wait_s, self._longest_s)
        if hold:
            self._longest_s = self._end_s = float("inf")
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


def extend_start() -> None:
    """Ask systemd for more time to start, where it listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        place = "\0" + address[1:] if address[0] == "@" else address
        sock.sendto(b"EXTEND_TIMEOUT_USEC=120000000", place)
