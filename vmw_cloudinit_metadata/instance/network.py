"""The network of an instance: short form -> cloud-init's network-config version 1. Pure.

The short form is one interface, or a list of them. cloud-init's own document: networkdocument.py.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
)

from vmw_cloudinit_metadata.instance.fault import Fault, Key, describe
from vmw_cloudinit_metadata.instance.text import Text, dashed, listed, listed_words


@lru_cache(maxsize=4096)  # an address is looked at several times while its file is read
def ip_address(text: str) -> IPv4Address | IPv6Address:
    return IPv6Address(text) if ":" in text else IPv4Address(text)


@lru_cache(maxsize=4096)
def ip_interface(text: str) -> IPv4Interface | IPv6Interface:
    return IPv6Interface(text) if ":" in text else IPv4Interface(text)


_MAC = re.compile(r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}", re.ASCII)
_DOMAIN = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
INTERFACE_NAME = re.compile(r"[^\s/:]{1,15}")


def _matching(pattern: re.Pattern[str], expected: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(expected)
        return text

    return AfterValidator(check)


def _address(text: str) -> str:
    try:
        ip_interface(text)
    except ValueError:
        raise ValueError("an IP address such as 192.168.1.1, with or without /24") from None
    return text


def _host(text: str) -> str:
    try:
        ip_address(text)
    except ValueError:
        raise ValueError("an IP address such as 192.168.1.254") from None
    return text


def _netmask(text: str) -> str:
    """The netmask of an IPv4 network, which may be written as the length of its prefix."""
    try:
        if not text.isdecimal():
            _octets = ipaddress.IPv4Address(text)
            if ipaddress.IPv4Network(f"0.0.0.0/{text}").netmask != _octets:
                raise ValueError  # a host mask such as 0.0.0.255
        return str(ipaddress.IPv4Network(f"0.0.0.0/{text}").netmask)
    except ValueError:
        raise ValueError("a netmask such as 255.255.255.0") from None


def _destination(text: str) -> str:
    if text == "default":
        return text
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError("a network such as 10.0.0.0/8, or default") from None


def _lower_mac(text: str) -> str:
    return text.lower().replace("-", ":")


Address = Annotated[Text, AfterValidator(_address)]
Host = Annotated[Text, AfterValidator(_host)]


class Route(BaseModel):
    model_config = ConfigDict(extra="forbid")

    to: Annotated[Text, AfterValidator(_destination)]
    via: Host
    metric: Annotated[int, Field(strict=True, ge=0, le=0xFFFFFFFF)] | None = None


class Interface(BaseModel):
    """One interface of the short form; every text is as the operator wrote it."""

    model_config = ConfigDict(extra="forbid", alias_generator=dashed)

    name: Annotated[Text, _matching(INTERFACE_NAME, "an interface name such as eth0")] = "eth0"
    mac_address: (
        Annotated[
            Text,
            _matching(_MAC, "a MAC address such as 00:50:56:01:02:03"),
            AfterValidator(_lower_mac),
        ]
        | None
    ) = None
    mtu: Annotated[int, Field(strict=True, ge=68, le=65535)] | None = None
    dhcp: StrictBool = False
    address: Annotated[list[Address], BeforeValidator(listed)] = Field(default_factory=list)
    netmask: Annotated[Text, AfterValidator(_netmask)] | None = None
    gateway: Annotated[list[Host], BeforeValidator(listed)] = Field(default_factory=list)
    on_link: StrictBool = False
    routes: Annotated[list[Route], BeforeValidator(listed)] = Field(default_factory=list)
    search: Annotated[
        list[Annotated[Text, _matching(_DOMAIN, "a domain such as example.com")]],
        BeforeValidator(listed_words),
    ] = Field(default_factory=list)
    nameservers: Annotated[list[Host], BeforeValidator(listed_words)] = Field(default_factory=list)


KEYS = frozenset(str(field.alias) for field in Interface.model_fields.values())
ROUTE_KEYS = frozenset(Route.model_fields)

# So many addresses of an interface, which hardly one has, are looked through; more are indexed.
_FEW = 4

_Addresses = list[IPv4Interface | IPv6Interface]


def interface_faults(interface: Interface, key: Key) -> Iterator[Fault]:
    """What is wrong between the keys of one interface, each by itself being right."""
    if not interface.address and not interface.dhcp:
        yield Fault((*key, "address"), "nothing", "an address, or dhcp: true", is_absence=True)
    addresses: _Addresses = []
    for index, text in enumerate(interface.address):
        place = (*key, "address", index) if len(interface.address) > 1 else (*key, "address")
        fault = _prefix_fault(interface, text, place, (*key, "netmask"))
        if fault:
            yield fault
        else:
            addresses.append(_with_prefix(interface, text))
    if len(addresses) == len(interface.address):
        yield from _gateway_faults(interface, addresses, key)


def _prefix_fault(interface: Interface, text: str, key: Key, netmask: Key) -> Fault | None:
    address = ip_interface(text)
    if "/" not in text and (interface.netmask is None or address.version == 6):
        expected = f"a prefix length behind it ({text}/{24 if address.version == 4 else 64})"
        if address.version == 4:
            expected += ", or a netmask beside it"
        return Fault(key, describe(text), expected, is_absence=True)
    if "/" not in text or address.version == 6 or interface.netmask is None:
        return None
    if str(address.netmask) != interface.netmask:
        expected = f"{address.netmask}, as the prefix length of {text} says, or no netmask"
        return Fault(netmask, describe(interface.netmask), expected)
    return None


def _with_prefix(interface: Interface, text: str) -> IPv4Interface | IPv6Interface:
    return ip_interface(text if "/" in text else f"{text}/{interface.netmask}")


def _gateway_faults(interface: Interface, addresses: _Addresses, key: Key) -> Iterator[Fault]:
    subnets = _Subnets(addresses)
    have_one: set[int] = set()
    for index, gateway in enumerate(interface.gateway):
        place = (*key, "gateway", index) if len(interface.gateway) > 1 else (*key, "gateway")
        subnet = subnets.of(gateway)
        if subnet is None:
            version = ip_address(gateway).version
            expected = f"a static IPv{version} address of the interface for it"
            yield Fault(place, describe(gateway), expected, is_absence=True)
        elif subnet in have_one:
            yield Fault(place, describe(gateway), "one gateway for each network")
        elif not interface.on_link and not _reaches(addresses[subnet], gateway):
            expected = f"an address in {addresses[subnet].network}, or on-link: true"
            yield Fault(place, describe(gateway), expected)
        else:
            have_one.add(subnet)


class _Subnets:
    """Which address a gateway belongs to: one whose network it is in, else one of its family."""

    def __init__(self, addresses: _Addresses) -> None:
        self._addresses = addresses
        self._indexed: dict[tuple[int, int, int], int] = {}  # by version, prefix length, network
        for index in range(_FEW, len(addresses)):
            address = addresses[index]
            length = address.network.prefixlen
            network = int(address) >> (address.max_prefixlen - length)
            self._indexed.setdefault((address.version, length, network), index)
        self._lengths = {(version, length) for version, length, _ in self._indexed}

    def of(self, gateway: str) -> int | None:
        """The index of the address."""
        host = ip_address(gateway)
        for index, address in enumerate(self._addresses[:_FEW]):
            if host in address.network:
                return index
        bits, number = host.max_prefixlen, int(host)
        networks = ((v, n, number >> (bits - n)) for v, n in self._lengths if v == host.version)
        inside = [self._indexed[network] for network in networks if network in self._indexed]
        return min(inside) if inside else self._first_of(host.version)

    def _first_of(self, version: int) -> int | None:
        versions = (address.version for address in self._addresses)
        return next((index for index, found in enumerate(versions) if found == version), None)


def _reaches(address: IPv4Interface | IPv6Interface, gateway: str) -> bool:
    host = ip_address(gateway)
    is_host_route = address.network.prefixlen == address.max_prefixlen
    return host in address.network or is_host_route or (host.version == 6 and host.is_link_local)


def version_1(interfaces: Iterable[Interface]) -> dict[str, Any]:
    """cloud-init's network-config, version 1, for interfaces without faults."""
    return {"version": 1, "config": [_physical(interface) for interface in interfaces]}


