"""cloud-init's network-config, version 1, as "Networking config version 1" documents it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vmw_cloudinit_metadata.instance.fault import Fault, Key, describe
from vmw_cloudinit_metadata.instance.network import nativeinterfaces, rules
from vmw_cloudinit_metadata.instance.network.check import (
    ADDRESS,
    ANY,
    BOOLEAN,
    HOST,
    HOST_4,
    HOSTS,
    INTERFACE_NAME,
    MAC,
    NETMASK,
    TEXT,
    TEXTS,
    WHOLE,
    WHOLE_OR_NOTHING,
    Check,
    Table,
    both,
    interface_of,
    listed,
    mapping,
    one_of,
    up_to,
)

_STATIC = ("static", "static4", "static6")


def _destination(value: Any, key: Key) -> Iterator[Fault]:
    for name in ("destination", "network"):
        if name in value and interface_of(value[name]) is None:
            expected = "a network such as 10.0.0.0/8 (default route: 0.0.0.0/0 or ::/0)"
            yield Fault((*key, name), describe(value[name], key), expected)
        elif name in value:
            to, netmask = value[name], value.get("netmask")
            yield from nativeinterfaces.destination_faults(to, (*key, name), netmask)


def _route_ends(value: Any, key: Key) -> Iterator[Fault]:
    if not isinstance(value, Mapping):
        return
    yield from _destination(value, key)
    if ("destination" in value) == ("network" in value):
        found = "both destination and network" if "network" in value else "nothing"
        yield Fault((*key, "destination"), found, "the key destination, such as 10.0.0.0/8")
    to = interface_of(value.get("destination", value.get("network")))
    via = interface_of(value.get("gateway"))
    if to and via and to.version != via.version:
        expected = rules.same_family(to.version)
        yield Fault((*key, "gateway"), describe(value["gateway"]), expected)


def _subnet_address(value: Any, key: Key) -> Iterator[Fault]:
    if not isinstance(value, Mapping) or value.get("type") not in _STATIC:
        return
    if "address" not in value:
        expected = "an address such as 192.168.1.1/24, or type: dhcp"
        yield Fault((*key, "address"), "nothing", expected)
        return
    address = interface_of(value["address"])
    if address and "/" not in value["address"] and "netmask" not in value:
        expected = rules.prefix_length(value["address"], address.version)
        yield Fault((*key, "address"), describe(value["address"]), expected)


_ROUTE_KEYS: Table = {
    "type": one_of("route"),
    "destination": ANY,  # _route_ends checks both
    "network": ANY,
    "netmask": NETMASK,
    "gateway": HOST,
    "metric": WHOLE,
}
_ROUTE = both(
    mapping(_ROUTE_KEYS, needed=("gateway",), misplaced={"to": "destination", "via": "gateway"}),
    _route_ends,
)
_OTHER_VERSION = {
    "addresses": "subnets with an address each, or version: 2, which has addresses",
    "dhcp4": "subnets: [{type: dhcp4}], or version: 2, which has dhcp4",
    "dhcp6": "subnets: [{type: dhcp6}], or version: 2, which has dhcp6",
    "nameservers": "dns_nameservers in a subnet, or version: 2, which has nameservers",
    "macaddress": "mac_address, as version 1 calls it",
    "gateway4": "gateway in a subnet, or version: 2, which has gateway4",
    "gateway6": "gateway in a subnet, or version: 2, which has gateway6",
    "match": "mac_address, or version: 2, which has match",
    "set-name": "name, as version 1 calls it",
}
_SUBNET = both(
    mapping(
        {
            "type": one_of(
                *("dhcp", "dhcp4", "dhcp6", "static", "static6", "manual"),
                *("ipv6_dhcpv6-stateful", "ipv6_dhcpv6-stateless", "ipv6_slaac"),
            ),
            "control": one_of("auto", "hotplug", "manual"),
            "address": ADDRESS,
            "netmask": NETMASK,
            "broadcast": HOST_4,
            "gateway": HOST,
            "dns_nameservers": HOSTS,
            "dns_search": TEXTS,
            "routes": listed(_ROUTE, "a list of routes"),
            "ipv4": BOOLEAN,
            "ipv6": BOOLEAN,
            "metric": WHOLE,
        },
        needed=("type",),
        misplaced={
            "dns-nameservers": "dns_nameservers",
            "dns-search": "dns_search",
            "nameservers": "dns_nameservers",
            "search": "dns_search",
        },
        expected="a mapping such as {type: dhcp}",
    ),
    _subnet_address,
)
_SUBNETS = listed(_SUBNET, "a list such as [{type: dhcp}]")
_BOND_PARAMS = mapping(
    {
        **{
            f"bond-{name}": TEXT
            for name in (
                *("active_slave", "ad_actor_key", "ad_actor_system", "ad_aggregator"),
                *("ad_partner_key", "ad_partner_mac", "ad_select", "ad_user_port_key"),
                *("all_slaves_active", "arp_all_targets", "arp_ip_target", "fail_over_mac"),
                *("lacp_rate", "mii_status", "primary", "queue_id", "resend_igmp", "slaves"),
                *("tlb_dynamic_lb", "updelay", "use_carrier", "xmit_hash_policy"),
            )
        },
        **{
            f"bond-{name}": WHOLE
            for name in (
                *("ad_actor_sys_prio", "ad_num_ports", "arp_interval", "downdelay"),
                *("lp_interval", "miimon", "min_links", "peer_notif_delay"),
            )
        },
        "bond-arp_validate": BOOLEAN,
        "bond-mode": one_of(
            *("balance-rr", "active-backup", "balance-alb", "balance-tcp", "balance-tlb"),
            *("balance-slb", "balance-xor", "broadcast", "802.3ad"),
        ),
        "bond-primary_reselect": one_of("always", "better", "failure"),
        **dict.fromkeys(("bond-num_grat_arp", "bond-num_unsol_na"), up_to(255)),
        "bond-packets_per_slave": up_to(65535),
    }
)
_BRIDGE_PARAMS = mapping(
    {
        **dict.fromkeys(("bridge_ageing", "bridge_bridgeprio", "bridge_fd"), WHOLE),
        **dict.fromkeys(("bridge_hello", "bridge_maxage", "bridge_maxwait"), WHOLE),
        **dict.fromkeys(("bridge_pathcost", "bridge_portprio"), TEXTS),
        **dict.fromkeys(("bridge_ports", "bridge_waitport"), TEXTS),
        "bridge_hw": TEXT,
        "bridge_stp": one_of("on", "off"),
    }
)
_DEVICE: Table = {
    "type": ANY,
    "name": INTERFACE_NAME,
    "mac_address": MAC,
    "mtu": WHOLE,
    "subnets": _SUBNETS,
    "accept-ra": BOOLEAN,
}


def _nameserver_address(value: Any, key: Key) -> Iterator[Fault]:
    return HOSTS(value, key) if isinstance(value, list) else HOST(value, key)


def _device(table: Table, *needed: str) -> Check:
    return mapping(table, ("name", *needed), _OTHER_VERSION)


_PHYSICAL = _device({**_DEVICE, "mtu": WHOLE_OR_NOTHING, "keep_configuration": BOOLEAN})
_TYPES: Table = {
    "physical": _PHYSICAL,
    "bond": _device(
        {**_DEVICE, "bond_interfaces": TEXTS, "params": _BOND_PARAMS}, "bond_interfaces", "params"
    ),
    "bridge": _device(
        {
            **{name: _DEVICE[name] for name in _DEVICE.keys() - {"mac_address", "mtu"}},
            "bridge_interfaces": TEXTS,
            "params": _BRIDGE_PARAMS,
        },
        *("bridge_interfaces", "params"),
    ),
    "vlan": _device({**_DEVICE, "vlan_id": up_to(4094), "vlan_link": TEXT}, "vlan_id", "vlan_link"),
    "nameserver": mapping(
        {"type": ANY, "address": _nameserver_address, "search": TEXTS, "interface": TEXT},
        needed=("address",),
    ),
    "route": _ROUTE,
    "loopback": _PHYSICAL,
    "infiniband": _PHYSICAL,
}
_WITHOUT_A_NAME = ("nameserver", "route")
_EXPECTED_TYPE = f"one of {', '.join(_TYPES)}"

KEYS = frozenset(
    (
        *("config", "params", "bond_interfaces", "bridge_interfaces", "vlan_id", "vlan_link"),
        *("keep_configuration", "interface", "control", "broadcast", "netmask", "gateway"),
        *("dns_nameservers", "dns_search", "ipv4", "ipv6", "metric", "destination", "network"),
        *(*_DEVICE, "search", "routes", "address"),
    )
)


def _entry(value: Any, key: Key) -> Iterator[Fault]:
    if not isinstance(value, Mapping):
        yield Fault(key, describe(value, key), "a mapping such as {type: physical, name: eth0}")
        return
    kind = value.get("type")
    if isinstance(kind, str) and kind in _TYPES:
        yield from _TYPES[kind](value, key)
        return
    yield Fault((*key, "type"), describe(kind, key), _EXPECTED_TYPE)
    if kind is None and "name" not in value:
        yield Fault((*key, "name"), "nothing", "the key name, with the interface's name")


_TOP = mapping(
    {"version": ANY, "config": listed(_entry)},
    misplaced={
        "network": "only one network: key: move the keys below it up one level",
        **dict.fromkeys(
            ("ethernets", "bonds", "bridges", "vlans", "wifis", "renderer"),
            "version: 2, which has it; version 1 has config",
        ),
    },
)


def faults_in(document: Mapping[str, Any]) -> Iterator[Fault]:
    yield from _TOP(document, ("network",))
    seen: set[str] = set()
    for index, entry in enumerate(document["config"]):
        name = _name_of(entry)
        if name is not None and name in seen:
            found, expected = "a duplicate name", "each name once: only the last one counts"
            yield Fault(("network", "config", index, "name"), found, expected)
        elif name is not None:
            seen.add(name)
    if not document["config"]:
        yield Fault(("network", "config"), "no interface", "an interface, or config: disabled")


def conflicts_in(document: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield what cannot work although each value is valid by itself."""
    names = {name for name in map(_name_of, document["config"]) if name is not None}
    macs: set[str] = set()
    for index, entry in enumerate(document["config"]):
        if not isinstance(entry, Mapping):
            continue
        key: Key = ("network", "config", index)
        example = "{type: physical, name: …}"
        yield from nativeinterfaces.undefined_faults(_used(entry, key), names, example)
        mac = entry.get("mac_address") if entry.get("type") == "physical" else None
        if isinstance(mac, str) and mac.lower() in macs:
            found = f"a duplicate {describe(mac)}"
            yield Fault((*key, "mac_address"), found, "each MAC address once")
        elif isinstance(mac, str):
            macs.add(mac.lower())
    yield from nativeinterfaces.faults_between(_interfaces(document["config"]))


