"""Warnings for what cloud-init's renderers lose of a valid short form. Pure.

A renderer writes the network-config in the format of the guest's network software, and no version
of network-config is complete for all of them. The rules here describe what cloud-init 22.4 and 26.2
were observed to do; tests/renderers compares them with both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from vmw_cloudinit_metadata.instance.fault import Fault, Key
from vmw_cloudinit_metadata.instance.network.address import ip_address
from vmw_cloudinit_metadata.instance.network.shortform import Interface
from vmw_cloudinit_metadata.instance.network.subnets import Subnets

RENDERERS = ("netplan", "eni", "networkd", "sysconfig", "network-manager")

# Limits of resolv.conf, which cloud-init writes once for all interfaces.
_MAX_SERVERS = 3
_MAX_DOMAINS = 6
_MAX_DOMAINS_CHARACTERS = 256


@dataclass(frozen=True)
class _Case:
    """An interface in a document of a version."""

    interface: Interface
    version: int
    all_servers: int  # of this interface and those before it
    has_too_many_domains: bool  # likewise

    @cached_property
    def families(self) -> set[int]:
        return {address.version for address in self.interface.addresses}

    @cached_property
    def servers(self) -> set[int]:
        return {ip_address(server).version for server in self.interface.nameservers}

    @property
    def is_dhcp_alone(self) -> bool:
        return self.interface.dhcp and not self.families

    @property
    def served(self) -> set[int]:
        """Families for which the interface can have name servers."""
        return self.families | ({4} if self.interface.dhcp and self.version == 1 else set())

    @cached_property
    def subnets(self) -> Subnets:
        return Subnets(self.interface.addresses)

    @property
    def off_link(self) -> set[int]:
        """Families of gateways outside the networks of the interface."""
        gateways = self.interface.gateway
        return {ip_address(g).version for g in gateways if not self.subnets.reach(g)}


def _nameservers(case: _Case) -> set[str]:
    orphans = case.servers - case.served
    lose = {"eni", "network-manager"} if orphans else set()
    if orphans == {4} and case.interface.dhcp and case.families:
        lose.remove("network-manager")
    shares_all = case.version == 2 and case.is_dhcp_alone and case.servers
    count = case.all_servers if shares_all else len(case.interface.nameservers)
    if count > _MAX_SERVERS:
        lose.add("sysconfig")
    return lose


def _search(case: _Case) -> set[str]:
    if not case.interface.search:
        return set()
    lose = set()
    if case.is_dhcp_alone and not case.servers:
        others = {"eni", "network-manager"} if case.version == 2 else {"netplan"}
        lose |= {"networkd", "sysconfig"} | others
    elif case.is_dhcp_alone and case.version == 2:
        lose |= {"eni", "network-manager"}
    elif case.servers and not case.servers & case.served:
        lose.add("eni")
    return lose


def _too_many_domains(case: _Case) -> set[str]:
    return {"sysconfig"} if case.interface.search and case.has_too_many_domains else set()


def _mtu(case: _Case) -> set[str]:
    """Return who loses the MTU: ifupdown sets it only with a static address; version 2 puts DHCP
    before these."""
    is_lost = case.interface.mtu and case.interface.dhcp
    return {"eni"} if is_lost and (case.is_dhcp_alone or case.version == 2) else set()


def _gateway(case: _Case) -> set[str]:
    if not case.off_link:
        return set()
    lose = {"netplan", "networkd"} if case.version == 1 else {"eni", "networkd", "network-manager"}
    return lose | ({"sysconfig"} if 6 in case.off_link else set())


def _metric(case: _Case) -> set[str]:
    with_one = [route for route in case.interface.routes if route.metric is not None]
    if not with_one:
        return set()
    lose = {"network-manager"}
    if case.version == 2:
        lose |= {"eni", "networkd", "sysconfig"}
    if any(route.is_default and route.version == 6 for route in with_one):
        lose.add("sysconfig")
    return lose


def _routes_too_early(case: _Case) -> set[str]:
    """Return who loses routes: ifupdown adds routes with the address they belong to, in the order
    of addresses."""
    interface = case.interface
    late = []
    if case.version == 1 and interface.dhcp and 4 in case.families:  # DHCP comes last
        late = [r for r in interface.routes if r.version == 4 and not case.subnets.reach(r.via)]
    elif case.version == 2:  # cloud-init 22.4 adds all with the first one, DHCP's if any
        first = 4 if interface.dhcp else interface.addresses[0].version
        late = [
            route
            for route in interface.routes
            if route.version != first
            and not (route.version == 6 and ip_address(route.via).is_link_local)
            and not (route.network == "::/0" and route.metric is None)  # it becomes the gateway
        ]
    return {"eni"} if late else set()


def _metric_of_gateway(case: _Case) -> set[str]:
    """Return who loses the metric: cloud-init 22.4 has one for the default routes of both
    families."""
    has_gateway = any(ip_address(gateway).version == 4 for gateway in case.interface.gateway)
    defaults = [route for route in case.interface.routes if route.is_default and route.version == 6]
    return {"sysconfig"} if has_gateway and any(route.metric for route in defaults) else set()


def _off_link_routes(case: _Case) -> set[str]:
    interface = case.interface
    if not interface.on_link:
        return set()
    lost = [route for route in interface.routes if not case.subnets.reach(route.via)]
    return set(RENDERERS) if any(not (interface.dhcp and r.version == 4) for r in lost) else set()


@dataclass(frozen=True)
class _Rule:
    key: str
    what: str
    lose: Callable[[_Case], set[str]]
    instead: str


_RULES = (
    _Rule("nameservers", "name servers", _nameservers, "a static address of their family"),
    _Rule("search", "search domains", _search, "a static address, and a name server of its family"),
    _Rule(
        "search",
        f"the whole network (more than {_MAX_DOMAINS} search domains, or {_MAX_DOMAINS_CHARACTERS}"
        " characters of them)",
        _too_many_domains,
        "fewer over all interfaces",
    ),
    _Rule("mtu", "the MTU with DHCP", _mtu, "a static address"),
    _Rule("gateway", "a gateway outside the network", _gateway, "a gateway in the network"),
    _Rule(
        "gateway",
        "the missing metric of the gateway, as the IPv6 default route has one",
        _metric_of_gateway,
        "no metric on that route",
    ),
    _Rule("routes", "the metric", _metric, "routes without one"),
    _Rule(
        "routes",
        "a route via a network other than the first",
        _routes_too_early,
        "via in the first network",
    ),
    _Rule(
        "routes",
        "a route via an address outside the network",
        _off_link_routes,
        "via in the network",
    ),
)


def warnings_about(interfaces: Mapping[Key, Interface], version: int) -> Iterator[Fault]:
    """Yield a warning for each rule by which some renderer loses something of an interface."""
    servers: set[str] = set()
    domains: set[str] = set()
    characters = -1  # of all domains, joined by spaces
    for key, interface in interfaces.items():
        servers.update(interface.nameservers)
        new = set(interface.search) - domains
        domains |= new
        characters += sum(len(domain) + 1 for domain in new)
        has_too_many = len(domains) > _MAX_DOMAINS or characters > _MAX_DOMAINS_CHARACTERS
        case = _Case(interface, version, len(servers), has_too_many)
        for rule in _RULES:
            losers = rule.lose(case)
            if losers:
                yield _warning((*key, rule.key), rule, losers)


def _warning(key: Key, rule: _Rule, losers: set[str]) -> Fault:
    lose = [renderer for renderer in RENDERERS if renderer in losers]
    rest = [renderer for renderer in RENDERERS if renderer not in losers]
    found = f"{rule.what}, which some versions of cloud-init lose with {_joined(lose, 'and')}"
    guest = f", or a guest with {_joined(rest, 'or')}" if rest else ""
    return Fault(key, found, rule.instead + guest, is_warning=True)


def _joined(names: list[str], word: str) -> str:
    *first, last = names
    return f"{', '.join(first)} {word} {last}" if first else last
