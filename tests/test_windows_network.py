"""Networks of instance files, by cloudbase-init's own parser and plugin, to a faked Windows."""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from cloudbaseinit import exception
from cloudbaseinit.plugins.common.networkconfig import NetworkConfigPlugin
from hypothesis import given
from hypothesis import strategies as st

from tests import fakewindows
from tests.renderers import short
from tests.renderers.short import ShortForm
from tests.test_networkdocument import DOCUMENTS, JUNK, RIGHT, places
from vmw_cloudinit_metadata.guest.windows.metadataservice import network_details
from vmw_cloudinit_metadata.guest.windows.networkdetails import Adapter
from vmw_cloudinit_metadata.instance import nocloud
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine

MACHINE = Machine(vc_uuid="01234567-89ab-cdef-fedc-ba9876543210")
MAC = "00:50:56:00:00:01"
ONE = {"Ethernet0": MAC}


@pytest.fixture(autouse=True, scope="module")
def windows() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cloudbaseinit.osutils.posix", fakewindows)
        yield


def applied(text: bytes, adapters: dict[str, str]) -> list[list[Any]]:
    """The changes that cloudbase-init's plugin makes."""
    fakewindows.changes.clear()
    fakewindows.adapters.clear()
    fakewindows.adapters.update(adapters)
    details = network_details(text, [Adapter(*pair) for pair in adapters.items()])
    service = SimpleNamespace(
        get_network_details_v2=lambda: details, get_network_details=lambda: None
    )
    NetworkConfigPlugin().execute(service, {})
    return list(fakewindows.changes)


def rendered(network: Any) -> bytes:
    instance = InstanceData.from_mapping({"metadata": {}, "network": network})
    return nocloud.render(instance, MACHINE)["NETWORKDATA"]


def changes_of(network: str, adapters: dict[str, str] | None = None) -> list[list[Any]]:
    return applied(rendered(yaml.safe_load(network)), ONE if adapters is None else adapters)


def static(name: str, address: str, gateway: str | None = None, *servers: str) -> list[Any]:
    version = ipaddress.ip_interface(address).version
    return ["static", name, address, gateway, list(servers), version]


# What differs from cloud-init, case by case


