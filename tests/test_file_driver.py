"""The file driver on real files: which file, what is wrong with it, and how changes take effect."""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.process import LIMIT_S, Constants
from vmw_cloudinit_metadata.drivers.answers.duplicates import Owners
from vmw_cloudinit_metadata.drivers.content import layer
from vmw_cloudinit_metadata.drivers.content.owndata import OwnData
from vmw_cloudinit_metadata.drivers.driver import Driver, DriverError, UnderWay
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.drivers.files.filecheck import of_file
from vmw_cloudinit_metadata.drivers.filesystem.filename import stem_of
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid

VC = "11111111-1111-1111-1111-111111111111"
BIOS = "22222222-2222-2222-2222-222222222222"
OTHER = "33333333-3333-3333-3333-333333333333"
WEB1 = Machine(name="web1", vc_uuid=VC, bios_uuid=BIOS)
PINNED_BIOS = f"match: {{bios-uuid: {BIOS}}}\n"
BROKEN = "metadata: {instance-id: i"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "instances"
    path.mkdir()
    return path


def write(directory: Path, **files: str | bytes) -> None:
    """Makes `NAME.yaml` of each text, for others unreadable; `__` in a name is a dot."""
    for name, content in files.items():
        path = directory / (name.replace("__", ".") if "__" in name else f"{name}.yaml")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(0o600)


def instance(instance_id: str) -> str:
    return f"metadata: {{instance-id: {instance_id}}}\n"


def driver_of(directory: Path, **options: Any) -> FileDriver:
    return FileDriver({"directory": str(directory), **options})


def id_of(found: InstanceData | None) -> object:
    return found and found.metadata.get("instance-id")


def served(directory: Path, machine: Machine = WEB1, **options: Any) -> InstanceData:
    found = driver_of(directory, **options).get_instance(machine)
    assert found is not None
    return found


def faults_of(directory: Path, **options: Any) -> list[str]:
    """The faults of web1.yaml, as they are reported, without the directory."""
    with pytest.raises(InvalidInstanceData) as raised:
        driver_of(directory, **options).get_instance(Machine(name="web1"))
    return [told(fault, directory) for fault in raised.value.faults]


def told(fault: object, directory: Path) -> str:
    return str(fault).removeprefix(f"{directory}/")


def validated(directory: Path, **options: Any) -> list[str]:
    return [told(fault, directory) for fault in driver_of(directory, **options).validate()]


# Which file


@pytest.mark.parametrize(
    ("files", "matched_by"),
    [
        ([VC, BIOS, "web1"], "vc-uuid"),
        ([BIOS, "web1"], "bios-uuid"),
        (["web1"], "name"),
        ([VC], "vc-uuid"),
        ([OTHER, "web2"], None),
    ],
    ids=["all", "without-vc-uuid", "name-alone", "vc-uuid-alone", "none"],
)
@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_file_of_the_highest_rank_is_served(
    directory: Path, files: list[str], matched_by: str | None, suffix: str
) -> None:
    for name in files:
        pin = PINNED_BIOS if name == BIOS else ""
        (directory / f"{name}.{suffix}").write_text(instance(name) + pin)
    found = driver_of(directory).get_instance(WEB1)
    assert id_of(found) == (files[0] if matched_by else None)
    if found:
        assert found.matched_by == matched_by
        assert found.sources == (str(directory / f"{files[0]}.{suffix}"),)


@pytest.mark.parametrize(
    ("match", "file"),
    [
        (["vc-uuid"], VC),
        (["bios-uuid"], BIOS),
        (["name"], "web1"),
        (["name", "bios-uuid"], BIOS),
        (["name", "bios-uuid", "vc-uuid"], VC),
    ],
    ids=",".join,
)
def test_option_match_says_which_identities_count(
    directory: Path, match: list[str], file: str
) -> None:
    write(directory, **{name: instance(name) for name in (VC, BIOS, "web1")})
    assert id_of(served(directory, match=match)) == file


@pytest.mark.parametrize("broken", [VC, BIOS], ids=["vc-uuid", "bios-uuid"])
def test_broken_file_of_higher_rank_does_not_fall_through(directory: Path, broken: str) -> None:
    write(directory, **{broken: BROKEN, "web1": instance("web1")})
    with pytest.raises(InvalidInstanceData, match=broken):
        driver_of(directory).get_instance(WEB1)


@pytest.mark.parametrize("rank", [VC, BIOS], ids=["vc-uuid", "bios-uuid"])
def test_file_of_higher_rank_that_cannot_be_read_does_not_fall_through(
    directory: Path, rank: str
) -> None:
    write(directory, web1=instance("web1"))
    (directory / f"{rank}.yaml").symlink_to(f"{rank}.yaml")
    with pytest.raises(DriverError, match=rank):
        driver_of(directory).get_instance(WEB1)


@pytest.mark.parametrize(
    "name", [OTHER, OTHER.upper(), OTHER.replace("-", "")], ids=["uuid", "upper-case", "plain"]
)
def test_name_in_the_form_of_a_uuid_is_never_looked_up(directory: Path, name: str) -> None:
    write(directory, **{OTHER: instance("other"), name: instance("other")})
    assert driver_of(directory).get_instance(Machine(name=name, vc_uuid=VC)) is None


def test_file_with_both_suffixes_is_a_fault(directory: Path) -> None:
    write(directory, web1=instance("a"), web1__yml=instance("b"))
    assert faults_of(directory) == [
        "web1.yaml:1: found both web1.yaml and web1.yml, expected one of them"
    ]


@pytest.mark.parametrize(
    ("pin", "machine", "is_served"),
    [
        (f"vc-uuid: {VC}", WEB1, True),
        (f"vc-uuid: {OTHER}", WEB1, False),
        (f"vc_uuid: {VC.upper()}", WEB1, True),
        (f"vc-uuid: {VC}", Machine(name="web1"), False),
        (f"bios-uuid: {BIOS}", WEB1, True),
        ("name: web1", WEB1, True),
        (f"{{name: web1, vc-uuid: {OTHER}}}", WEB1, False),
    ],
    ids=str,
)
def test_file_that_pins_itself_is_for_that_machine_alone(
    directory: Path, pin: str, machine: Machine, is_served: bool
) -> None:
    write(directory, web1=f"metadata: {{}}\nmatch:\n  {pin}\n")
    assert (driver_of(directory).get_instance(machine) is not None) is is_served


def test_file_pinned_to_another_machine_does_not_fall_through(directory: Path) -> None:
    write(
        directory,
        **{
            BIOS: f"metadata: {{}}\nmatch: {{vc-uuid: {OTHER}, bios-uuid: {BIOS}}}\n",
            "web1": instance("a"),
        },
    )
    assert driver_of(directory).get_instance(WEB1) is None


# A BIOS UUID, which who may edit a VM may choose


@pytest.mark.parametrize(
    "pin",
    [
        pytest.param("", id="none"),
        pytest.param(f"match: {{bios-uuid: {OTHER}}}\n", id="another-one"),
        pytest.param(f"match: {{vc-uuid: {VC}}}\n", id="vc-uuid"),
        pytest.param("match: {name: web1}\n", id="name"),
        pytest.param("network: {address: x}\n", id="a-fault"),
    ],
)
@pytest.mark.parametrize("has_own", [True, False], ids=["with-own-file", "without"])
def test_file_named_by_a_bios_uuid_that_does_not_say_so_is_not_there(
    directory: Path, pin: str, has_own: bool
) -> None:
    write(directory, **{BIOS: instance("victim") + pin})
    if has_own:
        write(directory, web1=instance("own"))
    assert id_of(driver_of(directory).get_instance(WEB1)) == ("own" if has_own else None)


def test_two_files_named_by_a_bios_uuid_count_if_they_say_so(directory: Path) -> None:
    other = directory / f"{BIOS}.yml"
    write(directory, **{BIOS: instance("victim"), "web1": instance("own")})
    other.write_text(instance("victim"))
    assert id_of(served(directory)) == "own"
    other.write_text(instance("pinned") + PINNED_BIOS)
    assert id_of(served(directory)) == "pinned"
    write(directory, **{BIOS: instance("pinned") + PINNED_BIOS})
    with pytest.raises(InvalidInstanceData, match=rf"found both {BIOS}\.yaml and {BIOS}\.yml"):
        driver_of(directory).get_instance(WEB1)


@pytest.mark.parametrize(
    ("written", "told"), [(BIOS, BIOS), (BIOS.upper(), BIOS), (BIOS.replace("-", ""), BIOS)]
)
def test_file_named_by_a_bios_uuid_that_says_so_is_served(
    directory: Path, written: str, told: str
) -> None:
    write(directory, **{BIOS: instance("a") + f"match: {{bios_uuid: '{written}'}}\n"})
    found = served(directory, Machine(name="web1", vc_uuid=VC, bios_uuid=told))
    assert (id_of(found), found.matched_by) == ("a", "bios-uuid")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f"network: {{address: x}}\n{PINNED_BIOS}", id="fault-of-another-key"),
        pytest.param("match: {bios-uuid: x}\n", id="fault-of-the-pin"),
    ],
)
def test_faulty_file_that_is_for_a_bios_uuid_does_not_fall_through(
    directory: Path, content: str
) -> None:
    write(directory, **{BIOS: f"metadata: {{}}\n{content}", "web1": instance("b")})
    with pytest.raises(InvalidInstanceData, match=BIOS):
        driver_of(directory).get_instance(WEB1)


def test_explain_says_what_a_file_for_a_bios_uuid_needs(directory: Path) -> None:
    write(directory, **{BIOS: instance("a")})
    reason = driver_of(directory).explain(WEB1)
    assert reason == (
        f"no file named '{VC}.yaml' or '{BIOS}.yaml' or 'web1.yaml' in {directory}; "
        f"{directory}/{BIOS}.yaml is named by the BIOS UUID of this VM, which counts only if the "
        f"file says so: write `match: {{bios-uuid: {BIOS}}}` into it, or include bios-uuid "
        "in the driver option `match`"
    )


def test_last_good_answer_is_none_of_a_file_named_by_a_bios_uuid(directory: Path) -> None:
    """Neither a VM that had its own file, nor one that had none, gets anything of it."""
    write(directory, web1=instance("own"))
    driver = driver_of(directory)
    assert id_of(driver.get_instance(WEB1)) == "own"
    write(directory, **{BIOS: instance("victim")})
    (directory / "web1.yaml").unlink()
    assert driver.get_instance(WEB1) is None
    write(directory, **{BIOS: BROKEN})
    with pytest.raises(InvalidInstanceData):
        driver.get_instance(WEB1)


def test_notes_count_the_files_named_by_a_uuid(directory: Path) -> None:
    write(directory, **{VC: instance("a"), BIOS: instance("b"), "web1": instance("c")})
    (note,) = driver_of(directory).notes()
    assert note.startswith("2 files are named by a UUID: they are found by VC UUID.")
    assert list(driver_of(directory, match=["vc-uuid", "bios-uuid"]).notes()) == []


FORMS: list[Callable[[str], str]] = [
    lambda uuid: uuid,
    str.upper,
    lambda uuid: uuid.replace("-", ""),
    lambda uuid: uuid.replace("-", " "),
    lambda uuid: f"{{{uuid}}}",
    lambda uuid: bytes_swapped(uuid),
    lambda uuid: f"{uuid}.yaml",
    lambda uuid: f"{uuid}\n",
]


def bytes_swapped(uuid: str) -> str:
    """As a guest sees its BIOS UUID, and ESXi does not: the first three parts the other way."""
    parts = uuid.split("-")
    swapped = [bytes.fromhex(part)[::-1].hex() for part in parts[:3]]
    return "-".join([*swapped, *parts[3:]])


_UUIDS = st.sampled_from([VC, BIOS, OTHER])
_TOLD = st.one_of(
    st.none(), st.builds(lambda form, uuid: form(uuid), st.sampled_from(FORMS), _UUIDS)
)
_PINS = st.one_of(
    st.just({}),
    st.dictionaries(st.sampled_from(["vc-uuid", "bios-uuid"]), _UUIDS, min_size=1),
)
_MATCHES = st.one_of(
    st.none(),
    st.lists(st.sampled_from(["vc-uuid", "bios-uuid", "name"]), min_size=1, unique=True),
)


