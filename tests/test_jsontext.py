"""JSON as an instance file: what it says there is what it says to us."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.instance.parsing import jsontext, seed

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_NUMBERS = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=15,
)


def read(text: str) -> Any:
    assert jsontext.fault_of(text) is None
    found = seed.read(jsontext.as_yaml(text), schema={})
    assert found.faults == ()
    return found.value


@given(
    st.dictionaries(_TEXTS, _VALUES, max_size=4), st.booleans(), st.sampled_from([None, 1, "\t"])
)
@example({"0:0": None}, False, None)  # no slip, as it would be without the quotes
def test_law_json_is_read_as_json_reads_it(value: Any, is_ascii: bool, indent: Any) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent)
    assert read(text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\ud83d\ude80"', "\U0001f680"),
        (r'"\uD83D\uDE80\uD83D\uDE80"', "\U0001f680" * 2),
        (r'"\\ud83d\\ude80"', r"\ud83d\ude80"),
        (r'"\\\ud83d\ude80"', "\\\U0001f680"),
        (r'"a\/b"', "a/b"),
        ('"\x7f\x85\u2028\ufeff"', "\x7f\x85\u2028\ufeff"),
        ("1e5", 1e5),
        ("-1E-5", -1e-5),
        ("1.5e+3", 1500.0),
        ("12", 12),
        ('"1e5"', "1e5"),
    ],
)
def test_value_of_json_is_read(text: str, value: object) -> None:
    assert read(f'{{"x": {text}}}') == {"x": value}
    assert read(f'{{"x"\n\t: [{text} ]\n}}') == {"x": [value]}


def test_line_of_a_key_stays() -> None:
    text = '{\n"a"\n:\n"\\ud83d\\ude80",\n"b": 1}'
    found = seed.read(jsontext.as_yaml(text), schema={})
    assert (found.line(("a",)), found.line(("b",))) == (2, 5)


@pytest.mark.parametrize(
    ("text", "found", "line", "column"),
    [
        ('{"a": 1,\n}', "invalid JSON (", 2, None),
        ("{'a': 1}", "invalid JSON (", 1, 2),
        ("metadata: {}", "invalid JSON (", 1, 1),
        ("", "invalid JSON (", 1, 1),
        ('{"a": "b",\n "c": "\\ud83d"}', "half of a surrogate pair", 2, 8),
        ('{"\\\\ud83d": "\\ud83d\\ude80 \\ude80"}', "half of a surrogate pair", 1, 27),
        ('{"a": NaN}', "invalid JSON (NaN is not a JSON number)", 1, 0),
    ],
)
def test_what_is_no_json_is_reported_with_its_place(
    text: str, found: str, line: int, column: int | None
) -> None:
    fault = jsontext.fault_of(text)
    assert fault is not None
    assert fault.found.startswith(found)
    assert fault.line == line
    assert column is None or fault.column == column


@pytest.mark.parametrize(
    "text",
    [
        '{"a": ' + "1" * 1_000_000 + "}",
        '{"a": 1' + " " * 1_000_000 + "}",
        '{"a": "' + "\\\\" * 500_000 + '"}',
        '{"a": "' + r"\ud83d\ude80" * 80_000 + '"}',
    ],
    ids=["digits", "blanks", "backslashes", "pairs"],
)
def test_json_is_read_in_time_that_grows_as_the_text(text: str) -> None:
    began_s = time.thread_time()
    assert jsontext.fault_of(text) is None
    jsontext.as_yaml(text)
    assert time.thread_time() - began_s < 2


def test_deep_nesting_is_left_to_the_reader() -> None:
    text = '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"
    assert jsontext.fault_of(text) is None
    assert seed.read(jsontext.as_yaml(text)).faults
