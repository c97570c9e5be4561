"""Warnings: what is allowed and still is probably not meant."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.instance.advice import warnings_of
from vmw_cloudinit_metadata.instance.fault import MAX_FAULTS
from vmw_cloudinit_metadata.instance.model import InstanceData


def warnings(**parts: Any) -> list[str]:
    """The warnings for an instance, as they are reported."""
    found = list(warnings_of(InstanceData.from_mapping({"metadata": {}, **parts})))
    assert all(warning.is_warning for warning in found)
    return [str(warning).removeprefix("warning: ") for warning in found]


GOOD_USER_DATA = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"#cloud-config\npackages: [a]\n", id="cloud-config"),
    pytest.param(b"#cloud-config\r\npackages: [a]\r\n", id="windows"),
    pytest.param(b"#cloud-config\n", id="empty-cloud-config"),
    pytest.param(b"#cloud-config", id="cloud-config-alone"),
    pytest.param(b"#!/bin/sh\n", id="script"),
    pytest.param(b"## template: jinja\n#cloud-config\na: {{ ds }}\n", id="jinja"),
    pytest.param(b"#include\nhttp://example.com/a\n", id="include"),
    pytest.param(b"#include-once\nhttp://example.com/a\n", id="include-once"),
    pytest.param(b"#cloud-boothook\n", id="boothook"),
    pytest.param(b"#part-handler\n", id="part-handler"),
    pytest.param(b" #cloud-config\n", id="cloud-config-behind-a-blank"),
    pytest.param(b"#cloud-config-archive\n- {type: text/cloud-config}\n", id="archive"),
    pytest.param(
        b"Content-Type: multipart/mixed; boundary=x\nMIME-Version: 1.0\n\n"
        b"--x\nContent-Type: text/cloud-config\n\na: 1\n--x--\n",
        id="mime",
    ),
    pytest.param(b"From: a\nmime-version: 1.0\n\n#cloud-config\n", id="mime-behind-another-header"),
    pytest.param(gzip.compress(b"#!/bin/sh\n"), id="gzip"),
]


@pytest.mark.parametrize("part", ["userdata", "vendordata"])
@pytest.mark.parametrize("document", GOOD_USER_DATA)
def test_user_data_that_cloud_init_knows_is_no_warning(part: str, document: bytes) -> None:
    assert warnings(**{part: document}) == []


@pytest.mark.parametrize("part", ["userdata", "vendordata"])
@pytest.mark.parametrize(
    "document",
    ["echo x\n", "# cloud-config\n", "cloud-config\n", "#cloud_config\n"],
)
def test_user_data_that_cloud_init_does_not_know_is_a_warning(part: str, document: str) -> None:
    expected = "expected a first line that cloud-init recognizes, such as #cloud-config or #!"
    (warning,) = warnings(**{part: document})
    assert warning.startswith(f"{part}: found {len(document.encode())} bytes")
    assert warning.endswith(expected)


@pytest.mark.parametrize("part", ["userdata", "vendordata"])
@pytest.mark.parametrize(
    ("below", "warning"),
    [
        pytest.param("- a\n", "found a list after #cloud-config, expected a mapping", id="list"),
        pytest.param("a\n", "found 1 character after #cloud-config, expected a mapping", id="text"),
        pytest.param(
            "a: 1\nb: [\n",
            "found a [ that is not closed on line 3 of the #cloud-config",
            id="syntax",
        ),
        pytest.param(
            "a: 1\na: 1\n", "found a duplicate key (the first is on line 2) on line 3", id="twice"
        ),
        pytest.param(b"a: \xff\n", "found a #cloud-config that is not UTF-8", id="no-utf-8"),
    ],
)
def test_cloud_config_that_is_no_mapping_is_a_warning(part: str, below: Any, warning: str) -> None:
    head: Any = b"#cloud-config\n" if isinstance(below, bytes) else "#cloud-config\n"
    (told,) = warnings(**{part: head + below})
    assert told.startswith(f"{part}: {warning}")


def test_cloud_config_that_is_a_text_is_not_reported() -> None:
    assert "secret" not in str(warnings(userdata="#cloud-config\nsecret\n"))


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("ami-ids", "ami-id"),
        ("ami-i", "ami-id"),
        ("am-id", "ami-id"),
        ("amy-id", "ami-id"),
        ("ami-di", "ami-id"),
        ("xami-id", "ami-id"),
        ("Instance-Id", "instance-id"),
        ("HOSTNAME", "hostname"),
        ("Availability_Zone", "availability-zone"),
        ("instanc_id", "instance-id"),
        ("host-name", "hostname"),
        ("tag", "tags"),
        ("public-key", "public-keys"),
        ("regoin", "region"),
        ("local-hostnam", "local-hostname"),
        ("my-key", None),
        ("ami-idxx", None),
        ("rigeon", None),
    ],
)
def test_key_one_letter_off_a_known_one_is_a_warning(name: str, known: str | None) -> None:
    told = f"metadata.{name}: found {name!r}, expected {known!r}, if that is meant"
    assert warnings(metadata={name: "x"}) == ([told] if known else [])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("seedfrom", "no seedfrom: cloud-init would fetch its data from there instead"),
        ("dsmode", "no dsmode: cloud-init decides by itself when to apply the data"),
        ("network-interfaces", "network: network-interfaces is obsolete"),
        ("network_interfaces", "network: network-interfaces is obsolete"),
    ],
)
def test_key_that_steers_cloud_init_is_a_warning(name: str, expected: str) -> None:
    told = f"metadata.{name}: found {name!r}, expected {expected}"
    assert warnings(metadata={name: "x"}) == [told]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *dict.fromkeys(
            ("network", "network-config", "network_config", "Network"), "network"
        ).items(),
        *dict.fromkeys(("userdata", "user-data", "user_data", "runcmd"), "userdata").items(),
        *dict.fromkeys(("vendordata", "vendor-data"), "vendordata").items(),
    ],
)
def test_key_that_nocloud_ignores_is_reported_with_its_place(name: str, expected: str) -> None:
    (told,) = warnings(metadata={name: {"version": 2}})
    assert told.startswith(f"metadata.{name}: found ")
    assert f"expected {expected} at the top of the file, not below metadata" in told


@pytest.mark.parametrize(
    "name",
    [
        *("wait-on-network", "wait_on_network", "network.encoding", "userdata.encoding"),
        *("user-data.encoding", "vendordata.encoding", "metadata.encoding", "cleanup-guestinfo"),
    ],
)
def test_key_of_guestinfo_is_reported_as_unknown(name: str) -> None:
    (told,) = warnings(metadata={name: "x"})
    assert told.startswith(f"metadata.{name}: found ".split(".encoding: ")[0])
    assert "expected no such key" in told


def test_warnings_are_bounded_and_say_that_there_are_more() -> None:
    interfaces = {f"eth{number}": {"mtu": "x"} for number in range(500)}
    told = warnings(network={"version": 2, "ethernets": interfaces})
    assert len(told) == MAX_FAULTS + 1
    assert "more than 100 faults" in told[-1]


MAC = {"mac-address": "00:50:56:01:02:03"}
OTHER_MAC = {"mac-address": "00:50:56:01:02:04"}
A, B = {"name": "a", "dhcp": True}, {"name": "b", "dhcp": True}


@pytest.mark.parametrize(
    ("network", "nameless"),
    [
        pytest.param(A, None, id="one-interface"),
        pytest.param([{**A, **MAC}, {**B, **OTHER_MAC}], None, id="each-with-its-mac"),
        pytest.param([A, B], "a, b", id="none-with-a-mac"),
        pytest.param([{**A, **MAC}, B], "b", id="one-without"),
        pytest.param(
            [{**A, "routes": {"to": "10.0.0.0/8", "via": "10.0.0.1"}}, B], "a, b", id="as-version-2"
        ),
        pytest.param({"version": 2, "ethernets": {"a": {}, "b": {}}}, None, id="version-2"),
        pytest.param(
            {"version": 1, "config": [{"type": "physical", "name": name} for name in "ab"]},
            "a, b",
            id="version-1",
        ),
        pytest.param(
            {
                "version": 1,
                "config": [{"type": "physical", "name": "a"}, {"type": "nameserver"}, 5],
            },
            None,
            id="version-1-with-another-device",
        ),
    ],
)
def test_several_interfaces_without_mac_address_are_a_warning(
    network: object, nameless: str | None
) -> None:
    found = f"network: found several interfaces, without a MAC address for {nameless}"
    told = [line for line in warnings(network=network) if "several interfaces" in line]
    assert [warning.partition(", expected")[0] for warning in told] == ([found] if nameless else [])


# Files that came up wrong without a word: what `validate` tells of each, with its line.
CASES = {
    "network-inside-metadata": (
        "metadata:\n  instance-id: a\n  wait-on-network: {ipv4: true}\n  network:\n"
        "    version: 2\n    ethernets: {ens192: {addresses: [10.0.0.5/24]}}\n",
        ["3: warning: metadata.wait-on-network", "4: warning: metadata.network"],
    ),
    "routes-at-the-top": (
        "metadata: {}\nnetwork:\n  version: 2\n  ethernets: {id0: {dhcp4: true}}\n"
        "  routes: [{to: 10.99.0.0/16, via: 10.11.12.2, metric: 222}]\n",
        ["5: warning: network.routes"],
    ),
    "version-2-with-the-body-of-version-1": (
        "metadata: {}\nnetwork:\n  version: 2\n"
        "  config: [{type: physical, name: enp1s0, subnets: [{type: dhcp}]}]\n",
        ["4: warning: network.config"],
    ),
    "impossible-address": (
        "metadata: {}\nnetwork:\n  version: 2\n  ethernets:\n"
        "    ens192: {addresses: [10.1.400.140/24], set-name: FRONT}\n"
        "    ens224: {addresses: [10.1.200.140]}\n",
        [
            "5: warning: network.ethernets.ens192.addresses.0",
            "5: warning: network.ethernets.ens192.set-name",
            "6: warning: network.ethernets.ens224.addresses.0",
        ],
    ),
    "folded-user-data": (
        "metadata: {}\nuserdata: >\n  #cloud-config\n  package_update: true\n",
        ["2: warning: userdata"],
    ),
    "literal-backslash-n": (
        "metadata: {}\nuserdata: '#cloud-config\\npackage_update: true\\n'\n",
        ["2: warning: userdata"],
    ),
    "words-behind-the-header": (
        "metadata: {}\nuserdata: |\n  #cloud-config  # managed\n  runcmd: [touch, /tmp/x\n",
        ["2: warning: userdata"],
    ),
    "network-without-version": (
        "metadata: {}\nnetwork:\n  ethernets: {ens192: {dhcp4: true}}\n",
        ["3: network.ethernets"],
    ),
    "network-disabled": ("metadata: {}\nnetwork: {config: disabled}\n", []),
    "byte-order-mark": ("metadata: {}\nuserdata-file: ud.txt\n", ["2: warning: userdata"]),
    "base64": (
        "metadata: {}\nuserdata: H4sIAAAAAAACA1NOzskvTdFNzs9Ly0znAgDSxZ4BDgAAAA==\n",
        ["2: warning: userdata"],
    ),
    "misspelt-key-of-a-mapping": (
        "metadata: {}\nuserdata:\n  users: []\n  pakages: [a]\n",
        ["4:3: warning: userdata"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_case_is_reported_with_its_line(name: str, tmp_path: Path) -> None:
    content, expected = CASES[name]
    for file, text in (("web1.yaml", content), ("ud.txt", "\ufeff#cloud-config\na: 1\n")):
        (tmp_path / file).write_text(text)
        (tmp_path / file).chmod(0o600)
    told = map(str, FileDriver({"directory": str(tmp_path)}).validate())
    places = [line.removeprefix(f"{tmp_path}/web1.yaml:").partition(": found")[0] for line in told]
    assert places == expected


def test_warning_of_the_defaults_is_reported_at_their_line(tmp_path: Path) -> None:
    (tmp_path / "web1.yaml").write_text("metadata: {}\n")
    (tmp_path / "all").write_text("\nuserdata:\n  pakages: [a]\nnetwork:\n  version: 2\n")
    for file in tmp_path.iterdir():
        file.chmod(0o600)
    driver = FileDriver({"directory": str(tmp_path), "defaults": "all"})
    places = [str(fault).partition(": warning")[0] for fault in driver.validate()]
    assert places == [f"{tmp_path}/all:4", f"{tmp_path}/all:3:3"]
