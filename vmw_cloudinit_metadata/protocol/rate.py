"""How often a host may do something: a token bucket for each, kept as one number. Pure."""

from __future__ import annotations

# A host may do at once what it may do in this time: all VMs of a host dial after a power cut.
BURST_S = 20.0

# Some 200 bytes each. A host whose bucket is full again needs none.
MAX_HOSTS = 10_000


class Rate:
    """Lets each host pass `per_s` times a second, and BURST_S times as often at once; 0: always."""

    def __init__(self, per_s: float = 0) -> None:
        self.per_s = per_s
        self._full_s: dict[str, float] = {}  # when the bucket of each host is full again

    def __len__(self) -> int:
        return len(self._full_s)

    def passes(self, host: str, now_s: float) -> bool:
        """Whether `host` may do it once more; then that is counted."""
        if not self.per_s:
            return True
        full_s = self._full_s.get(host, now_s)
        if full_s < now_s:
            full_s = now_s
        full_s += 1 / self.per_s
        if full_s - now_s > BURST_S:
            return False
        self._full_s[host] = full_s
        if len(self._full_s) > MAX_HOSTS:
            self._forget(now_s)
        return True

    def _forget(self, now_s: float) -> None:
        """Keeps the emptiest buckets, half as many as there may be at most."""
        waiting = [(full_s, host) for host, full_s in self._full_s.items() if full_s > now_s]
        waiting.sort(reverse=True)
        self._full_s = {host: full_s for full_s, host in waiting[: MAX_HOSTS // 2]}
