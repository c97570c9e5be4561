"""VM name -> file name: nothing leaves the directory, and no VM takes another one's file."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.drivers.filesystem.filename import (
    SUFFIXES,
    is_instance_file,
    nearly_stem,
    stem_of,
    swapped,
    unquoted_stem,
)
from vmw_cloudinit_metadata.instance.vmname import normal

UUID = "01234567-89ab-cdef-fedc-ba9876543210"
HOSTILE_NAMES = st.text(alphabet="./\\%25cCfF\0a~ \n", max_size=20)
VCENTER = {"%2f": "/", "%5c": "\\", "%25": "%"}


def meaning(vm_name: str) -> str:
    """The name as a person knows it, without vCenter's escapes; accents are part of letters."""
    raw = re.sub("%(2f|5c|25)", lambda found: VCENTER[found[0].lower()], vm_name, flags=re.I)
    return unicodedata.normalize("NFC", raw)


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
        pytest.param("web1/..", "web1%2f..", id="parent-at-the-end"),
        pytest.param("Bu\u0308ro", "B\xfcro", id="decomposed"),
        pytest.param("a%2f\u0307", "a%2f\u0307", id="accent-behind-an-escape"),
        pytest.param("a/\u0307", "a%2f\u0307", id="accent-behind-a-slash"),
        pytest.param("a%5C\u030c", "a%5c\u030c", id="accent-behind-an-upper-case-escape"),
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
        pytest.param(".web1", id="hidden"),
        pytest.param("..", id="parent"),
        pytest.param("../web1", id="parent-at-the-start"),
        pytest.param("B\udcfcro", id="latin-1"),
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


ACCENTED = st.text(
    alphabet="aefc258%/\\\u00fc\u00e9\u0307\u0308\u030c\u0327\u212b\u1e1f", max_size=12
)


def spellings_of(vm_name: str) -> list[str]:
    """Some of the ways in which a name can be spelled, each of them whole."""
    escape = {"/": "%2f", "\\": "%5c", "%": "%25"}
    escaped = "".join(escape.get(letter, letter) for letter in vm_name)
    forms = [unicodedata.normalize(form, vm_name) for form in ("NFC", "NFD")]
    again = ["".join(escape.get(letter, letter) for letter in form) for form in forms]
    return [escaped, re.sub("%..", lambda found: found[0].upper(), escaped), *again]


@given(ACCENTED)
def test_law_all_spellings_of_a_name_have_one_normal_form(name: str) -> None:
    assert len({normal(spelling) for spelling in spellings_of(name)}) == 1


@given(st.text() | ACCENTED)
def test_law_the_normal_form_is_its_own(name: str) -> None:
    assert normal(normal(name)) == normal(name)


@given(ACCENTED, ACCENTED)
def test_law_names_of_one_normal_form_mean_the_same(one: str, other: str) -> None:
    assert (normal(one) == normal(other)) is (meaning(one) == meaning(other))


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        *((name, True) for name in ("web1.yaml", "web1.yml", "web1.json", "a b.yaml", "#1.yaml")),
        *((name, False) for name in ("._web1.yaml", ".web1.yaml", ".#web1.yaml", ".yaml")),
        *((name, False) for name in (".ansible_tmpx1web1.yaml", ".web1.yaml.swp", ".web1.yml.Ab1")),
        *(
            (name, False)
            for name in ("web1.yaml~", "#web1.yaml#", "web1.yaml.bak", "web1.yaml.tmp")
        ),
        *((name, False) for name in ("web1.YAML", "web1.Yml", "web1.yaml.txt", "web1", "yaml")),
    ],
)
def test_instance_file_is_one_by_its_name(name: str, is_one: bool) -> None:
    assert is_instance_file(name) is is_one


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        *((name, "web1") for name in ("web1.YAML", "web1.Yml", "web1.JSON", "web1.yaml.txt")),
        *((name, "web1") for name in ("web1.YML.TXT", "web1.yaml ", "web1.json.Txt")),
        ("a.yaml.b.YML", "a.yaml.b"),
        *((name, None) for name in ("web1.yaml", ".web1.YAML", "web1.yaml.bak", "web1.yaml~")),
        *((name, None) for name in ("web1.txt", "README", ".YAML", "web1.yaml.swp", "web1.YAML#")),
    ],
)
def test_file_of_a_suffix_that_is_nearly_right_is_known(name: str, stem: str | None) -> None:
    assert nearly_stem(name) == stem


def test_uuid_is_swapped_as_dmidecode_prints_it() -> None:
    told = "421f245c-7fa8-60fa-6af6-a46351ced0eb"
    assert swapped(told) == "5c241f42-a87f-fa60-6af6-a46351ced0eb"


@given(st.uuids().map(str))
def test_law_uuid_swapped_twice_is_itself(told: str) -> None:
    assert swapped(swapped(told)) == told


@pytest.mark.parametrize(
    ("stem", "meant"),
    [("web%201", "web 1"), ("b%C3%BCro", "b\xfcro"), ("ci%2fb", None), ("100%", None), ("a", None)],
)
def test_name_that_is_written_as_in_a_url_is_known(stem: str, meant: str | None) -> None:
    assert unquoted_stem(stem) == meant
