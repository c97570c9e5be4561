"""cloud-init's own network-config: what is reported, compared with its JSON schemas."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import schemas
from tests.laws import cases
from vmw_cloudinit_metadata.instance import secrecy
from vmw_cloudinit_metadata.instance.advice import warnings_of
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData
from vmw_cloudinit_metadata.instance.layering.patch import merged
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.network import version1, version2

if TYPE_CHECKING:
    from jsonschema import Draft7Validator

# Right documents, reduced from the examples of cloud-init's and netplan's documentation.
RIGHT = {
    "dhcp": "{version: 2, ethernets: {ens192: {dhcp4: true, dhcp6: yes}}}",
    "static": """
        version: 2
        renderer: networkd
        ethernets:
          id0:
            match: {macaddress: '00:50:56:01:02:03'}
            set-name: eth0
            wakeonlan: true
            dhcp4: false
            addresses: [192.168.14.2/24, '2001:1::1/64']
            gateway4: 192.168.14.1
            gateway6: '2001:1::2'
            nameservers: {search: [foo.local, bar.local], addresses: [8.8.8.8, '2001::8']}
            routes: [{to: 192.0.2.0/24, via: 192.168.14.254, metric: 3}]
            mtu: 1500
            optional: true
          lom: {match: {driver: ixgbe}, set-name: lom1, dhcp6: true}
          switchports: {match: {name: enp2*}, mtu: 1280}
    """,
    "bonds": """
        version: 2
        ethernets: {a: {}, b: {dhcp4: no}}
        bonds:
          bond0:
            interfaces: [a, b]
            macaddress: 'aa:bb:cc:dd:ee:ff'
            parameters: {mode: 802.3ad, lacp-rate: fast, mii-monitor-interval: '100',
              transmit-hash-policy: layer3+4, up-delay: 0, primary: a}
        bridges: {br0: {interfaces: [bond0], parameters: {stp: false, forward-delay: 4}}}
        vlans: {en-vpn: {id: 2, link: br0, addresses: [10.0.0.3/24]}}
    """,
    "netplan": """
        version: 2
        ethernets:
          eth0:
            dhcp4: true
            dhcp4-overrides: {use-dns: false, route-metric: 100, use-domains: 'true'}
            link-local: [ipv6]
            accept-ra: false
            optional-addresses: [ipv4-ll]
            critical: true
            dhcp-identifier: mac
            routes: [{to: 0.0.0.0/0, via: 10.0.0.1}]
            routing-policy: [{from: 10.0.0.0/8, table: 101}]
    """,
    "disabled-2": "{version: 2, config: disabled}",
    "disabled-1": "{version: 1, config: disabled}",
    "disabled": "{config: disabled}",
    "physical": """
        version: 1
        config:
          - type: physical
            name: interface0
            mac_address: '00:11:22:33:44:55'
            mtu: null
            subnets:
              - {type: static, address: 192.168.23.14/27, gateway: 192.168.23.1,
                 dns_nameservers: [192.168.23.2, 8.8.8.8], dns_search: [exemplary.maas]}
              - {type: static, address: 10.184.225.122, netmask: 255.255.255.252,
                 routes: [{gateway: 10.184.225.121, netmask: 255.240.0.0, destination: 10.176.0.0}]}
              - {type: dhcp6, control: manual}
          - {type: nameserver, interface: interface0, address: [8.8.4.4], search: [a.example]}
          - {type: nameserver, address: 8.8.8.8}
          - {type: route, destination: 192.168.24.0/24, gateway: 192.168.23.1, metric: 3}
    """,
    "bond-1": """
        version: 1
        config:
          - {type: physical, name: gbe0, mac_address: 'cd:11:22:33:44:00'}
          - {type: physical, name: gbe1, mac_address: 'cd:11:22:33:44:02'}
          - type: bond
            name: bond0
            bond_interfaces: [gbe0, gbe1]
            params: {bond-mode: active-backup, bond-miimon: 100, bond-lacp_rate: fast}
            subnets: [{type: dhcp4}]
          - type: bridge
            name: jumbo0
            bridge_interfaces: [bond0]
            params: {bridge_ageing: 250, bridge_stp: 'off', bridge_pathcost: ['jumbo0 75']}
          - {type: vlan, name: gbe0.222, vlan_link: gbe0, vlan_id: 222, mtu: 1500}
    """,
    "loopback": "{version: 1, config: [{type: loopback, name: lo}, {type: physical, name: a}]}",
}
UNKNOWN_TO_SCHEMAS = {"loopback", "disabled", "disabled-1", "disabled-2"}


@cache
def validator(suite: str, version: int) -> Draft7Validator:
    from jsonschema import Draft7Validator  # slow: only where it is used

    return Draft7Validator(schemas.schema(suite, f"network-config-v{version}"))


def refused(document: Any, version: int) -> list[str]:
    """What cloud-init's schemas say, those of each suite."""
    return [
        error.message
        for suite in schemas.SUITES
        for error in validator(suite, version).iter_errors(document)
    ]


