"""The network as cloudbase-init can apply it, where it and cloud-init differ. Pure.

First the document is put into the words that cloudbase-init's parser knows; then the details that
the parser returns are put into what its plugin and Windows take. What gets lost becomes a note, a
line for the log. docs/windows.md lists the differences.
"""

import ipaddress
import re
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

from vmw_cloudinit_metadata.guest.agent.printing import printable

BOND_MODE = "balance-rr"  # Linux' default
DEFAULT_NAME = re.compile(r"eth\d+", re.ASCII)  # cloud-init's name for a card without a name


class Adapter(NamedTuple):
    """A network adapter of the machine."""

    name: str
    mac_address: str


def network_of(document: Dict[Any, Any]) -> Any:
    """Return the network itself, with or without the key `network` around it."""
    return document.get("network") or document


def in_known_words(document: Dict[Any, Any]) -> Dict[Any, Any]:
    """Return the document for cloudbase-init's parser: the keys that it reads, without nulls."""
    network = without_nulls(network_of(document))
    if isinstance(network.get("config"), list):
        network["config"] = [device_1(device) for device in network["config"]]
    for kind in ("ethernets", "bonds", "vlans"):
        if isinstance(network.get(kind), dict):
            devices = network[kind].items()
            network[kind] = {str(name): device_2(device) for name, device in devices}
    return network


def without_nulls(value: Any) -> Dict[Any, Any]:
    """Return a mapping without the keys that have no value; an empty one for anything else."""
    pairs = value.items() if isinstance(value, dict) else ()
    return {key: item for key, item in pairs if item is not None}


def items_of(value: Any) -> List[Any]:
    """Return a list as it is, the words of a text, and nothing for anything else."""
    if isinstance(value, str):
        return value.replace(",", " ").split()
    return list(value) if isinstance(value, list) else []


def device_1(value: Any) -> Dict[Any, Any]:
    """Return an entry of version 1."""
    device = without_nulls(value)
    subnets = items_of(device.get("subnets"))
    return {
        **device,
        "subnets": [subnet_1(subnet) for subnet in subnets],
        "params": {"bond-mode": BOND_MODE, **without_nulls(device.get("params"))},
    }


def subnet_1(value: Any) -> Dict[Any, Any]:
    subnet = without_nulls(value)
    if "/" in str(subnet.get("address")):
        subnet.pop("netmask", None)
    routes = [route_1(without_nulls(route)) for route in items_of(subnet.get("routes"))]
    return {**subnet, "routes": routes}


def route_1(route: Dict[Any, Any]) -> Dict[Any, Any]:
    """Return a route with `network`, where cloud-init has `destination` too."""
    network = route.get("network", route.get("destination"))
    if network is None or "/" in str(network) or "netmask" not in route:
        return {"network": network, "gateway": route.get("gateway")}
    return {"network": f"{network}/{route['netmask']}", "gateway": route.get("gateway")}


def device_2(value: Any) -> Dict[Any, Any]:
    """Return an interface of version 2; the parser takes only one of two default gateways."""
    device = without_nulls(value)
    addresses = items_of(device.get("addresses"))
    gateways = [device.pop(key, None) for key in ("gateway4", "gateway6")]
    routes = [{"to": "default", "via": via} for via in gateways if via is not None]
    routes += [route_2(without_nulls(route)) for route in items_of(device.get("routes"))]
    return {
        **device,
        "match": without_nulls(device.get("match")),
        "nameservers": without_nulls(device.get("nameservers")),
        "addresses": [next(iter(a), None) if isinstance(a, dict) else a for a in addresses],
        "routes": routes,
        "parameters": {"mode": BOND_MODE, **without_nulls(device.get("parameters"))},
    }


def route_2(route: Dict[Any, Any]) -> Dict[Any, Any]:
    return {"to": str(route.get("to")), "via": route.get("via")}


def names_asked_for(network: Dict[Any, Any]) -> Set[str]:
    """Return the names that interfaces shall have, other than cloud-init's defaults."""
    if network.get("version") == 2:
        devices = map(without_nulls, without_nulls(network.get("ethernets")).values())
        names = {str(device["set-name"]) for device in devices if "set-name" in device}
    else:
        names = {str(without_nulls(device).get("name")) for device in network.get("config", ())}
    return {name for name in names if not DEFAULT_NAME.fullmatch(name)}


def applicable(
    details: Any, adapters: Iterable[Adapter], asked_for: Set[str]
) -> Tuple[Any, List[str]]:
    """Return the parser's details as the plugin can apply them, and notes of what gets lost.

    `asked_for` has the names that adapters get; the other ones keep their own.
    """
    naming = Naming(adapters, asked_for, details.links)
    in_order = sorted(details.links, key=lambda link: link.type != "physical")  # members of bonds
    links = [link for link in map(naming.named, in_order) if link]
    notes = list(naming.notes)
    bonds = {link.id for link in links if link.bond}
    for link in [link for link in links if link.vlan_link and link.vlan_link not in bonds]:
        links.remove(link)
        notes.append(f"VLAN {printable(link.name)} is not set up: cloudbase-init needs a bond here")
    kept = {link.name for link in links}
    networks = [net._replace(link=naming.names.get(net.link, net.link)) for net in details.networks]
    networks = one_of_each([net for net in networks if net.link in kept], notes)
    services = [
        service._replace(addresses=items_of(service.addresses)) for service in details.services
    ]
    if any(service.search for service in services):
        notes.append("search domains are not set: cloudbase-init does not know them")
    return details._replace(links=links, networks=networks, services=services), notes


