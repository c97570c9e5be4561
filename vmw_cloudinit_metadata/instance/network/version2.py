"""cloud-init's network-config, version 2, as "Networking config version 2" documents it. Pure.

On Ubuntu cloud-init passes the document to netplan, which has more keys ("YAML configuration").
Those that cloud-init's own schema accepts give no warning here; the others give a warning that only
netplan supports them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vmw_cloudinit_metadata.instance.fault import Fault, Key, describe
from vmw_cloudinit_metadata.instance.network import nativeinterfaces, rules
from vmw_cloudinit_metadata.instance.network.check import (
    ANY,
    BOOLEAN,
    HOST_4,
    HOST_6,
    HOSTS,
    INTERFACE_NAME,
    MAC,
    TEXT,
    TEXTS,
    WHOLE,
    Check,
    Table,
    below,
    both,
    interface_of,
    listed,
    mapping,
    named,
    names_an_interface,
    of,
    one_of,
    up_to,
)

_NETPLAN_ALONE = "no such key, or only for netplan (Ubuntu): on other systems cloud-init drops it"


def _netplan_alone(_: Any, key: Key) -> Iterator[Fault]:
    yield Fault(key, repr(key[-1]), _NETPLAN_ALONE, is_named=True)


def _silent(words: str) -> dict[str, Check]:
    return dict.fromkeys(words.split(), ANY)


def _netplan(words: str) -> dict[str, Check]:
    return dict.fromkeys(words.split(), _netplan_alone)


def _address(value: Any, key: Key) -> Iterator[Fault]:
    if isinstance(value, Mapping):
        found = "a mapping"
        expected = "a plain address: only netplan supports a label or lifetime"
        yield Fault(key, found, expected)
        return
    address = interface_of(value)
    if address is None:
        yield Fault(key, describe(value, key), "an IP address such as 192.168.1.1/24")
    elif "/" not in value:
        yield Fault(key, describe(value, key), rules.prefix_length(value, address.version))
    elif not value.partition("/")[2].isdecimal():
        yield Fault(
            key, describe(value, key), f"a prefix length in place of the netmask: {address}"
        )


def _destination(value: Any, key: Key) -> Iterator[Fault]:
    if value != "default" and interface_of(value) is None:
        yield Fault(key, describe(value, key), "a network such as 10.0.0.0/8")
    yield from nativeinterfaces.destination_faults(value, key)


def _route_ends(value: Any, key: Key) -> Iterator[Fault]:
    if not isinstance(value, Mapping):
        return
    to, via = interface_of(value.get("to")), interface_of(value.get("via"))
    if to and via and to.version != via.version:
        expected = rules.same_family(to.version)
        yield Fault((*key, "via"), describe(value["via"]), expected)
    if not value.keys() & {"via", "scope", "type", "on-link"}:
        yield Fault((*key, "via"), "nothing", "the address of the gateway")


def _set_name(value: Any, key: Key) -> Iterator[Fault]:
    if isinstance(value, Mapping) and "set-name" in value and not value.get("match"):
        expected = "match beside it, such as match: {macaddress: '00:50:56:01:02:03'}"
        yield Fault((*key, "set-name"), "set-name without match", expected)


_ROUTE = both(
    mapping(
        {
            "to": _destination,
            "via": of(interface_of, "an IP address such as 192.168.1.254"),  # type: ignore[arg-type]
            "metric": WHOLE,
            **_netplan("from on-link scope table type mtu congestion-window"),
            **_netplan("advertised-receive-window advertised-mss"),
        },
        needed=("to",),
        misplaced={"destination": "to", "gateway": "via", "network": "to"},
        expected="a mapping such as {to: 10.0.0.0/8, via: 192.168.1.2}",
    ),
    _route_ends,
)
_OVERRIDES = mapping(
    {
        "hostname": TEXT,
        "route-metric": WHOLE,
        "use-domains": of(
            lambda value: isinstance(value, str), "a string: 'true', 'false' or route, in quotes"
        ),
        **dict.fromkeys(("send-hostname", "use-dns", "use-hostname", "use-mtu"), BOOLEAN),
        **dict.fromkeys(("use-ntp", "use-routes"), BOOLEAN),
    }
)
_RENDERER = one_of("networkd", "NetworkManager")
_DHCP = of(
    lambda value: isinstance(value, bool) or value in ("yes", "no"), "true or false, without quotes"
)
_POLICY = mapping(_silent("from to table priority mark type-of-service"))
_DEVICE: Table = {
    "renderer": _RENDERER,
    "dhcp4": _DHCP,
    "dhcp6": _DHCP,
    "dhcp4-overrides": _OVERRIDES,
    "dhcp6-overrides": _OVERRIDES,
    "addresses": listed(_address, "a list of addresses such as [192.168.1.1/24]"),
    "gateway4": HOST_4,
    "gateway6": HOST_6,
    "optional": BOOLEAN,
    "mtu": WHOLE,
    "nameservers": mapping(
        {"search": TEXTS, "addresses": HOSTS},
        expected="a mapping such as {addresses: [8.8.8.8], search: [example.com]}",
    ),
    "routes": listed(_ROUTE, "a list of routes such as [{to: 10.0.0.0/8, via: 192.168.1.2}]"),
    "routing-policy": listed(_POLICY, "a list of mappings"),
    "macaddress": ANY,  # an address, or one of netplan's keywords
    **_silent("accept-ra activation-mode critical dhcp-identifier hairpin ignore-carrier"),
    **_silent("ipv6-address-generation ipv6-address-token ipv6-mtu ipv6-privacy link-local"),
    **_silent("neigh-suppress networkd networkmanager openvswitch optional-addresses"),
    **_silent("port-mac-learning"),
}
_MATCH = mapping({"name": TEXT, "macaddress": MAC, "driver": TEXT})
# Keys of version 1 and of the short form.
_OTHER_FORM = {
    "address": "addresses, a list with prefix lengths",
    "dhcp": "dhcp4: true, dhcp6: true, or both",
    "gateway": "gateway4 for IPv4, gateway6 for IPv6",
    "mac_address": "match: {macaddress: '00:50:56:01:02:03'}",
    "mac-address": "match: {macaddress: '00:50:56:01:02:03'}",
    "mac": "match: {macaddress: '00:50:56:01:02:03'}",
    "dns": "nameservers: {addresses: [8.8.8.8]}",
    "netmask": "addresses with prefix lengths, such as [192.168.1.1/24]",
    "search": "nameservers: {search: [example.com]}",
    "subnets": "addresses, dhcp4 and so on, or version: 1, which has subnets",
}
_ETHERNET = both(
    mapping(
        {
            **_DEVICE,
            "match": _MATCH,
            "set-name": INTERFACE_NAME,
            "wakeonlan": BOOLEAN,
            **_silent("auth delay-virtual-functions-rebind embedded-switch-mode emit-lldp"),
            **_silent("generic-receive-offload generic-segmentation-offload infiniband-mode"),
            **_silent("large-receive-offload link receive-checksum-offload"),
            **_silent("tcp-segmentation-offload tcp6-segmentation-offload"),
            **_silent("transmit-checksum-offload virtual-function-count"),
        },
        misplaced=_OTHER_FORM,
        expected="a mapping; {} if it needs no keys",
    ),
    _set_name,
)
_BOND_PARAMETERS = mapping(
    {
        "mode": one_of(
            *("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad"),
            *("balance-tlb", "balance-alb"),
        ),
        "lacp-rate": one_of("fast", "slow"),
        "transmit-hash-policy": one_of(
            *("layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4"),
        ),
        "ad-select": one_of("stable", "bandwidth", "count"),
        "all-slaves-active": BOOLEAN,
        "arp-ip-targets": TEXTS,
        "arp-validate": one_of("none", "active", "backup", "all"),
        "arp-all-targets": one_of("any", "all"),
        "fail-over-mac-policy": one_of("none", "active", "follow"),
        "primary-reselect-policy": one_of("always", "better", "failure"),
        **dict.fromkeys(("mii-monitor-interval", "learn-packet-interval"), TEXT),
        **dict.fromkeys(("min-links", "arp-interval", "up-delay", "down-delay"), WHOLE),
        **dict.fromkeys(("gratuitous-arp", "packets-per-slave"), WHOLE),
        **_silent("all-members-active gratuitious-arp packets-per-member primary resend-igmp"),
    }
)
_BRIDGE_PARAMETERS = mapping(
    {
        **dict.fromkeys(("ageing-time", "priority", "forward-delay"), WHOLE),
        **dict.fromkeys(("hello-time", "max-age", "path-cost"), WHOLE),
        "stp": BOOLEAN,
        **_silent("aging-time port-priority"),
    }
)
_BOND = mapping(
    {**_DEVICE, "interfaces": TEXTS, "parameters": _BOND_PARAMETERS}, misplaced=_OTHER_FORM
)
_BRIDGE = mapping(
    {**_DEVICE, "interfaces": TEXTS, "parameters": _BRIDGE_PARAMETERS}, misplaced=_OTHER_FORM
)
_VLAN = mapping({**_DEVICE, "id": up_to(4094), "link": TEXT}, ("id", "link"), _OTHER_FORM)

_NETPLAN_DEVICES = (
    "dummy-devices modems nm-devices openvswitch tunnels virtual-ethernets vrfs wifis"
)
_TOP: Table = {
    "version": ANY,
    "renderer": _RENDERER,
    "ethernets": named(_ETHERNET),
    "bonds": named(_BOND),
    "bridges": named(_BRIDGE),
    "vlans": named(_VLAN),
    **_netplan(_NETPLAN_DEVICES),
}
DEVICES = frozenset(_TOP) - {"version", "renderer"}
_MISPLACED = {
    **{
        name: f"{name} below an interface: network.ethernets.NAME.{name}"
        for name in (*_DEVICE, "match", "set-name", "wakeonlan")
        if name not in _TOP
    },
    "config": "ethernets, as version 2 calls it, or version: 1, which has config",
    "network": "only one network: key: move the keys below it up one level",
}
_CHECK = mapping(_TOP, misplaced=_MISPLACED)

KEYS = frozenset(
    " ".join(
        (
            *(*_TOP, *_DEVICE, "match", "set-name", "wakeonlan", "interfaces", "parameters"),
            *("id", "link", "name", "macaddress", "driver", "to", "via", "metric", "from"),
            *("search", "on-link", "config"),
        )
    ).split()
)


def faults_in(document: Mapping[str, Any]) -> Iterator[Fault]:
    yield from _CHECK(document, ("network",))
    defined = {
        name
        for kind in DEVICES
        if isinstance(devices := document.get(kind), Mapping)
        for name in devices
    }
    if not defined and "config" not in document:  # reported as misplaced
        expected = "ethernets with an interface, or config: disabled"
        yield Fault(("network",), "no interface", expected)
    for kind in ("bonds", "bridges", "vlans"):
        devices = document.get(kind)
        if isinstance(devices, Mapping):
            for name, device in devices.items():
                used = _used(device, below(("network", kind), name))
                yield from nativeinterfaces.undefined_faults(used, defined, "below ethernets, {}")


def conflicts_in(document: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield what cannot work although each value is valid by itself."""
    devices = list(_devices(document))
    yield from _names(devices)
    found = [_interface(key, device) for key, device in devices]
    yield from nativeinterfaces.faults_between(found, ", or a route with on-link: true")


