"""The short form of a network: one interface, or a list of them. Pure.

`networkconfig` renders it; cloud-init's own documents are in native.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

from vmw_cloudinit_metadata.instance.network.address import (
    Address,
    AnyInterface,
    Destination,
    Host,
    Mac,
    NameServer,
    Netmask,
    ip_address,
    ip_interface,
)
from vmw_cloudinit_metadata.instance.values.text import Text, dashed, listed, listed_words

_DOMAIN = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
# What the kernel, systemd, netplan, ifupdown and shells all accept as a plain name.
INTERFACE_NAME = re.compile(r"(?!\d{1,15}$)[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", re.ASCII)
_RESERVED_NAMES = {"all", "default", "lo"}


def _name(text: str) -> str:
    if not INTERFACE_NAME.fullmatch(text) or text in _RESERVED_NAMES:
        raise ValueError("an interface name such as eth0: at most 15 of A-Z a-z 0-9 . _ -")
    return text


def _domain(text: str) -> str:
    if not _DOMAIN.fullmatch(text):
        raise ValueError("a domain such as example.com")
    return text


def _servers(value: Any) -> Any:
    if isinstance(value, Mapping):
        raise ValueError("a list of addresses; put domains in search")
    return listed_words(value)


class Route(BaseModel):
    model_config = ConfigDict(extra="forbid")

    to: Destination
    via: Host
    metric: Annotated[int, Field(strict=True, ge=0, le=0xFFFFFFFF)] | None = None

    @property
    def is_default(self) -> bool:
        return self.to in ("default", "0.0.0.0/0", "::/0")

    @property
    def version(self) -> int:
        return ip_address(self.via).version

    @property
    def network(self) -> str:
        """The destination as a network, also for `default`."""
        return ("0.0.0.0/0" if self.version == 4 else "::/0") if self.is_default else self.to


class Interface(BaseModel):
    """One interface of the short form; strings are as the operator wrote them."""

    model_config = ConfigDict(extra="forbid", alias_generator=dashed)

    name: Annotated[Text, AfterValidator(_name)] | None = None
    mac_address: Mac | None = None
    mtu: Annotated[int, Field(strict=True, ge=68, le=65535)] | None = None
    dhcp: StrictBool = False
    address: Annotated[list[Address], BeforeValidator(listed)] = Field(default_factory=list)
    netmask: Netmask | None = None
    gateway: Annotated[list[Host], BeforeValidator(listed)] = Field(default_factory=list)
    on_link: StrictBool = False
    routes: Annotated[list[Route], BeforeValidator(listed)] = Field(default_factory=list)
    search: Annotated[
        list[Annotated[Text, AfterValidator(_domain)]], BeforeValidator(listed_words)
    ] = Field(default_factory=list)
    nameservers: Annotated[list[NameServer], BeforeValidator(_servers)] = Field(
        default_factory=list
    )

    @property
    def addresses(self) -> list[AnyInterface]:
        """Each address with its prefix length, which an interface without faults always has."""
        return [self.with_prefix(text) for text in self.address]

    def with_prefix(self, text: str) -> AnyInterface:
        return ip_interface(text if "/" in text else f"{text}/{self.netmask}")


KEYS = frozenset(str(field.alias) for field in Interface.model_fields.values())
ROUTE_KEYS = frozenset(Route.model_fields)
# Keys that other tools use for a route, and what to write instead.
FOREIGN_ROUTE_KEYS = {
    **dict.fromkeys(("destination", "dest", "network", "subnet"), "to: 10.0.0.0/8"),
    **dict.fromkeys(("gateway", "gw", "next-hop", "nexthop"), "via: 192.168.1.2"),
    **dict.fromkeys(
        ("netmask", "prefix"), "a prefix length in the network, such as to: 10.0.0.0/8"
    ),
    **dict.fromkeys(("on-link", "onlink"), "on-link: true beside routes, for the whole interface"),
}

_VERSION_2 = "or version: 2 beside ethernets, for cloud-init's own format"
# Keys of cloud-init's own documents and of other tools, and what to write instead.
FOREIGN_KEYS = {
    **dict.fromkeys(("ip", "ip-address", "ipaddress", "ipaddr", "cidr"), "address"),
    **dict.fromkeys(("prefix", "prefix-length"), "a prefix length after the address, such as /24"),
    **dict.fromkeys(("dns", "dns-nameservers", "dns-servers", "dns_nameservers"), "nameservers"),
    **dict.fromkeys(("domain", "domains", "dns-search", "dns_search", "searchdomain"), "search"),
    **dict.fromkeys(("mac", "hwaddr", "mac-addr"), "mac-address"),
    **dict.fromkeys(("default-gateway", "default_gateway", "gw"), "gateway"),
    **dict.fromkeys(("interface", "device", "iface", "nic"), "name"),
    **dict.fromkeys(("interfaces", "devices", "nics"), "a list of interfaces: network: [{…}, {…}]"),
    "enabled": "only config: disabled, to keep cloud-init from configuring a network",
    "addresses": f"address (one, or a list), {_VERSION_2}",
    "dhcp4": f"dhcp: true, {_VERSION_2}",
    "dhcp6": "cloud-init's own format: version: 2, ethernets: {eth0: {dhcp6: true}}",
    "gateway4": f"gateway, {_VERSION_2}",
    "gateway6": f"gateway, {_VERSION_2}",
    "macaddress": f"mac-address, {_VERSION_2}",
    "match": f"mac-address, {_VERSION_2}",
    "set-name": f"name, {_VERSION_2}",
    "network": "the keys below it, one level up: this is a second `network:`",
    "config": "only config: disabled, or version: 1 beside it",
    "subnets": "the address itself, or version: 1 and config: around the interface",
    "type": "the interface's own keys, or version: 1 and config: around it",
    **dict.fromkeys(
        ("ethernets", "bonds", "bridges", "vlans", "wifis", "tunnels", "vrfs", "renderer"),
        "version: 2 beside it, for cloud-init's own format",
    ),
}