def _used(entry: Mapping[str, Any], key: Key) -> Iterator[tuple[Key, Any]]:
    """Yield the interfaces that a bond, bridge or VLAN uses, and their keys."""
    yield (*key, "vlan_link"), entry.get("vlan_link")
    for part in ("bond_interfaces", "bridge_interfaces"):
        for index, name in enumerate(nativeinterfaces.items_of(entry.get(part))):
            yield (*key, part, index), name


def _interfaces(config: Sequence[Any]) -> Iterator[nativeinterfaces.NativeInterface]:
    for index, entry in enumerate(config):
        key: Key = ("network", "config", index)
        if not isinstance(entry, Mapping):
            continue
        interface = nativeinterfaces.NativeInterface()
        if entry.get("type") == "route":
            interface.dhcp = {4, 6}  # it may belong to any interface
            interface.routes += _routes([entry], key[:-1], first=index)
        for number, subnet in enumerate(nativeinterfaces.items_of(entry.get("subnets"))):
            if isinstance(subnet, Mapping):
                _add(subnet, (*key, "subnets", number), interface)
        yield interface


def _add(subnet: Mapping[str, Any], key: Key, interface: nativeinterfaces.NativeInterface) -> None:
    kind = subnet.get("type")
    if kind in ("dhcp", "dhcp4"):
        interface.dhcp.add(4)
    elif isinstance(kind, str) and kind not in (*_STATIC, "manual"):
        interface.dhcp.add(6)
    text, netmask = subnet.get("address"), subnet.get("netmask")
    if isinstance(text, str) and "/" not in text and isinstance(netmask, str):
        text = f"{text}/{netmask}"
    address = interface_of(text)
    if address and "/" in str(text) and kind in _STATIC:
        interface.addresses.append(((*key, "address"), address))
    elif kind in _STATIC:
        interface.dhcp = {4, 6}  # the intended network is unknown
    if via := nativeinterfaces.host_of(subnet.get("gateway")):
        rank = subnet.get("metric")
        rank = None if rank is None else str(rank)
        interface.routes.append(
            nativeinterfaces.NextHop((*key, "gateway"), via, is_default=True, rank=rank)
        )
    interface.routes += _routes(nativeinterfaces.items_of(subnet.get("routes")), (*key, "routes"))


def _routes(routes: Sequence[Any], key: Key, first: int = 0) -> Iterator[nativeinterfaces.NextHop]:
    for index, route in enumerate(routes, first):
        via = nativeinterfaces.host_of(route.get("gateway")) if isinstance(route, Mapping) else None
        if via:
            to = route.get("destination", route.get("network"))
            netmask = route.get("netmask")
            if isinstance(to, str) and "/" not in to and isinstance(netmask, str):
                to = f"{to}/{netmask}"
            metric = route.get("metric")
            yield nativeinterfaces.NextHop(
                (*key, index, "gateway"),
                via,
                is_default=nativeinterfaces.is_default(to),
                rank=None if metric is None else str(metric),
            )


def _name_of(entry: Any) -> str | None:
    """Return the name of an interface, or None for other entries."""
    if not isinstance(entry, Mapping) or entry.get("type") in _WITHOUT_A_NAME:
        return None
    name = entry.get("name")
    return name if isinstance(name, str) else None