@given(
    files=st.dictionaries(st.one_of(_UUIDS, st.sampled_from(["web1", "web2"])), _PINS),
    name=st.one_of(_TOLD, st.sampled_from(["web1", "web2"])),
    vc_uuid=_TOLD,
    bios_uuid=_TOLD,
    match=_MATCHES,
)
def test_law_a_vm_gets_a_file_only_by_an_identity_that_counts(
    tmp_path_factory: pytest.TempPathFactory,
    files: dict[str, dict[str, str]],
    name: str | None,
    vc_uuid: str | None,
    bios_uuid: str | None,
    match: list[str] | None,
) -> None:
    directory = tmp_path_factory.mktemp("law")
    for stem, pin in files.items():
        write(directory, **{stem: instance(stem) + (f"match: {json.dumps(pin)}\n" if pin else "")})
    machine = Machine(
        name=name, vc_uuid=parse_uuid(vc_uuid or ""), bios_uuid=parse_uuid(bios_uuid or "")
    )
    found = driver_of(directory, **({"match": match} if match else {})).get_instance(machine)
    if found is None:
        return
    stem = str(id_of(found))
    pin = files[stem]
    allowed = {
        "vc-uuid": stem == machine.vc_uuid,
        "bios-uuid": stem == machine.bios_uuid
        and (match is not None or pin.get("bios-uuid") == machine.bios_uuid),
        "name": stem == machine.name and parse_uuid(stem) is None,
    }
    assert allowed[found.matched_by]
    assert found.matched_by in (match or ["vc-uuid", "bios-uuid", "name"])
    told = {"vc-uuid": machine.vc_uuid, "bios-uuid": machine.bios_uuid}
    assert all(told[key] == uuid for key, uuid in pin.items())


def test_explain_of_a_pinned_file_names_the_file(directory: Path) -> None:
    write(directory, web1=f"metadata: {{}}\nmatch: {{vc-uuid: {OTHER}}}\n")
    reason = driver_of(directory).explain(WEB1)
    assert reason == f"{directory}/web1.yaml is for another VM: its match has a different vc-uuid"


def test_explain_of_an_absent_file_names_what_was_looked_for(directory: Path) -> None:
    reason = driver_of(directory).explain(WEB1)
    assert f"'{VC}.yaml' or '{BIOS}.yaml' or 'web1.yaml' in {directory}" in reason


def test_explain_of_a_hostile_name_is_one_line(directory: Path) -> None:
    assert "\n" not in driver_of(directory).explain(Machine(name="a\nb"))


def test_byte_order_mark_of_a_file_is_nothing(directory: Path) -> None:
    write(directory, web1=b"\xef\xbb\xbf" + instance("a").encode())
    assert id_of(served(directory)) == "a"


# Hostile names


@pytest.fixture
def secret(directory: Path) -> Path:
    """Files with instance data around the directory's own, where no name may lead."""
    outside = directory.parent
    (directory / "below").mkdir()
    for path in (outside / "secret", outside / "instances", directory / "below" / "secret"):
        for suffix in (".yaml", ".yml"):
            path.with_suffix(suffix).write_text(instance("secret"))
    (outside / ".yaml").write_text(instance("secret"))
    return outside / "secret"


@pytest.mark.parametrize(
    "name",
    [
        *("../secret", "../secret.yaml", "./../secret", "x/../../secret", "below/../../secret"),
        *("..%2fsecret", "..%2Fsecret", "%2e%2e%2fsecret", "%2e%2e/secret", "..%252fsecret"),
        *("..\\secret", "..%5csecret", "....//secret", "..;/secret", "~/secret"),
        *("below/secret", "below%2fsecret", "/below/secret", "//secret", "%2fsecret"),
        *(
            "../secret\0",
            "../secret\0.yaml",
            "\0../secret",
            "\0",
            "../secret.yaml\0",
            "..\0/secret",
        ),
        *(".", "..", "../", "../..", "/", "", "...", "../.", "../instances", "\n../secret"),
        *("a" * 10_000, "../" * 3_000 + "secret", "é" * 10_000, "%2f" * 10_000, "\ud800"),
    ],
    ids=lambda name: ascii(name)[:20],
)
@pytest.mark.usefixtures("secret")
def test_hostile_name_reads_nothing(directory: Path, name: str) -> None:
    assert driver_of(directory).get_instance(Machine(name=name)) is None


@pytest.mark.parametrize("form", ["{}", "/{}", "{}.yaml", "x{}", "file://{}", "{}\0"])
def test_hostile_absolute_name_reads_nothing(directory: Path, secret: Path, form: str) -> None:
    name = form.format(secret)
    assert driver_of(directory).get_instance(Machine(name=name)) is None
    assert driver_of(directory).get_instance(Machine(name=name.replace("/", "%2f"))) is None


@pytest.mark.parametrize("name", ["a/b\\c%d", "a%2fb%5cc%25d", "a%2Fb%5Cc%25d", "a/b%5cc%d"])
def test_slash_backslash_and_percent_are_looked_up_in_escaped_form(
    directory: Path, name: str
) -> None:
    write(directory, **{"a%2fb%5cc%25d": instance("a")})
    assert id_of(served(directory, Machine(name=name))) == "a"


@pytest.mark.parametrize("name", ["Web Server 1", "Büro", "日本", "web.", "web1.yaml", "a\nb", "~"])
def test_unusual_name_is_looked_up_as_it_is(directory: Path, name: str) -> None:
    (directory / f"{name}.yaml").write_text(instance("a"))
    assert id_of(served(directory, Machine(name=name))) == "a"


@pytest.mark.parametrize("name", [".web1", "..", "._web1", ".ansible_tmpx1web1", ".#web1"])
def test_hidden_file_is_no_instance_file(directory: Path, name: str) -> None:
    (directory / f"{name}.yaml").write_text(instance("a"))
    driver = driver_of(directory)
    assert driver.get_instance(Machine(name=name)) is None
    assert "names that begin with a dot are not looked up" in driver.explain(Machine(name=name))
    assert validated(directory) == []


# A name in several spellings

_NAMES = st.text(alphabet="ab25cf%/\\\u00fc\u0308\u030c\u1e1f\u65e5 .K", min_size=1, max_size=8)


@given(_NAMES, st.data())
def test_law_a_vm_finds_its_file_in_any_spelling(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    escaped = {"/": "%2f", "\\": "%5c", "%": "%25"}
    spelled = "".join(escaped.get(letter, letter) for letter in name)

    def spelling() -> str:
        """Each letter in a form of its own."""
        letters = []
        for letter in name:
            form = data.draw(st.sampled_from(["NFC", "NFD"]))
            text = escaped.get(letter) or unicodedata.normalize(form, letter)
            letters.append(
                data.draw(st.sampled_from([text, text.upper()])) if "%" in text else text
            )
        return "".join(letters)

    assume(stem_of(spelled) and not name.startswith("."))
    directory = tmp_path_factory.mktemp("law")
    (directory / f"{spelling()}.yaml").write_text(
        f"metadata: {{instance-id: x}}\nmatch: {{name: {json.dumps(spelling())}}}\n"
    )
    driver = driver_of(directory)
    for wire in (spelling(), spelled, spelled.upper() if "%" not in name else spelled):
        if stem_of(wire) == stem_of(spelled):
            assert id_of(driver.get_instance(Machine(name=wire))) == "x"


@pytest.mark.parametrize("wire", ["ci%2fbuild-1", "ci%2Fbuild-1", "ci/build-1"])
@pytest.mark.parametrize("file", ["ci%2fbuild-1", "ci%2Fbuild-1"])
@pytest.mark.parametrize("match", ["ci%2fbuild-1", "ci%2Fbuild-1", "ci/build-1"])
def test_slash_in_file_and_match_is_found_in_each_spelling(
    directory: Path, wire: str, file: str, match: str
) -> None:
    write(directory, **{file: instance("a") + f"match: {{name: {match}}}\n"})
    assert id_of(served(directory, Machine(name=wire))) == "a"
    assert driver_of(directory).get_instance(Machine(name="ci%252fbuild-1")) is None


def test_file_of_the_usual_spelling_goes_before_others(directory: Path) -> None:
    write(directory, **{"a%2Fb": instance("other"), "a%2fb": instance("usual")})
    assert id_of(served(directory, Machine(name="a/b"))) == "usual"
    assert validated(directory) == [
        "a%2Fb.yaml:1: warning: found the file name 'a%2Fb', expected a%2fb.yaml",
        "a%2Fb.yaml:1: warning: found both a%2Fb.yaml and a%2fb.yaml, which are one VM name, "
        "expected one of them",
    ]


def test_two_files_of_one_name_in_unusual_spellings_are_a_fault(directory: Path) -> None:
    write(directory, **{"%2Fa%2f": instance("1"), "%2fa%2F": instance("2")})
    told = "found both %2Fa%2f.yaml and %2fa%2F.yaml"
    with pytest.raises(InvalidInstanceData, match=told):
        driver_of(directory).get_instance(Machine(name="/a/"))
    assert sum(told in line and "warning" not in line for line in validated(directory)) == 2


@pytest.mark.usefixtures("settled")
def test_file_in_an_unusual_spelling_gives_way_when_another_one_comes(directory: Path) -> None:
    write(directory, **{"%2Fa%2f": instance("1")})
    driver = driver_of(directory)
    found = driver.get_instance(Machine(name="/a/"))
    assert found is not None
    assert driver.still_holds(found.token)
    write(directory, **{"%2fa%2f": instance("usual")})
    assert not driver.still_holds(found.token)
    assert id_of(driver.get_instance(Machine(name="/a/"))) == "usual"


@pytest.mark.usefixtures("settled")
def test_directory_is_listed_again_only_when_it_has_changed(
    directory: Path, monkeypatch: pytest.MonkeyPatch, constants: Constants
) -> None:
    constants(drivers__filesystem__filetoken__TRUSTED_S=1e9)
    listed: Counter[str] = Counter()
    really = os.listdir

    def counted(path: str) -> list[str]:
        listed["times"] += 1
        return really(path)

    monkeypatch.setattr(os, "listdir", counted)
    driver = driver_of(directory)
    for _ in range(10):
        assert driver.get_instance(WEB1) is None
    assert listed["times"] == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"B\xfcro", "a name that a VM can have"),
        ("Bu\u0308ro".encode(), "B\xfcro.yaml"),
        (b"a%zz", "a%25zz.yaml"),
        (b"web%201", "web%25201.yaml, or web 1.yaml if it is not part of the VM's name"),
    ],
    ids=["latin-1", "decomposed", "percent", "as-in-a-url"],
)
def test_validate_warns_of_a_file_name_that_no_vm_can_have(
    directory: Path, name: bytes, expected: str
) -> None:
    (directory / os.fsdecode(name + b".yaml")).write_text(instance("a"))
    (directory / os.fsdecode(name + b".yaml")).chmod(0o600)
    (warning,) = driver_of(directory).validate()
    assert warning.is_warning
    assert (warning.found, warning.expected) == (f"the file name {os.fsdecode(name)!r}", expected)
    assert str(warning).encode()


# JSON


def test_json_file_is_an_instance_file(directory: Path) -> None:
    content = r'{"metadata": {"instance-id": "a", "note": "\ud83d\ude80"}}'
    write(directory, web1__json=content)
    found = served(directory)
    assert found.metadata == {"instance-id": "a", "note": "\U0001f680"}
    assert found.sources == (f"{directory}/web1.json",)
    assert validated(directory) == []


def test_json_in_a_yaml_file_is_read_as_json(directory: Path) -> None:
    content = '\n {"metadata":\n{"instance-id": "a",\n "note": "\\ud83d\\ude80 \\/", "x":1e2}}\n'
    write(directory, web1=content)
    assert served(directory).metadata == {"instance-id": "a", "note": "\U0001f680 /", "x": 100.0}


def test_yaml_that_begins_like_json_stays_yaml(directory: Path) -> None:
    write(directory, web1="{metadata: {instance-id: a, note: '\\ud83d\\ude80'}}\n")
    assert served(directory).metadata["note"] == r"\ud83d\ude80"


def test_json_file_without_json_is_a_fault_with_its_place(directory: Path) -> None:
    write(directory, web1__json='{"metadata": {},\n}')
    (fault,) = faults_of(directory)
    assert fault.startswith("web1.json:2:1: found invalid JSON (")


def test_three_suffixes_are_a_fault(directory: Path) -> None:
    write(directory, web1=instance("a"), web1__yml=instance("b"), web1__json="{}")
    told = "web1.yaml:1: found web1.yaml, web1.yml and web1.json, expected one of them"
    assert faults_of(directory) == [told]
    assert validated(directory).count(told) == 1


# What may be meant, for a VM that has no file

GUESTS = "5c241f42-a87f-fa60-6af6-a46351ced0eb"
HOSTS = "421f245c-7fa8-60fa-6af6-a46351ced0eb"


@pytest.mark.parametrize("file", [GUESTS, GUESTS.upper(), GUESTS.replace("-", "")])
def test_explain_knows_a_bios_uuid_as_the_guest_prints_it(directory: Path, file: str) -> None:
    write(directory, **{file: instance("a")})
    reason = driver_of(directory).explain(Machine(name="web1", bios_uuid=HOSTS))
    assert f"{directory}/{file}.yaml is named by the BIOS UUID of this VM as its guest" in reason
    assert f"rename it to {HOSTS}.yaml, and write `match: {{bios-uuid: {HOSTS}}}` into it" in reason


def test_explain_knows_a_vc_uuid_in_the_guests_order(directory: Path) -> None:
    write(directory, **{GUESTS: instance("a")})
    reason = driver_of(directory).explain(Machine(name="web1", vc_uuid=HOSTS))
    assert reason.endswith(f"in reverse order: rename it to {HOSTS}.yaml")


