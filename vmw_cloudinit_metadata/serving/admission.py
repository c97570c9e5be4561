"""Admission: from which networks, how many connections in all and per host, how fast; and which
connection is closed to make room for another one."""

from __future__ import annotations

import os
import resource
from collections.abc import Hashable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmw_cloudinit_metadata.protocol.crowd import Crowd
from vmw_cloudinit_metadata.protocol.rate import Rate

if TYPE_CHECKING:
    from vmw_cloudinit_metadata.monitoring.counters import RefusalReason

Network = IPv4Network | IPv6Network

MAX_PER_HOST = 4096
MAX_MUTE_LINES = 4096

# Per host and second. A burst may have rate.BURST_S times as many: all VMs of MAX_PER_HOST.
MAX_CONNECTION_RATE = 1000
MAX_HANDSHAKE_RATE = 250  # a TLS handshake takes 1 ms of a core

# Descriptors for other things than connections: the driver's files, the log, libraries.
RESERVED_DESCRIPTORS = 128

_DESCRIPTORS = "/proc/self/fd"


def raise_descriptor_limit() -> tuple[int, int]:
    """Raise this process's soft limit to the hard one; return the old limit and the new one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


def open_descriptors() -> int:
    """Return the number of descriptors that this process has open."""
    # Since Linux 6.2 this is the directory's size; listing many takes milliseconds.
    return os.stat(_DESCRIPTORS).st_size or len(os.listdir(_DESCRIPTORS))


def descriptor_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def connections_by_descriptors() -> int:
    """Return how many connections the limit of descriptors allows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1_000_000
    return max(soft - RESERVED_DESCRIPTORS, soft // 2, 1)


@lru_cache(maxsize=4096)  # hosts come back
def plain_host(host: str) -> str:
    """Return an address without IPv6 mapping or zone: `::ffff:10.0.0.1`, `fe80::1%eth0`."""
    address = ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


class Refusal(NamedTuple):
    kind: RefusalReason
    reason: str


class Unidentified(Protocol):
    """A connection whose VM is not identified, or was refused."""

    def make_room(self) -> None:
        """Close the connection; its place is free at once."""


class Mute(Hashable, Protocol):
    """A connection whose peer was rejected."""

    def end(self) -> None:
        """Close the connection."""


class Admission:
    """Counts the connections of each host. An empty `allow` allows all networks.

    While there is room, all connections may stay. When one more needs room, an unidentified one is
    closed: of the same host if that is full, else of the host that has the most; the oldest first.
    """

    def __init__(
        self,
        allow: Sequence[Network],
        proxies: Sequence[Network],
        max_connections: int,
        max_per_host: int,
        *,
        max_connection_rate: float = MAX_CONNECTION_RATE,
        max_handshake_rate: float = MAX_HANDSHAKE_RATE,
    ) -> None:
        self.allow = allow
        self.proxies = proxies
        self.max_connections = max_connections
        self.max_per_host = max_per_host
        self.connection_rate = Rate(max_connection_rate)
        self.handshake_rate = Rate(max_handshake_rate)
        self.unidentified: Crowd[Unidentified] = Crowd()
        self.mute = MuteConnections()
        self.leaving = 0  # connections that have made room, and are about to end
        self._of_host: dict[str, int] = {}

    def is_proxy(self, host: str) -> bool:
        """Return whether connections from there begin with a PROXY protocol header."""
        return bool(self.proxies) and _is_in(host, self.proxies)

    def hurries(self, host: str, now_s: float) -> Refusal | None:
        """Count a new connection of `host`; return why it is refused if they come too fast."""
        if self.connection_rate.passes(host, now_s):
            return None
        per_s = self.connection_rate.per_s
        reason = f"it connects more than {per_s} times a second (--max-connection-rate)"
        return Refusal("rate", reason)

    def enter(self, host: str) -> Refusal | None:
        """Count a connection of `host`; return the reason if it is refused."""
        if self.allow and not _is_in(host, self.allow):
            return Refusal("network", "it is in no --allow network")
        count = self._of_host.get(host, 0)
        if count >= self.max_per_host and not self.make_room(host):
            reason = f"it has {self.max_per_host} connections already (--max-per-host)"
            return Refusal("host", reason)
        self.count(host)
        return None

    def count(self, host: str) -> None:
        """Count a connection of `host` that was let in by the program before an upgrade."""
        self._of_host[host] = self._of_host.get(host, 0) + 1

    def make_room(self, host: str | None = None) -> bool:
        """Close an unidentified connection of `host`, or of any; return False if there is none."""
        oldest = self.unidentified.oldest(host)
        if oldest is None:
            return False
        oldest.make_room()
        return True

    def leave(self, host: str) -> None:
        self._of_host[host] -= 1
        if not self._of_host[host]:
            del self._of_host[host]


class MuteConnections:
    """Connections kept open without service, so that their hosts do not reconnect at once."""

    def __init__(self) -> None:
        self._oldest_first: dict[Mute, None] = {}

    def add(self, connection: Mute) -> Mute | None:
        """Add a connection; return the one to end in its place if there are too many."""
        self._oldest_first[connection] = None
        if len(self._oldest_first) <= MAX_MUTE_LINES:
            return None
        oldest = next(iter(self._oldest_first))
        del self._oldest_first[oldest]
        return oldest

    def discard(self, connection: Mute) -> None:
        self._oldest_first.pop(connection, None)


def _is_in(host: str, networks: Sequence[Network]) -> bool:
    address = ip_address(host)
    return any(address in network for network in networks)