def found_in(network: Any) -> list[Fault]:
    try:
        instance = InstanceData.from_mapping({"metadata": {}, "network": network})
    except InvalidInstanceData as error:
        return list(error.faults)
    assert instance.network == network  # unchanged
    return [
        warning for warning in warnings_of(instance) if "several interfaces" not in warning.found
    ]


def form_faults_in(network: Any) -> list[Fault]:
    """Those that a schema can judge: of each value by itself."""
    found = found_in(network)
    if not all(fault.is_warning for fault in found):
        return found
    version = version1 if network["version"] == 1 else version2
    together = [replace(fault, is_warning=True) for fault in version.conflicts_in(network)]
    return [fault for fault in found if fault not in together]


def told(network: str) -> list[str]:
    found = found_in(yaml.safe_load(network))
    return [str(fault).removeprefix("warning: ") for fault in found]


@pytest.mark.parametrize("name", RIGHT)
def test_right_document_has_no_warning(name: str) -> None:
    assert told(RIGHT[name]) == []


@pytest.mark.parametrize("name", sorted(RIGHT.keys() - UNKNOWN_TO_SCHEMAS))
def test_right_document_is_right_for_cloud_init(name: str) -> None:
    document = yaml.safe_load(RIGHT[name])
    assert refused(document, document["version"]) == []


# Right documents, made


