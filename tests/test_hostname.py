"""Host names: which text is one, and which one a VM's name gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cloudinit import CloudInit
from vmw_cloudinit_metadata.instance.metadata.hostname import (
    hostname_of,
    is_hostname,
    is_whole,
    set_by_cloud_init,
)

NEARLY_NAMES = st.text(alphabet="aZ09-._ é\n", max_size=80)


def is_legal(name: str) -> bool:
    """RFC 1123, said in another way than the program says it."""
    return 0 < len(name) <= 253 and all(
        0 < len(label) <= 63
        and label.isascii()
        and label.replace("-", "").isalnum()
        and label[0] != "-" != label[-1]
        for label in name.split(".")
    )


@given(st.text() | NEARLY_NAMES)
def test_hostname_of_any_vm_name_is_legal_or_none(vm_name: str) -> None:
    name = hostname_of(vm_name)
    assert name is None or is_legal(name)


@given(st.text() | NEARLY_NAMES)
def test_is_hostname_of_any_text_says_what_the_rfc_says(text: str) -> None:
    assert is_hostname(text) == is_legal(text)


LEGAL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z0-9]{1,20}){0,3}", fullmatch=True)


@given(LEGAL)
def test_hostname_of_a_legal_host_name_is_that_name_unless_it_ends_with_a_number(name: str) -> None:
    is_number = name.rpartition(".")[2].isdigit()
    assert hostname_of(name) == (name.replace(".", "-")[:63] if is_number else name)


@pytest.mark.parametrize(
    ("vm_name", "hostname"),
    [
        pytest.param("web1", "web1", id="plain"),
        pytest.param("web1.example.com", "web1.example.com", id="fqdn"),
        pytest.param("xn--bcher-kva", "xn--bcher-kva", id="two-hyphens"),
        pytest.param("a- -b", "a-b", id="hyphens-and-a-space"),
        pytest.param("Web Server_1", "Web-Server-1", id="space-and-underscore"),
        pytest.param("Bücher", "Bucher", id="umlaut"),
        pytest.param("ﬁle①", "file1", id="compatibility-forms"),
        pytest.param("a%2fb%5Cc%25", "a-b-c", id="vcenter-escapes"),
        pytest.param("web (copy)", "web-copy", id="nothing-at-the-end"),
        pytest.param("..web..1..", "web-1", id="empty-labels"),
        pytest.param("a" * 300, "a" * 63, id="long-label"),
        pytest.param("a" * 62 + " b", "a" * 62, id="cut-at-a-hyphen"),
        pytest.param("proj-10.0.0.234", "proj-10-0-0-234", id="ends-with-an-address"),
        pytest.param("10.0.0.5", "10-0-0-5", id="address"),
        pytest.param("web1.5", "web1-5", id="ends-with-a-number"),
        pytest.param("Ubuntu 22.04", "Ubuntu-22-04", id="version"),
        pytest.param("Ubuntu 22.04 LTS", "Ubuntu-22-04-LTS", id="version-and-a-word"),
        pytest.param("web1.example.com (copy)", "web1-example-com-copy", id="copy-of-an-fqdn"),
        pytest.param("vm_1.2.example.com", "vm-1.2.example.com", id="fqdn-with-a-number"),
        pytest.param("web1.example.com.", "web1.example.com", id="dot-at-the-end"),
        pytest.param("日本", None, id="nothing-left"),
        pytest.param("..", None, id="dots"),
        pytest.param("", None, id="empty"),
    ],
)
def test_hostname_of_vm_name_keeps_what_it_can(vm_name: str, hostname: str | None) -> None:
    assert hostname_of(vm_name) == hostname


def test_hostname_of_a_very_long_fqdn_is_cut_to_253_characters() -> None:
    name = hostname_of(".".join(["a" * 60] * 10))
    assert name is not None
    assert len(name) == 253
    assert is_legal(name)


@pytest.mark.parametrize(
    "text",
    ["web1", "WEB-1.example.com", "010", "1.10", "a" * 63, ".".join(["a" * 62] * 4)],
)
def test_is_hostname_of_legal_name_is_true(text: str) -> None:
    assert is_hostname(text)


@pytest.mark.parametrize(
    "text",
    ["", "-web", "web-", "web_1", "web 1", "a..b", "web.", "bücher", "web\n", "a" * 64],
)
def test_is_hostname_of_illegal_name_is_false(text: str) -> None:
    assert not is_hostname(text)


@given(st.text() | NEARLY_NAMES)
def test_hostname_with_dots_does_not_end_with_a_number(vm_name: str) -> None:
    name = hostname_of(vm_name) or ""
    assert "." not in name or not name.rpartition(".")[2].isdigit()


@given(
    st.lists(st.integers(0, 255), min_size=4, max_size=4, unique=True), st.sampled_from(["", "p-"])
)
def test_names_that_end_with_addresses_have_host_names_of_their_own(
    numbers: list[int], prefix: str
) -> None:
    a, b, c, d = numbers
    names = [f"{prefix}{a}.{b}.{c}.{last}" for last in (c, d)]
    hostnames = {set_by_cloud_init(hostname_of(name) or "") for name in names}
    assert len(hostnames) == 2


@pytest.mark.parametrize(
    ("vm_name", "whole"),
    [
        *(("web1.example.com", True), ("Bücher", True), ("Web Server_1", True), ("a%2fb", True)),
        *(("日本", False), ("サーバー01", False), ("Straße", False), ("web.日本", False)),
        *(("a" * 63, True), ("a" * 64, False)),
    ],
)
def test_hostname_is_whole_if_it_has_all_letters_and_digits(vm_name: str, whole: bool) -> None:
    assert is_whole(vm_name) is whole


HOSTNAMES = ["web1", "web1.example.com", "10.0.0.5", "proj-10.0.0.234", "web1.5", "1.2.3", "10"]


@pytest.mark.slow
def test_host_name_is_the_one_that_cloud_init_sets(cloud_init: CloudInit) -> None:
    assert cloud_init.hostnames(HOSTNAMES) == [set_by_cloud_init(name) for name in HOSTNAMES]
