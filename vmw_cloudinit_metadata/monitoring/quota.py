"""Quota: how much of a log a host, and each connection of it, may fill. No clock, no I/O.

Both have a bucket of bytes that fills up slowly. That of a connection keeps one VM, or who plays
one, from using up what is for the other VMs of its host.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

MAX_HOSTS = 4096
MAX_CONNECTIONS = 8192

# A power cut: 4,000 VMs of one host boot within seconds, each with 3 lines of 700 bytes as JSON.
HOST_BURST_BYTES = 16 * 1024 * 1024
HOST_BYTES_PER_S = 16 * 1024

# 100 lines as JSON, and one every three seconds.
CONNECTION_BURST_BYTES = 64 * 1024
CONNECTION_BYTES_PER_S = 256

_OTHERS = "other hosts"


class Bucket:
    """Bytes that are left; it was filled up at `at_s`."""

    __slots__ = ("at_s", "left")

    def __init__(self, left: float, at_s: float) -> None:
        self.left = left
        self.at_s = at_s


class Buckets:
    """A bucket of `burst_bytes` for each key; the oldest of more than `most` is forgotten."""

    def __init__(self, burst_bytes: int, bytes_per_s: int, most: int) -> None:
        self._burst_bytes = burst_bytes
        self._bytes_per_s = bytes_per_s
        self._most = most
        self.known: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self.known)

    def get(self, key: str, at_s: float) -> Bucket | None:
        """The key's bucket, filled up if it was empty; None if it still is. A clock that goes back
        fills nothing."""
        bucket = self.known.get(key)
        if bucket is None:
            bucket = self.known[key] = Bucket(self._burst_bytes, at_s)
            if len(self.known) > self._most:
                self.known.popitem(last=False)
        elif bucket.left <= 0:
            more = max(at_s - bucket.at_s, 0.0) * self._bytes_per_s
            bucket.left = min(bucket.left + more, self._burst_bytes)
            bucket.at_s = at_s
        return bucket if bucket.left > 0 else None


class Quota:
    """Whether a line may be written; counts those that may not, by host."""

    def __init__(self) -> None:
        self._hosts = Buckets(HOST_BURST_BYTES, HOST_BYTES_PER_S, MAX_HOSTS)
        self._connections = Buckets(CONNECTION_BURST_BYTES, CONNECTION_BYTES_PER_S, MAX_CONNECTIONS)
        self._untold: Counter[str] = Counter()
        self.left_out = 0  # lines, ever

    def buckets(self, host: str, connection: str, at_s: float) -> tuple[Bucket, Bucket] | None:
        """What the line's bytes are to be taken from, or None if it is left out. `connection` is
        its id; "" for a line that counts for the host alone."""
        of_host = self._hosts.known.get(host)
        if of_host is None or of_host.left <= 0:
            of_host = self._hosts.get(host, at_s)
        of_connection = self._connections.get(connection, at_s) if connection else of_host
        if of_host is None or of_connection is None:
            self._leave_out(host)
            return None
        return of_host, of_connection

    def take_untold(self) -> Counter[str]:
        """How many lines of each host were left out since this was asked last."""
        untold, self._untold = self._untold, Counter()
        return untold

    def _leave_out(self, host: str) -> None:
        self.left_out += 1
        is_known = host in self._untold or len(self._untold) < MAX_HOSTS
        self._untold[host if is_known else _OTHERS] += 1