def test_explain_knows_a_bios_uuid_in_the_guests_order_in_match(directory: Path) -> None:
    write(directory, web1=instance("a") + f"match: {{bios-uuid: {GUESTS}}}\n")
    reason = driver_of(directory).explain(Machine(name="web1", bios_uuid=HOSTS))
    assert reason.endswith(f"in reverse order: write {HOSTS}")


@pytest.mark.parametrize(
    "file", ["web1.YAML", "web1.Yml", "web1.yaml.txt", f"{HOSTS.upper()}.json"]
)
def test_explain_knows_a_file_whose_name_is_nearly_right(directory: Path, file: str) -> None:
    machine = Machine(name="web1", vc_uuid=HOSTS)
    (directory / file).write_text(instance("a"))
    reason = driver_of(directory).explain(machine)
    assert f"{directory}/{file} exists, but no VM is looked up by that name" in reason


@pytest.mark.parametrize("file", ["web1.yaml", "web1.json", f"{HOSTS}.yml"])
def test_explain_knows_a_link_that_leads_nowhere(directory: Path, file: str) -> None:
    (directory / file).symlink_to("no-such.yaml")
    reason = driver_of(directory).explain(Machine(name="web1", vc_uuid=HOSTS))
    assert reason.endswith(f"; {directory}/{file} is a link to a file that does not exist")


# Links


@pytest.fixture
def outside(directory: Path) -> Path:
    """A file beside the directory, whose content must stay secret."""
    path = directory.parent / "outside"
    path.write_text("root:x:0:0:SECRET:/root:/bin/sh\nmetadata: {instance-id: SECRET}\n")
    return path


LEADS_OUT = {
    "absolute": lambda d, o: (d / "web1.yaml").symlink_to(o),
    "relative": lambda d, _: (d / "web1.yaml").symlink_to("../outside"),
    "out-and-in-again": lambda d, _: (d / "web1.yaml").symlink_to(f"../{d.name}/real.yaml"),
    "by-another-link": lambda d, o: ((d / "x").symlink_to(o), (d / "web1.yaml").symlink_to("x")),
    "by-a-directory": lambda d, _: (
        (d / "x").symlink_to(".."),
        (d / "web1.yaml").symlink_to("x/outside"),
    ),
    "to-nowhere": lambda d, _: (d / "web1.yaml").symlink_to("/nowhere/at/all"),
    "to-what-begins-alike": lambda d, _: (d / "web1.yaml").symlink_to(f"{d}x/../outside"),
    "to-a-process": lambda d, _: (d / "web1.yaml").symlink_to("/proc/self/environ"),
}  # fmt: skip


@pytest.mark.parametrize("link", LEADS_OUT.values(), ids=LEADS_OUT)
def test_link_that_leads_out_of_the_directory_is_a_fault_that_reveals_nothing_of_its_target(
    directory: Path, outside: Path, link: Callable[[Path, Path], object]
) -> None:
    write(directory, real=instance("real"))
    link(directory, outside)
    expected = (
        "web1.yaml:1: found a link that leads out of the directory, expected a file inside it, or"
        " the driver option links_outside: true"
    )
    assert faults_of(directory) == [expected]
    assert expected in validated(directory)


@pytest.mark.parametrize("key", ["userdata-file", "vendordata-file"])
@pytest.mark.parametrize("name", ["a.sh", "below/a.sh", "way/outside"])
def test_document_that_a_link_leads_out_to_is_a_fault(
    directory: Path, outside: Path, key: str, name: str
) -> None:
    (directory / "below").mkdir()
    (directory / "below" / "a.sh").symlink_to(outside)
    (directory / "a.sh").symlink_to("below/../../outside")
    (directory / "way").symlink_to(outside.parent)
    write(directory, web1=f"metadata: {{}}\n{key}: {name}\n")
    assert faults_of(directory) == [
        f"web1.yaml:2: {key}: found '{name}', a link that leads out of the directory, expected a"
        " file inside it, or the driver option links_outside: true"
    ]


def test_defaults_in_the_directory_that_a_link_leads_out_to_are_a_fault(
    directory: Path, outside: Path
) -> None:
    (directory / "common.yaml").symlink_to(outside)
    write(directory, web1=instance("a"))
    (fault,) = faults_of(directory, defaults="common.yaml")
    assert fault.startswith("common.yaml:1: found a link that leads out of the directory")


def test_document_names_behind_a_link_out_of_the_directory_are_not_revealed(
    directory: Path, outside: Path
) -> None:
    outside.write_text("metadata: {}\ndocuments: {hidden: x}\n")
    (directory / "web1.yaml").symlink_to(outside)
    assert list(driver_of(directory).document_names()) == []
    assert list(driver_of(directory, links_outside=True).document_names()) == ["HIDDEN"]


def test_links_may_lead_outside_if_the_operator_says_so(directory: Path, secret: Path) -> None:
    (directory / "web1.yaml").symlink_to(secret.with_suffix(".yaml"))
    (directory / "a.sh").symlink_to("../a.sh")
    (directory.parent / "a.sh").write_text("#!/bin/sh\n")
    write(directory, web2=instance("2") + "userdata-file: a.sh\n")
    assert id_of(served(directory, links_outside=True)) == "secret"
    assert served(directory, Machine(name="web2"), links_outside=True).userdata == b"#!/bin/sh\n"


@pytest.mark.parametrize(
    "target",
    ["real.yaml", "./real.yaml", "below/../real.yaml", "below/up", "{}/real.yaml", "{}//real.yaml"],
)
def test_link_inside_the_directory_is_followed(directory: Path, target: str) -> None:
    (directory / "below").mkdir()
    (directory / "below" / "up").symlink_to("../real.yaml")
    write(directory, real=instance("real"))
    (directory / "web1.yaml").symlink_to(target.format(directory))
    assert id_of(served(directory)) == "real"


@pytest.mark.usefixtures("settled")
def test_config_map_of_kubernetes_is_served_and_its_update_takes_effect(directory: Path) -> None:
    def update(version: str) -> None:
        """As the kubelet's atomic writer does it."""
        (directory / f"..{version}").mkdir()
        write(directory / f"..{version}", web1=instance(version) + "userdata-file: a.sh\n")
        (directory / f"..{version}" / "a.sh").write_text(version)
        (directory / "..data_tmp").symlink_to(f"..{version}")
        (directory / "..data_tmp").replace(directory / "..data")

    update("2024_1")
    for name in ("web1.yaml", "a.sh"):
        (directory / name).symlink_to(f"..data/{name}")
    driver = driver_of(directory)
    found = driver.get_instance(WEB1)
    assert found is not None
    assert (id_of(found), found.userdata) == ("2024_1", b"2024_1")
    assert driver.still_holds(found.token)
    update("2024_2")
    assert not driver.still_holds(found.token)
    found = driver.get_instance(WEB1)
    assert found is not None
    assert (id_of(found), found.userdata) == ("2024_2", b"2024_2")


def test_link_that_is_swapped_while_it_is_read_never_leads_out(
    directory: Path, outside: Path
) -> None:
    write(directory, real=instance("real"))
    (directory / "web1.yaml").symlink_to("real.yaml")
    is_over = threading.Event()

    def swap() -> None:
        for target in itertools.cycle((outside, "real.yaml")):
            (directory / "new").symlink_to(target)
            (directory / "new").replace(directory / "web1.yaml")
            if is_over.is_set():
                return

    swapper = threading.Thread(target=swap)
    swapper.start()
    driver, seen = driver_of(directory, last_good_max_age_s=0), set()
    for _ in range(2000):
        try:
            seen.add(str(id_of(driver.get_instance(WEB1))))
        except (InvalidInstanceData, DriverError) as error:
            seen.add(str(error))
    is_over.set()
    swapper.join()
    assert "real" in seen
    assert "SECRET" not in str(seen)
    assert "root:x" not in str(seen)


def test_look_ups_leave_no_descriptor_open(directory: Path, outside: Path) -> None:
    (directory / "below").mkdir()
    write(directory, real=instance("real"), web2=BROKEN, web3=instance("3"))
    for name, target in (
        *(("web1.yaml", "below/../real.yaml"), ("web4.yaml", "below/../../outside")),
        *(("web5.yaml", "web5.yaml"), ("web6.yaml", "real.yaml/x"), ("web7.yaml", outside)),
    ):
        (directory / name).symlink_to(target)
    driver = driver_of(directory)
    before = os.listdir("/proc/self/fd")
    for number in range(9):
        with suppress(InvalidInstanceData, DriverError):
            driver.get_instance(Machine(name=f"web{number}"))
    list(driver.validate())
    driver.document_names()
    driver.check()
    assert os.listdir("/proc/self/fd") == before


def test_links_that_go_round_take_few_descriptors(directory: Path) -> None:
    (directory / "below").mkdir()
    for number in range(30):
        (directory / f"link{number}").symlink_to("below/../" * 400 + f"link{number + 1}")
    (directory / "link30").symlink_to("nothing.yaml")
    (directory / "web1.yaml").symlink_to("link0")
    with limited_descriptors(64):
        assert driver_of(directory).get_instance(Machine(name="web1")) is None


