"""Quota: how much of a log a host, and each of its connections, may fill. No clock, no I/O.

Both have an allowance of bytes that refills slowly. A connection's own allowance prevents one VM,
or a peer that poses as one, from using up the allowance of its host.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

MAX_HOSTS = 4096
MAX_CONNECTIONS = 8192

# After a power cut 4,000 VMs of one host boot within seconds, each with 3 JSON lines of 700 bytes.
HOST_BURST_BYTES = 16 * 1024 * 1024
HOST_BYTES_PER_S = 16 * 1024

# 100 JSON lines, and one more every three seconds.
CONNECTION_BURST_BYTES = 64 * 1024
CONNECTION_BYTES_PER_S = 256

_OTHERS = "other hosts"


class Allowance:
    """The bytes left when it was last refilled, at `at_s`."""

    __slots__ = ("at_s", "left")

    def __init__(self, left: float, at_s: float) -> None:
        self.left = left
        self.at_s = at_s


class Allowances:
    """An allowance of `burst_bytes` for each key; with more than `most` keys, the oldest is
    dropped."""

    def __init__(self, burst_bytes: int, bytes_per_s: int, most: int) -> None:
        self._burst_bytes = burst_bytes
        self._bytes_per_s = bytes_per_s
        self._most = most
        self.known: OrderedDict[str, Allowance] = OrderedDict()

    def __len__(self) -> int:
        return len(self.known)

    def get(self, key: str, at_s: float) -> Allowance | None:
        """Return the key's allowance, refilled if it was empty; None if it still is. A clock that
        was set back refills nothing."""
        allowance = self.known.get(key)
        if allowance is None:
            allowance = self.known[key] = Allowance(self._burst_bytes, at_s)
            if len(self.known) > self._most:
                self.known.popitem(last=False)
        elif allowance.left <= 0:
            more = max(at_s - allowance.at_s, 0.0) * self._bytes_per_s
            allowance.left = min(allowance.left + more, self._burst_bytes)
            allowance.at_s = at_s
        return allowance if allowance.left > 0 else None


class Quota:
    """Decides whether a line may be written; counts the others by host."""

    def __init__(self) -> None:
        self._hosts = Allowances(HOST_BURST_BYTES, HOST_BYTES_PER_S, MAX_HOSTS)
        self._connections = Allowances(
            CONNECTION_BURST_BYTES, CONNECTION_BYTES_PER_S, MAX_CONNECTIONS
        )
        self._unreported: Counter[str] = Counter()
        self.left_out = 0  # lines, in all

    def allowances(
        self, host: str, connection: str, at_s: float
    ) -> tuple[Allowance, Allowance] | None:
        """Return the allowances that pay for the line, or None to leave it out. `connection` is an
        id; "" for a line that only the host pays for."""
        of_host = self._hosts.known.get(host)
        if of_host is None or of_host.left <= 0:
            of_host = self._hosts.get(host, at_s)
        of_connection = self._connections.get(connection, at_s) if connection else of_host
        if of_host is None or of_connection is None:
            self._leave_out(host)
            return None
        return of_host, of_connection

    def take_left_out(self) -> Counter[str]:
        """Return how many lines of each host were left out since the last call."""
        unreported, self._unreported = self._unreported, Counter()
        return unreported

    def _leave_out(self, host: str) -> None:
        self.left_out += 1
        is_known = host in self._unreported or len(self._unreported) < MAX_HOSTS
        self._unreported[host if is_known else _OTHERS] += 1