def some(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping with some of these keys; `_` stands for `-`."""
    return st.fixed_dictionaries({}, optional={k.replace("__", "-"): v for k, v in keys.items()})


BOOLEANS = st.booleans()
WHOLE = st.integers(0, 9000)
VLAN_IDS = st.integers(0, 4094)
WORDS = st.sampled_from(["a", "example.com", "x-1"])
HOSTS_4 = st.integers(1, 254).map("10.0.0.{}".format)
HOSTS_6 = st.integers(1, 254).map("2001:db8::{:x}".format)
ADDRESSES = HOSTS_4.map("{}/24".format) | HOSTS_6.map("{}/64".format)
MACS = st.integers(0, 255).map("00:50:56:00:00:{:02x}".format)
ROUTES_2 = st.fixed_dictionaries(
    {"to": st.sampled_from(["0.0.0.0/0", "10.9.0.0/16"]), "via": HOSTS_4},
    optional={"metric": WHOLE},
)
OVERRIDES = some(hostname=WORDS, route__metric=WHOLE, use__dns=BOOLEANS, use__domains=WORDS)
COMMON = {
    "dhcp4": BOOLEANS | st.sampled_from(["yes", "no"]),
    "dhcp6": BOOLEANS,
    "dhcp4__overrides": OVERRIDES,
    "addresses": st.lists(ADDRESSES, max_size=2),
    "gateway4": HOSTS_4,
    "gateway6": HOSTS_6,
    "optional": BOOLEANS,
    "mtu": WHOLE,
    "nameservers": some(search=st.lists(WORDS, max_size=2), addresses=st.lists(HOSTS_6)),
    "routes": st.lists(ROUTES_2, max_size=2),
    "renderer": st.sampled_from(["networkd", "NetworkManager"]),
    "link__local": st.just([]),
}


@st.composite
def version_2(draw: st.DrawFn) -> dict[str, Any]:
    ethernets = {
        name: {
            **draw(some(**COMMON, wakeonlan=BOOLEANS)),
            **draw(
                st.sampled_from([{}, {"match": {"macaddress": "00:50:56:00:00:01"}}])
                | st.just({"match": {"name": "en*", "driver": "x"}, "set-name": name})
            ),
        }
        for name in ("eth0", "ens192")
    }
    ports = st.lists(st.sampled_from(list(ethernets)), max_size=2)
    bond_parameters = some(
        mode=st.sampled_from(["802.3ad", "active-backup"]),
        lacp__rate=st.just("slow"),
        mii__monitor__interval=st.just("100"),
        min__links=WHOLE,
        arp__ip__targets=st.lists(HOSTS_4, max_size=1),
        arp__validate=st.just("all"),
        all__slaves__active=BOOLEANS,
    )
    bridge_parameters = some(ageing__time=WHOLE, stp=BOOLEANS, path__cost=WHOLE)
    bonds = st.fixed_dictionaries(
        {"bond0": some(**COMMON, interfaces=ports, parameters=bond_parameters)}
    )
    bridges = st.fixed_dictionaries(
        {"br0": some(**COMMON, interfaces=ports, parameters=bridge_parameters)}
    )
    vlan = st.fixed_dictionaries({"id": VLAN_IDS, "link": st.just("eth0")}, optional={"mtu": WHOLE})
    further = draw(some(bonds=bonds, bridges=bridges, vlans=st.fixed_dictionaries({"v": vlan})))
    return {"version": 2, "ethernets": ethernets, **further}


ROUTES_1 = st.fixed_dictionaries(
    {"destination": st.just("10.9.0.0/16"), "gateway": HOSTS_4}, optional={"metric": WHOLE}
) | st.just({"network": "10.9.0.0", "netmask": "255.255.0.0", "gateway": "10.0.0.1"})
SUBNETS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["dhcp", "dhcp4", "dhcp6", "manual", "ipv6_slaac"])},
        optional={"control": st.sampled_from(["auto", "manual"]), "ipv6": BOOLEANS},
    )
    | st.fixed_dictionaries(
        {"type": st.sampled_from(["static", "static6"]), "address": ADDRESSES},
        optional={
            "gateway": HOSTS_4,
            "dns_nameservers": st.lists(HOSTS_4, max_size=2),
            "dns_search": st.lists(WORDS, max_size=2),
            "routes": st.lists(ROUTES_1, max_size=2),
            "broadcast": HOSTS_4,
        },
    ),
    max_size=2,
)


@st.composite
def version_1(draw: st.DrawFn) -> dict[str, Any]:
    def entry(kind: str, needed: Any = None, **optional: Any) -> Any:
        return draw(
            st.fixed_dictionaries({"type": st.just(kind), **(needed or {})}, optional=optional)
        )

    def device(kind: str, name: str, needed: Any = None, **optional: Any) -> Any:
        return entry(kind, {"name": st.just(name), **(needed or {})}, subnets=SUBNETS, **optional)

    ports = st.lists(st.just("eth0"), max_size=1)
    bond = some(bond__mode=st.just("802.3ad"), bond__miimon=WHOLE, bond__primary=WORDS)
    bridge = some(
        bridge_fd=WHOLE, bridge_hw=MACS, bridge_stp=st.just("on"), bridge_ports=st.just(["eth0"])
    )
    entries = [
        device("physical", "eth0", mac_address=MACS, mtu=WHOLE | st.none()),
        device("bond", "bond0", {"bond_interfaces": ports, "params": bond}, mtu=WHOLE),
        device("bridge", "br0", {"bridge_interfaces": ports, "params": bridge}),
        device("vlan", "v1", {"vlan_id": VLAN_IDS, "vlan_link": st.just("eth0")}, mac_address=MACS),
        entry("nameserver", {"address": HOSTS_4 | st.lists(HOSTS_6)}, search=st.lists(WORDS)),
        {"type": "route", **draw(ROUTES_1)},
    ]
    kept = draw(st.lists(st.sampled_from(range(1, len(entries))), unique=True))
    return {"version": 1, "config": [entries[0], *(entries[index] for index in kept)]}


DOCUMENTS = version_1() | version_2()
JUNK = st.one_of(
    st.none(),
    BOOLEANS,
    st.integers(-1, 300),
    st.sampled_from(["", "x", "10", "true", "10.0.0.1", "10.0.0.1/24", "auto", "disabled"]),
    st.sampled_from([[], ["x"], [5], [{}], {}, {"x": 1}, {"to": 5}, 1.5]),
)


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for name, item in items:
        yield (*above, name)
        yield from places(item, (*above, name))


@st.composite
def mutated(draw: st.DrawFn) -> tuple[int, Any]:
    """A right document with one fault, and the version that it had."""
    document = copy.deepcopy(draw(DOCUMENTS))
    version = document["version"]
    place = draw(st.sampled_from(list(places(document))))
    parent = document
    for part in place[:-1]:
        parent = parent[part]
    match draw(st.sampled_from(["replace", "remove", "add", "rename", "list", "text"])):
        case "replace":
            parent[place[-1]] = draw(JUNK)
        case "remove":
            del parent[place[-1]]
        case "add" if isinstance(parent, dict):
            name = draw(
                st.sampled_from(["foo", "routes", "config", "dhcp4", "wifis", "on-link", "name"])
            )
            parent[name] = draw(JUNK)
        case "rename" if isinstance(parent, dict):
            parent[f"{place[-1]}s"] = parent.pop(place[-1])
        case "list":
            parent[place[-1]] = [parent[place[-1]]]
        case _:
            parent[place[-1]] = str(parent[place[-1]])
    return version, document


@settings(max_examples=cases(150), deadline=None)
@given(DOCUMENTS)
def test_made_document_is_right_for_cloud_init_and_for_us(document: Any) -> None:
    assert refused(document, document["version"]) == []
    assert [str(fault) for fault in form_faults_in(document)] == []


def check_that_it_is_told(mutation: tuple[int, Any]) -> None:
    version, document = mutation
    if document.get("config") != "disabled" and refused(document, version):
        assert form_faults_in(document), json.dumps(document)


@settings(max_examples=cases(150), deadline=None)
@given(mutated())
@example((2, {"version": 2, "ethernets": {"a": {"routes": [{"to": "x", "on-link": True}]}}}))
@example((1, {"version": 1, "config": [{"type": ["physical"], "name": "a"}]}))
def test_what_the_schema_refuses_is_reported(mutation: tuple[int, Any]) -> None:
    check_that_it_is_told(mutation)


@pytest.mark.slow
@settings(max_examples=cases(5000), deadline=None)
@given(mutated())
def test_what_the_schema_refuses_is_reported_of_many(mutation: tuple[int, Any]) -> None:
    check_that_it_is_told(mutation)


# What is told of it


@pytest.mark.parametrize(
    ("network", "warnings"),
    [
        pytest.param(
            "{version: 2, ethernets: {eth0: {}}, routes: [{to: 10.99.0.0/16, via: 10.11.12.2}]}",
            ["network.routes: found 'routes', expected routes below an interface: "
             "network.ethernets.NAME.routes"],
            id="routes-at-the-top",
        ),
        pytest.param(
            "{version: 2, config: [{type: physical, name: enp1s0}]}",
            ["network.config: found 'config', expected ethernets, as version 2 calls it, "
             "or version: 1, which has config"],
            id="body-of-version-1",
        ),
        pytest.param(
            "{version: 1, config: [], ethernets: {}}",
            ["network.ethernets: found 'ethernets', expected version: 2, which has it; version 1 "
             "has config", "network.config: found no interface, expected an interface, or config: "
             "disabled"],
            id="body-of-version-2",
        ),
        pytest.param(
            "{version: 2, ethernets: {ens192: {addresses: [10.1.400.140/24], gateway4: null, "
            "set-name: FRONT}, ens224: {addresses: [10.1.200.140]}}}",
            ["network.ethernets.ens192.addresses.0: found '10.1.400.140/24', expected an IP "
             "address such as 192.168.1.1/24",
             "network.ethernets.ens192.gateway4: found nothing, expected an IPv4 address such as "
             "192.168.1.254",
             "network.ethernets.ens192.set-name: found set-name without match, expected match "
             "beside it, such as match: {macaddress: '00:50:56:01:02:03'}",
             "network.ethernets.ens224.addresses.0: found '10.1.200.140', expected a prefix "
             "length, such as 10.1.200.140/24"],
            id="impossible-address",
        ),
        pytest.param(
            "{version: 2, ethernets: {eth0: {gatway4: 10.0.0.1}}}",
            ["network.ethernets.eth0.gatway4: found 'gatway4', expected 'gateway4'"],
            id="misspelt",
        ),
        pytest.param(
            "{version: 2, ethernets: {eth0: {nameservers: [8.8.8.8]}}}",
            ["network.ethernets.eth0.nameservers: found a list, expected a mapping such as "
             "{addresses: [8.8.8.8], search: [example.com]}"],
            id="list-of-nameservers",
        ),
        pytest.param(
            "{version: 2, ethernets: {eth0: {dhcp4: true, "
            "routes: [{to: 'fd00::/8', via: 10.0.0.1}]}}}",
            ["network.ethernets.eth0.routes.0.via: found '10.0.0.1', expected an IPv6 address, "
             "like the destination"],
            id="route-of-two-families",
        ),
        pytest.param(
            "{version: 2, ethernets: {eth0: {}}, vlans: {vlan5: {id: 5, link: b}}}",
            ["network.vlans.vlan5.link: found 'b', expected an interface that this document "
             "defines (below ethernets, {} is enough)"],
            id="undefined-link",
        ),
        pytest.param(
            "{version: 2, ethernets: {eth0: {}}, wifis: {w: {}}}",
            ["network.wifis: found 'wifis', expected no such key, or only for netplan (Ubuntu): "
             "on other systems cloud-init drops it"],
            id="netplan-alone",
        ),
        pytest.param(
            "{version: 2, ethernets: {eth0: {dhcp4-overrides: {use-dn: no}}}}",
            ["network.ethernets.eth0.dhcp4-overrides.use-dn: found 'use-dn', expected 'use-dns'"],
            id="override",
        ),
        pytest.param(
            "{version: 2, ethernets: {eth0: {gateway: 10.0.0.1}}, bonds: {bond0: {parameters: "
            "{mode: 4}}}}",
            ["network.ethernets.eth0.gateway: found 'gateway', expected gateway4 for IPv4, "
             "gateway6 for IPv6",
             "network.bonds.bond0.parameters.mode: found 4, expected one of balance-rr, "
             "active-backup, balance-xor, broadcast, 802.3ad, balance-tlb, balance-alb"],
            id="key-of-the-short-form",
        ),
        pytest.param(
            "{version: 2}",
            ["network: found no interface, expected ethernets with an interface, or config: "
             "disabled"],
            id="nothing",
        ),
        pytest.param(
            "{version: 1, config: [{name: a}, {type: physical}, {type: ethernet, name: b}]}",
            ["network.config.0.type: found nothing, expected one of physical, bond, bridge, vlan, "
             "nameserver, route, loopback, infiniband",
             "network.config.1.name: found nothing, expected the key name",
             "network.config.2.type: found 'ethernet', expected one of physical, bond, bridge, "
             "vlan, nameserver, route, loopback, infiniband"],
            id="without-type-or-name",
        ),
        pytest.param(
            "{version: 1, config: [{type: physical, name: a}, {type: physical, name: a}]}",
            ["network.config.1.name: found a duplicate name, expected each name once: only the "
             "last one counts"],
            id="name-twice",
        ),
        pytest.param(
            "{version: 1, config: [{type: physical, name: a, subnets: [{type: static}, "
            "{type: static, address: 10.0.0.5}, {address: 10.0.0.5/24}]}]}",
            ["network.config.0.subnets.0.address: found nothing, expected an address such as "
             "192.168.1.1/24, or type: dhcp",
             "network.config.0.subnets.1.address: found '10.0.0.5', expected a prefix length, "
             "such as 10.0.0.5/24",
             "network.config.0.subnets.2.type: found nothing, expected the key type"],
            id="subnets",
        ),
        pytest.param(
            "{version: 1, config: [{type: physical, name: a, addresses: [10.0.0.5/24]}]}",
            ["network.config.0.addresses: found 'addresses', expected subnets with an address "
             "each, or version: 2, which has addresses"],
            id="key-of-version-2",
        ),
        pytest.param(
            "{ethernets: {ens192: {dhcp4: true}}}",
            ["network.ethernets: found 'ethernets' without a version, expected `version: 2` "
             "beside it: add that line, as this is cloud-init's own format"],
            id="without-version",
        ),
        pytest.param(
            "{config: [{type: physical, name: a}]}",
            ["network.config: found 'config' without a version, expected `version: 1` beside it: "
             "add that line, as this is cloud-init's own format"],
            id="without-version-1",
        ),
    ],
)  # fmt: skip
def test_document_gets_advice_on_what_to_write(network: str, warnings: list[str]) -> None:
    assert told(network) == warnings


def test_short_form_is_not_looked_at_as_a_document() -> None:
    instance = InstanceData.from_mapping({"metadata": {}, "network": {"dhcp": True}})
    assert not instance.network_is_native
    assert list(warnings_of(instance)) == []


def test_network_that_is_disabled_takes_no_key_of_the_defaults() -> None:
    disabled, short = {"network": {"config": "disabled"}}, {"network": {"dhcp": True}}
    assert merged(short, disabled) == disabled
    assert merged(disabled, short) == short


def test_keys_beside_a_disabled_network_are_reported_as_ignored() -> None:
    network = {"version": 2, "config": "disabled", "ethernets": {"eth0": {"dhcp4": True}}}
    (warning,) = warnings_of(InstanceData.from_mapping({"metadata": {}, "network": network}))
    assert warning.key == ("network", "config")
    assert "ignores all other keys" in warning.found


def test_every_key_of_the_documents_may_be_named() -> None:
    dashed = {name.replace("_", "-") for name in version1.KEYS | version2.KEYS}
    assert dashed <= secrecy.NAMES


@pytest.mark.parametrize("name", ["hunter2", "Secret", "eth0" * 4, "9876", "mgmt"])
def test_name_that_is_no_interface_is_not_reported(name: str) -> None:
    warnings = found_in({"version": 2, "ethernets": {name: {"mtu": "x"}}})
    assert len(warnings) == (2 if len(name) > 15 else 1)
    assert not any(name in str(warning) for warning in warnings)


V2 = "{version: 2, ethernets: %s}"
V1 = "{version: 1, config: %s}"
STATIC_1 = "{type: physical, name: %s, subnets: [{type: static, address: %s}]}"


@pytest.mark.parametrize(
    ("network", "key", "words"),
    [
        (V2 % "{eth0: {dhcp4: true, routes: [{to: default, via: 10.0.0.1}]}}", "eth0.routes.0.to",
         "0.0.0.0/0"),
        (V2 % "{eth0: {dhcp4: true, routes: [{to: 10.1.2.3/16, via: 10.0.0.1}]}}", ".routes.0.to",
         "10.1.0.0/16, or 10.1.2.3 for a single host"),
        (V2 % "{eth0: {addresses: [10.0.0.5/255.0.0.0]}}", ".addresses.0", "10.0.0.5/8"),
        (V2 % "{eth0: {addresses: [10.0.0.255/24]}}", "eth0.addresses.0", "broadcast address"),
        (V2 % "{eth0: {addresses: [127.0.0.1/8]}}", "eth0.addresses.0", "loopback"),
        (V2 % "{eth0: {addresses: [10.0.0.5/24]}, eth1: {addresses: [10.0.0.5/24]}}",
         "eth1.addresses.0", "which another interface also has"),
        (V2 % "{eth0: {addresses: [10.0.0.1/24], gateway4: 10.0.0.1}}", "eth0.gateway4",
         "the interface's own"),
        (V2 % "{eth0: {addresses: [10.0.0.5/24], gateway4: 10.0.9.1}}", "eth0.gateway4",
         "an address in 10.0.0.0/24, the interface's network, or a route with on-link: true"),
        (V2 % "{eth0: {addresses: [10.0.0.5/32], routes: [{to: 0.0.0.0/0, via: 10.0.9.1}]}}",
         "eth0.routes.0.via", "on-link: true"),
        (V2 % "{eth0: {addresses: [10.0.0.5/24], gateway4: 10.0.0.1}, "
         "eth1: {addresses: [10.0.1.5/24], routes: [{to: 0.0.0.0/0, via: 10.0.1.1}]}}",
         "eth1.routes.0.via", "a second default gateway for IPv4"),
        (V2 % "{'en*': {dhcp4: true}}", "<3 characters>", "match: {name: …}"),
        (V2 % "{a: {match: {macaddress: '00:50:56:01:02:03'}, set-name: 'eth*'}}", ".set-name",
         "no wildcard"),
        (V2 % "{a: {match: {macaddress: '00:50:56:01:02:03'}, dhcp4: true}, "
         "b: {match: {macaddress: '00:50:56:01:02:03'}, dhcp4: true}}", ".match.macaddress",
         "a duplicate"),
        (V2 % "{a: {match: {driver: a}, set-name: eth0}, b: {match: {driver: b}, set-name: eth0}}",
         ".set-name", "each name once"),
        (V2 % "{a: {match: {macaddress: 00-50-56-01-02-03}}}", ".macaddress", "colons"),
        (V2 % "{a: {match: {macaddress: '00:50:56:01:02'}}}", ".macaddress", "colons"),
        (V2 % "{eth0: {addresses: [10.0.0.5], gateway4: 10.0.0.1}}", ".addresses.0", "10.0.0.5/24"),
        (V1 % f"[{STATIC_1 % ('a', '10.0.0.5, gateway: 10.0.0.1')}]", ".address", "10.0.0.5/24"),
        (V2 % "{eth0: {gateway4: 10.0.0.1}}", "eth0.gateway4", "an address of the interface"),
        ("{version: 2, ethernets: {eth0: {}}, vlans: {v1: {id: 4095, link: eth0}}}", ".id",
         "from 0 to 4094"),
        (V1 % "[{type: physical, name: 'eth*', subnets: [{type: dhcp}]}]", "config.0.name",
         "no wildcard"),
        (V1 % "[{type: vlan, name: eth0.5, vlan_link: eth9, vlan_id: 5}]", "config.0.vlan_link",
         "an interface that this document defines"),
        (V1 % "[{type: bond, name: bond0, bond_interfaces: [eth7], params: {}}]",
         "config.0.bond_interfaces.0", "an interface that this document defines"),
        (V1 % f"[{STATIC_1 % ('a', '10.0.0.0/24')}]", "subnets.0.address",
         "the network address of"),
        (V1 % f"[{STATIC_1 % ('a', '10.0.0.5/24, gateway: 10.1.0.1')}]", "subnets.0.gateway",
         "an address in 10.0.0.0/24"),
        (V1 % f"[{STATIC_1 % ('a', '10.0.0.5/24, gateway: 10.0.0.1')}, "
         f"{STATIC_1 % ('b', '10.0.1.5, netmask: 255.255.255.0, gateway: 10.0.1.1')}]",
         "config.1.subnets.0.gateway", "a second default gateway for IPv4"),
        (V1 % "[{type: route, destination: 10.1.0.5, netmask: 255.255.0.0, gateway: 10.0.0.1}]",
         "config.0.destination", "10.1.0.0/16"),
        (V1 % "[{type: physical, name: a, mac_address: '00:50:56:01:02:03'}, "
         "{type: physical, name: b, mac_address: '00:50:56:01:02:03'}]", "config.1.mac_address",
         "a duplicate"),
    ],
)  # fmt: skip
def test_values_that_cannot_work_are_reported_of_documents_too(
    network: str, key: str, words: str
) -> None:
    (warning,) = told(network)
    place, _, text = warning.partition(": found ")
    assert key in place
    assert words in text


@pytest.mark.parametrize(
    "network",
    [
        V2 % "{eth0: {addresses: [203.0.113.4/31], gateway4: 203.0.113.5}}",
        V2 % "{eth0: {addresses: ['2001:db8::5/64'], gateway6: 'fe80::1'}}",
        V2 % "{eth0: {dhcp4: true, addresses: [10.0.0.5/24], gateway4: 10.9.0.1}}",
        V2 % "{eth0: {dhcp4: true, routes: [{to: 10.1.2.3, via: 10.0.0.1}]}}",
        V2 % "{eth0: {addresses: [10.0.0.5/24], gateway4: 10.0.0.1}, eth1: {addresses: "
        "[10.0.1.5/24], routes: [{to: 0.0.0.0/0, via: 10.0.1.1, metric: 200}]}}",
        V2 % "{eth0: {addresses: [10.0.0.5/24, '2001:db8::5/64'], gateway4: 10.0.0.1, "
        "gateway6: '2001:db8::1'}}",
        V2 % "{all: {match: {name: 'en*'}, dhcp4: true}}",
        V1 % f"[{STATIC_1 % ('a', '203.0.113.5/32, gateway: 198.51.100.1')}]",
        V1 % f"[{STATIC_1 % ('a', '10.0.0.5/255.255.255.0')}, {{type: vlan, name: a.5, "
        "vlan_link: a, vlan_id: 5, mac_address: '00:50:56:01:02:03'}]",
    ],
)
def test_values_that_work_together_are_silent(network: str) -> None:
    assert told(network) == []
