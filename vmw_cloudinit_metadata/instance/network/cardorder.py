"""Puts the MAC addresses of a VM's network cards into a network-config that names none. Pure.

An interface eth0 is the first card of the VM, eth1 the second, whatever the guest's kernel calls
them. Every other name is the kernel's own, such as ens192: it stays as it is, and so does an
interface that names its MAC address or is matched otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vmw_cloudinit_metadata.instance.network.version2 import DEVICES


def with_cards(network: Mapping[str, Any], macs: Sequence[str]) -> Mapping[str, Any]:
    """Return the network-config with the MAC addresses of its interfaces eth0, eth1, …; `macs` are
    those of the VM's cards in their order, "" for one that has none yet.

    A card that an interface names is no other interface's.
    """
    match network:
        case {"version": 1, "config": list(rows)}:
            free = _free(macs, _named_in_1(rows))
            return {**network, "config": [_physical(row, free) for row in rows]}
        case {"version": 2, "ethernets": dict(devices)}:
            free = _free(macs, _named_in_2(network))
            filled = {name: _ethernet(name, row, free) for name, row in devices.items()}
            return {**network, "ethernets": filled}
    return network


def _free(macs: Sequence[str], named: Iterator[object]) -> Mapping[str, str]:
    """Return the MAC addresses by the names of interfaces."""
    taken = {str(mac).lower().replace("-", ":") for mac in named if mac}
    return {f"eth{i}": mac for i, mac in enumerate(macs) if mac and mac not in taken}


def _named_in_1(rows: Sequence[Any]) -> Iterator[object]:
    return (row.get("mac_address") for row in rows if isinstance(row, Mapping))


def _named_in_2(network: Mapping[str, Any]) -> Iterator[object]:
    for kind in DEVICES:
        devices = network.get(kind)
        for row in devices.values() if isinstance(devices, Mapping) else ():
            found = row.get("match") if isinstance(row, Mapping) else None
            yield found.get("macaddress") if isinstance(found, Mapping) else None


def _physical(row: Any, free: Mapping[str, str]) -> Any:
    match row:
        case {"type": "physical", "name": str(name), **rest} if not row.get("mac_address"):
            if mac := free.get(name):
                rest.pop("mac_address", None)
                return {"type": "physical", "name": name, "mac_address": mac, **rest}
    return row


def _ethernet(name: str, row: Any, free: Mapping[str, str]) -> Any:
    mac = free.get(name)
    if not mac or not isinstance(row, Mapping) or "match" in row or "set-name" in row:
        return row
    return {"match": {"macaddress": mac}, "set-name": name, **row}