class Naming:
    """Which adapter each link is, and under which name; `names` leads from old to new names.

    cloudbase-init finds an adapter by its MAC address alone, and gives it the name of its link.
    """

    def __init__(
        self, adapters: Iterable[Adapter], asked_for: Set[str], links: Iterable[Any]
    ) -> None:
        self._adapters = list(adapters)
        self._asked_for = asked_for
        self._is_only_link = sum(link.type == "physical" for link in links) == 1
        self._macs = {adapter.name: adapter.mac_address for adapter in self._adapters}
        self.names: Dict[str, str] = {}
        self.notes: List[str] = []

    def named(self, link: Any) -> Optional[Any]:
        """Return the link under its new name, or None if it cannot be set up."""
        if link.bond:
            return self._bond(link)
        return self._physical(link) if link.type == "physical" else link

    def _physical(self, link: Any) -> Optional[Any]:
        adapter = self._adapter_of(link)
        mac = adapter.mac_address if adapter else link.mac_address
        if mac is None:
            self.notes.append(
                f"interface {printable(link.name)} is not set up: it has no MAC address, and no "
                "adapter has that name; add mac-address to the instance file"
            )
            return None
        name = adapter.name if adapter and link.name not in self._asked_for else link.name
        self.names.update({link.id: name, link.name: name})
        self._macs[name] = mac
        return link._replace(name=name, mac_address=mac)

    def _bond(self, link: Any) -> Optional[Any]:
        members = [self.names.get(name, name) for name in items_of(link.bond.members)]
        unknown = [name for name in members if name not in self._macs]
        if unknown or not members:
            self.notes.append(
                f"bond {printable(link.name)} is not set up: not all of its interfaces are known"
            )
            return None
        bond = link.bond._replace(members=members)
        return link._replace(mac_address=link.mac_address or self._macs[members[0]], bond=bond)

    def _adapter_of(self, link: Any) -> Optional[Adapter]:
        for adapter in self._adapters:
            if link.mac_address is None and adapter.name.lower() == str(link.name).lower():
                return adapter
            if adapter.mac_address.lower() == str(link.mac_address).lower():
                return adapter
        is_only = self._is_only_link and len(self._adapters) == 1
        return self._adapters[0] if is_only and link.mac_address is None else None


def one_of_each(networks: List[Any], notes: List[str]) -> List[Any]:
    """Return one network for each link and family: Windows' one replaces those before it."""
    kept: Dict[Tuple[str, int], Any] = {}
    for network in sorted(map(with_default_route, networks), key=lambda net: not net.routes):
        address = interface_of(network.address_cidr)
        if address is None or "/" not in network.address_cidr:
            if network.address_cidr is not None:
                what = printable(network.address_cidr)
                notes.append(f"address {what} is not set: it is invalid, or has no prefix length")
        elif kept.setdefault((network.link, address.version), network) is not network:
            notes.append(
                f"address {address} of {printable(network.link)} is not set: cloudbase-init sets "
                "one IPv4 and one IPv6 address of each adapter"
            )
    notes += lost_routes(networks)
    return [net._replace(dns_nameservers=servers_of(net.link, networks)) for net in kept.values()]


def with_default_route(network: Any) -> Any:
    """Return the network with the default route of its family alone, if it has one."""
    address = interface_of(network.address_cidr)
    routes = [route for route in network.routes if address and is_default(route, address.version)]
    return network._replace(routes=routes[:1])


def is_default(route: Any, version: int) -> bool:
    to, via = interface_of(route.network_cidr), interface_of(route.gateway)
    if to is None or via is None or (to.version, via.version) != (version, version):
        return False
    return bool(to.network.prefixlen == 0)


def lost_routes(networks: Iterable[Any]) -> List[str]:
    """Return a note for each route that is no default route, once."""
    found = {str(route.network_cidr): route for network in networks for route in network.routes}
    return [
        f"the route to {printable(to)} is not set: cloudbase-init sets default routes only"
        for to, route in found.items()
        if not is_default(route, 4) and not is_default(route, 6)
    ]


def servers_of(link: str, networks: Iterable[Any]) -> List[str]:
    """Return the name servers of all networks of a link: they are an adapter's in Windows."""
    own = [items_of(network.dns_nameservers) for network in networks if network.link == link]
    return list(dict.fromkeys(str(server) for servers in own for server in servers))


def interface_of(text: Any) -> Any:
    """Return an address with its prefix length, or None; a gateway has none."""
    try:
        return ipaddress.ip_interface(text) if isinstance(text, str) else None
    except ValueError:
        return None