@contextmanager
def limited_descriptors(further: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + further, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# Defaults and files beside the file


def test_defaults_lie_under_the_file_key_by_key(directory: Path) -> None:
    write(
        directory,
        common="metadata: {region: r, x: {a: 1, b: 1}}\n"
        "network: {netmask: 255.255.255.0, gateway: 10.0.0.254, nameservers: 8.8.8.8}\n"
        "userdata: '#!/bin/sh'\n",
        web1="metadata: {instance_id: i, x: {b: 2}}\nnetwork: {address: 10.0.0.1}\n",
    )
    found = served(directory, defaults="common.yaml")
    assert found.metadata == {"instance-id": "i", "region": "r", "x": {"a": 1, "b": 2}}
    assert found.userdata == b"#!/bin/sh"
    assert found.network == {
        "version": 1,
        "config": [
            {
                "type": "physical",
                "name": "eth0",
                "subnets": [
                    {
                        "type": "static",
                        "address": "10.0.0.1",
                        "netmask": "255.255.255.0",
                        "gateway": "10.0.0.254",
                        "dns_nameservers": ["8.8.8.8"],
                    }
                ],
            }
        ],
    }
    assert found.sources == (str(directory / "web1.yaml"), str(directory / "common.yaml"))


def test_defaults_may_give_the_metadata(directory: Path) -> None:
    write(directory, common="metadata: {region: r}\n", web1="userdata: '#!/bin/sh'\n")
    assert served(directory, defaults="common.yaml").metadata == {"region": "r"}


def test_defaults_may_lie_outside_the_directory(directory: Path) -> None:
    write(directory.parent, common="metadata: {region: r}\n")
    write(directory, web1=instance("i"))
    found = served(directory, defaults=str(directory.parent / "common.yaml"))
    assert found.metadata == {"instance-id": "i", "region": "r"}


@pytest.mark.parametrize("defaults", ["common.yaml", "./common.yaml", "../instances/common.yaml"])
def test_defaults_are_no_file_of_a_vm(directory: Path, defaults: str) -> None:
    write(directory, common="metadata: {region: r}\n")
    assert driver_of(directory, defaults=defaults).get_instance(Machine(name="common")) is None


@pytest.mark.usefixtures("settled")
def test_defaults_that_change_change_every_answer(directory: Path) -> None:
    write(directory, common="metadata: {region: a}\n", web1=instance("1"), web2=instance("2"))
    driver = driver_of(directory, defaults="common.yaml")
    first = [driver.get_instance(Machine(name=name)) for name in ("web1", "web2")]
    write(directory, common="metadata: {region: bb}\n")
    assert [found and driver.still_holds(found.token) for found in first] == [False, False]
    second = [driver.get_instance(Machine(name=name)) for name in ("web1", "web2")]
    assert [found and found.metadata["region"] for found in second] == ["bb", "bb"]


@pytest.mark.parametrize("key", ["userdata-file", "userdata_file"])
def test_userdata_file_is_served_as_it_is(directory: Path, key: str) -> None:
    (directory / "scripts").mkdir()
    (directory / "scripts" / "a.sh").write_bytes(b"\n#!/bin/sh\xff\r\n")
    write(directory, web1=f"metadata: {{}}\n{key}: scripts/a.sh\n")
    found = served(directory)
    assert found.userdata == b"\n#!/bin/sh\xff\r\n"
    assert found.sources == (str(directory / "web1.yaml"), str(directory / "scripts" / "a.sh"))


def test_vendordata_file_is_served_beside_the_userdata(directory: Path) -> None:
    write(directory, a__sh="#!/bin/sh\n", web1="metadata: {}\nuserdata: x\nvendordata-file: a.sh\n")
    found = served(directory)
    assert (found.userdata, found.vendordata) == (b"x", b"#!/bin/sh\n")


def test_userdata_file_of_the_defaults_is_served(directory: Path) -> None:
    write(directory, a__sh="a", common="userdata-file: a.sh\n", web1=instance("i"))
    assert served(directory, defaults="common.yaml").userdata == b"a"


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize(
    "name", ["../secret.yaml", "x/../../secret.yaml", "''", "'.'", '"a\\0b"', "[a]"]
)
def test_userdata_file_outside_the_directory_is_a_fault(directory: Path, name: str) -> None:
    write(directory, web1=f"metadata: {{}}\nuserdata-file: {name}\n")
    (fault,) = faults_of(directory)
    assert fault.startswith("web1.yaml:2: userdata-file: found ")
    assert fault.endswith(", expected the name of a file inside the directory")


def test_userdata_file_with_an_absolute_path_is_a_fault(directory: Path) -> None:
    write(directory, a__sh="x", web1=f"metadata: {{}}\nuserdata-file: {directory}/a.sh\n")
    assert faults_of(directory)[0].startswith("web1.yaml:2: userdata-file: found ")


# Faults


FAULTS = [
    pytest.param(
        "metadata: {}\nnetwork:\n  dhcp: false\n  dhcp: true\n",
        ["4:3: network.dhcp: found a duplicate key (the first is on line 3), expected each key"
            " once"],
        id="duplicate-key",
    ),
    pytest.param(
        "metadata:\n  ami-id: a\n  ami_id: b\n",
        ["2: metadata.ami-id: found a duplicate key, with - and _, expected each key once"],
        id="key-in-both-forms",
    ),
    pytest.param(
        "metadata: {}\nnetwork:\n  netmask: 255.0.0.0\n  address: 10.0.0\n",
        [
            "4: network.address: found '10.0.0', expected an IP address such as 192.168.1.1, with"
            " or without /24"
        ],
        id="address",
    ),
    pytest.param(
        "metadata: {}\nnetwork:\n  address:\n  - 10.0.0.1/8\n  - x\n",
        [
            "5: network.address.1: found 'x', expected an IP address such as 192.168.1.1, with or"
            " without /24"
        ],
        id="address-in-a-list",
    ),
    pytest.param(
        "metadata: {}\nnetwork:\n  address: 10.0.0.1\n  netmask: 255.0.255.0\n",
        ["4: network.netmask: found '255.0.255.0', expected a netmask such as 255.255.255.0"],
        id="netmask",
    ),
    pytest.param(
        "metadata: {}\nnetwork:\n  address: 10.1.0.2/24\n  gateway: 10.0.0.1\n",
        [
            "4: network.gateway: found '10.0.0.1', expected an address in 10.1.0.0/24, or on-link:"
            " true"
        ],
        id="gateway",
    ),
    pytest.param(
        "metadata: {}\nnetwork:\n"
        "- dhcp: true\n- name: b\n  address: 10.0.0.1/8\n  gateway: 11.0.0.1\n",
        [
            "6: network.1.gateway: found '11.0.0.1', expected an address in 10.0.0.0/8, or on-link:"
            " true"
        ],
        id="gateway-of-the-second-interface",
    ),
    pytest.param(
        "metadata:\n  public-keys:\n  - ssh-rsa AAAA\n",
        ["3: metadata.public-keys.0: found 'ssh-rsa AAAA', expected an SSH public key whose base64"
         " contains the same type, ssh-rsa"],
        id="public-key",
    ),
    pytest.param(
        "metadata:\n  public-keys: ssh-rsa\n",
        ["2: metadata.public-keys: found 'ssh-rsa', expected an SSH public key such as"
         " 'ssh-ed25519 AAAA... name'"],
        id="one-public-key",
    ),
    pytest.param(
        "metadata:\n  hostname: a_b\n",
        ["2: metadata.hostname: found 'a_b', expected a host name or FQDN: labels of letters,"
         " digits and hyphens"],
        id="hostname",
    ),
    pytest.param(
        "metadata: {}\nuser-data: x\n",
        ["2: user-data: found 'user-data', expected 'userdata'"],
        id="unknown-key",
    ),
    pytest.param(
        "metadata: {}\nnetwork:\n  dhcp: true\n  adress: 10.0.0.1\n",
        ["4: network.adress: found 'adress', expected 'address'"],
        id="unknown-key-of-the-network",
    ),
    pytest.param(
        "metadata: {}\nnetwork:\n  version: 2\n"
        "  ethernets:\n    a: {macaddress: 52:54:00:12:34:56}\n",
        [
            "5:9: network.ethernets.<1 character>.macaddress: found 41135085296, expected a MAC"
            " address in quotes (without them, YAML reads a number)"
        ],
        id="mac-address-as-a-number",
    ),
    pytest.param(
        "userdata: x\n",
        ["1: metadata: found nothing, expected a mapping (it may be empty: {})"],
        id="no-metadata",
    ),
    pytest.param(
        "metadata: {}\ndocuments:\n  digest: x\n",
        [
            "3:3: documents: found name 1 (6 characters), expected a name that the protocol does"
            " not reserve"
        ],
        id="document-name",
    ),
    pytest.param(
        "metadata: {}\nmatch:\n  vc-uuid: x\n",
        [
            "3: match.vc-uuid: found 'x', "
            "expected a UUID such as 01234567-89ab-cdef-fedc-ba9876543210"
        ],
        id="match",
    ),
    pytest.param(
        "metadata: {}\nuserdata: x\nuserdata-file: x\n",
        ["3: userdata-file: found both userdata and userdata-file, expected one of them"],
        id="userdata-twice",
    ),
    pytest.param(
        "metadata: {}\nuserdata-file: a.sh\n",
        [
            "2: userdata-file: found 'a.sh', which does not exist, expected the name of a file"
            " inside the directory"
        ],
        id="userdata-file",
    ),
    pytest.param("- a\n", ["1: found a list, expected a mapping with the key metadata"], id="list"),
    pytest.param("", ["1: found nothing, expected a mapping with the key metadata"], id="empty"),
    pytest.param(
        "metadata: {}\n---\nmetadata: {}\n",
        [
            "2:1: found a second YAML document, expected one document per file (remove the"
            " second '---')"
        ],
        id="second-document",
    ),
    pytest.param(
        b"metadata: {}\n# \xe9\n",
        [
            "2:3: found the byte 0xe9, expected UTF-8: save the file as UTF-8, or convert it (iconv"
            " -f LATIN1 -t UTF-8)"
        ],
        id="latin-1",
    ),
    pytest.param(
        "metadata:\n  hostname: a_b\n  instance-id: yes\n  region: {}\n"
        "network:\n  address: x\n  mtu: 1\nuserdata: 5\nzzz: 1\n",
        [
            "2: metadata.hostname: found 'a_b', expected a host name or FQDN: labels of letters,"
            " digits and hyphens",
            "4: metadata.region: found a mapping, expected a string",
            "6: network.address: found 'x', expected an IP address such as 192.168.1.1, with or"
            " without /24",
            "7: network.mtu: found 1, expected a number of at least 68",
            "8: userdata: found a number, expected a string, !!binary, or a mapping, which is"
            " served as #cloud-config",
            "9:1: <3 characters>: found an unknown key (3 characters), expected one of documents,"
            " match, metadata, network, userdata, userdata-file, vendordata, vendordata-file",
        ],
        id="all-at-once",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("content", "faults"), FAULTS)
def test_fault_has_its_file_line_and_key(
    directory: Path, content: str | bytes, faults: list[str]
) -> None:
    write(directory, web1=content)
    expected = [f"web1.yaml:{fault}" for fault in faults]
    assert faults_of(directory) == expected
    assert validated(directory) == expected


def test_fault_of_yaml_has_its_line(directory: Path) -> None:
    write(directory, web1="metadata: {}\nnetwork: [\n")
    (fault,) = faults_of(directory)
    assert fault == "web1.yaml:2:10: network: found a [ that is not closed, expected a closing ]"


@pytest.mark.parametrize("key", ["userdata", "vendordata"])
def test_fault_of_a_document_does_not_tell_its_text(directory: Path, key: str) -> None:
    write(directory, web1=f"metadata: {{}}\n{key}: {{secret: secret, secret: !x secret}}\n")
    assert "found secret" not in str(faults_of(directory))
    assert "'secret'" not in str(faults_of(directory))


def test_file_of_four_mebibytes_is_served(directory: Path) -> None:
    text = instance("a")
    write(directory, web1=text + "#" * (4 * 1024 * 1024 - len(text)))
    assert id_of(served(directory)) == "a"


def test_file_of_more_than_four_mebibytes_is_a_fault(directory: Path) -> None:
    text = instance("a")
    write(directory, web1=text + "#" * (4 * 1024 * 1024 - len(text) + 1))
    assert faults_of(directory) == [
        "web1.yaml:1: found a larger file, expected at most 4,194,304 bytes"
    ]


@pytest.mark.parametrize(
    "form", ["userdata: |\n  {}\n", "documents:\n  keys: {}\n"], ids=["userdata", "documents"]
)
def test_document_of_more_than_one_mebibyte_is_a_fault(directory: Path, form: str) -> None:
    write(directory, web1="metadata: {}\n" + form.format("x" * (1024 * 1024 + 1)))
    (fault,) = faults_of(directory)
    assert fault.endswith("bytes, expected at most 1,048,576 bytes")


def test_userdata_file_of_more_than_one_mebibyte_is_a_fault(directory: Path) -> None:
    write(directory, a__sh="x" * (1024 * 1024 + 1), web1="metadata: {}\nuserdata-file: a.sh\n")
    (fault,) = faults_of(directory)
    assert fault.endswith("'a.sh', which is larger, expected a file of at most 1,048,576 bytes")


def test_first_hundred_faults_of_a_file_are_reported_and_that_there_are_more(
    directory: Path,
) -> None:
    write(directory, web1="metadata: {}\nnetwork:\n" + "- {address: x, foo: 1}\n" * 10_000)
    told = faults_of(directory)
    assert len(told) == 101
    assert told[-1].endswith("found more than 100 faults, expected none: fix these first")


def test_alias_bomb_is_a_fault(directory: Path) -> None:
    bomb = "".join(f"  l{n + 1}: &l{n + 1} [{f'*l{n}, ' * 9}*l{n}]\n" for n in range(9))
    write(directory, web1=f"metadata:\n  l0: &l0 lol\n{bomb}")
    (fault,) = faults_of(directory)
    assert "2:7: metadata.<2 characters>." in fault
    assert "found too much data after expanding aliases" in fault


@pytest.mark.parametrize("opened", ["[", "{a: ", "- ", "{", "? "])
def test_deep_nesting_is_a_fault(directory: Path, opened: str) -> None:
    write(directory, web1=f"metadata:\n  {opened * 5_000}\n")
    assert faults_of(directory)


@pytest.mark.parametrize(
    ("common", "web1", "faults"),
    [
        pytest.param(
            "metadata:\n  hostname: a_b\n",
            instance("a"),
            ["common.yaml:2: metadata.hostname: found 'a_b'"],
            id="in-the-defaults",
        ),
        pytest.param(
            "network: [\n",
            instance("a"),
            ["common.yaml:1:10: network: found a [ that is not closed"],
            id="syntax",
        ),
        pytest.param(
            "network:\n  netmask: x\n",
            "metadata: {}\nnetwork:\n  address: y\n",
            [
                "common.yaml:2: network.netmask: found 'x'",
                "web1.yaml:3: network.address: found 'y'",
            ],
            id="in-both",
        ),
        pytest.param(
            "network:\n  gateway: 10.0.0.1\n",
            "metadata: {}\nnetwork:\n  address: 11.0.0.2/8\n",
            ["common.yaml:2: network.gateway: found '10.0.0.1'"],
            id="between-both",
        ),
        pytest.param(
            "network:\n  netmask: 255.0.0.0\n",
            "metadata: {}\nnetwork:\n  address: 11.0.0.2/8\n  netmask: 255.255.0.0\n",
            ["web1.yaml:4: network.netmask: found '255.255.0.0'"],
            id="over-the-defaults",
        ),
        pytest.param(
            "\n\nmatch: {name: web1}\n",
            instance("a"),
            ["common.yaml:3: match: found 'match', expected no such key among the defaults"],
            id="match",
        ),
        pytest.param(
            "metadata: {}\nuserdata-file: missing\n",
            instance("a"),
            ["common.yaml:2: userdata-file: found 'missing', which does not exist"],
            id="userdata-file",
        ),
        pytest.param(
            "metadata: {}\nzzz: 1\n",
            instance("a"),
            ["common.yaml:2:1: <3 characters>: found an unknown key (3 characters)"],
            id="unknown",
        ),
        pytest.param(
            "network:\n  nameservers: 8.8.8.8\n",
            "metadata: {}\nnetwork:\n  mtu: 9000\n",
            ["web1.yaml:2: network.address: found nothing, expected an address, or dhcp: true"],
            id="missing-in-both",
        ),
    ],
)  # fmt: skip
def test_fault_is_reported_by_the_file_that_it_stands_in(
    directory: Path, common: str, web1: str, faults: list[str]
) -> None:
    write(directory, common=common, web1=web1)
    found = faults_of(directory, defaults="common.yaml")
    assert [fault[: len(start)] for fault, start in zip(found, faults, strict=True)] == faults


# Revisions


def rewrite_alike(path: Path, text: str) -> None:
    """New content of the same size and modification time, as soon as the clock has moved on."""
    before = path.stat()
    until_s = time.monotonic() + LIMIT_S
    while path.stat().st_ctime_ns == before.st_ctime_ns and time.monotonic() < until_s:
        path.write_text(text)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def put(path: Path, text: str) -> None:
    """Replaces a file at once, as an operator's tool should."""
    other = path.with_name(f".{path.name}.new")
    other.write_text(text)
    other.replace(path)


CHANGES = {
    "content": lambda d: write(d, web1=instance("longer")),
    "same-size-and-mtime": lambda d: rewrite_alike(
        d / "web1.yaml", (d / "web1.yaml").read_text().replace("old", "new")
    ),
    "replaced": lambda d: put(d / "web1.yaml", (d / "web1.yaml").read_text()),
    "removed": lambda d: (d / "web1.yaml").unlink(),
    "other-suffix": lambda d: write(d, web1__yml=instance("new")),
    "vc-uuid": lambda d: write(d, **{VC: instance("new")}),
    "vc-uuid-as-yml": lambda d: (d / f"{VC}.yml").write_text(instance("new")),
    "bios-uuid": lambda d: write(d, **{BIOS: instance("new") + PINNED_BIOS}),
    "defaults": lambda d: write(d, common="metadata: {region: longer}\n"),
    "defaults-removed": lambda d: (d / "common.yaml").unlink(),
    "userdata-file": lambda d: write(d, a__sh="longer"),
    "userdata-file-removed": lambda d: (d / "a.sh").unlink(),
    "directory-away": lambda d: d.rename(d.with_name("away")),
    "link-loop": lambda d: (d / f"{VC}.yaml").symlink_to(f"{VC}.yaml"),
}  # fmt: skip


@pytest.fixture
def changing(directory: Path) -> FileDriver:
    write(
        directory,
        common="metadata: {region: old}\n",
        a__sh="old",
        web1=instance("old") + "userdata-file: a.sh\n",
    )
    return driver_of(directory, defaults="common.yaml")


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_answer_does_not_hold_after_a_change(
    directory: Path, changing: FileDriver, change: Callable[[Path], object]
) -> None:
    found = changing.get_instance(WEB1)
    assert found is not None
    assert changing.still_holds(found.token)
    change(directory)
    assert not changing.still_holds(found.token)


@pytest.mark.usefixtures("settled")
def test_answer_holds_while_other_files_change(directory: Path, changing: FileDriver) -> None:
    found = changing.get_instance(WEB1)
    assert found is not None
    write(directory, web2=instance("2"), **{OTHER: instance("3")})
    assert changing.still_holds(found.token)


@pytest.mark.usefixtures("settled")
def test_answer_of_a_higher_rank_holds_while_lower_ones_change(directory: Path) -> None:
    write(directory, **{VC: instance("a"), "web1": instance("b")})
    driver = driver_of(directory)
    found = driver.get_instance(WEB1)
    assert found is not None
    write(directory, web1=BROKEN)
    assert driver.still_holds(found.token)


def test_answer_of_files_changed_just_now_has_no_token(changing: FileDriver) -> None:
    found = changing.get_instance(WEB1)
    assert found is not None
    assert found.token is None


@pytest.mark.parametrize(
    ("change", "instance_id"),
    [
        ("content", "longer"),
        ("same-size-and-mtime", "new"),
        ("removed", None),
        ("vc-uuid", "new"),
        ("bios-uuid", "new"),
    ],
)
def test_change_takes_effect_with_the_next_request(
    directory: Path, changing: FileDriver, change: str, instance_id: str | None
) -> None:
    assert id_of(changing.get_instance(WEB1)) == "old"
    CHANGES[change](directory)
    assert id_of(changing.get_instance(WEB1)) == instance_id


def test_change_of_a_userdata_file_takes_effect(directory: Path, changing: FileDriver) -> None:
    changing.get_instance(WEB1)
    write(directory, a__sh="newer")
    found = changing.get_instance(WEB1)
    assert found is not None
    assert found.userdata == b"newer"


@pytest.mark.usefixtures("settled")
def test_directory_swapped_by_a_link_takes_effect(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        write(tmp_path / version, web1=instance(version))
    current = tmp_path / "current"
    current.symlink_to("v1")
    driver = driver_of(current)
    first = driver.get_instance(WEB1)
    assert first is not None
    assert id_of(first) == "v1"
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").replace(current)
    assert not driver.still_holds(first.token)
    assert id_of(driver.get_instance(WEB1)) == "v2"


def test_directory_created_again_takes_effect(directory: Path) -> None:
    write(directory, web1=instance("old"))
    driver = driver_of(directory)
    directory.rename(directory.with_name("away"))
    directory.mkdir()
    write(directory, web1=instance("new"))
    assert id_of(driver.get_instance(WEB1)) == "new"


# The last good answer


SPOILINGS = {
    "invalid": lambda d: write(d, web1="metadata: {hostname: a_b}\n"),
    "half-written": lambda d: write(d, web1=BROKEN),
    "empty": lambda d: write(d, web1=""),
    "both-suffixes": lambda d: write(d, web1__yml=instance("new")),
    "broken-higher-rank": lambda d: write(d, **{VC: BROKEN}),
    "broken-defaults": lambda d: write(d, common="network: [\n"),
    "userdata-file-removed": lambda d: (d / "a.sh").unlink(),
    "link-loop": lambda d: ((d / "web1.yaml").unlink(), (d / "web1.yaml").symlink_to("web1.yaml")),
    "directory-away": lambda d: d.rename(d.with_name("away")),
    "directory-a-file": lambda d: (d.rename(d.with_name("away")), d.touch()),
}  # fmt: skip
SPOILED = pytest.mark.parametrize("spoil", SPOILINGS.values(), ids=SPOILINGS)


@SPOILED
def test_last_good_answer_is_served_to_its_vm(
    directory: Path, changing: FileDriver, spoil: Callable[[Path], object]
) -> None:
    good = changing.get_instance(WEB1)
    assert good is not None
    spoil(directory)
    found = changing.get_instance(WEB1)
    assert found is not None
    assert found.problem.startswith("the last good answer is served, because: ")
    assert (found.metadata, found.userdata) == (good.metadata, good.userdata)


@pytest.mark.parametrize(
    "spoil",
    [spoil for name, spoil in SPOILINGS.items() if name != "broken-higher-rank"],
    ids=[name for name in SPOILINGS if name != "broken-higher-rank"],
)
@pytest.mark.parametrize(
    "machine",
    [
        Machine(name="web1", vc_uuid=OTHER, bios_uuid=BIOS),
        Machine(name="web1", bios_uuid=BIOS),
    ],
    ids=["another-vc-uuid", "no-vc-uuid"],
)
def test_last_good_answer_is_not_served_to_another_vm(
    directory: Path, changing: FileDriver, spoil: Callable[[Path], object], machine: Machine
) -> None:
    changing.get_instance(machine if machine.vc_uuid is None else WEB1)
    spoil(directory)
    with pytest.raises((InvalidInstanceData, DriverError)):
        changing.get_instance(machine)


def test_last_good_answer_names_the_fault(directory: Path, changing: FileDriver) -> None:
    changing.get_instance(WEB1)
    write(directory, web1="metadata: {hostname: a_b}\n")
    found = changing.get_instance(WEB1)
    assert found is not None
    assert f"{directory}/web1.yaml:1: metadata.hostname: found 'a_b'" in found.problem


@pytest.mark.usefixtures("settled")
def test_last_good_answer_holds_until_a_file_changes(directory: Path, changing: FileDriver) -> None:
    changing.get_instance(WEB1)
    write(directory, web1=BROKEN)
    found = changing.get_instance(WEB1)
    assert found is not None
    assert changing.still_holds(found.token)
    write(directory, web1=f"{BROKEN} and more")
    assert not changing.still_holds(found.token)


@pytest.mark.usefixtures("settled")
def test_last_good_answer_has_no_token_while_files_cannot_be_read(
    directory: Path, changing: FileDriver
) -> None:
    changing.get_instance(WEB1)
    directory.rename(directory.with_name("away"))
    found = changing.get_instance(WEB1)
    assert found is not None
    assert found.token is None


def test_last_good_answer_ends_when_the_file_is_fixed(
    directory: Path, changing: FileDriver
) -> None:
    changing.get_instance(WEB1)
    write(directory, web1=BROKEN)
    changing.get_instance(WEB1)
    write(directory, web1=instance("mended"))
    found = changing.get_instance(WEB1)
    assert found is not None
    assert (id_of(found), found.problem) == ("mended", "")


def test_last_good_answer_ends_when_the_file_is_removed(
    directory: Path, changing: FileDriver
) -> None:
    changing.get_instance(WEB1)
    write(directory, web1=BROKEN)
    changing.get_instance(WEB1)
    (directory / "web1.yaml").unlink()
    assert changing.get_instance(WEB1) is None
    write(directory, web1=BROKEN)
    with pytest.raises(InvalidInstanceData):
        changing.get_instance(WEB1)


def test_last_good_answer_ends_when_its_file_is_removed_and_another_is_broken(
    directory: Path, changing: FileDriver
) -> None:
    changing.get_instance(WEB1)
    write(directory, **{VC: BROKEN})
    (directory / "web1.yaml").unlink()
    with pytest.raises(InvalidInstanceData):
        changing.get_instance(WEB1)


def test_last_good_answer_ends_when_the_file_is_pinned_to_another_vm(
    directory: Path, changing: FileDriver
) -> None:
    changing.get_instance(WEB1)
    write(directory, web1=f"metadata: {{}}\nmatch: {{vc-uuid: {OTHER}}}\n")
    assert changing.get_instance(WEB1) is None
    write(directory, web1=BROKEN)
    with pytest.raises(InvalidInstanceData):
        changing.get_instance(WEB1)


def test_last_good_answer_is_not_served_under_another_name(
    directory: Path, changing: FileDriver
) -> None:
    changing.get_instance(WEB1)
    write(directory, web2=BROKEN)
    with pytest.raises(InvalidInstanceData):
        changing.get_instance(Machine(name="web2", vc_uuid=VC))


@pytest.mark.usefixtures("settled")
def test_last_good_answer_ends_after_its_greatest_age(directory: Path) -> None:
    write(directory, web1=instance("old"))
    driver = driver_of(directory, last_good_max_age_s=0.2)
    driver.get_instance(WEB1)
    write(directory, web1=BROKEN)
    found = driver.get_instance(WEB1)
    assert found is not None
    since_s = time.monotonic()
    while driver.still_holds(found.token):
        assert time.monotonic() - since_s < LIMIT_S
    with pytest.raises(InvalidInstanceData):
        driver.get_instance(WEB1)
    assert time.monotonic() - since_s > 0.1


def test_last_good_answer_is_kept_for_its_greatest_age_again_after_each_fix(
    directory: Path,
) -> None:
    driver = driver_of(directory, last_good_max_age_s=0.2)
    for version in ("1", "2"):
        write(directory, web1=instance(version))
        driver.get_instance(WEB1)
        write(directory, web1=BROKEN)
        assert id_of(driver.get_instance(WEB1)) == version
        since_s = time.monotonic()
        while time.monotonic() - since_s < 0.2:
            time.sleep(0.01)
        with pytest.raises(InvalidInstanceData):
            driver.get_instance(WEB1)


def test_last_good_answer_is_off_with_an_age_of_zero(directory: Path) -> None:
    write(directory, web1=instance("old"))
    driver = driver_of(directory, last_good_max_age_s=0)
    driver.get_instance(WEB1)
    write(directory, web1=BROKEN)
    with pytest.raises(InvalidInstanceData):
        driver.get_instance(WEB1)


# What cannot be read


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, which may read everything."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can enter; the directory of a test is not."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        (Path(path) / "instances").mkdir(mode=0o755)
        yield Path(path) / "instances"


def forbid_file(directory: Path) -> None:
    (directory / "web1.yaml").chmod(0)


def forbid_directory(directory: Path) -> None:
    directory.chmod(0)


@pytest.mark.parametrize("forbid", [forbid_file, forbid_directory], ids=["file", "directory"])
def test_file_without_rights_is_an_error_and_not_absent(
    public: Path, forbid: Callable[[Path], None]
) -> None:
    write(public, web1=instance("a"))
    driver = driver_of(public)
    forbid(public)
    with as_nobody(), pytest.raises(DriverError, match="cannot be read: Permission denied"):
        driver.get_instance(WEB1)
    public.chmod(0o755)


@pytest.mark.parametrize(
    "closed", [".", "layers", "layers/10.yaml", "vms.csv", "defaults.yaml"], ids=str
)
def test_driver_without_rights_to_what_every_look_up_reads_is_not_ready(
    public: Path, closed: str
) -> None:
    (public / "layers").mkdir(mode=0o755)
    for name in ("web1.yaml", "layers/10.yaml", "defaults.yaml"):
        (public / name).write_text("metadata: {}\n")
    (public / "vms.csv").write_text("vm,metadata.instance-id\nweb2,a\n")
    driver = driver_of(public, defaults="defaults.yaml")
    with as_nobody():
        driver.check()
        assert driver.get_instance(WEB1)
    (public / closed).chmod(0)
    said = f"{public / closed}: cannot be read: Permission denied: chmod or chgrp it, so that user"
    with as_nobody():
        with pytest.raises(DriverError, match=re.escape(said)):
            driver.check()
        with pytest.raises(DriverError, match=re.escape(said)):
            driver_of(public, defaults="defaults.yaml").get_instance(WEB1)
    public.chmod(0o755)


def test_directory_below_one_without_rights_is_not_called_absent(public: Path) -> None:
    (public / "inner").mkdir(mode=0o755)
    public.chmod(0)
    said = f"{public}: cannot be read: Permission denied"
    with as_nobody(), pytest.raises(DriverError, match=re.escape(said)):
        driver_of(public / "inner")
    public.chmod(0o755)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("layers", "/etc"),
        ("layers/10.yaml", "/etc/passwd"),
        ("vms.yaml", "/etc/passwd"),
        ("vms.yaml", "nowhere"),
    ],
)
def test_driver_with_a_faulty_link_for_all_is_ready(
    directory: Path, name: str, target: str
) -> None:
    """The look-ups answer, if only with `invalid`."""
    write(directory, web1=instance("a"))
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(target)
    driver = driver_of(directory)
    driver.check()
    with suppress(InvalidInstanceData):
        driver.get_instance(WEB1)


def test_driver_with_a_layer_that_leads_nowhere_is_not_ready(directory: Path) -> None:
    write(directory, web1=instance("a"))
    (directory / "layers").mkdir()
    (directory / "layers/10.yaml").symlink_to("nowhere")
    driver = driver_of(directory)
    for ask in (driver.check, lambda: driver.get_instance(WEB1)):
        with pytest.raises(DriverError, match=r"10\.yaml: cannot be read: No such file"):
            ask()


@pytest.mark.parametrize("forbid", [forbid_file, forbid_directory], ids=["file", "directory"])
def test_last_good_answer_is_served_without_rights(
    public: Path, forbid: Callable[[Path], None]
) -> None:
    write(public, web1=instance("a"))
    driver = driver_of(public)
    driver.get_instance(WEB1)
    forbid(public)
    with as_nobody():
        found = driver.get_instance(WEB1)
    public.chmod(0o755)
    assert found is not None
    assert "Permission denied" in found.problem


def test_link_loop_is_an_error_and_not_absent(directory: Path) -> None:
    (directory / "web1.yaml").symlink_to("web1.yaml")
    with pytest.raises(DriverError, match="Too many levels of symbolic links"):
        driver_of(directory).get_instance(WEB1)


def test_directory_that_vanished_is_an_error(directory: Path) -> None:
    driver = driver_of(directory)
    directory.rmdir()
    with pytest.raises(DriverError, match="cannot be read: No such file or directory"):
        driver.get_instance(WEB1)


def test_directory_that_became_a_file_is_an_error(directory: Path) -> None:
    driver = driver_of(directory)
    directory.rmdir()
    directory.touch()
    with pytest.raises(DriverError, match="is no longer a directory"):
        driver.get_instance(WEB1)


def test_defaults_that_vanished_are_an_error(directory: Path) -> None:
    write(directory, common="metadata: {}\n", web1=instance("a"))
    driver = driver_of(directory, defaults="common.yaml")
    (directory / "common.yaml").unlink()
    for ask in (driver.check, lambda: driver.get_instance(WEB1)):
        with pytest.raises(DriverError, match=r"common\.yaml: cannot be read: No such file"):
            ask()


MOUNT_OVER = """
import subprocess, sys
from vmw_cloudinit_metadata.drivers.driver import UnderWay
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.protocol.vmware import Machine

driver = FileDriver({"directory": sys.argv[1]})
subprocess.run(["mount", "-t", "tmpfs", "none", sys.argv[1]], check=True)
try:
    print("served", driver.get_instance(Machine(name="web1")))
except DriverError as error:
    print("failed", error)
subprocess.run(["umount", sys.argv[1]], check=True)
print("served", driver.get_instance(Machine(name="web1")).metadata)
"""


def test_directory_that_became_another_file_system_is_an_error(
    directory: Path, program: Callable[[str, str], str]
) -> None:
    alone = [program("unshare", "util-linux"), "--user", "--map-root-user", "--mount"]
    program("mount", "mount")
    if subprocess.run([*alone, "mount", "-t", "tmpfs", "none", directory], check=False).returncode:
        pytest.skip("this system lets nobody mount in a name space of its own")
    write(directory, web1=instance("a"))
    command = [*alone, sys.executable, "-c", MOUNT_OVER, str(directory)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    failed, served_again = run.stdout.splitlines()
    assert failed.startswith(f"failed {directory}: is on another file system than at the start")
    assert served_again == "served {'instance-id': 'a'}"


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [make_fifo, Path.mkdir], ids=["fifo", "directory"])
def test_file_that_is_no_regular_file_is_a_fault(
    directory: Path, make: Callable[[Path], None]
) -> None:
    make(directory / "web1.yaml")
    assert faults_of(directory) == [
        "web1.yaml:1: found a directory, pipe or device, expected a regular file"
    ]


@pytest.mark.parametrize("make", [make_fifo, Path.mkdir], ids=["fifo", "directory"])
def test_userdata_file_that_is_no_regular_file_is_a_fault(
    directory: Path, make: Callable[[Path], None]
) -> None:
    make(directory / "a.sh")
    write(directory, web1="metadata: {}\nuserdata-file: a.sh\n")
    assert faults_of(directory)[0].startswith(
        "web1.yaml:2: userdata-file: found 'a.sh', which is no"
    )


# All files


def test_document_names_are_those_of_all_files(directory: Path) -> None:
    write(
        directory,
        common="documents: {motd: x}\n",
        web1="metadata: {}\ndocuments: {securitydata: x, Keys: x}\n",
        web2__yml="metadata: {}\ndocuments: {keys: x}\n",
        web3=instance("documents"),
        web4=BROKEN,
    )
    (directory / "web5.yaml").symlink_to("web5.yaml")
    names = driver_of(directory, defaults="common.yaml").document_names()
    assert set(names) == {"MOTD", "SECURITYDATA", "KEYS"}


@pytest.mark.parametrize("documents", ["text", "5", "[a, b]", "~", "!!binary aGk="])
def test_documents_that_are_no_mapping_name_none(directory: Path, documents: str) -> None:
    write(directory, web1=f"metadata: {{}}\ndocuments: {documents}\n")
    assert list(driver_of(directory).document_names()) == []


def test_document_names_know_a_new_file(directory: Path) -> None:
    driver = driver_of(directory)
    assert list(driver.document_names()) == []
    write(directory, web1="metadata: {}\ndocuments: {keys: x}\n")
    assert list(driver.document_names()) == ["KEYS"]


def test_document_names_hold_bounded_bytes(
    directory: Path,
    settled: None,  # noqa: ARG001
    constants: Constants,
) -> None:
    letters = str.maketrans("0123456789", "ABCDEFGHIJ")
    for file in range(20):
        names = (f"{file:02}{number:04}".translate(letters) * 5 for number in range(1_000))
        (directory / f"vm{file}.yaml").write_text(
            "documents:\n" + "".join(f"  {name}: x\n" for name in names)
        )
    assert len(driver_of(directory).document_names()) == 20_000
    constants(drivers__files__namescan__MAX_BYTES=200_000)
    driver = driver_of(directory)
    tracemalloc.start()
    try:
        driver.document_names()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000  # without the limit 3.4 MB


def test_document_name_behind_many_files_with_the_same_one_is_known(
    directory: Path, constants: Constants
) -> None:
    constants(drivers__files__namescan__MAX_BYTES=2_000)  # of 40 names
    for number in range(100):
        (directory / f"vm{number:05}.yaml").write_text("documents: {KEYS: x}\n")
    (directory / "zz.yaml").write_text("documents: {LAST: x}\n")
    assert set(driver_of(directory).document_names()) == {"KEYS", "LAST"}


@pytest.mark.usefixtures("settled")
def test_document_names_of_a_directory_that_changes_all_the_time_cost_little(
    directory: Path,
) -> None:
    """However often they are asked for, and a file that has not changed is not parsed again."""
    long = "metadata: {}\ndocuments:\n" + "".join(f"  d{'x' * n}: a\n" for n in range(30)) * 20
    write(directory, **{f"web{number}": long for number in range(100)})
    driver = driver_of(directory)
    driver.document_names()
    began_s, cpu_s, asked = time.monotonic(), time.thread_time(), 0.0
    while time.monotonic() < began_s + 2:
        (directory / "changing").touch()
        (directory / "changing").unlink()
        before_s = time.thread_time()
        driver.document_names()
        asked += time.thread_time() - before_s
    assert asked < 0.4, (asked, time.thread_time() - cpu_s)


@pytest.mark.usefixtures("settled")
def test_document_names_are_those_of_the_file_as_it_is_now(directory: Path) -> None:
    driver = driver_of(directory)
    for name in ("a", "b"):
        write(directory, web1=f"metadata: {{}}\ndocuments: {{{name}: x}}\n")
        write(directory, **{f"other{name}": instance("x")})
        assert list(driver.document_names()) == [name.upper()]
    (directory / "web1.yaml").unlink()
    assert list(driver.document_names()) == []


def test_document_names_of_a_directory_that_vanished_are_an_error(directory: Path) -> None:
    driver = driver_of(directory)
    directory.rmdir()
    with pytest.raises(DriverError):
        driver.document_names()


def test_validate_of_good_files_says_nothing(directory: Path) -> None:
    (directory / "sub").mkdir()
    write(
        directory,
        common="metadata: {region: r}\n",
        a__sh="#!/bin/sh\n",
        web1="metadata: {}\nuserdata-file: a.sh\n",
        db1__yml="network: {dhcp: true}\n",
        notes__txt=BROKEN,
        **{VC: instance("a"), "a%2fb": instance("b")},
    )
    assert validated(directory, defaults="common.yaml") == []


def test_validate_reports_the_faults_of_every_file(directory: Path) -> None:
    write(directory, web1=BROKEN, web2__yml="metadata: {hostname: a_b}\n", web3=instance("a"))
    assert [fault.partition(": ")[0] for fault in validated(directory)] == [
        "web1.yaml:1:11",
        "web2.yml:1",
    ]


def test_validate_reports_each_fault_once(directory: Path) -> None:
    write(
        directory,
        common="metadata: {hostname: a_b}\n",
        **{f"web{number}": "metadata: {region: r}\n" for number in range(5)},
    )
    (fault,) = validated(directory, defaults="common.yaml")
    assert fault.startswith("common.yaml:1: metadata.hostname: found 'a_b'")


def test_validate_reports_faults_of_defaults_that_no_file_uses(directory: Path) -> None:
    write(directory, common="metadata: {hostname: a_b}\n")
    (fault,) = validated(directory, defaults="common.yaml")
    assert fault.startswith("common.yaml:1: metadata.hostname: found 'a_b'")


def test_validate_reports_no_absence_of_the_defaults(directory: Path) -> None:
    write(directory, common="network: {gateway: 10.0.0.1, nameservers: 8.8.8.8}\n")
    assert validated(directory, defaults="common.yaml") == []


def test_validate_reports_both_suffixes_once(directory: Path) -> None:
    write(directory, web1=instance("a"), web1__yml=instance("b"))
    assert validated(directory) == [
        "web1.yaml:1: found both web1.yaml and web1.yml, expected one of them"
    ]


def test_validate_reports_the_faults_of_both_suffixes(directory: Path) -> None:
    write(directory, web1="metadata: {hostname: a_b}\n", web1__yml="metadata: {tags: x}\n")
    faults = "\n".join(validated(directory))
    assert "web1.yaml:1: metadata.hostname: found 'a_b'" in faults
    assert "web1.yml:1: metadata.tags: found 'x'" in faults


def test_validate_goes_on_behind_a_file_that_cannot_be_read(directory: Path) -> None:
    (directory / "a.yaml").symlink_to("a.yaml")
    write(directory, web1=BROKEN)
    first, second = validated(directory)
    assert first.startswith("a.yaml:1: found an error (")
    assert second.startswith("web1.yaml:1:")


def test_validate_of_a_directory_that_vanished_is_an_error(directory: Path) -> None:
    driver = driver_of(directory)
    directory.rmdir()
    with pytest.raises(DriverError):
        list(driver.validate())


def test_validate_leaves_an_editors_lock_alone(directory: Path) -> None:
    (directory / ".#web1.yaml").symlink_to("root@example.com.1234")
    assert validated(directory) == []


WARNINGS = [
    pytest.param("metadata: {}\nuserdata: |\n  echo\n", "2: warning: userdata", id="user"),
    pytest.param("metadata: {}\nvendordata: echo\n", "2: warning: vendordata", id="vendor"),
    pytest.param(
        "metadata: {}\nuserdata: |\n  #cloud-config\n  - a\n",
        "2: warning: userdata: found a list after #cloud-config",
        id="cloud-config",
    ),
    pytest.param(
        "metadata:\n  regio: r\n", "2: warning: metadata.regio: found 'regio'", id="near"
    ),
    pytest.param("metadata:\n  seedfrom: x\n", "2: warning: metadata.seedfrom", id="seedfrom"),
    pytest.param("metadata:\n  dsmode: x\n", "2: warning: metadata.dsmode: found", id="dsmode"),
    pytest.param(
        "metadata:\n  network_interfaces: x\n", "2: warning: metadata.network_int", id="interfaces"
    ),
    pytest.param(
        "metadata: {}\nnetwork:\n- {name: a, dhcp: true}\n- {name: b, dhcp: true}\n",
        "2: warning: network: found several interfaces, without a MAC address for a, b",
        id="interfaces",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("content", "warning"), WARNINGS)
def test_validate_reports_a_warning_with_its_line(
    directory: Path, content: str, warning: str
) -> None:
    write(directory, web1=content)
    (found,) = driver_of(directory).validate()
    assert found.is_warning
    assert told(found, directory).startswith(f"web1.yaml:{warning}")


@pytest.mark.parametrize(("content", "warning"), WARNINGS)
def test_file_with_a_warning_is_served(directory: Path, content: str, warning: str) -> None:  # noqa: ARG001
    write(directory, web1=content)
    assert served(directory)


def test_validate_reports_a_warning_by_the_file_that_it_stands_in(directory: Path) -> None:
    write(directory, common="\nuserdata: echo\n", web1=instance("1"), web2=instance("2"))
    (warning,) = validated(directory, defaults="common.yaml")
    assert warning.startswith("common.yaml:2: warning: userdata: found 4 bytes")


def test_validate_reports_a_warning_of_a_userdata_file(directory: Path) -> None:
    write(directory, a__sh="echo", web1="metadata: {}\nuserdata-file: a.sh\n")
    (warning,) = validated(directory)
    assert warning.startswith("web1.yaml:2: warning: userdata: found 4 bytes")


@pytest.mark.parametrize("name", ["web1.yaml", "a.sh", "common.yaml"])
def test_validate_warns_of_a_file_that_others_can_read(directory: Path, name: str) -> None:
    write(
        directory,
        common="metadata: {}\n",
        a__sh="#!/bin/sh\n",
        web1="metadata: {}\nuserdata-file: a.sh\n",
    )
    (directory / name).chmod(0o644)
    assert validated(directory, defaults="common.yaml") == [
        f"{name}:1: warning: found mode 0644: every user of this system can read the file, expected"
        " no rights for others, such as 0640"
    ]


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("AAAAAAAA-1111-1111-1111-111111111111", "aaaaaaaa-1111-1111-1111-111111111111.yaml"),
        ("11111111111111111111111111111111", f"{VC}.yaml"),
        ("100%", "100%25.yaml"),
        ("a%2Fb", "a%2fb.yaml"),
        ("a\\b", "a%5cb.yaml"),
    ],
)
def test_validate_warns_of_a_file_name_that_no_vm_leads_to(
    directory: Path, stem: str, expected: str
) -> None:
    write(directory, **{stem: instance("a")})
    (warning,) = driver_of(directory).validate()
    assert warning.is_warning
    assert (warning.found, warning.expected) == (f"the file name {stem!r}", expected)