def _devices(document: Mapping[str, Any]) -> Iterator[tuple[Key, Mapping[str, Any]]]:
    for kind in ("ethernets", "bonds", "bridges", "vlans"):
        if isinstance(devices := document.get(kind), Mapping):
            for name, device in devices.items():
                if isinstance(device, Mapping):
                    yield below(("network", kind), name), device


def _names(devices: Iterable[tuple[Key, Mapping[str, Any]]]) -> Iterator[Fault]:
    """Yield a fault for invalid interface names, and for names and MAC addresses used twice."""
    names: set[object] = set()
    macs: set[object] = set()
    for key, device in devices:
        match = device.get("match")
        if not match and not names_an_interface(key[-1]):
            expected = (
                "an interface name, at most 15 characters without * or ?; "
                "for a pattern, use match: {name: …}"
            )
            yield Fault(key, "an invalid interface name", expected)
        name = device.get("set-name")
        if isinstance(name, str) and name in names:
            yield Fault((*key, "set-name"), "a duplicate name", "each name once")
        names.add(name if isinstance(name, str) else None)
        mac = match.get("macaddress") if isinstance(match, Mapping) and len(match) == 1 else None
        if isinstance(mac, str) and mac.lower() in macs:
            place = (*key, "match", "macaddress")
            yield Fault(place, f"a duplicate {describe(mac)}", "each MAC address once")
        elif isinstance(mac, str):
            macs.add(mac.lower())


