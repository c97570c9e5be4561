"""Short forms of a network, of every kind that is right, and what each of them promises."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.renderers.meaning import Meaning, Meanings

ShortForm = list[dict[str, Any]]

NAMES = ["eth0", "eth1", "ens192", "lan_0", "en-x", "a.b", "on", "0x1", "abcdefghijklmno"]
# Those of each interface are its own: else what one loses is there by another.
DOMAINS = ["{}.com", "a_b.{}", "x{}", "a.b.{}", "e.{}.example", "f{}", "g{}-h"]
SERVERS = ["10.0.{}.53", "10.0.{}.54", "2001:db8::{}:53", "2001:db8::{}:54"]
METRICS = st.none() | st.integers(1, 5000)
LENGTHS = {4: [8, 16, 24, 30, 31, 32], 6: [48, 64, 127, 128]}


def many(examples: int) -> list[ShortForm]:
    """The same ones in each run."""
    found: list[ShortForm] = []

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(short_forms())
    def collect(form: ShortForm) -> None:
        found.append(form)

    collect()
    return found


@st.composite
def short_forms(draw: DrawFn) -> ShortForm:
    interfaces = [draw(_interface(number)) for number in range(draw(st.integers(1, 3)))]
    names = draw(st.permutations(NAMES))
    has_default: set[int] = set()
    for interface, name in zip(interfaces, names, strict=False):
        if draw(st.booleans()):
            interface["name"] = name
        _drop_second_defaults(interface, has_default)
    return interfaces


@st.composite
def _interface(draw: DrawFn, number: int) -> dict[str, Any]:
    """Of each kind of key by itself; in networks that no other interface has."""
    interface: dict[str, Any] = {}
    if draw(st.booleans()):
        interface["mac-address"] = f"00:50:56:00:00:0{number + 1}"
    kinds = draw(
        st.sampled_from(["4", "4", "6", "46", "64", "464", "", "d", "d", "d4", "d6", "d46"])
    )
    subnets = [_subnet(number, index, int(v)) for index, v in enumerate(kinds.replace("d", ""))]
    addresses = [draw(subnet) for subnet in subnets]
    if "d" in kinds or not kinds:
        interface["dhcp"] = True
    if addresses:
        interface["address"] = list(map(str, addresses))
    if draw(st.booleans()):
        interface["mtu"] = draw(st.sampled_from([1280, 1400, 1500, 9000]))
    interface |= draw(_gateways(addresses))
    routes = draw(_routes(number, addresses, interface.get("dhcp", False), "on-link" in interface))
    if routes:
        interface["routes"] = routes
    for key, values in (("nameservers", SERVERS), ("search", DOMAINS)):
        if draw(st.booleans()):
            many = draw(st.sampled_from([1, 1, 1, 2, 2, len(values)]))
            chosen = draw(st.permutations(values))[:many]
            interface[key] = [value.format(number) for value in chosen]
    return interface


@st.composite
def _subnet(draw: DrawFn, number: int, index: int, version: int) -> Any:
    length = draw(st.sampled_from(LENGTHS[version]))
    if version == 4:
        network = ipaddress.ip_network(f"{20 + 10 * number + index}.0.0.0/{length}")
    else:
        network = ipaddress.ip_network(f"2001:db8:{number + 1:x}{index:x}::/{length}")
    spread = min(network.num_addresses, 2**16)
    low, high = (1, spread - 2) if spread > 2 else (0, spread - 1)
    host = network.network_address + draw(st.integers(low, high))
    return ipaddress.ip_interface(f"{host}/{length}")


def neighbour(address: Any) -> str | None:
    """Another host of the network; None if there is none."""
    network = address.network
    if network.num_addresses == 1:
        return None
    if network.num_addresses == 2:
        return str(next(host for host in network if host != address.ip))
    first = network.network_address + 1
    return str(first if first != address.ip else first + 1)


@st.composite
def _gateways(draw: DrawFn, addresses: list[Any]) -> dict[str, Any]:
    found, on_link = [], False
    for version, outside in ((4, "192.0.2.1"), (6, "2001:db8:ffff::1")):
        own = [address for address in addresses if address.version == version]
        if not own or not draw(st.booleans()):
            continue
        inside = neighbour(draw(st.sampled_from(own)))
        places = [*([inside] * 3 if inside else []), *(["fe80::1"] if version == 6 else [])]
        gateway = draw(st.sampled_from([*places, outside]))
        on_link |= gateway == outside
        found.append(gateway)
    return {**({"gateway": found} if found else {}), **({"on-link": True} if on_link else {})}


@st.composite
def _routes(
    draw: DrawFn, number: int, addresses: list[Any], has_dhcp: bool, is_on_link: bool
) -> list[dict[str, Any]]:
    vias = [via for address in addresses if (via := neighbour(address))]
    vias += ["203.0.113.9"] * (is_on_link and any(a.version == 4 for a in addresses))
    vias += ["192.0.2.9"] * has_dhcp + ["fe80::9"] * any(a.version == 6 for a in addresses)
    routes = []
    for index in range(draw(st.integers(0, 2)) if vias else 0):
        via = draw(st.sampled_from(vias))
        to = f"2001:db8:a{number}{index}::/48" if ":" in via else f"172.{16 + index}.{number}.0/24"
        route = {"to": draw(st.sampled_from([to, to, to, "default"])), "via": via}
        metric = draw(METRICS)
        routes.append(route if metric is None else {**route, "metric": metric})
    return routes


def _drop_second_defaults(interface: dict[str, Any], has_default: set[int]) -> None:
    """Of each family one default route for all interfaces; more would be warned of."""
    gateways, routes = interface.pop("gateway", []), interface.pop("routes", [])
    kept = [via for via in gateways if _is_first(via, has_default)]
    if kept:
        interface["gateway"] = kept
    kept = [r for r in routes if r["to"] != "default" or _is_first(r["via"], has_default)]
    if kept:
        interface["routes"] = kept


def _is_first(via: str, has_default: set[int]) -> bool:
    version = 6 if ":" in via else 4
    is_first = version not in has_default
    has_default.add(version)
    return is_first


def promised(form: ShortForm) -> Meanings:
    """What the documentation says of it."""
    meanings: Meanings = defaultdict(Meaning)
    for name, interface in zip(names_of(form), form, strict=True):
        meaning = meanings[name]
        meaning.mac = interface.get("mac-address")
        meaning.mtu = interface.get("mtu")
        meaning.dhcp = interface.get("dhcp", False)
        for address in interface.get("address", []):
            meaning.add_address(address)
        for gateway in interface.get("gateway", []):
            route = meaning.add_route("default", gateway, on_link=interface.get("on-link", False))
            meaning.gateways.add(route)
        for said in interface.get("routes", []):
            meaning.add_route(**said, on_link=interface.get("on-link", False))
        meaning.add_nameservers(interface.get("nameservers", []))
        meaning.add_search(interface.get("search", []))
    return meanings


def names_of(form: ShortForm) -> list[str]:
    given = {interface.get("name") for interface in form}
    free = [name for name in ("eth0", "eth1", "eth2", "eth3", "eth4", "eth5") if name not in given]
    return [interface.get("name") or free.pop(0) for interface in form]
