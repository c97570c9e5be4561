"""The network of an instance: the short form becomes version 1, a native document stays."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.instance import network, nocloud, seed
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine

MACHINE = Machine(vc_uuid="01234567-89ab-cdef-fedc-ba9876543210")

TEXTS = st.text()
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
KEYS = TEXTS.filter(lambda key: not key.startswith("mac"))  # a MAC address is no number
NESTED = st.recursive(
    PLAIN, lambda below: st.lists(below) | st.dictionaries(KEYS, below), max_leaves=15
)


def network_of(value: Any) -> Any:
    """The network-config, as cloud-init reads it, for the network of an instance file."""
    instance = InstanceData.from_mapping({"metadata": {}, "network": value})
    return yaml.safe_load(nocloud.render(instance, MACHINE)["NETWORKDATA"])


def read(text: str) -> Any:
    """The value of `network: TEXT` in an instance file."""
    return seed.read(f"network: {text}").value["network"]


def subnets_of(text: str) -> Any:
    (device,) = network_of(read(text))["config"]
    return device["subnets"]


def faults_of(value: Any) -> tuple[Fault, ...]:
    with pytest.raises(InvalidInstanceData) as raised:
        network_of(value)
    return raised.value.faults


def static(address: str, netmask: str | None = None, **further: object) -> dict[str, object]:
    mask = {"netmask": netmask} if netmask else {}
    return {"type": "static", "address": address, **mask, **further}


WEB = {"type": "physical", "name": "eth0", "subnets": [static("10.0.0.1", "255.255.255.0")]}


@pytest.mark.parametrize(
    ("text", "subnets"),
    [
        pytest.param(
            "{address: 10.0.0.1, netmask: 255.255.255.0}",
            [static("10.0.0.1", "255.255.255.0")],
            id="netmask",
        ),
        pytest.param("{address: 10.0.0.1/20}", [static("10.0.0.1", "255.255.240.0")], id="prefix"),
        pytest.param(
            "{address: 10.0.0.1, netmask: 20}",
            [static("10.0.0.1", "255.255.240.0")],
            id="prefix-as-netmask",
        ),
        pytest.param(
            "{address: 10.0.0.1/24, netmask: 255.255.255.0}",
            [static("10.0.0.1", "255.255.255.0")],
            id="prefix-and-the-same-netmask",
        ),
        pytest.param("{address: '2001:db8::1/64'}", [static("2001:db8::1/64")], id="ipv6"),
        pytest.param(
            "{address: [10.0.0.1/24, 10.1.0.1/16]}",
            [static("10.0.0.1", "255.255.255.0"), static("10.1.0.1", "255.255.0.0")],
            id="two-addresses",
        ),
        pytest.param(
            "{address: [10.0.0.1, '2001:db8::1/64'], netmask: 255.0.0.0,"
            " gateway: [10.9.9.9, '2001:db8::ff']}",
            [
                static("10.0.0.1", "255.0.0.0", gateway="10.9.9.9"),
                static("2001:db8::1/64", gateway="2001:db8::ff"),
            ],
            id="ipv4-and-ipv6",
        ),
        pytest.param(
            "{address: ['2001:db8::1/64', 10.0.0.1/8], gateway: [10.9.9.9, '2001:db8::ff']}",
            [
                static("2001:db8::1/64", gateway="2001:db8::ff"),
                static("10.0.0.1", "255.0.0.0", gateway="10.9.9.9"),
            ],
            id="each-gateway-to-its-own-address",
        ),
        pytest.param(
            "{address: [10.0.0.1/24, 10.1.0.1/24], gateway: 10.1.0.9}",
            [
                static("10.0.0.1", "255.255.255.0"),
                static("10.1.0.1", "255.255.255.0", gateway="10.1.0.9"),
            ],
            id="gateway-in-the-second-network",
        ),
        pytest.param(
            "{address: '2001:db8::1/64', gateway: 'fe80::1'}",
            [static("2001:db8::1/64", gateway="fe80::1")],
            id="link-local-gateway",
        ),
        pytest.param(
            "{address: 10.0.0.1/32, gateway: 192.168.1.1}",
            [static("10.0.0.1", "255.255.255.255", gateway="192.168.1.1")],
            id="gateway-of-a-32",
        ),
        pytest.param(
            "{address: '2001:db8::1/128', gateway: '2001:db8:1::1'}",
            [static("2001:db8::1/128", gateway="2001:db8:1::1")],
            id="gateway-of-a-128",
        ),
        pytest.param(
            "{address: 10.0.0.1/24, gateway: 192.168.1.1, on-link: true}",
            [static("10.0.0.1", "255.255.255.0", gateway="192.168.1.1")],
            id="gateway-on-link",
        ),
        pytest.param("{dhcp: true}", [{"type": "dhcp"}], id="dhcp"),
        pytest.param(
            "{dhcp: yes, address: '2001:db8::1/64', nameservers: '2001:db8::53'}",
            [static("2001:db8::1/64", dns_nameservers=["2001:db8::53"]), {"type": "dhcp"}],
            id="dhcp-beside-an-address",
        ),
        pytest.param(
            "{dhcp: true, search: example.com}",
            [{"type": "dhcp", "dns_search": ["example.com"]}],
            id="dhcp-with-search",
        ),
        pytest.param(
            "{address: 10.0.0.1/24, search: example.com, nameservers: 8.8.8.8}",
            [
                static(
                    "10.0.0.1",
                    "255.255.255.0",
                    dns_search=["example.com"],
                    dns_nameservers=["8.8.8.8"],
                )
            ],
            id="search-and-nameservers-as-texts",
        ),
        pytest.param(
            "{address: 10.0.0.1/24, search: a.com b.com, nameservers: '8.8.8.8, 2001:db8::53'}",
            [
                static(
                    "10.0.0.1",
                    "255.255.255.0",
                    dns_search=["a.com", "b.com"],
                    dns_nameservers=["8.8.8.8", "2001:db8::53"],
                )
            ],
            id="several-in-one-text",
        ),
        pytest.param(
            "{address: 10.0.0.1/24, search: [a.com, b.com], nameservers: [8.8.8.8, 8.8.4.4]}",
            [
                static(
                    "10.0.0.1",
                    "255.255.255.0",
                    dns_search=["a.com", "b.com"],
                    dns_nameservers=["8.8.8.8", "8.8.4.4"],
                )
            ],
            id="search-and-nameservers-as-lists",
        ),
        pytest.param(
            "{address: 10.0.0.1/24, routes: [{to: 10.8.0.0/16, via: 10.0.0.9, metric: 5}]}",
            [
                static(
                    "10.0.0.1",
                    "255.255.255.0",
                    routes=[{"destination": "10.8.0.0/16", "gateway": "10.0.0.9", "metric": 5}],
                )
            ],
            id="route",
        ),
        pytest.param(
            "{address: 10.0.0.1/24, routes: {to: default, via: 10.0.0.9}}",
            [
                static(
                    "10.0.0.1",
                    "255.255.255.0",
                    routes=[{"destination": "0.0.0.0/0", "gateway": "10.0.0.9"}],
                )
            ],
            id="default-route",
        ),
        pytest.param(
            "{address: '2001:db8::1/64', routes: [{to: default, via: 'fe80::1'}]}",
            [static("2001:db8::1/64", routes=[{"destination": "::/0", "gateway": "fe80::1"}])],
            id="default-route-of-ipv6",
        ),
    ],
)
def test_short_form_becomes_subnets(text: str, subnets: list[object]) -> None:
    assert subnets_of(text) == subnets


@pytest.mark.parametrize(
    ("text", "device"),
    [
        pytest.param("name: ens192", {"name": "ens192"}, id="name"),
        pytest.param("mtu: 9000", {"mtu": 9000}, id="mtu"),
        pytest.param(
            "mac-address: 00:50:56:01:02:03", {"mac_address": "00:50:56:01:02:03"}, id="mac"
        ),
        pytest.param(
            "mac_address: 00:50:56:01:02:03", {"mac_address": "00:50:56:01:02:03"}, id="_"
        ),
        pytest.param(
            "mac-address: 52:54:00:12:34:56", {"mac_address": "52:54:00:12:34:56"}, id="digits"
        ),
        pytest.param(
            "mac-address: 00-50-56-AA-BB-CC", {"mac_address": "00:50:56:aa:bb:cc"}, id="windows"
        ),
        pytest.param("on_link: true", {}, id="on-link"),
        pytest.param("gateway: ~", {}, id="nothing"),
    ],
)
def test_key_of_an_interface_is_in_its_device(text: str, device: dict[str, object]) -> None:
    network = network_of(read(f"{{address: 10.0.0.1/24, {text}}}"))
    assert network == {"version": 1, "config": [{**WEB, **device}]}


def test_list_of_interfaces_becomes_devices_in_its_order() -> None:
    network = network_of(
        read("[{name: a, address: 10.0.0.1/24, search: x.org}, {name: b, dhcp: true, mtu: 1400}]")
    )
    assert network["config"] == [
        {**WEB, "name": "a", "subnets": [{**WEB["subnets"][0], "dns_search": ["x.org"]}]},
        {"type": "physical", "name": "b", "mtu": 1400, "subnets": [{"type": "dhcp"}]},
    ]


@given(st.dictionaries(KEYS, NESTED), st.lists(NESTED))
def test_native_document_of_version_1_comes_back_unchanged(
    further: dict[str, Any], config: list[Any]
) -> None:
    network = {**further, "version": 1, "config": config}
    assert network_of(network) == network


@given(st.dictionaries(KEYS, NESTED))
def test_native_document_of_version_2_comes_back_unchanged(further: dict[str, Any]) -> None:
    network = {**further, "version": 2}
    assert network_of(network) == network


def test_native_document_in_a_file_keeps_its_own_names_and_numbers() -> None:
    ethernets = "{lan0: {match: {macaddress: '52:54:00:12:34:56'}, set-name: lan0, mtu: 9000}}"
    assert network_of(read(f"{{version: 2, ethernets: {ethernets}}}")) == {
        "version": 2,
        "ethernets": {
            "lan0": {"match": {"macaddress": "52:54:00:12:34:56"}, "set-name": "lan0", "mtu": 9000}
        },
    }


@pytest.mark.parametrize(
    ("text", "key"),
    [
        pytest.param(
            "{version: 1, config: [{type: physical, mac_address: 52:54:00:12:34:56}]}",
            ("network", "config", 0, "mac_address"),
            id="version-1",
        ),
        pytest.param(
            "{version: 2, ethernets: {a: {match: {macaddress: 52:54:00:12:34:56}}}}",
            ("network", "ethernets", "a", "match", "macaddress"),
            id="version-2",
        ),
        pytest.param(
            "{version: 2, ethernets: {a: {macaddress: 525400123456}}}",
            ("network", "ethernets", "a", "macaddress"),
            id="digits-alone",
        ),
    ],
)
def test_native_mac_address_that_yaml_made_a_number_is_a_fault(text: str, key: object) -> None:
    (fault,) = faults_of(read(text))
    assert fault.key == key
    assert fault.expected.startswith("a MAC address in quotes")


ADDRESSES = st.ip_addresses().map(str) | st.text(alphabet="0123456789abf:./% ", max_size=20)


def value_or_none(read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except ValueError:
        return None


@given(ADDRESSES)
def test_address_is_what_the_standard_library_says(text: str) -> None:
    told = value_or_none(ipaddress.ip_address, text)
    assert value_or_none(network.ip_address, text) == told


@given(ADDRESSES, st.sampled_from(["", "/", "/0", "/24", "/129", "/255.0.0.0", "/24/1"]))
def test_interface_is_what_the_standard_library_says(text: str, behind: str) -> None:
    told = value_or_none(ipaddress.ip_interface, text + behind)
    assert value_or_none(network.ip_interface, text + behind) == told


@given(st.ip_addresses(v=4), st.integers(1, 31), st.ip_addresses(v=4))
def test_gateway_is_right_exactly_if_it_is_in_the_network(
    address: IPv4Address, prefix: int, gateway: IPv4Address
) -> None:
    value = {"address": f"{address}/{prefix}", "gateway": str(gateway)}
    if gateway in IPv4Network(f"{address}/{prefix}", strict=False):
        assert network_of(value)
    else:
        (fault,) = faults_of(value)
        assert fault.key == ("network", "gateway")


@pytest.mark.parametrize("prefix", range(33))
def test_netmask_of_every_prefix_length_is_right(prefix: int) -> None:
    netmask = str(IPv4Network(f"0.0.0.0/{prefix}").netmask)
    (device,) = network_of({"address": "10.0.0.1", "netmask": netmask})["config"]
    assert device["subnets"] == [static("10.0.0.1", netmask)]


@given(st.ip_addresses(v=4))
def test_netmask_with_gaps_is_a_fault(netmask: IPv4Address) -> None:
    assume("01" in f"{int(netmask):032b}")
    (fault,) = faults_of({"address": "10.0.0.1", "netmask": str(netmask)})
    assert fault.key == ("network", "netmask")


FAULTS = [
    ("{address: 10.0.0.256/24}", "address", "'10.0.0.256/24'", "an IP address such as"),
    ("{address: web1/24}", "address", "'web1/24'", "an IP address such as"),
    ("{address: 10.0.0.1/33}", "address", "'10.0.0.1/33'", "an IP address such as"),
    ("{address: 10.0.0.1}", "address", "'10.0.0.1'", "a prefix length behind it (10.0.0.1/24)"),
    ("{address: '2001:db8::1', netmask: 24}", "address", "'2001:db8::1'", "a prefix length"),
    ("{address: [10.0.0.1/8, x]}", "address.1", "'x'", "an IP address such as"),
    ("{gateway: 10.0.0.1}", "address", "nothing", "an address, or dhcp: true"),
    ("{}", "address", "nothing", "an address, or dhcp: true"),
    ("{address: 10.0.0.1, netmask: x}", "netmask", "'x'", "a netmask such as"),
    ("{address: 10.0.0.1, netmask: 0.0.0.255}", "netmask", "'0.0.0.255'", "a netmask such as"),
    ("{address: 10.0.0.1, netmask: 33}", "netmask", "'33'", "a netmask such as"),
    ("{address: 10.0.0.1/24, netmask: 255.0.0.0}", "netmask", "'255.0.0.0'", "255.255.255.0"),
    ("{address: 10.0.0.1/24, gateway: x}", "gateway", "'x'", "an IP address such as"),
    ("{address: 10.0.0.1/24, gateway: 10.0.1.1}", "gateway", "'10.0.1.1'", "in 10.0.0.0/24"),
    ("{address: 10.0.0.1/24, gateway: 'fe80::1'}", "gateway", "'fe80::1'", "a static IPv6"),
    ("{address: '2001:db8::1/64', gateway: '2001:db8:1::1'}", "gateway", "'2001:", "in 2001:"),
    ("{dhcp: true, gateway: 10.0.0.1}", "gateway", "'10.0.0.1'", "a static IPv4 address"),
    (
        "{address: 10.0.0.1/24, gateway: [10.0.0.8, 10.0.0.9]}",
        "gateway.1",
        "'10.0.0.9'",
        "one gateway for each network",
    ),
    ("{dhcp: true, nameservers: [8.8.8.8, x]}", "nameservers.1", "'x'", "an IP address"),
    ("{dhcp: true, nameservers: x}", "nameservers", "'x'", "an IP address"),
    ("{dhcp: true, search: [x!]}", "search.0", "'x!'", "a domain such as"),
    ("{dhcp: true, name: 'eth 0'}", "name", "'eth 0'", "an interface name such as eth0"),
    ("{dhcp: true, name: abcdefghijklmnop}", "name", "'abc", "an interface name such as"),
    ("{dhcp: true, mac-address: 00:50:56}", "mac-address", "'00:50:56'", "a MAC address such"),
    ("{dhcp: true, mtu: 67}", "mtu", "67", "a number of at least 68"),
    ("{dhcp: true, mtu: 65536}", "mtu", "65536", "a number of at most 65535"),
    ("{dhcp: true, mtu: '9000'}", "mtu", "'9000'", "a whole number"),
    ("{dhcp: 'true'}", "dhcp", "'true'", "true or false"),
    ("{dhcp: true, adress: 10.0.0.1}", "adress", "'adress'", "'address'"),
    ("{dhcp: true, routes: [{to: 10.0.0.0/8}]}", "routes.0.via", "nothing", "a value"),
    ("{dhcp: true, routes: [{to: x, via: 10.0.0.1}]}", "routes.0.to", "'x'", "a network such"),
    ("{dhcp: true, routes: [{to: default, via: x}]}", "routes.0.via", "'x'", "an IP address"),
    (
        "{dhcp: true, routes: [{to: default, via: 10.0.0.1, metrc: 1}]}",
        "routes.0.metrc",
        "'metrc'",
        "'metric'",
    ),
    ("[{dhcp: true}, {name: b}]", "1.address", "nothing", "an address, or dhcp: true"),
    ("[{dhcp: true}, 5]", "1", "5", "a mapping"),
    ("[]", "", "an empty list", "at least one interface"),
    ("text", "", "'text'", "a mapping"),
    ("{dhcp: true, mac-address: '00:50:56:01:02:03', mac_address: x}", "mac-address", "", ""),
    ("{version: 3}", "version", "3", "1 or 2"),
    ("{version: '2'}", "version", "'2'", "1 or 2"),
    ("{version: true, config: []}", "version", "True", "1 or 2"),
    ("{version: 1}", "config", "nothing", "a list"),
    ("{version: 1, config: {}}", "config", "a mapping", "a list"),
]


@pytest.mark.parametrize(
    ("text", "key", "found", "expected"), FAULTS, ids=[text for text, *_ in FAULTS]
)
def test_network_that_is_none_is_a_fault(text: str, key: str, found: str, expected: str) -> None:
    fault = faults_of(read(text))[0]
    assert ".".join(map(str, fault.key)) == f"network.{key}".rstrip(".")
    assert found in fault.found
    assert expected in fault.expected


@pytest.mark.parametrize("name", [None, 5, True, 1.5, b"x"], ids=repr)
def test_interface_with_a_key_that_is_no_text_is_a_fault(name: object) -> None:
    assert faults_of({"dhcp": True, name: "x"})


def test_every_fault_of_a_network_is_told() -> None:
    faults = faults_of(read("{address: 10.0.0.1/24, gateway: 10.1.0.1, mtu: 1, search: '!'}"))
    assert {fault.key[1] for fault in faults} == {"gateway", "mtu", "search"}
