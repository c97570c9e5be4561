"""Interfaces of native documents, in one form for both versions, and their conflicts. Pure.

Values of a wrong type are left out: version1 and version2 report them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmw_cloudinit_metadata.instance.fault import Fault, Key, describe
from vmw_cloudinit_metadata.instance.network import rules
from vmw_cloudinit_metadata.instance.network.address import AnyAddress, AnyInterface
from vmw_cloudinit_metadata.instance.network.check import interface_of
from vmw_cloudinit_metadata.instance.network.subnets import Subnets

_ALL = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


@dataclass(frozen=True, slots=True)
class NextHop:
    """The gateway of a route, or the default gateway of an interface; its address is at `key`."""

    key: Key
    via: AnyAddress
    is_default: bool = False
    may_be_outside: bool = False  # the networks of the interface
    rank: object = None  # of two default routes with equal rank, either may be used


@dataclass(slots=True)
class NativeInterface:
    addresses: list[tuple[Key, AnyInterface]] = field(default_factory=list)
    routes: list[NextHop] = field(default_factory=list)
    dhcp: set[int] = field(default_factory=set)  # 4, 6: DHCP may add networks of that family


def items_of(value: Any) -> Sequence[Any]:
    """Return the items of a list; a value of another type has none."""
    return value if isinstance(value, list | tuple) else ()


def undefined_faults(
    used: Iterable[tuple[Key, Any]], defined: Collection[Any], example: str
) -> Iterator[Fault]:
    """Yield a fault for each interface that a bond, bridge or VLAN uses and nothing defines."""
    for key, name in used:
        if isinstance(name, str) and name not in defined:
            expected = f"an interface that this document defines ({example} is enough)"
            yield Fault(key, describe(name, key), expected)


def is_default(to: Any) -> bool:
    network = interface_of(to)
    return to == "default" or (network is not None and network.network in _ALL)


def host_of(value: Any) -> AnyAddress | None:
    address = interface_of(value)
    return address.ip if address and "/" not in value else None


def destination_faults(to: Any, key: Key, netmask: Any = None) -> Iterator[Fault]:
    """Yield a fault for a destination that some renderers cannot use."""
    if to == "default":
        found = "'default', which cloud-init 22.4 supports only with netplan (else: no network)"
        yield Fault(key, found, "0.0.0.0/0 (IPv6: ::/0)")
        return
    if isinstance(netmask, str) and isinstance(to, str) and "/" not in to:
        to = f"{to}/{netmask}"
    network = interface_of(to)
    if network and network.ip != network.network.network_address:
        expected = f"{network.network}, or {network.ip} for a single host"
        yield Fault(key, describe(to), expected)


def faults_between(interfaces: Iterable[NativeInterface], outside: str = "") -> Iterator[Fault]:
    """Yield what cannot work; `outside` says how to write a gateway outside the network, if the
    version allows it.
    """
    seen: dict[object, NativeInterface] = {}
    defaults: set[object] = set()
    for interface in interfaces:
        for key, address in interface.addresses:
            if expected := rules.usable_host(address.ip, address):
                yield Fault(key, describe(str(address)), expected)
            elif seen.setdefault(address.ip, interface) is not interface:
                yield Fault(key, rules.shared_address(address.ip), rules.ONE_OWNER)
        subnets = Subnets([address for _, address in interface.addresses])
        for route in interface.routes:
            yield from _route_faults(route, interface, subnets, outside)
            rank = (route.via.version, route.rank)
            if route.is_default and rank in defaults:
                found = rules.second_gateway(str(route.via), route.via.version)
                expected = "one for all interfaces, or routes with different metrics"
                yield Fault(route.key, found, expected)
            elif route.is_default:
                defaults.add(rank)


def _route_faults(
    route: NextHop, interface: NativeInterface, subnets: Subnets, outside: str
) -> Iterator[Fault]:
    via, text = route.via, str(route.via)
    own = subnets.address_for(text)
    if own is None and via.version == 4 and 4 not in interface.dhcp:
        expected = "an address of the interface in the same network, or DHCP"
        yield Fault(route.key, describe(text), expected)
    elif expected := rules.usable_gateway(text, own or ipaddress.ip_interface(text), subnets):
        yield Fault(route.key, describe(text), expected)
    elif own and not (
        subnets.reach(text)
        or route.may_be_outside
        or via.version in interface.dhcp
        or (rules.has_no_room(own) and not outside)
    ):
        expected = f"an address in {own.network}, the interface's network{outside}"
        yield Fault(route.key, describe(text), expected)
