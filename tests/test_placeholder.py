"""Placeholders of templates, and the warnings of values that are lost or changed in the VM."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.instance import advice
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.values import placeholder

LEFT_IN = [
    *(("{{ name }}", "{{"), ("web-{{name}}-1", "{{"), ("{{- .Name -}}", "{{")),
    *(
        ("{% if x %}", "{%"),
        ("<%= name %>", "<%"),
        ("a-${name}", "${"),
        ("<no value>", "<no value>"),
    ),
    *(("@@{owner}@@", "@@"), ("@NAME@", "@"), ("%NAME%", "%"), ("__NAME__", "__")),
]
NONE = [
    *("", "web1", "a@b.example", "100%", "$5", "a {b} c", "@admin", "%Y-%m-%d", "{a: {b: c}}"),
    *("admin@web1, root@web2", "50% to 60%", "$HOME", "a@@b", "<none>", "__init__"),
]


@pytest.mark.parametrize(("text", "start"), LEFT_IN)
def test_placeholder_is_found_by_its_beginning(text: str, start: str) -> None:
    assert placeholder.found_in(text) == start


@pytest.mark.parametrize("text", NONE)
def test_text_without_a_placeholder_has_none(text: str) -> None:
    assert placeholder.found_in(text) is None


@given(st.text() | st.text("{}@%$<> \na_"))
def test_search_in_any_text_never_raises_and_quotes_nothing_else(text: str) -> None:
    start = placeholder.found_in(text)
    assert start is None or start in {start for _, start in LEFT_IN}


def warnings(**parts: Any) -> list[str]:
    found = advice.warnings_of(InstanceData.from_mapping({"metadata": {}, **parts}))
    return [str(warning).removeprefix("warning: ") for warning in found]


TOLD = "found '{{', an unrendered template placeholder, expected its value: render the template"


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        ({"metadata": {"instance-id": "i-{{ n }}"}}, "metadata.instance-id"),
        ({"metadata": {"tags": ["a", "{{ n }}"]}}, "metadata.tags.1"),
        ({"metadata": {"rack": {"row": "{{ n }}"}}}, "metadata.<4 characters>.<3 characters>"),
        ({"metadata": {"my-password": "{{ n }}"}}, "metadata.<11 characters>"),
        ({"metadata": {"{{ n }}": "a"}}, "metadata.<7 characters>"),
        ({"match": {"name": "{{ n }}"}}, "match.name"),
    ],
    ids=str,
)
def test_placeholder_in_a_value_that_is_served_is_a_warning(parts: Any, key: str) -> None:
    assert warnings(**parts) == [f"{key}: {TOLD}"]


def test_placeholder_in_a_native_network_is_a_warning() -> None:
    network = {"version": 2, "ethernets": {"eth0": {"addresses": ["{{ ip }}"]}}}
    assert [
        told for told in warnings(network=network) if "an unrendered template placeholder" in told
    ]


def test_placeholder_in_user_data_is_none_of_ours() -> None:
    assert warnings(userdata="## template: jinja\n#cloud-config\na: {{ v1.region }}\n") == []


@pytest.mark.parametrize(
    ("name", "hostname"),
    [
        *(("proj-10.0.0.234", "proj-10"), ("web1.5", "web1"), ("10.0.0.5", "ip-10-0-0-5")),
        ("1.2.3", "1"),
    ],
)
@pytest.mark.parametrize("key", ["hostname", "local-hostname"])
def test_hostname_that_cloud_init_cuts_is_a_warning(key: str, name: str, hostname: str) -> None:
    (told,) = warnings(metadata={key: name})
    assert told == (
        f"metadata.{key}: found {name!r}, which cloud-init turns into the host name {hostname!r}, "
        "expected a name without dots, or an FQDN whose last part is not a number"
    )


def test_fqdn_that_linux_does_not_take_whole_is_a_warning() -> None:
    name = f"{'a' * 60}.example.com"
    (told,) = warnings(metadata={"hostname": name})
    assert told.startswith("metadata.hostname: found an FQDN of 72 characters, expected at most 64")


@pytest.mark.parametrize("name", ["web1", "web1.example.com", "10", "010", "web-10-0-0-5"])
def test_hostname_that_cloud_init_sets_is_no_warning(name: str) -> None:
    assert warnings(metadata={"local-hostname": name}) == []


def test_hostname_that_is_not_used_is_no_warning() -> None:
    assert warnings(metadata={"hostname": "10.0.0.5", "local-hostname": "web1"}) == []
