"""Messages about files that are not YAML, or not what they should be, as a person reads them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import mistakes
from tests.laws import cases
from vmw_cloudinit_metadata.instance.parsing import seed, syntax

GOOD = """\
# web1
x-net: &net {nameservers: [10.0.0.53], search: a.example}
metadata:
  instance-id: i-1
  public-keys: ["ssh-ed25519 AAAA admin", 'b']
  tags: {role: web, tier: "1"}
network:
  - {<<: *net, name: eth0, address: 10.0.0.5/24}
  - name: eth1
    dhcp: true
userdata: |
  #cloud-config
  password: QX7ZJ9KW8VQ
vendordata: "#!/bin/sh\\necho"
documents:
  keys: 'a'
"""
# What libyaml says, and nobody should have to read.
RAW = (
    *("did not find", "could not find", "not allowed in this context", "cannot start any token"),
    *("while scanning", "while parsing", "block mapping", "flow", "node content", "scalar"),
    *("simple key", "<document start>", "unexpected", "indicator", "token"),
)
PIECES = [*"{}[]:,-?&*!|>'\"#%@` \n\t\\<~=.0a\0\x01\x85\u2028\u00a0é"]
PIECES += ["{{ x }}", "${x}", ": ", "- "]


@pytest.mark.parametrize(
    "mistake", list(mistakes.read(mistakes.PAGE.read_text())), ids=lambda m: m.title
)
def test_mistake_is_reported_as_on_the_page(tmp_path: Path, mistake: mistakes.Mistake) -> None:
    assert mistakes.told_of(tmp_path, "web1", mistake.file.encode()) == mistake.told


def check_told(text: str) -> None:
    lines = re.split("\r\n|\r|\n", text)
    read = seed.read(text)
    for fault in (read.located(fault, "web1.yaml") for fault in read.faults):
        told = str(fault)
        assert not [words for words in RAW if words in told]
        assert "QX7ZJ9KW8VQ" not in told
        assert 1 <= fault.line <= len(lines)
        assert 0 <= fault.column <= len(lines[fault.line - 1]) + 1


@given(st.integers(0, len(GOOD)), st.integers(0, 3), st.lists(st.sampled_from(PIECES), max_size=2))
@settings(max_examples=cases(400))
def test_fault_of_a_file_changed_anywhere_is_reported_in_plain_words_within_the_file(
    start: int, cut: int, put: list[str]
) -> None:
    check_told(GOOD[:start] + "".join(put) + GOOD[start + cut :])


@given(st.text("{}[]:,-?&*!|>'\"#%@`a \n\t\\", max_size=30))
@settings(max_examples=cases(300))
@example("%YAML 1.1\n%YAML 1.1\n---\n")
@example("%a")
@example("? a\n? b\n: c\n: d\n")
@example("a: &x &y b\n")
def test_fault_of_any_text_of_signs_is_reported_in_plain_words_within_it(text: str) -> None:
    check_told(text)


def deletions() -> list[str]:
    return [GOOD[:at] + GOOD[at + 1 :] for at in range(len(GOOD))]


def insertions() -> list[str]:
    return [GOOD[:at] + sign + GOOD[at:] for at in range(len(GOOD)) for sign in "{}[]:'\"\t@%"]


@pytest.mark.parametrize("texts", [deletions, insertions], ids=["deleted", "inserted"])
def test_one_wrong_character_has_a_reason_nearly_always(texts: Callable[[], list[str]]) -> None:
    changed = texts()
    faults = [fault for text in changed for fault in seed.read(text).faults]
    unknown = [fault for fault in faults if fault.found == "invalid YAML"]
    assert len(faults) > len(changed) / 20
    assert len(unknown) <= len(faults) / 50


@pytest.mark.parametrize(
    ("text", "index", "place"),
    [
        ("a\nbc", 3, (2, 2)),
        ("a\r\nbc", 4, (2, 2)),
        ("a\rbc", 3, (2, 2)),
        ("a\u2028b\nc", 4, (2, 1)),
        ("", 0, (1, 1)),
    ],
)
def test_place_is_that_of_an_editor(text: str, index: int, place: tuple[int, int]) -> None:
    assert syntax.place_at(text, index) == place


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029"], ids=ascii)
def test_line_of_a_key_behind_a_break_of_yaml_alone_is_that_of_an_editor(separator: str) -> None:
    read = seed.read(f"a: 'x{separator}{separator}y'\nb:\n  c: 1\n  c: 2\n")
    assert read.line(("b", "c")) == 3
    assert [(fault.line, fault.column) for fault in read.faults] == [(4, 3)]


ENCODED = [
    pytest.param("utf-16", "UTF-16", id="utf-16"),
    pytest.param("utf-16-le", "UTF-16LE", id="utf-16-le-without-a-mark"),
    pytest.param("utf-16-be", "UTF-16BE", id="utf-16-be-without-a-mark"),
    pytest.param("utf-32", "UTF-32", id="utf-32"),
    pytest.param("utf-32-le", "UTF-32LE", id="utf-32-le-without-a-mark"),
    pytest.param("utf-32-be", "UTF-32BE", id="utf-32-be-without-a-mark"),
]


@pytest.mark.parametrize(("codec", "name"), ENCODED)
def test_file_in_another_encoding_is_reported_by_its_name(
    tmp_path: Path, codec: str, name: str
) -> None:
    told = mistakes.told_of(tmp_path, "web1", "metadata: {}\n".encode(codec))
    expected = f"save the file as UTF-8, or convert it (iconv -f {name} -t UTF-8)"
    assert told == [f"1:1: found a file in {name}, expected UTF-8: {expected}"]


@pytest.mark.parametrize("mark", [b"\xfe\xff", b"\0\0\xfe\xff"], ids=["utf-16-be", "utf-32-be"])
def test_file_with_the_mark_of_a_big_end_is_reported_by_its_name(
    tmp_path: Path, mark: bytes
) -> None:
    (told,) = mistakes.told_of(tmp_path, "web1", mark + b"x")
    assert told.startswith(f"1:1: found a file in UTF-{8 * len(mark)}, ")


def test_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    assert mistakes.told_of(tmp_path, "web1", b"\xef\xbb\xbfmetadata: {}\n") == []


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "behind-a-mark"])
def test_byte_that_is_no_utf_8_is_reported_with_its_column(tmp_path: Path, mark: bytes) -> None:
    content = mark + "metadata:\n  owner: é".encode() + b"\xe9\n"
    (told,) = mistakes.told_of(tmp_path, "web1", content)
    assert told.startswith("2:11: found the byte 0xe9, expected UTF-8: save the file as UTF-8")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("metadata: \0{}\n", "1:11: found a NUL character (U+0000), expected a text file in UTF-8"),
        ("metadata:\n  é: \x01\n", "2:6: found the control character U+0001, expected a file"),
    ],
    ids=["nul", "control"],
)
def test_character_that_yaml_does_not_have_is_reported_with_its_column(
    tmp_path: Path, content: str, told: str
) -> None:
    (line,) = mistakes.told_of(tmp_path, "web1", content.encode())
    assert line.startswith(told)
