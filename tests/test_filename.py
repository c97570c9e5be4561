"""VM name -> file name: nothing leaves the directory, and no VM takes another one's file."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.drivers.filename import SUFFIXES, stem_of

UUID = "01234567-89ab-cdef-fedc-ba9876543210"
HOSTILE_NAMES = st.text(alphabet="./\\%25cCfF\0a~ \n", max_size=20)
VCENTER = {"%2f": "/", "%5c": "\\", "%25": "%"}


def meaning(vm_name: str) -> str:
    """The name as a person knows it, without vCenter's escapes."""
    return re.sub("%(2f|5c|25)", lambda found: VCENTER[found[0].lower()], vm_name, flags=re.I)


@given(st.text() | HOSTILE_NAMES)
def test_stem_of_any_name_stays_inside_the_directory(vm_name: str) -> None:
    stem = stem_of(vm_name)
    if stem is not None:
        for suffix in SUFFIXES:
            path = os.path.normpath(os.path.join("/instances", stem + suffix))
            assert os.path.split(path) == ("/instances", stem + suffix)
            assert "\0" not in path


def test_names_share_a_stem_exactly_if_they_mean_the_same() -> None:
    stems: dict[str, set[str]] = defaultdict(set)
    meanings: dict[str, set[str]] = defaultdict(set)
    for length in range(1, 7):
        for letters in product("%25fF/", repeat=length):
            vm_name = "".join(letters)
            stem = stem_of(vm_name)
            assert stem is not None
            stems[meaning(vm_name)].add(stem)
            meanings[stem].add(meaning(vm_name))
    assert all(len(found) == 1 for found in (*stems.values(), *meanings.values()))


@given(st.text(), st.text())
def test_stem_of_names_of_another_meaning_is_another_one(one: str, other: str) -> None:
    if stem_of(one) is not None and meaning(one) != meaning(other):
        assert stem_of(one) != stem_of(other)


@pytest.mark.parametrize(
    ("vm_name", "stem"),
    [
        pytest.param("web1", "web1", id="plain"),
        pytest.param("Büro 1", "Büro 1", id="space-and-umlaut"),
        pytest.param("web1.yaml", "web1.yaml", id="suffix"),
        pytest.param("a%2fb%5cc%25d", "a%2fb%5cc%25d", id="escaped-by-vcenter"),
        pytest.param("a%2Fb%5Cc", "a%2fb%5cc", id="escaped-in-upper-case"),
        pytest.param("a/b\\c%d", "a%2fb%5cc%25d", id="raw"),
        pytest.param("%2e%2e", "%252e%252e", id="an-escape-that-vcenter-does-not-know"),
        pytest.param(".web1", ".web1", id="hidden"),
        pytest.param("..", "..", id="parent"),
        pytest.param("../web1", "..%2fweb1", id="parent-at-the-start"),
        pytest.param("/etc/passwd", "%2fetc%2fpasswd", id="absolute"),
        pytest.param("a/../../b", "a%2f..%2f..%2fb", id="parent-inside"),
        pytest.param(f"{UUID} ", f"{UUID} ", id="nearly-a-uuid"),
    ],
)
def test_stem_of_usable_name_is_as_vcenter_escapes_it(vm_name: str, stem: str) -> None:
    assert stem_of(vm_name) == stem


@pytest.mark.parametrize(
    "vm_name",
    [
        pytest.param("", id="empty"),
        pytest.param("web1\0", id="nul"),
        pytest.param("a" * 251, id="too-long"),
        pytest.param("é" * 126, id="too-long-in-utf-8"),
        pytest.param("/" * 84, id="too-long-when-escaped"),
        pytest.param("a" * 10_000, id="very-long"),
        pytest.param("\ud800", id="lone-surrogate"),
        pytest.param(UUID, id="uuid"),
        pytest.param(UUID.upper(), id="uuid-in-upper-case"),
        pytest.param(UUID.replace("-", ""), id="uuid-without-hyphens"),
        pytest.param("01 23 45 67 89 ab cd ef-fe dc ba 98 76 54 32 10", id="uuid-of-vmware"),
    ],
)
def test_stem_of_unusable_name_is_none(vm_name: str) -> None:
    assert stem_of(vm_name) is None


@pytest.mark.parametrize("vm_name", ["a" * 250, "é" * 125, "/" * 83], ids=["a", "é", "slash"])
def test_stem_of_longest_name_fits_a_file_name(vm_name: str) -> None:
    stem = stem_of(vm_name)
    assert stem is not None
    assert len(os.fsencode(stem + ".yaml")) <= 255
