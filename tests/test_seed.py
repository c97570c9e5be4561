"""The text of an instance file: YAML with lines, with text as it is written, and with bounds."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.instance.parsing import seed

FILE = """\
# A comment
metadata: &known
  instance-id: 010
  public_keys: [a, 'b', "c\\u00e9"]
network:
  - {name: eth0, mac-address: 001122334455, address: 192.168.1.1/24, mtu: 9000}
  - dhcp: yes
    routes: [{to: 10.0.0.0/8, via: 192.168.1.254, metric: 5}]
userdata: |
  #cloud-config
  a: 1
vendordata: {<<: *known, 12:30: 2024-01-01, ? x : !!binary aGk=}
documents: {securitydata: >-
  folded}
"""
TOKENS = ["{", "[", "? ", "- ", "&a ", "*a", "<<: ", "!!int ", "!!float ", "!!binary ", "!!bool "]
TOKENS += ["!", "!x ", "0x", "1:10", "'", '"', "|", ">", "%", "\n", "\t", "---", "...", ": ", ", "]

TEXTS = st.text()
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
NESTED = st.recursive(
    PLAIN, lambda below: st.lists(below) | st.dictionaries(TEXTS, below), max_leaves=10
)


def value_of(text: str) -> Any:
    read = seed.read(text)
    assert read.faults == ()
    return read.value


def faults_of(text: str) -> list[str]:
    """Each fault as `line: key: found ..., expected ...`, with the key as it was written."""
    return [
        f"{f.line}: {'.'.join(map(str, f.key))}: found {f.found}, expected {f.expected}"
        for f in seed.read(text).faults
    ]


@given(TEXTS | st.text(alphabet="{}[]:,-?&*!|>'\"#%@<~ \n\ta01x._=\0\x85\ufeff"))
def test_read_of_any_text_never_raises(text: str) -> None:
    assert isinstance(seed.read(text), seed.Seed)


@given(
    st.integers(0, len(FILE)),
    st.integers(0, 20),
    st.lists(st.sampled_from(TOKENS) | st.text(max_size=3), max_size=4).map("".join),
)
def test_read_of_a_file_changed_anywhere_never_raises(start: int, cut: int, put: str) -> None:
    text = FILE[:start] + put + FILE[start + cut :]
    assert isinstance(seed.read(text), seed.Seed)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a: !!int ''", id="int-of-nothing"),
        pytest.param("a: !!int _", id="int-of-an-underscore"),
        pytest.param("a: !!float ''", id="float-of-nothing"),
        pytest.param("a: !!float abc", id="float-of-letters"),
        pytest.param("a: !!bool maybe", id="bool-of-another-word"),
        pytest.param("a: !!binary é", id="binary-of-no-base64"),
        pytest.param("a: 0x_", id="hexadecimal-of-nothing"),
        pytest.param(f"a: {'9' * 5000}", id="int-of-5000-digits"),
        pytest.param(f"a: 1{':10' * 300}.5", id="sexagesimal-beyond-float"),
        pytest.param("{" * 1000, id="open-mappings"),
        pytest.param("[" * 1000, id="open-lists"),
        pytest.param("? " * 1000, id="open-keys"),
        pytest.param("- " * 1000, id="open-items"),
        pytest.param("a: \ud800", id="lone-surrogate"),
        pytest.param('a: "\\ud800"', id="escaped-lone-surrogate"),
        pytest.param("a: \0", id="nul"),
        pytest.param("a: *b", id="alias-of-nothing"),
        pytest.param("&a [*a]", id="alias-of-itself"),
        pytest.param("%YAML 3.0\n---\n", id="another-yaml"),
        pytest.param("a: !!timestamp 2024-01-01", id="timestamp-tag"),
        pytest.param("a: !!python/name:os.system x", id="python-tag"),
        pytest.param("!!set {a}", id="set"),
        pytest.param("a: {<<: 5}", id="merge-of-a-number"),
        pytest.param("[a]: b", id="list-as-a-key"),
    ],
)
def test_read_of_bad_yaml_returns_a_fault(text: str) -> None:
    assert seed.read(text).faults


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"userdata: {{0x{'f' * 5000}: 1}}", id="as-a-key"),
        pytest.param(f"userdata: {{a: 0x{'f' * 5000}}}", id="as-a-value"),
        pytest.param(f"network: {{0x{'f' * 5000}: 1}}", id="as-a-key-of-ours"),
    ],
)
def test_read_of_an_endless_number_never_raises(text: str) -> None:
    assert isinstance(seed.read(text), seed.Seed)


@given(NESTED)
@example("2024-01-01")
@example(["=", "<<", "~", "yes", "0o7", "1e3", "12:30", "\u2028\x85\ufeff😀"])
def test_read_of_a_dumped_value_gives_the_value(value: Any) -> None:
    written = {"userdata": value, "network": {"version": 2, "a": value}}
    assert value_of(yaml.safe_dump(written)) == written


WRITTEN = [
    "2024-01-01",
    "010",
    "0x1F",
    "yes",
    "no",
    "true",
    "1.10",
    "1e3",
    "12:30",
    "1_000",
    "=",
    ".5",
]


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize(
    "place",
    [
        "metadata: {instance-id: %s}",
        "metadata: {instance_id: %s}",
        "metadata: {ami-id: %s}",
        "metadata: {region: %s}",
        "metadata: {availability-zone: %s}",
        "metadata: {hostname: %s}",
        "metadata: {local-hostname: %s}",
        "metadata: {tags: [%s]}",
        "metadata: {tags: {build: %s}}",
        "metadata: {public-keys: %s}",
        "network: {name: %s}",
        "network: {search: %s}",
        "network: {nameservers: [%s]}",
        "network: [{mac_address: %s}]",
        "network: {routes: [{to: %s}]}",
        "match: {name: %s}",
        "userdata-file: %s",
        "documents: {a: %s}",
    ],
)
def test_text_key_has_its_scalar_as_it_is_written(place: str, written: str) -> None:
    value = value_of(place % written)
    while not isinstance(value, str | int | float):
        (value,) = value.values() if isinstance(value, dict) else value
    assert value == written


def test_text_key_in_a_merge_has_its_scalar_as_it_is_written() -> None:
    assert value_of("metadata: {<<: {instance-id: 010}}") == {"metadata": {"instance-id": "010"}}


@pytest.mark.parametrize("written", WRITTEN)
def test_name_of_a_tag_is_as_it_is_written(written: str) -> None:
    assert value_of(f"metadata: {{tags: {{{written}: x}}}}") == {
        "metadata": {"tags": {written: "x"}}
    }


@pytest.mark.parametrize("written", ["~", "null", ""])
def test_text_key_without_a_value_is_none(written: str) -> None:
    assert value_of(f"metadata: {{instance-id: {written}}}") == {"metadata": {"instance-id": None}}


@pytest.mark.parametrize("written", ["! ~", "! null", "'~'", "!!str ~"])
def test_text_key_with_a_word_for_nothing_that_is_said_to_be_text_is_text(written: str) -> None:
    value = value_of(f"metadata: {{instance-id: {written}}}")["metadata"]["instance-id"]
    assert value == written.split()[-1].strip("'")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("9000", 9000),
        ("010", 8),
        ("0x1F", 31),
        ("12:30", 750),
        ("1.5", 1.5),
        ("yes", True),
        ("~", None),
        ("2024-01-01", "2024-01-01"),
        ("!!str 010", "010"),
        ("'010'", "010"),
        ("! 010", "010"),
        ("!!int '010'", 8),
        ("!!binary aGk=", b"hi"),
    ],
)
def test_other_key_has_the_value_that_yaml_gives_it(written: str, value: object) -> None:
    assert value_of(f"userdata: {{a: {written}}}") == {"userdata": {"a": value}}


def test_text_key_with_a_binary_tag_is_bytes() -> None:
    assert value_of("documents: {a: !!binary aGk=}") == {"documents": {"a": b"hi"}}


def test_alias_has_the_value_of_its_anchor() -> None:
    assert value_of("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}


def test_merge_lies_under_the_keys_of_its_mapping() -> None:
    text = "a: &x {k: 1, l: 1}\nb: &y {l: 2, m: 2}\nc: {<<: [*x, *y], m: 3}\n"
    assert value_of(text)["c"] == {"k": 1, "l": 1, "m": 3}


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "~"])
def test_read_of_an_empty_file_is_none(text: str) -> None:
    assert value_of(text) is None


TWICE = "found a duplicate key (the first is on line"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param(
            "a: 1\nb: 2\na: 3\n",
            f"3: a: {TWICE} 1)",
            id="twice",
        ),
        pytest.param(
            "a:\n  b: 1\n  b: 1\n",
            f"3: a.b: {TWICE} 2)",
            id="twice-below",
        ),
        pytest.param("a: {1: x, 0x1: x}", "1: a.1: found a duplicate key", id="twice-as-a-number"),
        pytest.param("a: 1\n--- b\n", "2: : found a second YAML document", id="second-document"),
        pytest.param("a:\n  - b\n  - *c\n", "3: a.1: found an alias", id="alias"),
        pytest.param("a: 1\nb: !x 1\n", "2: b: found a tag", id="tag"),
        pytest.param("a: 1\nb: !x {}\n", "2: b: found a tag", id="tag-of-a-mapping"),
        pytest.param("a: 1\nb: 0x_\n", "2: b: found an invalid !!int", id="no-int"),
        pytest.param("a:\n  ? [b]\n  : c\n", "2: a: found a list as a key", id="list-as-a-key"),
        pytest.param("a:\n  <<: 5\n", "2: a.<<: found a number, expected a mapping", id="merge"),
        pytest.param("a: 1\nb: [\n", "2: b: found a [ that is not closed", id="open-list"),
        pytest.param("a: 1\n\tb: 2\n", "2: a: found a tab, expected spaces", id="tab"),
        pytest.param("a: 1\nb: 2: 3\n", "2: : found a second ': ' on one line", id="colon"),
        pytest.param("a: 1\nb: \0\n", "2: : found a NUL character", id="nul"),
        pytest.param("a: éé\nb: \0\nc: 1\nd: 1\n", "2: : found a NUL character", id="nul-behind-é"),
    ],
)
def test_fault_has_its_line_and_key(text: str, fault: str) -> None:
    assert [told[: len(fault)] for told in faults_of(text)] == [fault]


def test_every_fault_of_a_file_is_reported() -> None:
    text = "a: 1\na: 2\nb: !x 1\nc: *d\n"
    assert [fault.line for fault in seed.read(text).faults] == [2, 3, 4]


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ((), 1),
        (("a",), 1),
        (("a", "b-c"), 2),
        (("a", "b_c"), 2),
        (("a", "list", 1), 5),
        (("a", "list", 1, "d"), 6),
        (("a", "list", 7), 3),
        (("a", "missing", "below"), 1),
        (("missing",), 1),
    ],
    ids=str,
)
def test_line_of_a_key_is_its_own_or_that_of_what_it_stands_in(key: seed.Key, line: int) -> None:
    read = seed.read("a:\n  b_c: 1\n  list:\n    - 1\n    - c: 1\n      d: 2\n")
    assert read.line(key) == line


@pytest.mark.parametrize(
    ("key", "has"), [(("a",), True), (("a", "b-c"), True), (("a", 0), False), (("b",), False)]
)
def test_has_returns_whether_the_file_has_a_key(key: seed.Key, has: bool) -> None:
    assert seed.read("a: {b_c: 1}").has(key) is has


def test_nesting_within_the_limit_is_read() -> None:
    depth = seed.MAX_DEPTH
    assert seed.read("[" * depth + "]" * depth).faults == ()


@pytest.mark.parametrize("opened", ["[%s]", "{a: %s}"], ids=["lists", "mappings"])
def test_nesting_beyond_the_limit_is_one_fault(opened: str) -> None:
    text = "x"
    for _ in range(seed.MAX_DEPTH + 1):
        text = opened % text
    (fault,) = seed.read(text).faults
    assert fault.found == "too many levels of nesting"


def alias_bomb(scalar: str, width: int, levels: int) -> str:
    lines = [f"l0: &l0 {scalar}"]
    for level in range(1, levels + 1):
        below = ", ".join([f"*l{level - 1}"] * width)
        lines.append(f"l{level}: &l{level} [{below}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(alias_bomb("x", 10, 9), id="billion-laughs"),
        pytest.param(alias_bomb("x" * 100_000, 10, 2), id="characters"),
        pytest.param(f"[{'x, ' * seed.MAX_NODES}x]", id="values-without-aliases"),
    ],
)
def test_expansion_beyond_the_limit_is_one_fault(text: str) -> None:
    (fault,) = seed.read(text).faults
    assert fault.found == "too much data after expanding aliases"
    assert fault.expected == "at most 100,000 values and 8,388,608 characters in total"


def test_expansion_of_aliases_within_the_limit_is_read() -> None:
    assert len(value_of(alias_bomb("x", 10, 3))["l3"]) == 10