def _physical(interface: Interface) -> dict[str, Any]:
    device: dict[str, Any] = {"type": "physical", "name": interface.name}
    if interface.mac_address:
        device["mac_address"] = interface.mac_address
    if interface.mtu:
        device["mtu"] = interface.mtu
    device["subnets"] = _subnets(interface)
    return device


def _subnets(interface: Interface) -> list[dict[str, Any]]:
    addresses = [_with_prefix(interface, text) for text in interface.address]
    subnets = [_static(address) for address in addresses]
    belongs = _Subnets(addresses)
    for gateway in interface.gateway:
        subnet = belongs.of(gateway)
        if subnet is not None:
            subnets[subnet]["gateway"] = gateway
    if interface.dhcp:
        subnets.append({"type": "dhcp"})
    first = subnets[0]  # cloud-init gathers these over all subnets: once is enough
    if interface.search:
        first["dns_search"] = interface.search
    if interface.nameservers:
        first["dns_nameservers"] = interface.nameservers
    if interface.routes:
        first["routes"] = [_route(route) for route in interface.routes]
    return subnets


def _static(address: IPv4Interface | IPv6Interface) -> dict[str, Any]:
    if address.version == 6:
        return {"type": "static", "address": str(address)}
    host, _, netmask = address.with_netmask.partition("/")
    return {"type": "static", "address": host, "netmask": netmask}


def _route(route: Route) -> dict[str, Any]:
    destination = route.to
    if destination == "default":
        destination = "::/0" if ":" in route.via else "0.0.0.0/0"
    metric = {} if route.metric is None else {"metric": route.metric}
    return {"destination": destination, "gateway": route.via, **metric}
