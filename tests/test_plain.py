"""Plain values: what YAML and JSON can write, and what a driver may hand over instead."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.instance.values import plain

TEXTS = st.text(st.characters(codec="utf-8") | st.just("\ud800"))
NUMBERS = st.integers() | st.sampled_from([2**256 - 1, 2**256, -(2**256), 2.5, float("nan")])
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS | st.binary()
VALUES = st.recursive(
    SCALARS,
    lambda below: (
        st.lists(below)
        | st.lists(below).map(tuple)
        | st.dictionaries(TEXTS | NUMBERS | st.none(), below)
        | st.dictionaries(st.tuples(TEXTS), below)
    ),
    max_leaves=10,
)


def nested(levels: int, within: Any) -> Any:
    value: Any = "text"
    for _ in range(levels):
        value = within(value)
    return value


@given(VALUES)
@example(nested(plain.MAX_DEPTH - 1, lambda value: [value]))
@example(nested(plain.MAX_DEPTH, lambda value: {"a": value}))
def test_mapping_of_another_type_has_the_same_faults(value: Any) -> None:
    mapping = {"key": value}
    assert plain.faults_in(MappingProxyType(mapping)) == plain.faults_in(mapping)


@pytest.mark.parametrize("within", [lambda v: [v], lambda v: {"a": v}], ids=["list", "mapping"])
@pytest.mark.parametrize(
    ("levels", "faults"), [(plain.MAX_DEPTH, 0), (plain.MAX_DEPTH + 1, 1), (100_000, 1)]
)
def test_nesting_is_plain_up_to_the_limit(within: Any, levels: int, faults: int) -> None:
    assert len(plain.faults_in(nested(levels, within))) == faults