CASES: dict[str, tuple[str, list[list[Any]]]] = {
    "readme": (
        "{address: 192.168.1.1, netmask: 255.255.255.0, gateway: 192.168.1.254,"
        " nameservers: [8.8.8.8, 8.8.4.4]}",
        [static("Ethernet0", "192.168.1.1/24", "192.168.1.254", "8.8.8.8", "8.8.4.4")],
    ),
    "both-families": (
        "{mac-address: '00:50:56:00:00:01', address: [10.0.0.5/24, 2001:db8::5/64],"
        " gateway: [10.0.0.1, 'fe80::1'], nameservers: 10.0.0.53}",
        [
            static("Ethernet0", "10.0.0.5/24", "10.0.0.1", "10.0.0.53"),
            static("Ethernet0", "2001:db8::5/64", "fe80::1", "10.0.0.53"),
        ],
    ),
    "both-families-in-version-2": (
        "{version: 2, ethernets: {a: {match: {macaddress: '00:50:56:00:00:01'},"
        " addresses: ['2001:db8::5/64', 10.0.0.5/24],"
        " gateway4: 10.0.0.1, gateway6: '2001:db8::1'}}}",
        [
            static("Ethernet0", "2001:db8::5/64", "2001:db8::1"),
            static("Ethernet0", "10.0.0.5/24", "10.0.0.1"),
        ],
    ),
    "own-name": (
        "{name: lan, mac-address: '00:50:56:00:00:01', address: 10.0.0.5/24}",
        [["rename", "Ethernet0", "lan"], static("lan", "10.0.0.5/24")],
    ),
    "key-that-is-no-name": (
        "{version: 2, ethernets: {id0: {match: {macaddress: '00:50:56:00:00:01'},"
        " addresses: [10.0.0.5/24]}}}",
        [static("Ethernet0", "10.0.0.5/24")],
    ),
    "set-name": (
        "{version: 2, ethernets: {id0: {match: {macaddress: '00:50:56:00:00:01'},"
        " set-name: lan, addresses: [10.0.0.5/24]}}}",
        [["rename", "Ethernet0", "lan"], static("lan", "10.0.0.5/24")],
    ),
    "mac-in-lower-case": (
        "{mac-address: '00:50:56:00:00:0A', mtu: 1400, dhcp: true}",
        [["mtu", "Other", 1400]],
    ),
    "default-route-as-a-route": (
        "{address: 10.0.0.5/24, routes: [{to: 10.0.0.0/8, via: 10.0.0.2},"
        " {to: default, via: 10.0.0.1}]}",
        [static("Ethernet0", "10.0.0.5/24", "10.0.0.1")],
    ),
    "the-address-with-the-gateway": (
        "{address: [172.16.0.5/24, 10.0.0.5/24], gateway: 10.0.0.1, nameservers: 10.0.0.53}",
        [static("Ethernet0", "10.0.0.5/24", "10.0.0.1", "10.0.0.53")],
    ),
    "team": (
        "{version: 1, config: ["
        " {type: bond, name: lan, bond_interfaces: [eth0, eth1], params: {bond-miimon: 100},"
        " subnets: [{type: static, address: 10.0.0.5/24}]},"
        " {type: vlan, name: lan.7, vlan_link: lan, vlan_id: 7},"
        " {type: physical, name: eth0, mac_address: '00:50:56:00:00:01'},"
        " {type: physical, name: eth1, mac_address: '00:50:56:00:00:0a'}]}",
        [
            ["team", "bond_lan", ["Ethernet0", "Other"], "lan"],
            ["vlan", "bond_lan", "lan.7", 7],
            static("lan", "10.0.0.5/24"),
        ],
    ),
    "team-in-version-2": (
        "{version: 2, ethernets: {a: {match: {macaddress: '00:50:56:00:00:01'}}},"
        " bonds: {lan: {interfaces: [a], addresses: [10.0.0.5/24]}}}",
        [["team", "bond_lan", ["Ethernet0"], "lan"], static("lan", "10.0.0.5/24")],
    ),
    "vlan-of-an-adapter": (
        "{version: 1, config: [{type: physical, name: eth0, mac_address: '00:50:56:00:00:01',"
        " subnets: [{type: static, address: 10.0.0.5/24}]},"
        " {type: vlan, name: eth0.7, vlan_link: eth0, vlan_id: 7,"
        " subnets: [{type: static, address: 10.7.0.5/24}]}]}",
        [static("Ethernet0", "10.0.0.5/24")],
    ),
    "disabled": ("{config: disabled}", []),
}
OF_TWO = ("mac-in-lower-case", "team")


@pytest.mark.parametrize("name", CASES)
def test_network_is_applied(name: str) -> None:
    network, expected = CASES[name]
    adapters = {**ONE, "Other": "00:50:56:00:00:0a"} if name in OF_TWO else ONE
    assert changes_of(network, adapters) == expected


@pytest.mark.parametrize("name", RIGHT)
def test_document_of_cloud_init_is_applied(name: str) -> None:
    macs = re.findall(r"'((?:[0-9a-f]{2}:){5}[0-9a-f]{2})'", RIGHT[name])
    changes_of(RIGHT[name], {f"Ethernet{number}": mac for number, mac in enumerate(macs)})


NOTES = {
    "route": ("{address: 10.0.0.5/24, routes: [{to: 10.0.0.0/8, via: 10.0.0.1}]}", "10.0.0.0/8"),
    "address": ("{address: [10.0.0.5/24, 10.0.1.5/24]}", "10.0.1.5/24"),
    "mac": ("[{address: 10.0.0.5/24}, {name: x, dhcp: true}]", "mac-address"),
    "vlan": (
        "{version: 2, ethernets: {eth0: {}}, vlans: {v: {id: 1, link: eth0}}}",
        "VLAN v is not set up",
    ),
    "prefix": (
        "{version: 2, ethernets: {eth0: {addresses: [10.0.0.5]}}}",
        "no prefix length",
    ),
    "search": (
        "{version: 2, ethernets: {eth0: {nameservers: {search: [example.com]}}}}",
        "search domains",
    ),
}