# What is no instance file

CLOUD_CONFIG = "#cloud-config\npackage_update: true\n"


@pytest.mark.parametrize("key", ["userdata-file", "vendordata_file", '"user\\x64ata-file"'])
@pytest.mark.parametrize("name", ["cloud-config.yaml", "./cloud-config.yaml", "link.yaml"])
def test_validate_takes_no_user_data_for_an_instance_file(
    directory: Path, key: str, name: str
) -> None:
    write(directory, web1=f"metadata: {{}}\n{key}: {name}\n", **{"cloud-config": CLOUD_CONFIG})
    if name == "link.yaml":
        (directory / name).symlink_to("cloud-config.yaml")
    driver = driver_of(directory)
    assert list(driver.validate()) == []
    assert driver.files_checked == 1


def test_user_data_of_another_vm_is_no_file_of_a_vm_of_its_name(directory: Path) -> None:
    write(directory, web2=CLOUD_CONFIG)
    driver = driver_of(directory)
    with pytest.raises(InvalidInstanceData):
        driver.get_instance(Machine(name="web2"))
    write(directory, web1=instance("1") + "userdata-file: web2.yaml\n")
    driver = driver_of(directory)
    assert driver.get_instance(Machine(name="web2")) is None
    assert driver.explain(Machine(name="web2")) == (
        f"{directory}/web2.yaml is user-data that another file names, not an instance file"
    )


