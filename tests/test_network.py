"""The network of an instance: the short form becomes version 1, a native document stays."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.instance import nocloud
from vmw_cloudinit_metadata.instance.advice import warnings_of
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.network import address
from vmw_cloudinit_metadata.instance.parsing import seed
from vmw_cloudinit_metadata.protocol.vmware import Machine

MACHINE = Machine(vc_uuid="01234567-89ab-cdef-fedc-ba9876543210")

TEXTS = st.text()
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
KEYS = TEXTS.filter(lambda key: not key.startswith("mac"))  # a MAC address is no number
NESTED = st.recursive(
    PLAIN,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(KEYS, below, max_size=4),
    max_leaves=8,
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
            "{address: [10.0.0.1/24, '2001:db8:1::7/64'],"
            " routes: [{to: '2001:db8:9::/48', via: '2001:db8:1::1'},"
            " {to: default, via: 10.0.0.9}]}",
            [
                static(
                    "10.0.0.1",
                    "255.255.255.0",
                    routes=[{"destination": "0.0.0.0/0", "gateway": "10.0.0.9"}],
                ),
                static(
                    "2001:db8:1::7/64",
                    routes=[{"destination": "2001:db8:9::/48", "gateway": "2001:db8:1::1"}],
                ),
            ],
            id="each-route-to-the-subnet-of-its-via",
        ),
        pytest.param(
            "{address: [10.0.0.1/24, 10.1.0.1/24], routes: [{to: 10.8.0.0/16, via: 10.1.0.9}]}",
            [
                static("10.0.0.1", "255.255.255.0"),
                static(
                    "10.1.0.1",
                    "255.255.255.0",
                    routes=[{"destination": "10.8.0.0/16", "gateway": "10.1.0.9"}],
                ),
            ],
            id="route-in-the-second-network",
        ),
        pytest.param(
            "{address: [10.0.0.1/24, '2001:db8:1::7/64'],"
            " routes: [{to: '2001:db8:9::/48', via: 'fe80::1'}]}",
            [
                static("10.0.0.1", "255.255.255.0"),
                static(
                    "2001:db8:1::7/64",
                    routes=[{"destination": "2001:db8:9::/48", "gateway": "fe80::1"}],
                ),
            ],
            id="route-to-the-first-of-its-family",
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


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[{dhcp: true}, {dhcp: true}, {dhcp: true}]", ["eth0", "eth1", "eth2"]),
        ("[{dhcp: true}, {name: eth0, dhcp: true}, {dhcp: true}]", ["eth1", "eth0", "eth2"]),
        ("[{name: eth2, dhcp: true}, {dhcp: true}, {dhcp: true}]", ["eth2", "eth0", "eth1"]),
        ("[{name: lan, dhcp: true}, {dhcp: true}]", ["lan", "eth0"]),
    ],
)
def test_unnamed_interfaces_get_the_free_names_in_order(text: str, names: list[str]) -> None:
    assert [device["name"] for device in network_of(read(text))["config"]] == names


MAC = "00:50:56:00:00:01"


@pytest.mark.parametrize(
    ("text", "ethernet"),
    [
        pytest.param(
            "{dhcp: true, nameservers: [10.0.0.53], search: corp.example, mtu: 1400,"
            " routes: [{to: 10.0.0.0/8, via: 10.1.0.1, metric: 5}]}",
            {
                "dhcp4": True,
                "mtu": 1400,
                "nameservers": {"addresses": ["10.0.0.53"], "search": ["corp.example"]},
                "routes": [{"to": "10.0.0.0/8", "via": "10.1.0.1", "metric": 5}],
            },
            id="dhcp-with-dns-and-routes",
        ),
        pytest.param(
            f"{{dhcp: true, nameservers: [10.0.0.53], mac-address: '{MAC}'}}",
            {
                "match": {"macaddress": MAC},
                "set-name": "eth0",
                "dhcp4": True,
                "nameservers": {"addresses": ["10.0.0.53"]},
            },
            id="mac-address",
        ),
        pytest.param(
            "{dhcp: true, routes: [{to: 10.0.0.0/8, via: 10.1.0.1}]}",
            {"dhcp4": True, "routes": [{"to": "10.0.0.0/8", "via": "10.1.0.1"}]},
            id="dhcp-with-a-route",
        ),
        pytest.param(
            "{dhcp: true, address: '2001:db8::1/64', gateway: 'fe80::1',"
            " routes: [{to: default, via: 10.1.0.1}]}",
            {
                "dhcp4": True,
                "addresses": ["2001:db8::1/64"],
                "gateway6": "fe80::1",
                "routes": [{"to": "0.0.0.0/0", "via": "10.1.0.1"}],
            },
            id="gateway-of-ipv6-and-a-route-of-ipv4",
        ),
        pytest.param(
            "{dhcp: true, address: '2001:db8::1/64', routes:"
            " [{to: default, via: 'fe80::1'}, {to: 10.0.0.0/8, via: 10.1.0.1}]}",
            {
                "dhcp4": True,
                "addresses": ["2001:db8::1/64"],
                "gateway6": "fe80::1",
                "routes": [{"to": "10.0.0.0/8", "via": "10.1.0.1"}],
            },
            id="default-route-of-ipv6",
        ),
    ],
)
def test_what_has_no_static_address_to_hang_on_becomes_version_2(
    text: str, ethernet: object
) -> None:
    assert network_of(read(text)) == {"version": 2, "ethernets": {"eth0": ethernet}}


def test_gateway_outside_the_network_is_on_link_in_version_2() -> None:
    network = network_of(
        read(
            "[{dhcp: true, nameservers: 10.0.0.53},"
            " {address: [203.0.113.7/32, '2001:db8::1/128'], on-link: true,"
            " gateway: [198.51.100.1, '2001:db8:1::1']}]"
        )
    )
    assert network["ethernets"]["eth1"]["routes"] == [
        {"to": "0.0.0.0/0", "via": "198.51.100.1", "on-link": True},
        {"to": "::/0", "via": "2001:db8:1::1", "on-link": True},
    ]


def test_interfaces_with_search_domains_alone_come_last_in_version_2() -> None:
    network = network_of(
        read("[{dhcp: true, search: a.com}, {dhcp: true, nameservers: 10.0.0.53, search: a.com}]")
    )
    assert list(network["ethernets"]) == ["eth1", "eth0"]


@pytest.mark.parametrize(
    "text",
    [
        "{config: disabled}",
        "{version: 1, config: disabled}",
        "{version: 2, config: disabled}",
        "{config: 'disabled'}",
    ],
)
def test_disabled_network_is_passed_on(text: str) -> None:
    assert network_of(read(text)) == read(text)


def test_list_of_interfaces_becomes_devices_in_its_order() -> None:
    network = network_of(
        read("[{name: a, address: 10.0.0.1/24, search: x.org}, {name: b, dhcp: true, mtu: 1400}]")
    )
    assert network["config"] == [
        {**WEB, "name": "a", "subnets": [{**WEB["subnets"][0], "dns_search": ["x.org"]}]},
        {"type": "physical", "name": "b", "mtu": 1400, "subnets": [{"type": "dhcp"}]},
    ]


@given(st.dictionaries(KEYS, NESTED, max_size=4), st.lists(NESTED, max_size=4))
def test_native_document_of_version_1_comes_back_unchanged(
    further: dict[str, Any], config: list[Any]
) -> None:
    network = {**further, "version": 1, "config": config}
    assert network_of(network) == network


@given(st.dictionaries(KEYS, NESTED, max_size=4))
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
    assert value_or_none(address.ip_address, text) == told


@given(ADDRESSES, st.sampled_from(["", "/", "/0", "/24", "/129", "/255.0.0.0", "/24/1"]))
def test_interface_is_what_the_standard_library_says(text: str, behind: str) -> None:
    told = value_or_none(ipaddress.ip_interface, text + behind)
    assert value_or_none(address.ip_interface, text + behind) == told


def is_host(address: IPv4Address, network: IPv4Network) -> bool:
    """What RFC 1122 says, and RFC 3021 of networks of two."""
    ends = () if network.prefixlen > 30 else (network.network_address, network.broadcast_address)
    is_fit = not (address.is_multicast or address.is_loopback or int(address) < 1 << 24)
    return is_fit and address not in ends and address != IPv4Address("255.255.255.255")


@given(st.ip_addresses(v=4), st.integers(1, 31), st.ip_addresses(v=4))
@example(IPv4Address("10.0.0.0"), 31, IPv4Address("10.0.0.1"))
@example(IPv4Address("10.0.0.2"), 30, IPv4Address("10.0.0.3"))
@example(IPv4Address("10.0.0.2"), 30, IPv4Address("10.0.0.0"))
@example(IPv4Address("10.0.0.2"), 30, IPv4Address("10.0.0.2"))
def test_gateway_is_right_exactly_if_it_is_in_the_network(
    address: IPv4Address, prefix: int, gateway: IPv4Address
) -> None:
    value = {"address": f"{address}/{prefix}", "gateway": str(gateway)}
    network = IPv4Network(f"{address}/{prefix}", strict=False)
    assume(is_host(address, network))
    if gateway in network and is_host(gateway, network) and gateway != address:
        assert network_of(value)
    else:
        (fault,) = faults_of(value)
        assert fault.key == ("network", "gateway")


@given(st.ip_addresses(), st.integers(1, 128))
@example(IPv4Address("10.0.0.0"), 24)
@example(IPv4Address("10.0.0.255"), 24)
@example(IPv4Address("10.0.0.0"), 31)
@example(IPv4Address("10.0.0.255"), 32)
@example(IPv4Address("224.0.0.5"), 24)
@example(IPv4Address("127.0.0.1"), 8)
@example(IPv4Address("0.0.0.0"), 8)
@example(IPv6Address("2001:db8::"), 127)
@example(IPv6Address("2001:db8::"), 128)
@example(IPv6Address("ff02::1"), 64)
@example(IPv6Address("::1"), 128)
@example(IPv6Address("::"), 64)
@example(IPv6Address("::ffff:10.0.0.1"), 96)
def test_address_is_right_exactly_if_a_host_can_have_it(
    address: IPv4Address | IPv6Address, prefix: int
) -> None:
    assume(prefix <= address.max_prefixlen)
    if isinstance(address, IPv4Address):
        is_fit = is_host(address, IPv4Network(f"{address}/{prefix}", strict=False))
    else:
        is_odd = address.is_multicast or address.is_loopback or address.is_unspecified
        is_fit = not is_odd and address.ipv4_mapped is None
    value = {"address": f"{address}/{prefix}"}
    if is_fit:
        assert network_of(value)
    else:
        (fault,) = faults_of(value)
        assert fault.key == ("network", "address")
        assert fault.expected.startswith("a usable host address")


@pytest.mark.parametrize("prefix", range(1, 33))
def test_netmask_of_every_prefix_length_is_right(prefix: int) -> None:
    netmask = str(IPv4Network(f"0.0.0.0/{prefix}").netmask)
    (device,) = network_of({"address": "10.85.85.85", "netmask": netmask})["config"]
    assert device["subnets"] == [static("10.85.85.85", netmask)]


@given(st.ip_addresses(v=4))
def test_netmask_with_gaps_is_a_fault(netmask: IPv4Address) -> None:
    assume("01" in f"{int(netmask):032b}")
    (fault,) = faults_of({"address": "10.0.0.1", "netmask": str(netmask)})
    assert fault.key == ("network", "netmask")


FAULTS = [
    ("{address: 10.0.0.256/24}", "address", "'10.0.0.256/24'", "an IP address such as"),
    ("{address: web1/24}", "address", "'web1/24'", "an IP address such as"),
    ("{address: 10.0.0.1/33}", "address", "'10.0.0.1/33'", "an IP address such as"),
    (
        "{address: 10.0.0.1}",
        "address",
        "'10.0.0.1'",
        "a prefix length, such as 10.0.0.1/24, or a netmask",
    ),
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
        "only one IPv4 gateway",
    ),
    (
        "{address: [10.0.0.1/24, 10.1.0.1/24], gateway: [10.0.0.8, 10.1.0.8]}",
        "gateway.1",
        "'10.1.0.8'",
        "only one IPv4 gateway",
    ),
    (
        "{address: 10.0.0.0/24}",
        "address",
        "'10.0.0.0/24'",
        "10.0.0.0 is the network address of 10.0.0.0/24",
    ),
    ("{address: 10.0.1.255/24}", "address", "'10.0.1.255/24'", "the broadcast address of 10.0.1."),
    ("{address: 224.0.0.5/24}", "address", "'224.0.0.5/24'", "224.0.0.5 is a multicast address"),
    ("{address: 127.0.0.1/8}", "address", "'127.0.0.1/8'", "127.0.0.1 is a loopback address"),
    ("{address: 0.0.0.0/0}", "address", "'0.0.0.0/0'", "a prefix length other than 0"),
    ("{address: 10.0.0.1/0}", "address", "'10.0.0.1/0'", "a prefix length other than 0"),
    ("{address: 10.0.0.1, netmask: 0.0.0.0}", "netmask", "'0.0.0.0'", "a netmask such as"),
    ("{address: 255.255.255.255/32}", "address", "'255.", "the broadcast address"),
    (
        "{address: 'fe80::1%eth0/64'}",
        "address",
        "'fe80::1%eth0/64'",
        "an address without a zone (%)",
    ),
    ("{address: [10.0.0.1/24, 10.0.0.1/8]}", "address.1", "a duplicate", "each address once"),
    ("{address: 10.0.5.5/24, gateway: 10.0.5.5}", "gateway", "'10.0.5.5'", "of another machine"),
    ("{address: 10.0.5.5/24, gateway: 10.0.5.0}", "gateway", "'10.0.5.0'", "the network address"),
    ("{address: 10.0.5.5/24, gateway: 10.0.5.255}", "gateway", "'10.0.5.255'", "the broadcast"),
    (
        "{address: 10.0.5.5/24, gateway: 224.0.0.1, on-link: true}",
        "gateway",
        "'224.0.0.1'",
        "a multicast address",
    ),
    ("{dhcp: true, nameservers: 224.0.0.251}", "nameservers", "'224.0.0.251'", "is a multicast"),
    ("{dhcp: true, nameservers: {addresses: [8.8.8.8]}}", "nameservers", "a mapping", "a list of"),
    (
        "{address: 10.0.0.1/24, routes: [{to: '2001:db8::/32', via: 10.0.0.9}]}",
        "routes.0.via",
        "'10.0.0.9'",
        "an IPv6 address, like the destination",
    ),
    (
        "{dhcp: true, routes: [{to: 10.0.0.0/8, via: 'fe80::1'}]}",
        "routes.0.via",
        "'fe80::1'",
        "an IPv4 address, like the destination",
    ),
    (
        "{address: 10.0.0.1/24, routes: [{to: 10.8.0.0/16, via: 10.9.0.1}]}",
        "routes.0.via",
        "'10.9.0.1'",
        "an address in 10.0.0.0/24, or on-link: true",
    ),
    (
        "{address: '2001:db8::1/64', routes: [{to: 10.8.0.0/16, via: 10.9.0.1}]}",
        "routes.0.via",
        "'10.9.0.1'",
        "a static IPv4 address on the interface, or dhcp: true",
    ),
    (
        "{address: 10.0.0.1/24, routes: [{to: default, via: 10.0.0.1}]}",
        "routes.0.via",
        "'10.0.0.1'",
        "the address of another machine",
    ),
    (
        "{dhcp: true, routes: [{to: 10.8.0.1/16, via: 10.0.0.1}]}",
        "routes.0.to",
        "'10.8.0.1/16'",
        "a network: 10.8.0.0/16, or 10.8.0.1 for a single host",
    ),
    ("{address: '2001:db8::1/64', mtu: 1279}", "mtu", "1279", "at least 1280 with an IPv6 address"),
    ("{dhcp: true, name: 'en*'}", "name", "'en*'", "an interface name such as eth0"),
    ("{dhcp: true, name: 'eth[0-9]'}", "name", "'eth[0-9]'", "an interface name such as eth0"),
    ("{dhcp: true, name: 'eth?'}", "name", "'eth?'", "an interface name such as eth0"),
    ("{dhcp: true, name: '!eth0'}", "name", "'!eth0'", "an interface name such as eth0"),
    ("{dhcp: true, name: 'eth%d'}", "name", "'eth%d'", "an interface name such as eth0"),
    ("{dhcp: true, name: 'a;b'}", "name", "'a;b'", "an interface name such as eth0"),
    ("{dhcp: true, name: 'eth0:1'}", "name", "'eth0:1'", "an interface name such as eth0"),
    ("{dhcp: true, name: ..}", "name", "'..'", "an interface name such as eth0"),
    ("{dhcp: true, name: -x}", "name", "'-x'", "an interface name such as eth0"),
    ("{dhcp: true, name: '12'}", "name", "'12'", "an interface name such as eth0"),
    ("{dhcp: true, name: lo}", "name", "'lo'", "an interface name such as eth0"),
    ("{dhcp: true, name: all}", "name", "'all'", "an interface name such as eth0"),
    ("{dhcp: true, name: ethé}", "name", "'ethé'", "an interface name such as eth0"),
    (
        "{dhcp: true, mac-address: '01:00:5e:00:00:01'}",
        "mac-address",
        "'01:",
        "this one is multicast or zero",
    ),
    (
        "{dhcp: true, mac-address: '00:00:00:00:00:00'}",
        "mac-address",
        "'00:",
        "this one is multicast or zero",
    ),
    ("[{name: a, dhcp: true}, {name: a, dhcp: true}]", "1.name", "a duplicate 'a'", "each name"),
    (
        "[{mac-address: '00:50:56:00:00:0a', dhcp: true},"
        " {mac-address: 00-50-56-00-00-0A, dhcp: true}]",
        "1.mac-address",
        "a duplicate '00:50:56:00:00:0a'",
        "each mac-address once",
    ),
    ("{network: {version: 2}}", "network", "'network'", "this is a second `network:`"),
    (
        "{dhcp4: true}",
        "dhcp4",
        "'dhcp4'",
        "dhcp: true, or version: 2 beside ethernets, for cloud-init's own format",
    ),
    ("{dhcp6: true}", "dhcp6", "'dhcp6'", "version: 2, ethernets: {eth0: {dhcp6: true}}"),
    ("{addresses: [10.0.0.1/24]}", "addresses", "'addresses'", "address (one, or a list)"),
    ("{gateway4: 10.0.0.1}", "gateway4", "'gateway4'", "gateway, or"),
    ("{match: {macaddress: x}}", "match", "'match'", "mac-address, or"),
    ("{ethernets: {eth0: {dhcp4: true}}}", "ethernets", "'ethernets'", "`version: 2` beside it"),
    ("{renderer: networkd}", "renderer", "'renderer'", "`version: 2` beside it"),
    ("{config: []}", "config", "'config'", "`version: 1` beside it"),
    ("{config: disabled, dhcp: true}", "config", "'config'", "only config: disabled"),
    ("[{config: disabled}]", "0.config", "'config'", "only config: disabled"),
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
    ("{version: '2'}", "version", "'2'", "1 or 2, without quotes"),
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


def test_every_fault_of_a_network_is_reported() -> None:
    faults = faults_of(read("{address: 10.0.0.1/24, gateway: 10.1.0.1, mtu: 1, search: '!'}"))
    assert {fault.key[1] for fault in faults} == {"gateway", "mtu", "search"}


def warnings(text: str) -> list[str]:
    instance = InstanceData.from_mapping({"metadata": {}, "network": read(text)})
    return [str(warning).removeprefix("warning: ") for warning in warnings_of(instance)]


A = "{mac-address: '00:50:56:00:00:01', address: [10.0.0.5/24, '2001:db8::5/64']"
B = "{mac-address: '00:50:56:00:00:02', address: [10.0.1.5/24, '2001:db8:1::5/64']"
SECOND = "expected one for all interfaces, or routes: [{to: default, via:"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(
            f"[{A}, gateway: 10.0.0.1}}, {B}, gateway: 10.0.1.1}}]",
            ["network.1.gateway: found '10.0.1.1', a second default gateway for IPv4, " + SECOND],
            id="gateways",
        ),
        pytest.param(
            f"[{A}, gateway: 10.0.0.1}}, {B}, routes: [{{to: default, via: 10.0.1.1}}]}}]",
            ["network.1.routes.0.via: found '10.0.1.1', a second default gateway"],
            id="gateway-and-default-route",
        ),
        pytest.param(
            f"[{A}, gateway: 10.0.0.1}}, {B}, routes: [{{to: 0.0.0.0/0, via: 10.0.1.1}}]}}]",
            ["network.1.routes.0.via: found '10.0.1.1', a second default gateway"],
            id="default-route-by-its-number",
        ),
        pytest.param(
            f"[{A}, gateway: 'fe80::1'}}, {B}, gateway: [10.0.1.1, 'fe80::2']}}]",
            ["network.1.gateway.1: found 'fe80::2', a second default gateway for IPv6"],
            id="ipv6",
        ),
        pytest.param(f"[{A}, gateway: 10.0.0.1}}, {B}, gateway: 'fe80::1'}}]", [], id="families"),
        pytest.param(
            "[{name: a, mac-address: '00:50:56:00:00:01', address: 10.0.0.5/24},"
            " {name: b, mac-address: '00:50:56:00:00:02', address: 10.0.0.5/16}]",
            ["network.1.address: found '10.0.0.5', which another interface also has"],
            id="address-of-two",
        ),
        pytest.param(
            "{address: '2001:db8::/64'}",
            [
                "network.address: found '2001:db8::/64', the subnet-router anycast"
                " address of 2001:db8::/64"
            ],
            id="routers-of-ipv6",
        ),
        pytest.param(
            f"[{A}, routes: [{{to: 10.9.0.0/16, via: 10.0.0.2}}]}},"
            f" {B}, routes: [{{to: 10.9.0.0/16, via: 10.0.1.2}}]}}]",
            ["network.1.routes.0.to: found '10.9.0.0/16', a second route with the same metric"],
            id="route-of-two",
        ),
        pytest.param("{address: '2001:db8::/127', gateway: '2001:db8::1'}", [], id="127"),
        pytest.param(
            "{dhcp: true, nameservers: [10.0.0.53], search: corp.example,"
            " routes: [{to: 10.0.0.0/8, via: 10.1.0.1}]}",
            [
                "network.nameservers: found name servers, which some versions of cloud-init lose"
                " with eni and network-manager, expected a static address of their family, or a"
                " guest with netplan, networkd or sysconfig",
                "network.search: found search domains, which some versions of cloud-init lose with"
                " eni and network-manager",
            ],
            id="dhcp-with-dns",
        ),
        pytest.param(
            "{address: 203.0.113.7/32, gateway: 198.51.100.1, on-link: true}",
            [
                "network.gateway: found a gateway outside the network, which some versions of"
                " cloud-init lose with netplan and networkd"
            ],
            id="on-link",
        ),
        pytest.param(
            "{address: 10.0.0.5/24, on-link: true, routes: [{to: 10.8.0.0/16, via: 10.9.0.1}]}",
            [
                "network.routes: found a route via an address outside the network, which some"
                " versions of cloud-init lose with netplan, eni, networkd, sysconfig and"
                " network-manager"
            ],
            id="route-on-link",
        ),
        pytest.param(
            "{address: 10.0.0.5/24, routes: [{to: 10.8.0.0/16, via: 10.0.0.1, metric: 5}]}",
            [
                "network.routes: found the metric, which some versions of cloud-init lose with"
                " network-manager"
            ],
            id="metric",
        ),
        pytest.param(
            "{dhcp: true, mtu: 9000}",
            [
                "network.mtu: found the MTU with DHCP, which some versions of cloud-init lose with"
                " eni, expected a static address, or a guest with netplan,"
            ],
            id="mtu-with-dhcp",
        ),
        pytest.param(
            "{address: 10.0.0.5/24, search: 'a b c d e f g'}",
            [
                "network.search: found the whole network (more than 6 search domains, or 256"
                " characters of them), which some versions of cloud-init lose with sysconfig"
            ],
            id="search-domains",
        ),
        pytest.param("{config: disabled}", [], id="disabled"),
        pytest.param("{dhcp: true}", [], id="dhcp"),
        pytest.param(
            f"{A}, gateway: [10.0.0.1, 'fe80::1'], nameservers: [8.8.8.8, '2001:db8::53'],"
            " search: a.com, mtu: 9000, routes: [{to: 10.8.0.0/16, via: 10.0.0.9}]}",
            [],
            id="static",
        ),
    ],
)
def test_what_is_probably_not_meant_is_warned_of(text: str, told: list[str]) -> None:
    found = warnings(text)
    assert len(found) == len(told)
    assert all(map(str.startswith, found, told))
