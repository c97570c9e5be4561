"""Reads back what each renderer has written, and what the programs that read it would do."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import PurePath

from tests.renderers.meaning import Meaning, Meanings

Files = dict[str, str]
Section = tuple[str, list[tuple[str, str]]]


def read(renderer: str, files: Files) -> Meanings:
    meanings: Meanings = defaultdict(Meaning)
    READERS[renderer](files, meanings)
    return meanings


def sections_of(text: str) -> list[Section]:
    """Of an ini file, in which sections and keys may come again."""
    sections: list[Section] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            sections.append((line.strip("[]"), []))
        elif "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            sections[-1][1].append((key.strip(), value.strip()))
    return sections


def names_in(files: Files, pattern: str) -> Iterable[tuple[str, str]]:
    for path, text in files.items():
        if PurePath(path).match(pattern):
            yield path, text


# networkd, and netplan through it


def networkd(files: Files, meanings: Meanings) -> None:
    for _, text in names_in(files, "systemd/network/*.network"):
        sections = sections_of(text)
        match = dict(next(pairs for name, pairs in sections if name == "Match"))
        meaning = meanings[match["Name"]]
        meaning.mac = match.get("PermanentMACAddress", match.get("MACAddress"))
        for name, pairs in sections:
            SECTIONS.get(name, lambda *_: None)(meaning, pairs)


def _network(meaning: Meaning, pairs: list[tuple[str, str]]) -> None:
    for key, value in pairs:
        if key == "DHCP":
            meaning.dhcp = value in ("ipv4", "yes")
        elif key == "Address":
            meaning.add_address(value)
        elif key == "Gateway":
            meaning.add_route("default", value)
        elif key == "DNS":
            meaning.add_nameservers(value.split())
        elif key == "Domains":
            meaning.add_search(value.split())


def _link(meaning: Meaning, pairs: list[tuple[str, str]]) -> None:
    mtu = dict(pairs).get("MTUBytes")
    meaning.mtu = int(mtu) if mtu else None


def _route(meaning: Meaning, pairs: list[tuple[str, str]]) -> None:
    route = dict(pairs)
    on_link = route.get("GatewayOnLink") in ("true", "yes")
    to = route.get("Destination", "default")
    meaning.add_route(to, route["Gateway"], route.get("Metric"), on_link)


def _address(meaning: Meaning, pairs: list[tuple[str, str]]) -> None:
    meaning.add_address(dict(pairs)["Address"])


SECTIONS: dict[str, Callable[[Meaning, list[tuple[str, str]]], None]] = {
    "Network": _network,
    "Link": _link,
    "Route": _route,
    "Address": _address,
}


# ifupdown

IFUP_ADDRESS = re.compile(r"ip (?:-6 )?addr add (\S+)(?= ).* dev (\S+)")
IFUP_MTU = re.compile(
    r"ip (?:-6 )?link set dev (\S+) .*?mtu (\d+)|net\.ipv6\.conf\.(\S+)\.mtu=(\d+)"
)
IFUP_ROUTE = re.compile(
    r"ip (?:-6 |-family inet6 )?route (?:add|replace|append) (\S+) via (\S+)"
    r"(?: metric (\d+))?(?: dev (\S+))?(.*)"
)
UDEV_NAME = re.compile(r'ATTR\{address\}=="([^"]+)".* NAME="([^"]+)"')
NET_TOOLS = re.compile(r"route add (?:-A inet6 )?(?:-net )?(\S+) gw (\S+)(?: metric (\d+))?()(.*)")


def eni(files: Files, meanings: Meanings) -> None:
    """Addresses, routes and MTU as `ifup` would set them; DNS as it hands it to resolvconf."""
    name = ""
    for line in files["ifup"].splitlines():
        if found := re.match(r"ifup: configuring interface (\S+)=", line):
            name = found[1]
        elif re.search(r"\b(?:dhclient|dhcpcd|udhcpc)\b", line):
            meanings[name].dhcp = True
        if found := IFUP_ADDRESS.search(line):
            meanings[name].add_address(found[1])
        if found := IFUP_MTU.search(line):
            meanings[name].mtu = int(found[2] or found[4])
        if found := IFUP_ROUTE.search(line) or NET_TOOLS.search(line):
            to, via, metric, _, rest = found.groups()
            route = meanings[name].add_route(to, via, metric, "onlink" in rest)
            if route not in meanings[name].working_routes(set()):  # its address comes later
                meanings[name].routes.remove(route)
    for _, text in names_in(files, "udev/rules.d/*"):
        for mac, name in UDEV_NAME.findall(text):
            meanings[name].mac = mac
    (interfaces,) = (text for _, text in names_in(files, "network/interfaces.d/*"))
    for line in interfaces.splitlines():
        words = line.split()
        if words[:1] == ["iface"]:
            name = "" if words[1] == "lo" else words[1]  # resolvconf takes what lo has for all
        elif words[:1] == ["dns-nameservers"]:
            meanings[name].add_nameservers(words[1:])
        elif words[:1] == ["dns-search"]:
            meanings[name].add_search(words[1:])


# The network scripts of Red Hat


def sysconfig(files: Files, meanings: Meanings) -> None:
    for path, text in names_in(files, "network-scripts/ifcfg-*"):
        name = path.rpartition("ifcfg-")[2]
        meaning = meanings[name]
        said = {k: v.strip('"') for k, v in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE)}
        meaning.mac = said.get("HWADDR")
        meaning.dhcp = said["BOOTPROTO"] == "dhcp"
        meaning.mtu = int(said["MTU"]) if "MTU" in said else None
        for key, value in said.items():
            if found := re.fullmatch(r"IPADDR(\d*)", key):
                mask = said.get(f"NETMASK{found[1]}") or said[f"PREFIX{found[1]}"]
                meaning.add_address(value, mask)
            elif re.fullmatch(r"DNS\d+", key):
                meaning.add_nameservers([value])
            elif key == "GATEWAY":  # ifup makes a route to it first
                metric = said.get("METRIC") or said.get("IPV4_ROUTE_METRIC")
                meaning.add_route("default", value, metric, on_link=True)
            elif key == "IPV6_DEFAULTGW":
                meaning.add_route("default", value, said.get("IPV6_ROUTE_METRIC"))
        for value in (said.get("IPV6ADDR", ""), said.get("IPV6ADDR_SECONDARIES", "")):
            for address in value.split():
                meaning.add_address(address)
        meaning.add_search(said.get("DOMAIN", "").split())
        _routes_of_sysconfig(files, name, meaning)
    for _, text in names_in(files, "etc/resolv.conf"):
        for key, value in re.findall(r"^(nameserver|search) +(.*)$", text, re.MULTILINE):
            add = meanings[""].add_nameservers if key == "nameserver" else meanings[""].add_search
            add(value.split())


def _routes_of_sysconfig(files: Files, name: str, meaning: Meaning) -> None:
    for _, text in names_in(files, f"network-scripts/route-{name}"):
        said = {k: v.strip('"') for k, v in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE)}
        for key, value in said.items():
            if found := re.fullmatch(r"ADDRESS(\d+)", key):
                number = found[1]
                to = f"{value}/{said[f'NETMASK{number}']}"
                meaning.add_route(to, said[f"GATEWAY{number}"], said.get(f"METRIC{number}"))
    for _, text in names_in(files, f"network-scripts/route6-{name}"):
        for to, via, metric in re.findall(r"^(\S+) via (\S+)(?: +metric (\d+))?", text, re.M):
            meaning.add_route(to, via, metric or None)


# NetworkManager


def network_manager(files: Files, meanings: Meanings) -> None:
    for path, text in names_in(files, "system-connections/*.nmconnection"):
        sections = {name: dict(pairs) for name, pairs in sections_of(text)}
        name = path.removesuffix(".nmconnection").rpartition("cloud-init-")[2]
        meaning = meanings[name]
        ethernet = sections.get("ethernet", {})
        meaning.mac = ethernet.get("mac-address")
        if meaning.mac is None:
            assert sections["connection"]["interface-name"] == name
        meaning.mtu = int(ethernet["mtu"]) if "mtu" in ethernet else None
        for family in ("ipv4", "ipv6"):
            _family_of_network_manager(sections.get(family, {}), family, meaning)


def _family_of_network_manager(said: dict[str, str], family: str, meaning: Meaning) -> None:
    if family == "ipv4":
        meaning.dhcp = said.get("method") == "auto"
    if said.get("method") in ("disabled", "ignore"):
        return  # whatever else is said of it
    for key, value in said.items():
        if re.fullmatch(r"address\d+", key):
            meaning.add_address(value)
        elif re.fullmatch(r"route\d+", key):
            to, via, *metric = value.split(",")
            meaning.add_route(to, via, metric[0] if metric else said.get("route-metric"))
    if "gateway" in said:  # NetworkManager makes a route to it first
        meaning.add_route("default", said["gateway"], on_link=True)
    meaning.add_nameservers(filter(None, said.get("dns", "").split(";")))
    meaning.add_search(filter(None, said.get("dns-search", "").split(";")))


READERS: dict[str, Callable[[Files, Meanings], None]] = {
    "netplan": networkd,
    "eni": eni,
    "networkd": networkd,
    "sysconfig": sysconfig,
    "network-manager": network_manager,
}