def test_validate_takes_no_user_data_of_the_defaults_for_an_instance_file(directory: Path) -> None:
    write(
        directory,
        common="vendordata-file: all.yml\n",
        all__yml=CLOUD_CONFIG,
        web1=instance("a"),
    )
    assert validated(directory, defaults="common.yaml") == []


def test_validate_judges_an_instance_file_that_another_one_names_as_user_data(
    directory: Path,
) -> None:
    write(directory, web1=instance("1") + "userdata-file: web2.yaml\n", web2="metadata: 5\n")
    assert any(line.startswith("web2.yaml:1: metadata: found 5") for line in validated(directory))


@given(st.sampled_from(["web1.yaml", "web1.yml", "web1.json"]), st.data())
def test_law_what_validate_judges_is_what_a_vm_is_looked_up_in(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    forms = ["{}", "._{}", ".ansible_tmpq{}", "{}~", "#{}#", "{}.bak", ".{}.swp", "{}.txt", ".{}"]
    form = data.draw(st.sampled_from(forms))
    case = data.draw(st.sampled_from([str, str.upper, str.title]))
    directory = tmp_path_factory.mktemp("law")
    file = form.format(case(name))
    (directory / file).write_text("broken")
    driver = driver_of(directory)
    faults = [fault for fault in driver.validate() if not fault.is_warning]
    stems = {file.rpartition(".")[0], file.partition(".")[0], "web1", "Web1", "WEB1"}
    is_served = False
    for stem in stems:
        try:
            driver.get_instance(Machine(name=stem))
        except InvalidInstanceData:
            is_served = True
    assert bool(faults) is is_served is (driver.files_checked == 1)


def test_validate_reports_what_it_skips_and_somebody_may_have_meant(directory: Path) -> None:
    (directory / "web1.YAML").write_text(instance("1"))
    for number in range(50):
        (directory / f"db{number:02}.yaml.txt").write_text(instance("2"))
    (warning,) = driver_of(directory).validate()
    assert str(warning) == (
        "warning: found 51 files that no VM gets (db00.yaml.txt, db01.yaml.txt, db02.yaml.txt and "
        f"48 more) in {directory}, expected names such as NAME.yaml, NAME.yml or NAME.json, in "
        "lower case"
    )


def test_notes_tell_subdirectories_with_instance_files(directory: Path) -> None:
    for place in ("prod", "prod/eu", "empty", ".git", "files", "other"):
        (directory / place).mkdir(parents=True)
    for path in ("prod/web2.yaml", "prod/eu/web3.YML", ".git/x.yaml", "files/u.yaml", "other/a.sh"):
        (directory / path).write_text(instance("x"))
    write(directory, web1=instance("1") + "userdata-file: files/u.yaml\n")
    assert list(driver_of(directory).notes()) == [
        "the files of 2 subdirectories are ignored: prod, prod/eu; "
        f"instance files belong in {directory} itself, layers in its subdirectory layers"
    ]


def test_notes_tell_of_a_directory_without_instance_files(directory: Path) -> None:
    (note,) = driver_of(directory).notes()
    assert note == f"0 files: {directory} has no NAME.yaml, NAME.yml or NAME.json, " + (
        "and no entry in an inventory (vms.yaml, vms.csv)"
    )


# Single files and VMs


@pytest.mark.parametrize("name", ["web1", "web1.yaml", "{}/web1.yaml", "{}/../instances/web1.yaml"])
def test_validate_of_one_file_reports_its_faults_alone(directory: Path, name: str) -> None:
    write(directory, web1="metadata: 5\n", web2="metadata: 6\n")
    driver = driver_of(directory)
    (fault,) = driver.validate_named([name.format(directory)])
    assert told(fault, directory).startswith("web1.yaml:1: metadata: found 5")
    assert driver.files_checked == 1


@pytest.mark.parametrize("name", [VC, VC.upper(), VC.replace("-", ""), f"{VC}.yml"])
def test_validate_of_a_uuid_is_of_its_file(directory: Path, name: str) -> None:
    write(directory, **{f"{VC}__yml": "metadata: 5\n"})
    assert len(list(driver_of(directory).validate_named([name]))) == 1


def test_validate_of_one_file_compares_it_with_all(directory: Path) -> None:
    write(directory, web0=instance("a"), web1=instance("a"), web2=instance("b"), web3=instance("b"))
    (warning,) = driver_of(directory).validate_named(["web1", "web1.yaml"])
    assert told(warning, directory).startswith(
        "web1.yaml:1: warning: metadata.instance-id: found 'a', which web0.yaml has too"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web9", "web9: no file named 'web9.yaml' in "),
        (VC, f"no file named '{VC}.yaml' in "),
        ("web9.yaml", "web9.yaml: no such file, and no VM of that name has one in "),
        (
            "/etc/passwd",
            "/etc/passwd: not read as an instance file, because of its name: expected NAME.yaml",
        ),
        ("a.sh", "a.sh: not read as an instance file, because"),
        ("web1.YAML", "web1.YAML: not read as an instance file, because"),
        ("{}/other/web1.yaml", "web1.yaml: this file is not in the directory "),
    ],
)
def test_validate_of_what_is_not_there_is_an_error(
    directory: Path, name: str, expected: str
) -> None:
    write(directory, a__sh="x", web1__YAML="x", web1=instance("a"))
    (directory / "other").mkdir()
    write(directory / "other", web1=instance("a"))
    with pytest.raises(DriverError, match=re.escape(expected)):
        list(driver_of(directory).validate_named([name.format(directory)]))


