"""VMWARE-TELNET-EXT: UUIDs, names, service URIs, and who a machine is."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.protocol.vmware import (
    MAX_NAME_BYTES,
    Machine,
    parse_name,
    parse_uuid,
    serves,
)


@given(st.uuids())
def test_uuid_in_any_form_is_canonical(value: uuid.UUID) -> None:
    pairs = [value.hex[i : i + 2] for i in range(0, 32, 2)]
    vmware = f"{' '.join(pairs[:8])}-{' '.join(pairs[8:])}"
    for text in (vmware, vmware.upper(), str(value), value.hex):
        assert parse_uuid(text) == str(value)


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "g" * 32, "0" * 32 + "\n", "\u0660" * 32])
def test_text_that_is_no_uuid_is_none(text: str) -> None:
    assert parse_uuid(text) is None


@given(st.text(min_size=1, max_size=MAX_NAME_BYTES // 4))
def test_name_may_hold_anything(name: str) -> None:
    assert parse_name(name.encode("utf-8", "replace")) == name.encode("utf-8", "replace").decode()


@pytest.mark.parametrize("argument", [b"", b"x" * (MAX_NAME_BYTES + 1), b"\xff", b"\xed\xa0\x80"])
def test_name_that_is_unusable_is_none(argument: bytes) -> None:
    assert parse_name(argument) is None


@pytest.mark.parametrize(
    ("uri", "is_served"),
    [("a", True), ("a?x=1", True), ("a?", True), ("b?x", False), ("c?d", True), ("A", False)],
)
def test_service_uri_is_served_exactly_or_with_a_query(uri: str, is_served: bool) -> None:
    assert serves(uri, frozenset({"a", "c?d"})) is is_served


def test_machine_has_the_query_of_its_uri() -> None:
    assert Machine(service_uri="a?profile=web&x=&y=%20").query == {
        "profile": "web",
        "x": "",
        "y": " ",
    }


def test_machines_that_differ_in_their_time_are_equal() -> None:
    now, epoch = datetime.now(UTC), datetime.fromtimestamp(0, UTC)
    first, second = Machine("a", connected_since=now), Machine("a", connected_since=epoch)
    assert (first, hash(first)) == (second, hash(second))


@given(st.text())
def test_machine_in_a_log_is_one_printable_line(name: str) -> None:
    assert str(Machine(name=name)).isprintable()