@pytest.mark.parametrize("name", NOTES)
def test_what_gets_lost_is_in_the_log(name: str, caplog: pytest.LogCaptureFixture) -> None:
    network, expected = NOTES[name]
    changes_of(network)
    notes = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [note for note in notes if expected in note and note.startswith("network-config: ")]


def test_log_has_a_limit_of_warnings(caplog: pytest.LogCaptureFixture) -> None:
    addresses = [f"10.0.{number}.5/24" for number in range(200)]
    changes_of(json.dumps({"version": 2, "ethernets": {"eth0": {"addresses": addresses}}}))
    notes = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(notes) == 101
    assert notes[-1] == "network-config: 99 more warnings"


# Laws


def of_version(addresses: Iterable[str], version: int) -> set[str]:
    return {text for text in addresses if ipaddress.ip_interface(text).version == version}


def default_gateways(interface: dict[str, Any]) -> list[str]:
    routes = interface.get("routes", [])
    return [*interface.get("gateway", []), *(r["via"] for r in routes if r["to"] == "default")]


def adapter_of(number: int, interface: dict[str, Any], name: str) -> str:
    """Return the name that an adapter has in the end."""
    keeps_own = "mac-address" in interface and re.fullmatch(r"eth\d+", name)
    return f"Ethernet{number}" if keeps_own else name


@given(short.short_forms())
def test_short_form_reaches_windows(form: ShortForm) -> None:
    interfaces = list(zip(form, short.names_of(form), strict=True))
    adapters = {
        f"Ethernet{number}" if "mac-address" in interface else name: f"00:50:56:00:00:0{number + 1}"
        for number, (interface, name) in enumerate(interfaces)
    }
    changes = applied(rendered(form), adapters)
    for number, (interface, name) in enumerate(interfaces):
        own = [c for c in changes if c[:2] == ["static", adapter_of(number, interface, name)]]
        for version in (4, 6):
            addresses = of_version(interface.get("address", []), version)
            gateways = of_version(default_gateways(interface), version)
            found = [change[2:5] for change in own if change[5] == version]
            assert len(found) == bool(addresses)
            for address, gateway, servers in found:
                assert address in addresses
                assert {gateway} == (gateways or {None})
                assert set(servers) >= set(interface.get("nameservers", []))


MACS = {f"Ethernet{number}": f"00:50:56:00:00:{number:02x}" for number in range(256)}


@contextmanager
def refused_with_a_reason() -> Iterator[None]:
    """Let it be refused, but raise nothing else."""
    try:
        yield
    except exception.CloudbaseInitException as error:
        if not re.match(r"network-config cannot be applied: .", str(error)):
            raise


@given(DOCUMENTS)
def test_document_that_cloud_init_takes_is_applied_or_refused_with_a_reason(document: Any) -> None:
    with refused_with_a_reason():
        applied(json.dumps(document).encode(), MACS)


@st.composite
def mistaken(draw: st.DrawFn) -> Any:
    document = json.loads(json.dumps(draw(DOCUMENTS)))
    *above, last = draw(st.sampled_from(list(places(document))))
    target = document
    for name in above:
        target = target[name]
    target[last] = draw(JUNK)
    return document


@given(mistaken() | JUNK)
def test_document_with_a_mistake_is_read_or_refused_with_a_reason(document: Any) -> None:
    with refused_with_a_reason():
        network_details(json.dumps(document).encode(), [Adapter(*pair) for pair in MACS.items()])


BOMB = b"a: &a [%s]\nb: &b [%s]\nversion: 1\nconfig: [%s]" % (
    b"x, " * 2000,
    b"{subnets: *a}, " * 2000,
    b"*b, " * 2000,
)
TEXTS = {
    "bytes": b"\xff",
    "list": b"- a",
    "cut": b"{",
    "version": b"version: 3",
    "object": b"!!python/object/apply:os.getpid []",
    "itself": b"version: 1\nconfig: &a [*a]",
    "bomb": BOMB,
    "long": b"version: 1\n" + b"# a line\n" * 50_000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_that_is_no_network_is_refused_without_its_content(text: bytes) -> None:
    with pytest.raises(exception.CloudbaseInitException) as caught:
        network_details(b"# s3cret\n" + text, [])
    assert "s3cret" not in str(caught.value)