def _interface(key: Key, device: Mapping[str, Any]) -> nativeinterfaces.NativeInterface:
    interface = nativeinterfaces.NativeInterface(
        dhcp={n for n in (4, 6) if device.get(f"dhcp{n}") in (True, "yes")}
    )
    for index, text in enumerate(nativeinterfaces.items_of(device.get("addresses"))):
        address = interface_of(text)
        if address and "/" in text:
            interface.addresses.append(((*key, "addresses", index), address))
        else:
            interface.dhcp = {4, 6}  # the intended network is unknown
    for name in ("gateway4", "gateway6"):
        if via := nativeinterfaces.host_of(device.get(name)):
            interface.routes.append(nativeinterfaces.NextHop((*key, name), via, is_default=True))
    for index, route in enumerate(nativeinterfaces.items_of(device.get("routes"))):
        via = nativeinterfaces.host_of(route.get("via")) if isinstance(route, Mapping) else None
        if via:
            interface.routes.append(
                nativeinterfaces.NextHop(
                    (*key, "routes", index, "via"),
                    via,
                    is_default=nativeinterfaces.is_default(route.get("to")),
                    may_be_outside=bool(route.get("on-link")),
                    rank=str((route.get("metric"), route.get("table"), route.get("type")))
                    if route.keys() & {"metric", "table", "type"}
                    else None,
                )
            )
    return interface


def _used(device: Any, key: Key) -> Iterator[tuple[Key, Any]]:
    """Yield the interfaces that a bond, bridge or VLAN uses, and their keys."""
    if isinstance(device, Mapping):
        yield (*key, "link"), device.get("link")
        for index, name in enumerate(nativeinterfaces.items_of(device.get("interfaces"))):
            yield (*key, "interfaces", index), name
