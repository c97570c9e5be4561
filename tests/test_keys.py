"""The keys of an instance file: `-` or `_`, and unknown ones."""

from __future__ import annotations

from typing import Any

import pytest

from vmw_cloudinit_metadata.instance.keys import (
    FILE_LEVEL,
    TOP_LEVEL,
    canonical,
    misplaced_faults,
)
from vmw_cloudinit_metadata.instance.keyspelling import unknown_faults
from vmw_cloudinit_metadata.instance.metadata.fields import MATCH_KEYS, METADATA_KEYS
from vmw_cloudinit_metadata.instance.network import shortform


@pytest.mark.parametrize(
    ("place", "names"),
    [
        pytest.param((), {"userdata-file", "vendordata-file"}, id="top-level"),
        pytest.param(("metadata",), METADATA_KEYS, id="metadata"),
        pytest.param(("match",), MATCH_KEYS, id="match"),
        pytest.param(("network",), shortform.KEYS, id="network"),
        pytest.param(("network", 1), shortform.KEYS, id="interface"),
    ],
)
def test_every_known_key_may_be_written_with_underscores(place: Any, names: Any) -> None:
    def put(below: Any) -> Any:
        for part in reversed(place):
            below = {part: below} if isinstance(part, str) else [None] * part + [below]
        return below

    written = {name.replace("-", "_"): "x" for name in names}
    assert canonical(put(written)) == (put(dict.fromkeys(names, "x")), [])


@pytest.mark.parametrize(
    "seed",
    [
        {"metadata": {"my_key": 1, "a-b_c": 2, 5: 3}},
        {"network": {"version": 1, "config": [{"mac_address": "x"}]}},
        {"network": {"version": 2, "on_link": 1}},
        {"network": {"routes": [{"a_b": 1}]}},
        {"network": ["text", None]},
        {"userdata": {"instance_id": 1}},
        {"metadata": ["instance_id"], "match": None, "network": "mac_address"},
        {"a_b": 1, None: 2},
    ],
    ids=str,
)
def test_every_other_key_stays_as_it_is_written(seed: Any) -> None:
    assert canonical(seed) == (seed, [])


@pytest.mark.parametrize(
    ("seed", "key"),
    [
        ({"userdata-file": "a", "userdata_file": "b"}, ("userdata-file",)),
        ({"metadata": {"ami-id": "a", "ami_id": "b"}}, ("metadata", "ami-id")),
        ({"match": {"vc_uuid": "a", "vc-uuid": "b"}}, ("match", "vc-uuid")),
        ({"network": {"on-link": True, "on_link": True}}, ("network", "on-link")),
        ({"network": [{}, {"on_link": True, "on-link": True}]}, ("network", 1, "on-link")),
    ],
    ids=str,
)
def test_key_in_both_forms_is_a_fault(seed: Any, key: Any) -> None:
    (fault,) = canonical(seed)[1]
    assert (fault.key, fault.expected) == (key, "each key once")


@pytest.mark.parametrize("name", ["ami-id", "ami_id"])
def test_canonical_is_another_mapping_on_every_level(name: str) -> None:
    seed = {"metadata": {name: "a"}, "match": {}, "network": {"mtu": 9000}}
    parts = canonical(seed)[0]
    for part in parts.values():
        part["x"] = 1
    parts["x"] = 1
    assert seed == {"metadata": {name: "a"}, "match": {}, "network": {"mtu": 9000}}


def test_canonical_leaves_its_argument_alone() -> None:
    seed = {"metadata": {"ami_id": "a"}, "network": [{"on_link": True}]}
    canonical(seed)
    assert seed == {"metadata": {"ami_id": "a"}, "network": [{"on_link": True}]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("metdata", "'metadata'"), ("Network", "'network'"), (None, "one of "), (5, "one of ")],
)
def test_unknown_key_is_a_fault_with_the_nearest_name(name: Any, expected: str) -> None:
    (fault,) = unknown_faults({"metadata": {}, name: 1}, TOP_LEVEL)
    assert fault.key == (str(name),)
    assert fault.expected.startswith(expected)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *((name, "metadata") for name in METADATA_KEYS),
        *((name.replace("-", "_"), "metadata") for name in METADATA_KEYS),
        *((name, "network") for name in sorted(shortform.KEYS - {"name"})),
        *((name, "network") for name in ("version", "ethernets", "config", "bonds")),
        *((name, "match") for name in ("vc-uuid", "bios_uuid")),
        *((name, "userdata") for name in ("packages", "runcmd", "write_files", "users")),
    ],
)
def test_key_of_a_part_on_the_top_level_is_reported_with_its_place(name: str, part: str) -> None:
    (fault,) = misplaced_faults({name: "x"}, FILE_LEVEL)
    expected = f"it below {part}:"
    assert str(fault) == f"{name}: found {name!r} at the top level, expected {expected}"


@pytest.mark.parametrize("name", ["x-", "x-net", "x-a_b"])
def test_key_of_the_top_level_for_anchors_is_no_fault(name: str) -> None:
    assert list(misplaced_faults({name: {"password": "y"}}, TOP_LEVEL)) == []


@pytest.mark.parametrize("name", ["xnet", "x", "x_net", "X-net"])
def test_key_of_the_top_level_that_nearly_is_for_anchors_is_a_fault(name: str) -> None:
    assert len(list(misplaced_faults({name: 1}, TOP_LEVEL))) == 1


@pytest.mark.parametrize("character", ["\u00a0", "\u3000", "\u200b", "\ufeff"], ids=ascii)
def test_key_with_a_character_that_looks_like_a_space_is_reported(character: str) -> None:
    (fault,) = unknown_faults({f"{character}rack of it": 1}, TOP_LEVEL)
    assert fault.found == f"a key with the character U+{ord(character):04X}"
