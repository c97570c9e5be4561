"""KnownHosts: the SSH host keys that guests have reported, as a file of OpenSSH has them (sshd(8)).

A guest says which keys it has; under which names and addresses is what the server has served to it.
A host that several VMs have is nobody's: a key of one of them would be right for the other one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import ujson

from vmw_cloudinit_metadata.admin.slices import in_slices
from vmw_cloudinit_metadata.monitoring.counters import ADMIN_SHED, Key
from vmw_cloudinit_metadata.monitoring.facts import BootReported
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.kept import short_name
from vmw_cloudinit_metadata.protocol.hostkey import host_key

MAX_BYTES = 32 * 1024 * 1024  # some 40,000 VMs
_ENTRY_BYTES = 200  # what one costs beside its text
MAX_ENTRY_BYTES = 16 * 1024

# Neither a pattern nor a list, a mark or a comment: nothing that is more than one host.
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.:-]{0,253}[a-z0-9])?|::[a-f0-9:.]{0,40}", re.ASCII)


class HostEntry(NamedTuple):
    """The keys of a VM, which its guest has reported, and the hosts that it was served as."""

    key: str  # the identity of the VM
    hosts: tuple[str, ...]
    host_keys: tuple[str, ...]
    proof: str  # what proves its identity; "" for nothing

    def packed(self) -> bytes:
        """Return it as a line of ASCII."""
        return ujson.dumps(self, ensure_ascii=True, escape_forward_slashes=False).encode()

    @classmethod
    def of(cls, packed: bytes | str) -> HostEntry | None:
        """Return what `packed` has written, without what is no host or key; None for anything
        else."""
        try:
            match ujson.loads(packed):
                case [str(key), [*hosts], [*keys], str(proof)]:
                    return cls(key, tuple(_hosts_in(hosts)), tuple(_keys_in(keys)), proof)
        except ValueError:
            pass
        return None


def _hosts_in(hosts: Iterable[Any]) -> Iterator[str]:
    yield from (host for host in hosts if isinstance(host, str) and _HOST.fullmatch(host))


def _keys_in(keys: Iterable[Any]) -> Iterator[str]:
    for key in keys:
        try:
            if isinstance(key, str) and host_key(key) == key:
                yield key
        except ValueError:
            continue


class KnownHosts:
    """What each guest has reported last; the VMs whose reports are the oldest make room."""

    def __init__(self) -> None:
        self._entries: dict[str, bytes] = {}  # by the identity of the VM
        self.kept_bytes = 0
        self.revision = 0  # another number, another table
        self.shed_counts: Counter[Key] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def hear(self, happening: Happening) -> None:
        fact, machine = happening.fact, happening.machine
        if not isinstance(fact, BootReported) or not machine or machine.is_test:
            return
        if fact.host_keys:  # else it is as before: a guest may have no sshd, and then one again
            key, proof = short_name(happening.key), machine.proof.value
            self._put(HostEntry(key, fact.hosts, fact.host_keys, proof))

    def restore(self, lines: Iterable[str]) -> None:
        """Go on with what `lines` of before a restart have; ignore what is none of them."""
        for line in lines:
            if entry := HostEntry.of(line):
                self._put(entry)

    def lines(self) -> Iterator[str]:
        """Return what `restore` takes; a copy, for another thread."""
        return map(bytes.decode, list(self._entries.values()))

    def entries(self) -> Iterator[HostEntry]:
        return filter(None, map(HostEntry.of, list(self._entries.values())))

    def forget(self, key: str) -> None:
        packed = self._entries.pop(key, None)
        if packed is not None:
            self.kept_bytes -= len(packed) + _ENTRY_BYTES
            self.revision += 1

    def shed(self) -> int:
        """Forget the oldest; return how many bytes that frees."""
        if not self._entries:
            return 0
        before = self.kept_bytes
        self.forget(next(iter(self._entries)))
        self.shed_counts[ADMIN_SHED["host keys"]] += 1
        return before - self.kept_bytes

    def _put(self, entry: HostEntry) -> None:
        self.forget(entry.key)
        packed = entry.packed()
        if len(packed) > MAX_ENTRY_BYTES:
            return
        self._entries[entry.key] = packed
        self.kept_bytes += len(packed) + _ENTRY_BYTES
        self.revision += 1
        while self.kept_bytes > MAX_BYTES:
            self.shed()


def known_hosts(entries: Sequence[HostEntry], is_connected: Callable[[str], bool]) -> bytes:
    """Return the file, with pauses for the VMs.

    Of several VMs with one host, a connected one has it if it is the only connected one: the others
    were before it. Else nobody has it, and a comment says so.
    """
    claims: dict[str, list[HostEntry]] = {}
    for entry in in_slices(entries):
        for host in entry.hosts:
            claims.setdefault(host, []).append(entry)
    owners: dict[str, str] = {}
    lines = []
    for host, claimants in in_slices(claims.items()):
        if len(claimants) > 1:
            claimants = [one for one in claimants if is_connected(one.key)]
        if len(claimants) == 1:
            owners[host] = claimants[0].key
        else:
            lines.append(f"# {host}: left out, since several VMs have it\n")
    for entry in in_slices(entries):
        if hosts := ",".join(host for host in entry.hosts if owners.get(host) == entry.key):
            lines += [f"{hosts} {key}\n" for key in entry.host_keys]
    return "".join(lines).encode()
