"""What a network configuration means for each interface, whoever has written it down."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Route(NamedTuple):
    to: str
    via: str
    metric: int | None = None


@dataclass
class Meaning:
    """Of one interface. Addresses have their prefix length; a default route goes to 0.0.0.0/0."""

    mac: str | None = None
    mtu: int | None = None
    dhcp: bool = False
    addresses: set[str] = field(default_factory=set)
    routes: set[Route] = field(default_factory=set)
    on_link: set[Route] = field(default_factory=set)  # of them: those that say so
    gateways: set[Route] = field(default_factory=set)  # of them: those of the key `gateway`
    nameservers: list[str] = field(default_factory=list)
    search: list[str] = field(default_factory=list)

    def add_address(self, text: str, netmask: str | None = None) -> None:
        self.addresses.add(str(ipaddress.ip_interface(f"{text}/{netmask}" if netmask else text)))

    def add_route(
        self, to: str, via: str, metric: str | int | None = None, on_link: bool = False
    ) -> Route:
        version = ipaddress.ip_address(via).version
        to = {4: "0.0.0.0/0", 6: "::/0"}[version] if to == "default" else to
        route = Route(
            str(ipaddress.ip_network(to)),
            str(ipaddress.ip_address(via)),
            None if metric is None else int(metric),
        )
        self.routes.add(route)
        if on_link:
            self.on_link.add(route)
        return route

    def add_nameservers(self, texts: Iterable[str]) -> None:
        for text in texts:
            if (server := str(ipaddress.ip_address(text))) not in self.nameservers:
                self.nameservers.append(server)

    def add_search(self, domains: Iterable[str]) -> None:
        self.search += [domain for domain in domains if domain not in self.search]

    def working_routes(self, gateways: set[Route]) -> set[Route]:
        """Without those that the kernel refuses, since it cannot reach their gateway.

        What DHCP tells may be the network of a route's gateway, but not that of `gateways`.
        """
        networks = [ipaddress.ip_interface(address).network for address in self.addresses]

        def is_reached(route: Route) -> bool:
            via = ipaddress.ip_address(route.via)
            return (
                route in self.on_link
                or (self.dhcp and via.version == 4 and route not in gateways)
                or (via.version == 6 and via.is_link_local)
                or any(via in network for network in networks)
            )

        return set(filter(is_reached, self.routes))


Meanings = dict[str, Meaning]  # by the name of the interface; "" has what holds for all of them