def test_validate_of_a_driver_without_it_is_an_error() -> None:
    class Plain(Driver):
        def get_instance(self, machine: Machine) -> None: ...

    with pytest.raises(DriverError, match="Plain cannot validate single files or VMs"):
        list(Plain({}).validate_named(["web1"]))


# The same value in several files


def network(**keys: object) -> str:
    dashed = {key.replace("_", "-"): value for key, value in keys.items()}
    return f"metadata: {{}}\nnetwork: {json.dumps(dashed)}\n"


NATIVE_1 = {"type": "physical", "name": "eth0", "mac_address": "00:50:56:00:00:01"}
SAME = {
    "instance-id": (instance("a"), instance("a"), "metadata.instance-id: found 'a'"),
    "instance-id-and-vc-uuid": (
        instance(VC),
        f"metadata: {{}}\nmatch: {{vc-uuid: {VC}}}\n",
        f"metadata.instance-id: found '{VC}'",
    ),
    "hostname": (
        "metadata: {hostname: Web.example.com}\n",
        "metadata: {local-hostname: web.example.com}\n",
        "metadata.local-hostname: found 'web.example.com'",
    ),
    "address": (
        network(address="10.0.0.5/24"),
        network(address="10.0.0.5/16"),
        "network.address: found '10.0.0.5'",
    ),
    "address-6": (
        network(address="fd00::0005/64"),
        network(address="fd00:0::5/64"),
        "network.address: found 'fd00::5'",
    ),
    "mac": (
        network(dhcp=True, mac_address="00-50-56-AB-00-01"),
        network(dhcp=True, mac_address="00:50:56:ab:00:01"),
        "network.mac-address: found '00:50:56:ab:00:01'",
    ),
    "native": (
        network(version=1, config=[NATIVE_1]),
        network(version=2, ethernets={"e": {"match": {"macaddress": "00:50:56:00:00:01"}}}),
        "found '00:50:56:00:00:01'",
    ),
    "native-address": (
        network(version=1, config=[{"type": "bond", "subnets": [{"address": "10.0.0.7/24"}]}]),
        network(version=2, bonds={"b": {"addresses": [{"10.0.0.7/8": {"label": "x"}}]}}),
        "found '10.0.0.7'",
    ),
    "match": (
        f"metadata: {{}}\nmatch: {{vc-uuid: {VC}, name: a}}\n",
        f"metadata: {{}}\nmatch: {{vc-uuid: '{VC.upper()}', name: b}}\n",
        f"match.vc-uuid: found '{VC}'",
    ),
    "match-name": (
        "metadata: {}\nmatch: {name: a/b}\n",
        "metadata: {}\nmatch: {name: a%2Fb}\n",
        "match.name: found 'a%2fb'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("one", "other", "told_of"), SAME.values(), ids=SAME)
def test_validate_warns_of_a_value_that_two_files_have(
    directory: Path, one: str, other: str, told_of: str
) -> None:
    write(directory, one=one, other=other)
    found = [line for line in validated(directory) if told_of in line]
    assert found, validated(directory)
    assert found[0].startswith("one.yaml:")
    assert ": warning: " in found[0]
    assert ", which other.yaml has too, expected " in found[0]


@pytest.mark.parametrize(
    ("one", "other", "told_of"),
    [pytest.param(*files, id=name) for name, files in SAME.items() if "name: a" not in files[0]],
)
def test_vm_whose_data_another_file_has_too_is_served_and_reported(
    directory: Path, one: str, other: str, told_of: str
) -> None:
    write(directory, one=one, other=other)
    driver = driver_of(directory)
    machines = [Machine(name=name, vc_uuid=VC) for name in ("one", "other")]
    first, second = map(driver.get_instance, machines)
    assert first is not None
    assert second is not None
    assert first.duplicates == ()
    assert any(f"which {directory}/one.yaml has too" in text for text in second.duplicates)
    value = told_of.rpartition("found ")[2]
    assert any(value in text for text in second.duplicates)


@pytest.mark.parametrize(
    "files",
    [
        {"one": network(dhcp=True), "other": network(dhcp=True)},
        {"one": "metadata: {}\n", "other": "metadata: {}\n"},
        dict.fromkeys(  # no MAC address, and kept it would take its length in memory
            ("one", "other"), network(version=2, ethernets={"e": {"macaddress": "z" * 2000}})
        ),
        {
            "one": f"metadata: {{}}\nmatch: {{name: a, vc-uuid: {VC}}}\n",
            "other": f"metadata: {{}}\nmatch: {{name: a, vc-uuid: {OTHER}}}\n",
        },
        {
            name: network(address=f"10.0.0.{n}/24", gateway="10.0.0.254", nameservers="10.0.0.253")
            for n, name in enumerate(("one", "other"), 1)
        },
        {
            name: network(
                version=1,
                config=[
                    {**NATIVE_1, "mac_address": f"00:50:56:00:00:0{n}"},
                    {"type": "nameserver", "address": ["10.0.0.253"]},
                ],
            )
            for n, name in enumerate(("one", "other"), 1)
        },
        {
            name: network(
                version=2,
                ethernets={
                    "e": {
                        "match": {"macaddress": f"00:50:56:00:00:0{n}"},
                        "addresses": [f"10.0.0.{n}/24"],
                        "nameservers": {"addresses": ["10.0.0.253"]},
                        "routes": [{"to": "10.0.0.9", "via": "10.0.0.254"}],
                    }
                },
            )
            for n, name in enumerate(("one", "other"), 1)
        },
        {"one": network(address=["10.0.0.5/24", "10.0.0.5/16"])},
        {"one": network(version=1, config=[5, {"subnets": [None, {"address": 5}]}, None])},
        {"one": network(version=2, ethernets=[1], bonds={"a": 5, "b": {"addresses": 7}})},
    ],
    ids=[
        *("dhcp", "nothing", "long-text", "names-with-uuids", "gateway", "version-1", "version-2"),
        *("in-one-file", "odd-version-1", "odd-version-2"),
    ],
)
def test_what_files_may_share_is_no_duplicate(directory: Path, files: dict[str, str]) -> None:
    write(directory, **files)
    assert [line for line in validated(directory) if "has too" in line] == []


def test_default_instance_id_of_all_is_one_warning_at_its_line(directory: Path) -> None:
    write(directory, common="metadata:\n  instance-id: all\n")
    write(directory, **{f"web{number}": "network: {dhcp: true}\n" for number in range(50)})
    (warning,) = validated(directory, defaults="common.yaml")
    assert warning == (
        "common.yaml:2: warning: metadata.instance-id: found 'all', which web1.yaml, web10.yaml, "
        "web11.yaml and 46 more have too, expected an instance-id of its own for each VM"
    )


def test_duplicates_of_many_files_are_reported_up_to_a_bound(directory: Path) -> None:
    for number in range(150):
        write(
            directory, **{f"a{number}": instance(str(number)), f"b{number}": instance(str(number))}
        )
    lines = validated(directory)
    assert len(lines) == 101
    assert "found 150 values of instance-id that several files have" in lines[-1]


def test_vm_hears_of_no_duplicate_once_the_other_file_has_changed(directory: Path) -> None:
    write(directory, one=instance("a"), other=instance("a"))
    driver = driver_of(directory)

    def duplicates(name: str) -> tuple[str, ...]:
        found = driver.get_instance(Machine(name=name))
        assert found is not None
        return found.duplicates

    assert duplicates("one") == ()
    assert len(duplicates("other")) == len(duplicates("other")) == 1
    write(directory, one=instance("b"))
    assert duplicates("other") == duplicates("one") == ()
    (directory / "one.yaml").rename(directory / "three.yaml")
    assert duplicates("three") == ()
    write(directory, three=instance("a"))
    assert len(duplicates("three")) == 1


@pytest.mark.usefixtures("settled")
def test_answer_with_a_duplicate_holds_until_the_other_file_changes(directory: Path) -> None:
    write(directory, one=instance("a"), other=instance("a"))
    driver = driver_of(directory)
    driver.get_instance(Machine(name="one"))
    found = driver.get_instance(Machine(name="other"))
    assert found is not None
    assert found.duplicates
    assert driver.still_holds(found.token)
    put(directory / "one.yaml", instance("b"))
    assert not driver.still_holds(found.token)


def test_table_of_owners_is_bounded_and_can_be_dropped(constants: Constants) -> None:
    constants(drivers__answers__duplicates__KEPT_BYTES=50_000)
    owners = Owners()
    for number in range(1_000):
        values = [(("metadata", "instance-id"), str(number)), (("network", "address"), str(number))]
        assert owners.claim(of_file(f"web{number}"), lambda values=values: values, hash) == []
        assert owners.kept_bytes <= 50_000
    assert owners.kept_bytes > 40_000
    while owners.shed():
        pass
    assert owners.kept_bytes == 0


def test_file_that_two_threads_read_while_it_changes_leaves_no_value_behind() -> None:
    owners = Owners()

    def claim(path: str, text: str, looks: Callable[[OwnData], int] = lambda _: 1) -> list[Any]:
        return owners.claim(of_file(path), lambda: [(("k",), text)], looks)

    def looks_while_another_thread_reads(file: OwnData) -> int:
        if file.path == "other":
            claim("web1", "new")
        return 2

    claim("other", "old")
    claim("web1", "old", looks_while_another_thread_reads)
    claim("web1", "third")  # now neither of the two counts any more
    assert claim("web2", "new") == []
    assert claim("web3", "old") == []
    while owners.shed():
        pass
    assert owners.kept_bytes == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.frozensets(st.sampled_from("123"), max_size=2)),
        max_size=20,
    )
)
def test_law_owners_tell_what_another_file_has_now(steps: list[tuple[str, frozenset[str]]]) -> None:
    owners = Owners()
    now: dict[str, frozenset[str]] = {}
    read: dict[str, frozenset[str]] = {}
    for path, values in steps:
        now[path] = values
        read[path] = values
        found = owners.claim(
            of_file(path),
            lambda values=values: [(("k",), value) for value in values],
            lambda file: hash(now.get(file.path)),
        )
        assert all(text in read[other] and other != path for (_, text), other in found)
        shared = {v for v in values if any(v in read[o] for o in read if o != path)}
        assert {text for (_, text), _ in found} <= shared


