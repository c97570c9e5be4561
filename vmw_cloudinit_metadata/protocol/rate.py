"""How often a host may do something: a token bucket per host, kept as one number. Pure."""

from __future__ import annotations

from vmw_cloudinit_metadata.protocol.state import InvalidState, State, mapping

# The burst, in seconds of the rate: after a power cut all VMs of a host connect at once.
BURST_S = 20.0

# A bucket takes some 200 bytes. A host whose bucket is full again needs none.
MAX_HOSTS = 10_000


class Rate:
    """Limits each host to `per_s` a second, with bursts of BURST_S seconds' worth; 0: no limit."""

    def __init__(self, per_s: float = 0, max_hosts: int = MAX_HOSTS) -> None:
        self.per_s = per_s
        self._max_hosts = max_hosts
        self._full_s: dict[str, float] = {}  # when the bucket of each host is full again

    def __len__(self) -> int:
        return len(self._full_s)

    def state(self) -> State:
        """Return when the bucket of each host is full again, in monotonic time."""
        return dict(self._full_s)

    def restore(self, state: object) -> None:
        """Go on from a state; raise InvalidState."""
        full_s = mapping(state)
        if len(full_s) > self._max_hosts or not all(type(one) is float for one in full_s.values()):
            raise InvalidState("expected a time for each host")
        self._full_s = full_s

    def passes(self, host: str, now_s: float) -> bool:
        """Return whether `host` may do it once more; if so, count it."""
        if not self.per_s:
            return True
        full_s = self._full_s.get(host, now_s)
        if full_s < now_s:
            full_s = now_s
        full_s += 1 / self.per_s
        if full_s - now_s > BURST_S:
            return False
        self._full_s[host] = full_s
        if len(self._full_s) > self._max_hosts:
            self._forget(now_s)
        return True

    def _forget(self, now_s: float) -> None:
        """Drop the fullest buckets: keep half of `max_hosts`."""
        waiting = [(full_s, host) for host, full_s in self._full_s.items() if full_s > now_s]
        waiting.sort(reverse=True)
        self._full_s = {host: full_s for full_s, host in waiting[: self._max_hosts // 2]}
