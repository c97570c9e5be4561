"""Members by host, such as connections without a VM, and which of them must go first. Pure."""

from __future__ import annotations

from typing import Generic, TypeVar

Member = TypeVar("Member")


class Crowd(Generic[Member]):
    """Picks the oldest member of the host that has the most.

    So a host that fills the crowd makes room for the others, and never the others for it. Each
    method takes constant time on average, however many members and hosts there are.
    """

    def __init__(self) -> None:
        # Most members stay for a moment, so the newest are sorted in only when somebody asks.
        self._newest: dict[Member, str] = {}  # and their hosts; oldest first
        self._of_host: dict[str, dict[Member, None]] = {}  # oldest first
        self._with_count: dict[int, dict[str, None]] = {}  # the hosts that have so many members
        self._most = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count + len(self._newest)

    def add(self, host: str, member: Member) -> None:
        """Add the newest member of `host`, which must not be a member yet."""
        self._newest[member] = host

    def discard(self, host: str, member: Member) -> None:
        """Remove a member of `host`, if it is one."""
        if self._newest.get(member) == host:
            del self._newest[member]
        else:
            self._remove(host, member)

    def oldest(self, host: str | None = None) -> Member | None:
        """Return the member that must go first: of `host`, or of all."""
        for newest, its_host in self._newest.items():
            self._place(its_host, newest)
        self._newest.clear()
        if host is None:
            host = next(iter(self._with_count.get(self._most, ())), "")
        return next(iter(self._of_host.get(host, ())), None)

    def _place(self, host: str, member: Member) -> None:
        members = self._of_host.get(host)
        if members is None:
            members = self._of_host[host] = {}
        before = len(members)
        members[member] = None
        self._count += 1
        self._recount(host, before, before + 1)

    def _remove(self, host: str, member: Member) -> None:
        members = self._of_host.get(host)
        if members is None or member not in members:
            return
        del members[member]
        self._count -= 1
        after = len(members)
        if not after:
            del self._of_host[host]
        self._recount(host, after + 1, after)

    def _recount(self, host: str, before: int, after: int) -> None:
        if before:
            hosts = self._with_count[before]
            del hosts[host]
            if not hosts:
                del self._with_count[before]
        if after:
            self._with_count.setdefault(after, {})[host] = None
        if after > self._most or self._most not in self._with_count:
            self._most = after
