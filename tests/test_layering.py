"""Layers, their pure part: merging and its laws, conditions, and substitution."""

from __future__ import annotations

import re
import time
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.instance.layering import patch
from vmw_cloudinit_metadata.instance.layering.condition import condition_of, warnings_in
from vmw_cloudinit_metadata.instance.layering.patch import Mark, merged, over, patch_of, settled
from vmw_cloudinit_metadata.instance.layering.substitution import sources_of, substituted
from vmw_cloudinit_metadata.protocol.vmware import MAX_NAME_BYTES, Machine

VC = "11111111-1111-1111-1111-111111111111"

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
PARTS = st.recursive(
    SCALARS, lambda below: st.dictionaries(st.sampled_from("abc"), below), max_leaves=8
)
MAPPINGS = st.dictionaries(st.sampled_from(["metadata", "match", "x", "y"]), PARTS)

# Layers: lists too, and lists that are appended. `a` and `a+` in one mapping are a fault.
LISTS = st.lists(st.integers(0, 9), max_size=2)


def with_lists(below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    appended = st.dictionaries(st.sampled_from(["a+", "b+"]), LISTS)
    plain = st.dictionaries(st.sampled_from("abc"), below | LISTS)
    return st.builds(
        lambda one, other: {k: v for k, v in one.items() if f"{k}+" not in other} | other,
        plain,
        appended,
    )


DATA = with_lists(st.recursive(SCALARS, with_lists, max_leaves=6))
NETWORKS = st.sampled_from(
    [
        None,
        {"address": "a"},
        {"nameservers+": ["b"]},
        {"nameservers": ["c"], "mtu": 1},
        {"version": 2, "ethernets": {"a": {}}},
        {"version": 2, "ethernets": {"b": {}}},
        {"config": "disabled"},
        [{"dhcp": True}],
    ]
)
LAYERS = st.fixed_dictionaries(
    {},
    optional={
        "metadata": DATA,
        "userdata": DATA | st.sampled_from(["text", None]),
        "userdata-file": st.sampled_from(["f", None]),
        "network": NETWORKS,
        "documents": DATA,
    },
)


def patches_of(*layers: Any) -> list[Any]:
    return [patch_of(layer)[0] for layer in layers]


@given(LAYERS, LAYERS, LAYERS)
def test_merging_is_associative(a: Any, b: Any, c: Any) -> None:
    one, two, three = patches_of(a, b, c)
    left, right = over(over(one, two), three), over(one, over(two, three))
    assert settled(left) == settled(right)
    assert left == right


KINDS: list[dict[str, Any]] = [
    *({}, {"k": None}, {"k": "t"}, {"k": ["a"]}, {"k+": ["b"]}, {"k+": ["c"]}, {"k": {}}),
    *({"k": {"x": "t"}}, {"k": {"x": None}}, {"k": {"x": ["a"]}}, {"k": {"x+": ["b"]}}),
]


@pytest.mark.parametrize("part", ["metadata", "userdata"])
def test_merging_of_every_kind_over_every_other_is_associative(part: str) -> None:
    patches = patches_of(*({part: kind} for kind in KINDS), {part: None}, {part: "text"}, {})
    for one, two, three in product(patches, repeat=3):
        left, right = over(over(one, two), three), over(one, over(two, three))
        assert left == right
        assert repr(settled(left)) == repr(settled(right))


@given(st.lists(LAYERS, max_size=4), st.randoms())
def test_order_of_keys_makes_no_difference(layers: Any, random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        items = [(name, shuffled(item)) for name, item in value.items()]
        random.shuffle(items)
        return dict(items)

    assert merged(*layers) == merged(*map(shuffled, layers))


@given(st.lists(LAYERS, max_size=4))
def test_merging_changes_no_layer(layers: Any) -> None:
    patches = patches_of(*layers)
    before = repr(patches)
    patch.stacked(patches)
    assert repr(patches) == before


@given(st.lists(LAYERS, min_size=1, max_size=4))
def test_history_of_each_leaf_ends_with_its_value(layers: Any) -> None:
    patches = patches_of(*layers)
    mapping, _ = settled(patch.stacked(patches))
    for key in patch.leaves(mapping):
        makers, overridden = patch.history(patches, key)
        assert makers
        assert max(overridden, default=-1) < max(makers)
        last = patch.value_at(patches[makers[-1]], key)
        value: Any = mapping
        for part in key:
            value = value[part]
        if value == {}:  # all below it is removed, perhaps
            assert isinstance(last, dict)
        elif isinstance(value, list):
            assert value[len(value) - len(last) :] == last
        else:
            assert value == last


@given(MAPPINGS)
def test_merged_with_nothing_is_the_same(mapping: Any) -> None:
    assert merged({}, mapping) == mapping
    assert merged(mapping, {}) == mapping
    assert merged(mapping, mapping) == mapping


def leaves(value: Any, place: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every value that is no mapping (or an empty one), by where it stands."""
    if not isinstance(value, dict) or not value:
        return {place: value}
    return {
        where: leaf
        for name, below in value.items()
        for where, leaf in leaves(below, (*place, name)).items()
    }


@given(MAPPINGS, MAPPINGS)
def test_merged_has_every_own_value_and_no_other_over_it(defaults: Any, own: Any) -> None:
    result = leaves(merged(defaults, own))
    for where, leaf in leaves(own).items():
        if leaf not in ({}, None):
            assert result[where] == leaf
    for where, leaf in result.items():
        assert leaf in (leaves(own).get(where, leaf), leaves(defaults).get(where), {})


@pytest.mark.parametrize(
    ("defaults", "own", "result"),
    [
        pytest.param(
            {"metadata": {"region": "r", "x": {"a": 1, "b": 1}}},
            {"metadata": {"x": {"b": 2}, "ami-id": "a"}},
            {"metadata": {"region": "r", "x": {"a": 1, "b": 2}, "ami-id": "a"}},
            id="key-by-key",
        ),
        pytest.param(
            {"metadata": {"tags": ["a", "b"]}},
            {"metadata": {"tags": ["c"]}},
            {"metadata": {"tags": ["c"]}},
            id="a-list-as-a-whole",
        ),
        pytest.param(
            {"metadata": {"region": "r"}},
            {"metadata": {"region": None}},
            {"metadata": {}},
            id="null-takes-a-default-away",
        ),
        pytest.param(
            {"network": {"netmask": "255.0.0.0", "nameservers": ["8.8.8.8"]}},
            {"network": {"address": "10.0.0.1"}},
            {
                "network": {
                    "netmask": "255.0.0.0",
                    "nameservers": ["8.8.8.8"],
                    "address": "10.0.0.1",
                }
            },
            id="short-form-under-short-form",
        ),
        pytest.param(
            {"network": {"nameservers": ["8.8.8.8"]}},
            {"network": {"version": 2, "ethernets": {}}},
            {"network": {"version": 2, "ethernets": {}}},
            id="short-form-not-under-a-native-document",
        ),
        pytest.param(
            {"network": {"version": 2, "a": 1}},
            {"network": {"version": 2, "b": 1}},
            {"network": {"version": 2, "a": 1, "b": 1}},
            id="native-under-native",
        ),
        pytest.param(
            {"network": {"address": "10.0.0.1/24"}},
            {"network": {"config": "disabled"}},
            {"network": {"config": "disabled"}},
            id="disabled-over-the-short-form",
        ),
        pytest.param(
            {"network": {"version": 1, "config": "disabled"}},
            {"network": {"version": 1, "config": []}},
            {"network": {"version": 1, "config": []}},
            id="version-over-disabled",
        ),
        pytest.param(
            {"network": {"config": "disabled"}},
            {"network": {"dhcp": True}},
            {"network": {"dhcp": True}},
            id="short-form-over-disabled",
        ),
        pytest.param(
            {"network": {"version": 1, "config": []}},
            {"network": {"version": 2}},
            {"network": {"version": 2}},
            id="another-version",
        ),
        pytest.param(
            {"network": {"nameservers": ["8.8.8.8"]}},
            {"network": [{"dhcp": True}]},
            {"network": [{"dhcp": True}]},
            id="list-as-a-whole-network",
        ),
        pytest.param({"network": {"dhcp": True}}, {"network": None}, {}, id="no-network"),
        pytest.param(
            {"userdata": "a"}, {"userdata-file": "b"}, {"userdata-file": "b"}, id="file-over-text"
        ),
        pytest.param(
            {"userdata-file": "a"}, {"userdata": "b"}, {"userdata": "b"}, id="text-over-file"
        ),
        pytest.param(
            {"userdata": {"a": 1}}, {"userdata": "b"}, {"userdata": "b"}, id="text-over-map"
        ),
        pytest.param(
            {"userdata": {"a": 1, "b": 1}},
            {"userdata": {"b": 2}},
            {"userdata": {"a": 1, "b": 2}},
            id="map-over-map",
        ),
        pytest.param(
            {"vendordata": "a"}, {"userdata": "b"}, {"vendordata": "a", "userdata": "b"}, id="both"
        ),
        pytest.param(
            {"documents": {"a": "1", "b": "1"}},
            {"documents": {"b": "2"}},
            {"documents": {"a": "1", "b": "2"}},
            id="documents",
        ),
    ],
)
def test_own_keys_lie_over_the_defaults(defaults: Any, own: Any, result: Any) -> None:
    assert merged(defaults, own) == result


@pytest.mark.parametrize(
    ("under", "upper", "result"),
    [
        pytest.param(["a"], {"k+": ["b"]}, ["a", "b"], id="over-a-list"),
        pytest.param(None, {"k+": ["b"]}, ["b"], id="over-nothing"),
        pytest.param("a", {"k": {"x": 1}}, {"x": 1}, id="mapping-over-text"),
        pytest.param({"x": 1}, {"k": "a"}, "a", id="text-over-mapping"),
        pytest.param({"x": 1}, {"k": ["a"]}, ["a"], id="list-over-mapping"),
    ],
)
def test_key_lies_over_what_is_below(under: Any, upper: Any, result: Any) -> None:
    below = {} if under is None else {"k": under}
    assert merged({"userdata": below}, {"userdata": upper}) == {"userdata": {"k": result}}


def test_several_layers_append_to_one_list() -> None:
    layers = [{"userdata": {"packages+": [name]}} for name in "abc"]
    assert merged(*layers) == {"userdata": {"packages": ["a", "b", "c"]}}


@pytest.mark.parametrize(
    ("under", "upper"),
    [
        pytest.param({"k": [1]}, {"k": {"x": 1}}, id="mapping-over-list"),
        pytest.param({"k": "a"}, {"k+": ["b"]}, id="appended-to-text"),
        pytest.param({"k": {"x": 1}}, {"k+": ["b"]}, id="appended-to-mapping"),
        pytest.param({"k+": [1]}, {"k": {"x": 1}}, id="mapping-over-appended-list"),
    ],
)
def test_conflict_names_both_layers(under: Any, upper: Any) -> None:
    patches = patches_of({"metadata": {"z": 1}}, {"metadata": under}, {}, {"metadata": upper})
    _, conflicts = settled(patch.stacked(patches))
    assert conflicts == [("metadata", "k")]
    assert patch.conflict_between(patches, conflicts[0]) == (3, 1)


def test_conflict_that_a_higher_layer_replaces_is_none() -> None:
    layers = [{"metadata": {"k": value}} for value in ([1], {"x": 1}, "a")]
    assert settled(patch.stacked(patches_of(*layers))) == ({"metadata": {"k": "a"}}, [])


@pytest.mark.parametrize(
    "data", [{"k+": "text"}, {"k+": ["a"], "k": ["b"]}, {"k+": None}], ids=["text", "both", "null"]
)
def test_appended_value_that_is_no_list_is_a_fault(data: Any) -> None:
    (fault,) = patch_of({"metadata": data})[1]
    assert fault.key == ("metadata", "k+")


def test_key_with_a_plus_in_a_list_is_a_key() -> None:
    data = {"userdata": {"write_files": [{"path+": ["x"]}]}}
    assert merged(data) == data


def test_marks_are_no_values() -> None:
    assert Mark.REMOVED not in merged({"metadata": {"a": 1}}, {"metadata": {"a": None}}).values()


# Conditions


@pytest.mark.parametrize(
    ("match", "machine", "captures"),
    [
        pytest.param(None, Machine(), {}, id="none"),
        pytest.param({"name": "web-*"}, Machine(name="web-1"), {}, id="star"),
        pytest.param({"name": "web-*"}, Machine(name="db-1"), None, id="another-name"),
        pytest.param({"name": "web-*"}, Machine(vc_uuid=VC), None, id="without-name"),
        pytest.param({"name": "web-?"}, Machine(name="web-12"), None, id="one-character"),
        pytest.param({"name": "web.1"}, Machine(name="webx1"), None, id="no-regular-expression"),
        pytest.param({"name": "*-a*b"}, Machine(name="x-a-ab-b"), {}, id="stars"),
        pytest.param(
            {"name": "web-{site}-*"}, Machine(name="web-ber-1"), {"site": "ber"}, id="word"
        ),
        pytest.param(
            {"name": "*-{a}-{b}"}, Machine(name="x-y-1-2"), {"a": "1", "b": "2"}, id="two-words"
        ),
        pytest.param({"name": "web-{site}-*"}, Machine(name="web--1"), None, id="empty-word"),
        pytest.param({"name": "web-{a}"}, Machine(name="web-b\u00fc"), None, id="letters-of-ascii"),
        pytest.param({"name": "a/*"}, Machine(name="a%2fb"), {}, id="spelling"),
        pytest.param({"vc-uuid": VC.upper()}, Machine(vc_uuid=VC), {}, id="vc-uuid"),
        pytest.param({"bios-uuid": VC}, Machine(vc_uuid=VC), None, id="bios-uuid"),
        pytest.param({"query.a": "1"}, Machine(service_uri="u?a=1&b=2"), {}, id="query"),
        pytest.param({"query.a": "1"}, Machine(service_uri="u?a=2"), None, id="another-query"),
        pytest.param({"query.a": "1"}, Machine(service_uri="u"), None, id="without-query"),
        pytest.param({"peer": "10.0.0.0/8"}, Machine(peer_address="10.1.2.3"), {}, id="peer"),
        pytest.param(
            {"peer": "10.0.0.0/8"}, Machine(peer_address="::ffff:10.1.2.3"), {}, id="mapped-peer"
        ),
        pytest.param(
            {"peer": "::ffff:10.0.0.0/104"},
            Machine(peer_address="10.1.2.3"),
            {},
            id="mapped-network",
        ),
        pytest.param({"peer": "fd00::/8"}, Machine(peer_address="10.1.2.3"), None, id="family"),
        pytest.param({"peer": "fe80::/10"}, Machine(peer_address="fe80::1%eth0"), {}, id="scope"),
        pytest.param({"peer": "10.0.0.0/8"}, Machine(), None, id="without-peer"),
        pytest.param({"direction": "server"}, Machine(direction="server"), {}, id="direction"),
        pytest.param(
            {"name": "web*", "query.a": "1"},
            Machine(name="web", service_uri="u?a=2"),
            None,
            id="all",
        ),
    ],
)
def test_condition_holds_for_the_right_machines(match: Any, machine: Any, captures: Any) -> None:
    condition, faults = condition_of(match)
    assert faults == []
    assert condition.captures(machine, machine.query) == captures


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        pytest.param({"nam": "x"}, "'name'", id="unknown"),
        pytest.param(["name"], "a mapping", id="list"),
        pytest.param({"name": ["x"]}, "a string", id="list-of-names"),
        pytest.param({"name": ""}, "a pattern of 1 to 256 characters", id="empty"),
        pytest.param({"name": "x" * 257}, "a pattern of 1 to 256 characters", id="long"),
        pytest.param({"name": "{a}{b}"}, "neither a letter", id="words-in-a-row"),
        pytest.param({"name": "{a}x"}, "neither a letter", id="letter-after-word"),
        pytest.param({"name": "{a}-{a}"}, "each {word} once", id="word-twice"),
        pytest.param({"name": "{a-b}"}, "{WORD} with a word", id="no-word"),
        pytest.param({"vc-uuid": "x"}, "a UUID such as", id="uuid"),
        pytest.param({"peer": "10.0.0.1/8"}, "a network in CIDR form", id="host-bits"),
        pytest.param({"direction": "both"}, "client or server", id="direction"),
        pytest.param({"query.": "x"}, "the name of a key", id="query"),
    ],
)
def test_match_of_a_layer_with_a_fault(match: Any, expected: str) -> None:
    _, (fault,) = condition_of(match)
    assert expected in fault.expected
    assert fault.key[0] == "match"


@pytest.mark.parametrize(
    "match",
    [{"name": VC}, {"query.a": "x" * 1024}],
    ids=["uuid-as-name", "long-query"],
)
def test_match_that_can_never_hold_is_a_warning(match: Any) -> None:
    assert condition_of(match)[1] == []
    (warning,) = warnings_in(match)
    assert warning.is_warning


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("*a" * 127 + "b", "a" * MAX_NAME_BYTES),
        ("*{w}-*-b", "-a" * (MAX_NAME_BYTES // 2)),
        ("*{a}-{b}-{c}-x", "a-" * (MAX_NAME_BYTES // 2)),
        ("?" * 200 + "*b", "a" * MAX_NAME_BYTES),
    ],
)
def test_hostile_name_takes_no_time(pattern: str, name: str) -> None:
    condition, faults = condition_of({"name": pattern})
    assert faults == []
    began_s = time.thread_time()
    assert condition.captures(Machine(name=name), {}) is None
    assert time.thread_time() - began_s < 0.1


# Substitution

BER = Machine(name="web-ber-1", vc_uuid=VC, service_uri="u?profile=web&odd=a%20b")


def text_of(text: str, machine: Machine = BER) -> Any:
    mapping = {"metadata": {"site": "${match.site}", "n": 1}, "userdata": {"a": [text]}}
    result, faults, _ = substituted(mapping, sources_of(machine, {"site": "ber"}))
    return result["userdata"]["a"][0] if not faults else faults[0]


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("a ${vm.name} b", "a web-ber-1 b"),
        ("${vm.vc-uuid}", VC),
        ("${query.profile}", "web"),
        ("${match.site}${match.site}", "berber"),
        ("${metadata.site}-${metadata.n}", "ber-1"),
        ("$${vm.name}", "${vm.name}"),
        ("$$${vm.name}", "$${vm.name}"),
        ("${HOME} ${x.y} $HOME ${match} ${vm}", "${HOME} ${x.y} $HOME ${match} ${vm}"),
        ("${vm.name", "${vm.name"),
        ("${a${vm.name}}", "${aweb-ber-1}"),
    ],
)
def test_reference_gets_its_value(text: str, result: str) -> None:
    assert text_of(text) == result


@pytest.mark.parametrize(
    "text",
    ["${vm.nam}", "${query.other}", "${query.odd}", "${match.x}", "${metadata.x}", "${metadata.}"],
)
def test_reference_without_a_value_is_a_fault(text: str) -> None:
    fault = text_of(f"x {text}")
    assert fault.key == ("userdata", "a", 0)


def test_metadata_refers_to_no_metadata() -> None:
    _, (fault,), _ = substituted(
        {"metadata": {"a": "${metadata.b}", "b": "c"}}, sources_of(BER, {})
    )
    assert "cannot refer to itself" in fault.expected


def test_reference_to_metadata_that_is_not_given_says_so() -> None:
    _, (fault,), _ = substituted({"documents": {"a": "${metadata.b}"}}, sources_of(BER, {}))
    assert fault.expected == "the key of a string or number below metadata, not nothing"


def test_text_of_user_data_is_not_rewritten() -> None:
    mapping = {"metadata": {}, "userdata": "#!/bin/sh\necho ${vm.name} $${x}\n"}
    assert substituted(mapping, sources_of(BER, {})) == (mapping, (), ())


def test_substitution_is_bounded() -> None:
    mapping = {
        "metadata": {"long": "x" * 1_000_000},
        "documents": {"a": "${metadata.long}" * 1000},
    }
    _, (fault,), _ = substituted(mapping, sources_of(BER, {}))
    assert fault.found == "too much data after substitution"


def shape_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: shape_of(item) for name, item in value.items()}
    return [shape_of(item) for item in value] if isinstance(value, list) else type(value)


@given(st.text(max_size=80), st.text(max_size=80))
def test_hostile_names_change_no_structure(name: str, query: str) -> None:
    machine = Machine(name=name, service_uri=f"u?a={query}")
    mapping = {
        "metadata": {"a": "${vm.name}", "b": {"c": ["${query.a}"]}},
        "network": [{"address": "${vm.name}"}],
        "userdata": {"runcmd": [["echo", "${vm.name}"]]},
        "documents": {"x": "${metadata.a}"},
    }
    result, faults, _ = substituted(mapping, sources_of(machine, {}))
    assert shape_of(result) == shape_of(mapping)
    is_safe = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
    if not faults:
        assert is_safe(name)
        assert result["metadata"]["a"] == name
    elif is_safe(name):
        assert result["metadata"]["a"] == name