# What failed is not read again


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file is parsed."""
    reads: Counter[str] = Counter()
    really = layer.parse

    def counted(path: str, content: bytes | None) -> layer.FileLayer:
        reads[os.path.basename(path)] += 1
        return really(path, content)

    monkeypatch.setattr(layer, "parse", counted)
    return reads


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    ("files", "machine"),
    [
        pytest.param({"web1": BROKEN}, WEB1, id="no-yaml"),
        pytest.param({"web1": "metadata: {hostname: a_b}\n"}, WEB1, id="faults"),
        pytest.param({"web1": b"\xff"}, WEB1, id="no-utf8"),
        pytest.param(
            {"web1": instance("a") + "userdata-file: missing\n"}, WEB1, id="userdata-file"
        ),
        pytest.param({"web1": instance("a"), "common": BROKEN}, WEB1, id="defaults"),
        pytest.param({BIOS: instance("victim")}, WEB1, id="bios-uuid-that-does-not-count"),
    ],
)
def test_file_that_failed_is_not_parsed_again_before_it_changes(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str | bytes],
    machine: Machine,
) -> None:
    write(directory, **({"common": "metadata: {}\n"} | files))
    reads, driver = counted_reads(monkeypatch), driver_of(directory, defaults="common.yaml")

    def ask() -> str:
        try:
            return f"served {id_of(driver.get_instance(machine))}"
        except InvalidInstanceData as error:
            return str(error)

    first = ask()
    assert {ask() for _ in range(10)} == {first}
    assert set(reads.values()) == {1}
    for name in files:
        write(directory, **{name: instance("mended")})
    (directory / "missing").touch()
    assert ask() == ("served None" if BIOS in files else "served mended")


@pytest.mark.usefixtures("settled")
def test_file_that_lacked_its_userdata_file_is_good_when_that_comes(directory: Path) -> None:
    write(directory, web1="metadata: {}\nuserdata-file: below/a.sh\n")
    driver = driver_of(directory)
    for _ in range(2):
        with pytest.raises(InvalidInstanceData):
            driver.get_instance(WEB1)
    (directory / "below").mkdir()
    (directory / "below" / "a.sh").write_text("x")
    found = driver.get_instance(WEB1)
    assert found is not None
    assert found.userdata == b"x"


@pytest.mark.usefixtures("settled")
def test_failures_that_are_kept_are_bounded_in_bytes(directory: Path) -> None:
    """Those of a file with 20,000 faults take 7 MB."""
    wrong = "metadata: {}\n" + "".join(f"x{number}: 1\n" for number in range(20_000))
    write(directory, **{f"web{number}": wrong for number in range(2)})
    driver = driver_of(directory)
    for number in range(2):
        for _ in range(2):
            with pytest.raises(InvalidInstanceData) as raised:
                driver.get_instance(Machine(name=f"web{number}"))
        assert sum(len(str(fault)) for fault in raised.value.faults) < 512 * 1024
    assert driver.tables()["readings"].kept_bytes < 2 * 512 * 1024


def test_large_file_is_parsed_by_one_thread_at_a_time(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(directory, web1=instance("a") + "#" * 100_000)
    begun, may_end = threading.Event(), threading.Event()
    really = layer.parse

    def slow(path: str, content: bytes | None) -> layer.FileLayer:
        begun.set()
        may_end.wait(LIMIT_S)
        return really(path, content)

    monkeypatch.setattr(layer, "parse", slow)
    driver = driver_of(directory)
    found: list[object] = []
    first = threading.Thread(target=lambda: found.append(id_of(driver.get_instance(WEB1))))
    first.start()
    assert begun.wait(LIMIT_S)
    with pytest.raises(UnderWay) as raised:
        driver.get_instance(Machine(name="web1", vc_uuid=OTHER))
    assert not raised.value.work.is_over
    may_end.set()
    first.join()
    assert raised.value.work.is_over
    assert found == ["a"]
    assert id_of(driver.get_instance(Machine(name="web1", vc_uuid=OTHER))) == "a"


# From several threads at once


def test_answers_of_many_threads_are_whole_while_files_are_replaced(directory: Path) -> None:
    def texts(version: str) -> str:
        return f"metadata: {{instance-id: {version}}}\nuserdata: {version * 1000}\n"

    write(directory, web1=texts("a"), common="metadata: {region: r}\n")
    driver = driver_of(directory, defaults="common.yaml")
    seen: set[object] = set()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                found = driver.get_instance(Machine(name="web1"))
                seen.add(found and (id_of(found), found.userdata, found.metadata.get("region")))
            except Exception as error:
                seen.add(str(error))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for turn in range(100):
        put(directory / "web1.yaml", texts("ab"[turn % 2]))
        put(directory / "common.yaml", "metadata: {region: r}\n")
    stop.set()
    for thread in threads:
        thread.join()
    assert seen <= {("a", b"a" * 1000, "r"), ("b", b"b" * 1000, "r")}
    assert seen


def test_directory_may_be_removed_while_it_is_read(directory: Path) -> None:
    write(directory, **{f"web{number}": instance("a") for number in range(3)})
    driver = driver_of(directory)
    faults = driver.validate()
    shutil.rmtree(directory)
    with pytest.raises(DriverError):
        list(faults)


def test_table_of_unusual_names_is_bounded_and_says_what_it_lacks(
    directory: Path, constants: Constants
) -> None:
    constants(drivers__filesystem__spellings__MAX_BYTES=10_000)
    write(directory, **{f"%2F{number}": instance("a") for number in range(100)})
    driver = driver_of(directory)
    found = [number for number in range(100) if driver.get_instance(Machine(name=f"/{number}"))]
    assert 0 < len(found) < 100
    assert 9_000 < driver.tables()["file names"].kept_bytes <= 10_000
    left_out = 100 - len(found)
    assert f"{left_out} files are not considered" in driver.explain(Machine(name="other"))
