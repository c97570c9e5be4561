"""IP addresses, networks and MAC addresses in instance data, as pydantic types. Pure."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Annotated

from pydantic import AfterValidator

from vmw_cloudinit_metadata.instance.values.text import Text

AnyAddress = IPv4Address | IPv6Address
AnyInterface = IPv4Interface | IPv6Interface

_MAC = re.compile(r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}", re.ASCII)
_NO_MAC = "00:00:00:00:00:00"
_BROADCAST = (1 << 32) - 1


# The caches save 12 % of reading a small file, whose addresses are each parsed several times.
@lru_cache(maxsize=4096)
def ip_address(text: str) -> AnyAddress:
    return IPv6Address(text) if ":" in text else IPv4Address(text)


@lru_cache(maxsize=4096)
def ip_interface(text: str) -> AnyInterface:
    return IPv6Interface(text) if ":" in text else IPv4Interface(text)


def unfit(host: AnyAddress) -> str:
    """Return what the address is if no host can have it, else ""."""
    return _unfit_4(int(host)) if host.version == 4 else _unfit_6(int(host))


def _unfit_4(host: int) -> str:
    first = host >> 24
    if first == 127:
        return "a loopback address"
    if 224 <= first < 240:
        return "a multicast address"
    if first == 0:
        return "the unspecified address"
    return "the broadcast address" if host == _BROADCAST else ""


def _unfit_6(host: int) -> str:
    if host == 1:
        return "a loopback address"
    if host >> 120 == 0xFF:
        return "a multicast address"
    if host == 0:
        return "the unspecified address"
    return "an IPv4-mapped IPv6 address" if host >> 32 == 0xFFFF else ""


def unfit_in(host: AnyAddress, subnet: AnyInterface) -> str:
    """Like `unfit`, also for the network and broadcast address of `subnet`."""
    network = subnet.network
    if host.version == 4 == network.version and network.prefixlen < 31:  # RFC 3021
        rest = int(host) ^ int(
            network.network_address
        )  # without the prefix, if it is in the network
        if rest == 0:
            return f"the network address of {network}"
        if rest == _BROADCAST >> network.prefixlen:
            return f"the broadcast address of {network}"
    return unfit(host)


def _address(text: str) -> str:
    try:
        interface = ip_interface(text)
    except ValueError:
        raise ValueError("an IP address such as 192.168.1.1, with or without /24") from None
    _check_zone(text)
    if interface.network.prefixlen == 0:
        raise ValueError("a prefix length other than 0, such as /24")
    return text


def _host(text: str) -> str:
    try:
        ip_address(text)
    except ValueError:
        raise ValueError("an IP address such as 192.168.1.254") from None
    _check_zone(text)
    return text


def _check_zone(text: str) -> None:
    if "%" in text:
        raise ValueError("an address without a zone (%): it belongs to this interface")


def _name_server(text: str) -> str:
    host = ip_address(_host(text))
    what = unfit(host)
    if what and not host.is_loopback:  # the guest's own resolver
        raise ValueError(f"the address of a name server ({text} is {what})")
    return text


def _netmask(text: str) -> str:
    """Return the netmask of an IPv4 network; it may be written as a prefix length."""
    try:
        if not text.isdecimal():
            _octets = IPv4Address(text)
            if ipaddress.IPv4Network(f"0.0.0.0/{text}").netmask != _octets:
                raise ValueError  # a host mask such as 0.0.0.255
        network = ipaddress.IPv4Network(f"0.0.0.0/{text}")
        if network.prefixlen == 0:
            raise ValueError
        return str(network.netmask)
    except ValueError:
        raise ValueError("a netmask such as 255.255.255.0") from None


def _destination(text: str) -> str:
    if text == "default":
        return text
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        network = ip_interface(text).network
    except ValueError:
        raise ValueError("a network such as 10.0.0.0/8, or default") from None
    raise ValueError(f"a network: {network}, or {text.partition('/')[0]} for a single host")


def _mac(text: str) -> str:
    """Return the address in lower case, with colons."""
    if not _MAC.fullmatch(text):
        raise ValueError("a MAC address such as 00:50:56:01:02:03")
    mac = text.lower().replace("-", ":")
    if mac == _NO_MAC or int(mac[1], 16) & 1:
        raise ValueError("the MAC address of a network card: this one is multicast or zero")
    return mac


Address = Annotated[Text, AfterValidator(_address)]
Host = Annotated[Text, AfterValidator(_host)]
NameServer = Annotated[Text, AfterValidator(_name_server)]
Netmask = Annotated[Text, AfterValidator(_netmask)]
Destination = Annotated[Text, AfterValidator(_destination)]
Mac = Annotated[Text, AfterValidator(_mac)]
