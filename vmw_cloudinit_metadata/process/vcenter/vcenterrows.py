"""The rows in which the vCenter process sends what vCenter says, a line each. Pure.

    VC UUID, or @ and the reference of a host + space + JSON list; without a list: it is gone

A row is kept as it came, and parsed when somebody asks for its VM: a table of all VMs is small, and
the hub reads thousands of rows in a moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import ujson

from vmw_cloudinit_metadata.protocol.printable import shortened
from vmw_cloudinit_metadata.protocol.vcentercheck import VcenterVm, canonical
from vmw_cloudinit_metadata.protocol.vmware import MAX_CARDS

MAX_ROW_BYTES = 16 * 1024  # the longest texts, 4 bytes a character, and all ports and cards
MAX_TEXT = 255  # characters of a name; a folder's has more levels
MAX_FOLDER = 1000
MAX_PORTS = 32
MAX_ADDRESSES = 64  # of a host

HOST = "@"  # the keys of hosts begin with it, and no VC UUID does
GONE = b""


@dataclass(frozen=True, slots=True)
class InventoryHost:
    """An ESXi host: its name in vCenter, and the addresses from which it may dial."""

    name: str
    addresses: tuple[str, ...]

    def pack(self) -> bytes:
        addresses = [canonical(one)[:MAX_TEXT] for one in self.addresses[:MAX_ADDRESSES]]
        return _json([shortened(self.name, MAX_TEXT), addresses])


@dataclass(frozen=True, slots=True)
class InventoryVm:
    """A VM, with the key of its host."""

    name: str
    power: str
    host: str
    folder: str
    ports: tuple[str, ...]
    macs: tuple[str, ...]
    booted_s: float = 0.0

    def pack(self) -> bytes:
        name, folder = shortened(self.name, MAX_TEXT), shortened(self.folder, MAX_FOLDER)
        ports, macs = self.ports[:MAX_PORTS], self.macs[:MAX_CARDS]
        return _json([name, self.power, self.host, folder, ports, macs, self.booted_s])


def _json(row: list[object]) -> bytes:
    return ujson.dumps(row, ensure_ascii=False, escape_forward_slashes=False).encode()


def joined(rows: Iterable[tuple[str, bytes]], most_bytes: int) -> Iterator[bytes]:
    """Yield payloads of rows, each of at most about `most_bytes`."""
    lines: list[bytes] = []
    size = 0
    for key, row in rows:
        line = b"%s %s\n" % (key.encode(), row)
        lines.append(line)
        size += len(line)
        if size >= most_bytes:
            yield b"".join(lines)
            lines, size = [], 0
    if lines:
        yield b"".join(lines)


def split(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the rows of a payload, with their keys; raise ValueError."""
    for line in payload.splitlines():
        key, space, row = line.partition(b" ")
        if not space or len(row) > MAX_ROW_BYTES:
            raise ValueError("a row without a key, or one that is too long")
        yield key.decode("ascii"), row


def vm_of(row: bytes, hosts: Mapping[str, bytes]) -> VcenterVm | None:
    """Return the VM of a row; None for one that is none."""
    match _parsed(row):
        case [str(name), str(power), str(host), str(folder), list(ports), list(macs), booted_s]:
            match _parsed(hosts.get(host, GONE)):
                case [str(host_name), list(addresses)]:
                    found = (host_name, tuple(addresses))
                case _:
                    found = ("", ())
            since_s = float(booted_s) if isinstance(booted_s, float | int) else 0.0
            return VcenterVm(name, power, *found, folder, tuple(ports), tuple(macs), since_s)
    return None


def _parsed(row: bytes) -> object:
    try:
        return ujson.loads(row) if row else None
    except ValueError:
        return None
