"""Warnings: what is allowed and still is probably not meant."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from vmw_cloudinit_metadata.instance.advice import warnings_of
from vmw_cloudinit_metadata.instance.model import InstanceData


def warnings(**parts: Any) -> list[str]:
    """The warnings for an instance, as they are told."""
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
    pytest.param(b"#cloud-config-archive\n- {type: x}\n", id="archive"),
    pytest.param(b"Content-Type: multipart/mixed; boundary=x\nMIME-Version: 1.0\n\n", id="mime"),
    pytest.param(b"From: a\nmime-version: 1.0\n\n", id="mime-behind-another-header"),
    pytest.param(gzip.compress(b"x"), id="gzip"),
]


@pytest.mark.parametrize("part", ["userdata", "vendordata"])
@pytest.mark.parametrize("document", GOOD_USER_DATA)
def test_user_data_that_cloud_init_knows_is_no_warning(part: str, document: bytes) -> None:
    assert warnings(**{part: document}) == []


@pytest.mark.parametrize("part", ["userdata", "vendordata"])
@pytest.mark.parametrize(
    "document",
    ["echo x\n", "# cloud-config\n", " #cloud-config\n", "cloud-config\n", "\ufeff#cloud-config\n"],
)
def test_user_data_that_cloud_init_does_not_know_is_a_warning(part: str, document: str) -> None:
    expected = (
        "expected something that cloud-init knows, such as #cloud-config or #!, in the first line"
    )
    (warning,) = warnings(**{part: document})
    assert warning.startswith(f"{part}: found {len(document.encode())} bytes")
    assert warning.endswith(expected)


@pytest.mark.parametrize("part", ["userdata", "vendordata"])
@pytest.mark.parametrize(
    ("below", "warning"),
    [
        pytest.param("- a\n", "found a list behind #cloud-config, expected a mapping", id="list"),
        pytest.param(
            "a\n", "found 1 characters behind #cloud-config, expected a mapping", id="text"
        ),
        pytest.param(
            "a: 1\nb: [\n", "found in line 3 of its #cloud-config a [ that is not", id="syntax"
        ),
        pytest.param(
            "a: 1\na: 1\n", "found in line 3 of its #cloud-config a duplicate key", id="twice"
        ),
        pytest.param(b"a: \xff\n", "found a #cloud-config that is no UTF-8", id="no-utf-8"),
    ],
)
def test_cloud_config_that_is_no_mapping_is_a_warning(part: str, below: Any, warning: str) -> None:
    head: Any = b"#cloud-config\n" if isinstance(below, bytes) else "#cloud-config\n"
    (told,) = warnings(**{part: head + below})
    assert told.startswith(f"{part}: {warning}")


def test_cloud_config_that_is_a_text_is_not_told() -> None:
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
        ("Instance-Id", None),
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
        ("network-interfaces", "network: cloud-init's network-interfaces is out of use"),
        ("network_interfaces", "network: cloud-init's network-interfaces is out of use"),
    ],
)
def test_key_that_steers_cloud_init_is_a_warning(name: str, expected: str) -> None:
    told = f"metadata.{name}: found {name!r}, expected {expected}"
    assert warnings(metadata={name: "x"}) == [told]


MAC = {"mac-address": "00:50:56:01:02:03"}
A, B = {"name": "a", "dhcp": True}, {"name": "b", "dhcp": True}


@pytest.mark.parametrize(
    ("network", "nameless"),
    [
        pytest.param(A, None, id="one-interface"),
        pytest.param([{**A, **MAC}, {**B, **MAC}], None, id="each-with-its-mac"),
        pytest.param([A, B], "a, b", id="none-with-a-mac"),
        pytest.param([{**A, **MAC}, B], "b", id="one-without"),
        pytest.param({"version": 2, "ethernets": {"a": {}, "b": {}}}, None, id="version-2"),
        pytest.param(
            {"version": 1, "config": [{"type": "physical", "name": "a"}] * 2},
            "a, a",
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
    found = f"network: found several interfaces, and no MAC address for {nameless}"
    told = warnings(network=network)
    assert [warning.partition(", expected")[0] for warning in told] == ([found] if nameless else [])
