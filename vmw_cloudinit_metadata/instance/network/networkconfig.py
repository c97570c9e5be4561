"""The short form of a network, without faults -> cloud-init's network-config. Pure.

Version 1 is complete for the most renderers, but netplan loses name servers and routes that belong
to no static address: version 2 is used for these. What is still lost: `renderers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network
from typing import Any

from vmw_cloudinit_metadata.instance.network.address import AnyInterface, ip_address
from vmw_cloudinit_metadata.instance.network.interfaces import names_of
from vmw_cloudinit_metadata.instance.network.shortform import Interface, Route
from vmw_cloudinit_metadata.instance.network.subnets import Subnets

_NETMASKS = [str(IPv4Network((0, length)).netmask) for length in range(33)]
_NONE = Subnets(())


def rendered(interfaces: Sequence[Interface]) -> dict[str, Any]:
    render = version_2 if any(map(needs_version_2, interfaces)) else version_1
    return render(interfaces)


def needs_version_2(interface: Interface) -> bool:
    """Return whether name servers or routes belong to no static address."""
    if not interface.dhcp:
        return False
    has_static = Subnets(interface.addresses)
    return bool(interface.nameservers and not interface.address) or any(
        has_static.of(route.via) is None for route in interface.routes
    )


def version_1(interfaces: Sequence[Interface]) -> dict[str, Any]:
    names = names_of(interfaces)
    devices = [_physical(i, name) for i, name in zip(interfaces, names, strict=True)]
    return {"version": 1, "config": devices}


def _physical(interface: Interface, name: str) -> dict[str, Any]:
    device: dict[str, Any] = {"type": "physical", "name": name}
    if interface.mac_address:
        device["mac_address"] = interface.mac_address
    if interface.mtu:
        device["mtu"] = interface.mtu
    device["subnets"] = _subnets(interface)
    return device


def _subnets(interface: Interface) -> list[dict[str, Any]]:
    addresses = interface.addresses
    subnets = [_static(address) for address in addresses]
    if interface.dhcp:
        subnets.append({"type": "dhcp"})
    belongs = Subnets(addresses) if interface.gateway or interface.routes else _NONE
    for gateway in interface.gateway:
        subnet = belongs.of(gateway)
        if subnet is not None:
            subnets[subnet]["gateway"] = gateway
    first = subnets[0]  # cloud-init collects these from all subnets: once is enough
    if interface.search:
        first["dns_search"] = interface.search
    if interface.nameservers:
        first["dns_nameservers"] = interface.nameservers
    for route in interface.routes:
        subnets[belongs.of(route.via) or 0].setdefault("routes", []).append(_route(route))
    return subnets


def _static(address: AnyInterface) -> dict[str, Any]:
    if address.version == 6:
        return {"type": "static", "address": str(address)}
    host, _, length = str(address).partition("/")
    return {"type": "static", "address": host, "netmask": _NETMASKS[int(length)]}


def _route(route: Route) -> dict[str, Any]:
    metric = {} if route.metric is None else {"metric": route.metric}
    return {"destination": route.network, "gateway": route.via, **metric}


def version_2(interfaces: Sequence[Interface]) -> dict[str, Any]:
    names = names_of(interfaces)
    # Renderers drop the name servers of interfaces after one that has only search domains.
    pairs = sorted(zip(names, interfaces, strict=True), key=_has_search_alone)
    return {"version": 2, "ethernets": {name: _ethernet(i, name) for name, i in pairs}}


def _has_search_alone(pair: tuple[str, Interface]) -> bool:
    return bool(pair[1].search) and not pair[1].nameservers


def _ethernet(interface: Interface, name: str) -> dict[str, Any]:
    device: dict[str, Any] = {}
    if interface.mac_address:
        device |= {"match": {"macaddress": interface.mac_address}, "set-name": name}
    if interface.mtu:
        device["mtu"] = interface.mtu
    if interface.dhcp:
        device["dhcp4"] = True
    if interface.address:
        device["addresses"] = [str(address) for address in interface.addresses]
    if interface.nameservers or interface.search:
        given = {"addresses": interface.nameservers, "search": interface.search}
        device["nameservers"] = {key: value for key, value in given.items() if value}
    routes = []
    reached = Subnets(interface.addresses)
    for gateway in interface.gateway:
        version = ip_address(gateway).version
        if reached.reach(gateway):
            device[f"gateway{version}"] = gateway
        else:
            to = "0.0.0.0/0" if version == 4 else "::/0"
            routes.append({"to": to, "via": gateway, "on-link": True})
    for route in interface.routes:
        if route.network == "::/0" and route.metric is None and "gateway6" not in device:
            device["gateway6"] = route.via  # cloud-init 22.4 makes ::/64 of ::/0 in `routes`
        else:
            metric = {} if route.metric is None else {"metric": route.metric}
            routes.append({"to": route.network, "via": route.via, **metric})
    if routes:
        device["routes"] = routes
    return device
