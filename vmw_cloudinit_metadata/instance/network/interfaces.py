"""Interfaces of the short form: what is wrong between their keys, and between interfaces. Pure.

Each key has been checked by itself before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from vmw_cloudinit_metadata.instance.fault import Fault, Key, describe
from vmw_cloudinit_metadata.instance.network import rules
from vmw_cloudinit_metadata.instance.network.address import (
    AnyInterface,
    ip_address,
    ip_interface,
)
from vmw_cloudinit_metadata.instance.network.shortform import Interface, Route
from vmw_cloudinit_metadata.instance.network.subnets import Subnets

_MIN_IPV6_MTU = 1280  # RFC 8200; below it, the kernel switches IPv6 off


def names_of(interfaces: Sequence[Interface]) -> list[str]:
    """Return the name of each; those without one become eth0, eth1, … in their order."""
    taken = {interface.name for interface in interfaces}
    free = (name for name in map("eth{}".format, count()) if name not in taken)
    return [interface.name or next(free) for interface in interfaces]


def faults_between(interfaces: Mapping[Key, Interface]) -> Iterator[Fault]:
    """Yield a fault for each duplicate name or MAC address."""
    seen: set[tuple[str, str]] = set()
    for key, interface in interfaces.items():
        for name, value in (("name", interface.name), ("mac-address", interface.mac_address)):
            if value is None:
                continue
            if (name, value) in seen:
                yield Fault((*key, name), f"a duplicate {value!r}", f"each {name} once")
            seen.add((name, value))


def faults_within(interface: Interface, key: Key) -> Iterator[Fault]:
    """Yield what is wrong between the keys of one interface."""
    if not interface.address and not interface.dhcp:
        yield Fault((*key, "address"), "nothing", "an address, or dhcp: true", is_absence=True)
    addresses: list[AnyInterface] = []
    for index, text in enumerate(interface.address):
        place = _place(key, "address", index, len(interface.address))
        fault = _prefix_fault(interface, text, place, (*key, "netmask"))
        if fault:
            yield fault
        else:
            addresses.append(interface.with_prefix(text))
    if len(addresses) == len(interface.address):
        yield from _address_faults(interface, addresses, key)
        if interface.gateway or interface.routes:
            subnets = Subnets(addresses)
            yield from _gateway_faults(interface, subnets, key)
            yield from _route_faults(interface, subnets, key)
    if interface.mtu and interface.mtu < _MIN_IPV6_MTU and any(a.version == 6 for a in addresses):
        expected = f"at least {_MIN_IPV6_MTU} with an IPv6 address"
        yield Fault((*key, "mtu"), describe(interface.mtu), expected)


def _place(key: Key, name: str, index: int, many: int) -> Key:
    return (*key, name, index) if many > 1 else (*key, name)


def _prefix_fault(interface: Interface, text: str, key: Key, netmask: Key) -> Fault | None:
    address = ip_interface(text)
    if "/" not in text and (interface.netmask is None or address.version == 6):
        expected = rules.prefix_length(text, address.version)
        if address.version == 4:
            expected += ", or a netmask"
        return Fault(key, describe(text), expected, is_absence=True)
    if "/" not in text or address.version == 6 or interface.netmask is None:
        return None
    if str(address.netmask) != interface.netmask:
        expected = f"{address.netmask}, to match the prefix length of {text}, or no netmask"
        return Fault(netmask, describe(interface.netmask), expected)
    return None


def _address_faults(
    interface: Interface, addresses: Sequence[AnyInterface], key: Key
) -> Iterator[Fault]:
    seen: set[object] = set()
    for index, address in enumerate(addresses):
        host = address.ip
        expected = rules.usable_host(host, address)
        if expected or host in seen:
            place = _place(key, "address", index, len(addresses))
            text = interface.address[index]
            if expected:
                yield Fault(place, describe(text), expected)
            else:
                yield Fault(place, f"a duplicate {text!r}", "each address once")
        seen.add(host)


def _gateway_faults(interface: Interface, subnets: Subnets, key: Key) -> Iterator[Fault]:
    have_one: set[int] = set()
    for index, gateway in enumerate(interface.gateway):
        place = _place(key, "gateway", index, len(interface.gateway))
        version = ip_address(gateway).version
        own = subnets.address_for(gateway)
        if own is None:
            expected = f"a static IPv{version} address on the interface"
            yield Fault(place, describe(gateway), expected, is_absence=True)
        elif version in have_one:
            yield Fault(place, describe(gateway), f"only one IPv{version} gateway")
        elif expected := rules.usable_gateway(gateway, own, subnets):
            yield Fault(place, describe(gateway), expected)
        elif not (interface.on_link or subnets.reach(gateway) or rules.has_no_room(own)):
            expected = f"an address in {own.network}, or on-link: true"
            yield Fault(place, describe(gateway), expected)
        have_one.add(version)


def _route_faults(interface: Interface, subnets: Subnets, key: Key) -> Iterator[Fault]:
    for index, route in enumerate(interface.routes):
        place = (*key, "routes", index, "via")
        own = subnets.address_for(route.via)
        family = ip_interface(route.network).version
        if family != route.version:
            yield Fault(place, describe(route.via), rules.same_family(family))
        elif expected := rules.usable_gateway(route.via, own or ip_interface(route.via), subnets):
            yield Fault(place, describe(route.via), expected)
        elif interface.on_link or _may_reach(interface, subnets, route):
            continue
        elif own is None:
            expected = "a static IPv4 address on the interface, or dhcp: true"
            yield Fault(place, describe(route.via), expected, is_absence=True)
        else:
            expected = f"an address in {own.network}, or on-link: true"
            yield Fault(place, describe(route.via), expected)


def _may_reach(interface: Interface, subnets: Subnets, route: Route) -> bool:
    """Return whether the gateway may be reachable, also in a network that DHCP or RA adds."""
    is_dynamic = interface.dhcp if route.version == 4 else subnets.first_of(6) is None
    return is_dynamic or subnets.reach(route.via)


def warnings_about(interfaces: Mapping[Key, Interface]) -> Iterator[Fault]:
    """Yield warnings for what is allowed and probably a mistake."""
    yield from _default_warnings(interfaces)
    yield from _address_warnings(interfaces)
    yield from _route_warnings(interfaces)


def _default_warnings(interfaces: Mapping[Key, Interface]) -> Iterator[Fault]:
    """Yield a warning for default routes of equal metric: which one is used is undefined."""
    count: dict[tuple[int, int | None], int] = {}
    for key, interface in interfaces.items():
        for place, via, metric in _default_routes(interface, key):
            kind = (ip_address(via).version, metric)
            count[kind] = count.get(kind, 0) + 1
            if count[kind] == 2:
                found = rules.second_gateway(via, kind[0])
                expected = (
                    "one for all interfaces, or routes: [{to: default, via: …, metric: …}] "
                    "with different metrics"
                )
                yield Fault(place, found, expected, is_warning=True)


def _route_warnings(interfaces: Mapping[Key, Interface]) -> Iterator[Fault]:
    """Yield a warning for routes of equal metric to one network: the kernel uses only one."""
    seen: set[tuple[str, int | None]] = set()
    for key, interface in interfaces.items():
        for index, route in enumerate(interface.routes):
            if not route.is_default and (route.to, route.metric) in seen:
                found = f"{route.to!r}, a second route with the same metric"
                place = (*key, "routes", index, "to")
                yield Fault(place, found, "one route, or different metrics", is_warning=True)
            seen.add((route.to, route.metric))


def _default_routes(interface: Interface, key: Key) -> Iterator[tuple[Key, str, int | None]]:
    for index, gateway in enumerate(interface.gateway):
        yield _place(key, "gateway", index, len(interface.gateway)), gateway, None
    for index, route in enumerate(interface.routes):
        if route.is_default:
            yield (*key, "routes", index, "via"), route.via, route.metric


def _address_warnings(interfaces: Mapping[Key, Interface]) -> Iterator[Fault]:
    owner: dict[object, Key] = {}
    for key, interface in interfaces.items():
        for index, address in enumerate(interface.addresses):
            place = _place(key, "address", index, len(interface.address))
            network = address.network
            if owner.setdefault(address.ip, key) != key:
                found = rules.shared_address(address.ip)
                yield Fault(place, found, rules.ONE_OWNER, is_warning=True)
            is_divided = address.version == 6 and network.prefixlen < 127  # RFC 6164
            if is_divided and address.ip == network.network_address:
                found = f"{str(address)!r}, the subnet-router anycast address of {network}"
                yield Fault(place, found, f"an address such as {address.ip + 1}", is_warning=True)
