"""References to secrets in data: what they may address, where they stand, and what is shown."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.process import run
from vmw_cloudinit_metadata import DriverError, Machine
from vmw_cloudinit_metadata.drivers.drivererror import SecretUnavailableError
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.drivers.vault.secretfiles import SecretFiles
from vmw_cloudinit_metadata.drivers.vault.secretsource import MAX_BYTES, SecretSource
from vmw_cloudinit_metadata.drivers.vault.vault import Vault
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.instance.layering.secretreference import reference_of
from vmw_cloudinit_metadata.instance.layering.substitution import sources_of, substituted

VC = "01234567-89ab-cdef-fedc-ba9876543210"
WEB1 = Machine(name="web1", vc_uuid=VC)
SECRET = "hunter2: ${vm.name}\n#cloud-config {x"  # as hostile to YAML and templates as it can be
Make = Callable[..., FileDriver]


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    directory = tmp_path / "secrets"
    (directory / "vms").mkdir(parents=True)
    (directory / "vms/web1").write_text(yaml.safe_dump({"root_password": SECRET, "port": 22}))
    return directory


@pytest.fixture
def driver(tmp_path: Path, secrets: Path) -> Make:
    """Makes a driver of one file for web1."""

    def make(content: Any, **vault: Any) -> FileDriver:
        directory = tmp_path / "instances"
        directory.mkdir(exist_ok=True)
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (directory / "web1.yaml").write_text(text)
        return FileDriver(
            {"directory": str(directory), "vault": {"directory": str(secrets), **vault}}
        )

    return make


def of_documents(reference: str) -> Mapping[str, Any]:
    return {"metadata": {}, "documents": {"x": reference}}


def document(driver: FileDriver, machine: Machine = WEB1) -> str:
    instance = driver.get_instance(machine)
    assert instance
    return instance.documents["X"].decode()


# Values


def test_value_stays_data_in_user_data_that_is_a_mapping(driver: Make) -> None:
    userdata = {"chpasswd": {"password": "${secret:vms/${vm.name}#root_password}"}}
    instance = driver({"metadata": {}, "userdata": userdata}).get_instance(WEB1)
    assert instance
    assert yaml.safe_load(instance.userdata) == {"chpasswd": {"password": SECRET}}
    assert instance.secrets == ("vms/web1#root_password",)
    assert instance.is_secret
    assert instance.token is None  # nothing that has it is kept


def test_value_is_a_part_of_a_text(driver: Make) -> None:
    found = document(driver(of_documents("a=${secret:vms/web1#root_password}; $${secret:x}")))
    assert found == f"a={SECRET}; ${{secret:x}}"


@given(st.text(max_size=40).filter(lambda text: "\0" not in text))
def test_value_is_put_in_as_it_is(value: str) -> None:
    sources = sources_of(WEB1, {}, lambda _: value)
    result = substituted({"documents": {"x": "<${secret:a#b}>"}}, sources)
    assert result.mapping == {"documents": {"x": f"<{value}>"}}


@pytest.mark.parametrize("ours", ["${secret:-none}", "${secret:=x}", "${secret:?no}", "${secrets}"])
def test_shell_stays_as_it_is(driver: Make, ours: str) -> None:
    assert document(driver(of_documents(ours))) == ours


@pytest.mark.parametrize(
    ("reference", "is_warned_of"),
    [
        ("${secret:vms/web1#root_password}", True),
        ("${secret:vms/${vm.name}}", True),
        ("${secret:token}", True),
        ("${secret:3}", False),
        ("${secret:0:3}/#", False),
        ("${secret:-none}", False),
        ("$${secret:vms/web1#root_password}", False),
    ],
)
@pytest.mark.parametrize("kind", ["text", "binary", "file", "layer"])
def test_text_as_user_data_is_never_changed(
    driver: Make, tmp_path: Path, kind: str, reference: str, is_warned_of: bool
) -> None:
    text = f"#!/bin/sh\necho {reference}\n"
    userdata = {
        "text": {"userdata": text},
        "binary": {"userdata": text.encode()},
        "file": {"userdata-file": "script"},
        "layer": {},
    }
    made = driver({"metadata": {}, **userdata[kind]})
    (tmp_path / "instances/script").write_text(text)
    if kind == "layer":
        (tmp_path / "instances/layers").mkdir()
        layer = yaml.safe_dump({"userdata": text})
        (tmp_path / "instances/layers/10.yaml").write_text(layer)
    instance = made.get_instance(WEB1)
    assert instance
    assert instance.userdata.decode() == text
    assert instance.secrets == ()
    assert any("never changed" in str(fault) for fault in made.validate()) == is_warned_of


@pytest.mark.parametrize("written", [b"${secret:a#b}", {"text": b"${secret:a#b}", "once": True}])
def test_document_in_binary_is_never_changed(driver: Make, written: Any) -> None:
    made = driver({"metadata": {}, "documents": {"x": written}})
    assert document(made) == "${secret:a#b}"
    assert any("documents" in str(fault) and "!!binary" in str(fault) for fault in made.validate())


def test_reference_that_is_written_with_two_dollars_is_no_warning(driver: Make) -> None:
    made = driver({"metadata": {}, "userdata": {"a": "$${secret:vms/web1#root_password}"}})
    instance = made.get_instance(WEB1)
    assert instance
    assert b"${secret:vms/web1#root_password}" in instance.userdata
    assert not any("never changed" in str(fault) for fault in made.validate())


def test_reference_in_a_key_is_a_fault(driver: Make) -> None:
    made = driver("metadata: {}\nuserdata:\n  '${secret:vms/web1#root_password}': a\n")
    with pytest.raises(InvalidInstanceData, match=r"web1\.yaml:3:3: userdata: found .* in a key"):
        made.get_instance(WEB1)


# What a reference may address


@given(st.text("ab./#%\\${}:@~ \n\0", max_size=30))
def test_path_of_a_reference_leads_nowhere_else(text: str) -> None:
    try:
        reference = reference_of(text)
    except ValueError:
        return
    parts = reference.path.split("/")
    assert all(part and not part.startswith(".") for part in parts)
    assert not set("%\\${}:# \n\0") & set(reference.path)
    assert str(reference) == text


@given(st.text(min_size=1, max_size=70))
def test_value_of_a_vm_is_one_name_in_a_path_or_a_fault(name: str) -> None:
    asked: list[str] = []
    sources = sources_of(Machine(name=name), {}, lambda text: asked.append(text) or "x")
    _, faults, _ = substituted({"documents": {"x": "${secret:vms/${vm.name}/a#key}"}}, sources)
    if asked:
        assert asked == [f"vms/{name}/a#key"]
        assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name)
    else:
        assert len(faults) == 1


@pytest.mark.parametrize(
    "reference",
    [
        *("${secret:../x#k}", "${secret:/x#k}", "${secret:a//b#k}", "${secret:a/#k}", "${secret:}"),
        *(
            "${secret:a/.b#k}",
            "${secret:a%2fb#k}",
            "${secret:a b#k}",
            "${secret:a#k",
            "${secret:0:3}",
        ),
        *(
            "${secret:${vm.bios}#k}",
            "${secret:${x}#k}",
            "${secret:${secret:a#b}#k}",
            "${secret:a#}",
        ),
        *("${secret:${query.t}#k}", "${secret:a#b#c}", "${secret:a?b#k}", "${secret:\u00e9#k}"),
    ],
)
def test_reference_that_cannot_be_right_is_a_fault_with_its_place(
    driver: Make, reference: str
) -> None:
    made = driver(f"metadata: {{}}\ndocuments:\n  x: '{reference}'\n")
    with pytest.raises(InvalidInstanceData, match=r"web1\.yaml:3:\d+: documents: found \${secret:"):
        made.get_instance(WEB1)
    found = [str(fault) for fault in made.validate() if not fault.is_warning]
    assert len(found) == 1
    assert "web1.yaml:3" in found[0]


@pytest.mark.parametrize("part", ["a/b", "..", "a#b", "a b", "%2e", "a\n", "", "x" * 65])
def test_value_of_meta_data_is_one_name_in_a_path_or_a_fault(driver: Make, part: str) -> None:
    made = driver({**of_documents("${secret:vms/${metadata.x}#k}"), "metadata": {"x": part}})
    with pytest.raises(InvalidInstanceData, match=r"documents: found \${secret:"):
        made.get_instance(WEB1)


@pytest.mark.parametrize("place", ["metadata", "network"])
def test_secret_may_not_stand_in_what_is_shown(driver: Make, place: str) -> None:
    made = driver({"metadata": {}, place: {"address": "${secret:vms/web1#root_password}"}})
    with pytest.raises(InvalidInstanceData, match="all else may be shown"):
        made.get_instance(WEB1)


def test_reference_without_the_option_vault_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "web1.yaml").write_text(yaml.safe_dump(of_documents("${secret:a#b}")))
    driver = FileDriver({"directory": str(tmp_path)})
    with pytest.raises(InvalidInstanceData, match="the driver option vault"):
        driver.get_instance(WEB1)


def test_fault_in_a_layer_is_found_though_no_vm_has_it(driver: Make, tmp_path: Path) -> None:
    made = driver({"metadata": {}})
    (tmp_path / "instances/layers").mkdir()
    layer = tmp_path / "instances/layers/10.yaml"
    layer.write_text("match: {name: none}\nserve: true\ndocuments: {x: '${secret:../x#k}'}\n")
    assert any("layers/10.yaml:3" in str(fault) for fault in made.validate())


def test_validation_and_survey_ask_nobody(driver: Make, secrets: Path) -> None:
    made = driver(of_documents("${secret:vms/web1#root_password}"))
    (secrets / "vms/web1").unlink()
    assert not [fault for fault in made.validate() if not fault.is_warning]
    told: list[bytes] = []
    assert made.prepared
    made.prepared.prepare(told.append, 2**20)
    list(made.survey())
    assert not [line for line in told if b'"prepared"' in line]


# Files


def test_file_without_a_key_is_the_value_without_line_feeds_at_its_end(
    driver: Make, secrets: Path
) -> None:
    (secrets / "token").write_text("  a b\r\n\n")
    assert document(driver(of_documents("${secret:token}"))) == "  a b"


def test_key_of_a_json_file(driver: Make, secrets: Path) -> None:
    (secrets / "token").write_text('{"a": "b\\u0041"}')
    assert document(driver(of_documents("${secret:token#a}"))) == "bA"


def broken(secrets: Path) -> Mapping[str, tuple[Callable[[], object], str, str]]:
    """By name: what is done, the problem that it makes, and what the operator reads of it."""
    file, vms = secrets / "vms/web1", secrets / "vms"
    outside = secrets.parent / "outside"
    outside.mkdir()
    (outside / "web1").write_text("root_password: x")

    def links_out() -> None:
        file.unlink()
        file.symlink_to(outside / "web1")

    def directory_links_out() -> None:
        vms.rename(secrets / "was")
        vms.symlink_to("../outside")

    def is_a_pipe() -> None:
        file.unlink()
        os.mkfifo(file)

    def is_a_directory() -> None:
        file.unlink()
        file.mkdir()

    return {
        "gone": (file.unlink, "absent", "there is no file"),
        "link": (links_out, "denied", "leads out"),
        "link above": (directory_links_out, "denied", "leads out"),
        "pipe": (is_a_pipe, "unusable", "not a regular file"),
        "directory": (is_a_directory, "unusable", "not a regular file"),
        "large": (lambda: file.write_text("x" * (MAX_BYTES + 1)), "unusable", "has more than"),
        "not text": (lambda: file.write_bytes(b"\xff"), "unusable", "not UTF-8"),
        "no mapping": (lambda: file.write_text("[a]"), "unusable", "no mapping"),
        "no YAML": (lambda: file.write_text("a: b: c"), "unusable", "no mapping"),
        "no key": (lambda: file.write_text("a: b"), "absent", "no such key"),
        "no text": (lambda: file.write_text("root_password: 0123"), "unusable", "no text"),
        "writable": (lambda: file.chmod(0o666), "denied", "world-writable"),
        "all gone": (lambda: secrets.rename(f"{secrets}-x"), "absent", "there is no file"),
    }


BROKEN = (
    *("gone", "link", "link above", "pipe", "directory", "large", "not text", "no mapping"),
    *("no YAML", "no key", "no text", "writable", "all gone"),
)


@pytest.mark.parametrize("name", BROKEN)
def test_file_that_cannot_be_had_is_a_failure_with_its_reference(
    driver: Make, secrets: Path, name: str
) -> None:
    made = driver(of_documents("${secret:vms/web1#root_password}"))
    act, problem, text = broken(secrets)[name]
    act()
    with pytest.raises(SecretUnavailableError, match=text) as raised:
        made.get_instance(WEB1)
    assert raised.value.problem == problem
    assert "<secret vms/web1#root_password>" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_every_breakage_has_its_test(secrets: Path) -> None:
    assert set(broken(secrets)) == set(BROKEN)


def test_link_inside_the_directory_is_followed(driver: Make, secrets: Path) -> None:
    (secrets / "vms/web1").rename(secrets / "..data")  # as Kubernetes makes its volumes
    (secrets / "vms/web1").symlink_to("../..data")
    assert document(driver(of_documents("${secret:vms/web1#root_password}"))) == SECRET


# What is kept


class Counting(SecretSource):
    def __init__(self) -> None:
        self.reads = 0
        self.failure: SecretUnavailableError | None = None

    def read(self, path: str, _end_s: float) -> Mapping[str, str]:
        self.reads += 1
        if self.failure:
            raise self.failure
        return {"key": f"{path} {self.reads}"}


def test_secret_is_read_again_after_its_time() -> None:
    source = Counting()
    vault = Vault(source, max_age_s=0.2)
    assert vault.value("a#key") == vault.value("a#key") == "a 1"
    time.sleep(0.25)
    assert vault.value("a#key") == "a 2"
    assert vault.kept_bytes > 0
    assert vault.shed()
    assert vault.kept_bytes == 0


def test_secret_without_a_time_is_read_for_each_request() -> None:
    vault = Vault(Counting(), max_age_s=0)
    assert [vault.value("a#key"), vault.value("a#key")] == ["a 1", "a 2"]
    assert vault.kept_bytes == 0


def test_look_up_reads_each_secret_once() -> None:
    source = Counting()
    values = Vault(source, max_age_s=0).values()
    assert [values(name) for name in ("a#key", "b#key", "a#key")] == ["a 1", "b 2", "a 1"]
    assert source.reads == 2


def test_secrets_in_memory_are_bounded() -> None:
    source = Counting()
    vault = Vault(source, max_age_s=60)
    for number in range(40_000):
        vault.value(f"a{number}#key")
    assert vault.kept_bytes <= 8 * 1024 * 1024
    assert source.reads == 40_000


def test_secrets_are_counted_while_threads_read_them() -> None:
    before_s = sys.getswitchinterval()
    vault = Vault(Counting(), max_age_s=0.002)
    failures: list[Exception] = []
    end_s = time.monotonic() + 1

    def work(do: Callable[[int], object]) -> None:
        number = 0
        while time.monotonic() < end_s and not failures:
            try:
                do(number := number + 1)
            except Exception as error:  # what a cache raises that two threads change
                failures.append(error)

    threads = [
        *(threading.Thread(target=work, args=[lambda _: vault.kept_bytes]) for _ in range(2)),
        *(
            threading.Thread(target=work, args=[lambda number: vault.value(f"a{number}#key")])
            for _ in range(2)
        ),
    ]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before_s)
    assert failures == []
    time.sleep(0.01)
    assert vault.kept_bytes == 0


def test_all_others_fail_at_once_while_the_source_is_away() -> None:
    source = Counting()
    vault = Vault(source, max_age_s=60)
    source.failure = SecretUnavailableError("sealed", "it is sealed")
    for name in ("a", "b", "c"):
        with pytest.raises(SecretUnavailableError, match=f"<secret {name}#key>: it is sealed"):
            vault.value(f"{name}#key")
    assert source.reads == 1


def test_one_absent_secret_keeps_no_other_waiting() -> None:
    source = Counting()
    vault = Vault(source, max_age_s=60)
    source.failure = SecretUnavailableError("absent", "no")
    for name in ("a", "b", "c"):
        with pytest.raises(SecretUnavailableError):
            vault.value(f"{name}#key")
    assert source.reads == 3


def test_old_secrets_are_dropped_though_nobody_asks(
    constants: Callable[..., None], secrets: Path
) -> None:
    constants(drivers__vault__vault__LEAST_PAUSE_S=0.02)
    vault = Vault(SecretFiles(str(secrets)), max_age_s=0.1)
    vault.watch(lambda _: None)
    vault.value("vms/web1#root_password")
    end_s = time.monotonic() + 20
    while vault.kept_bytes and time.monotonic() < end_s:
        time.sleep(0.02)
    vault.close()
    assert vault.kept_bytes == 0


def test_answer_with_a_secret_is_no_last_good_answer(driver: Make, secrets: Path) -> None:
    made = driver(of_documents("${secret:vms/web1#root_password}"), max_age_s=0)
    assert document(made)
    (secrets / "vms/web1").unlink()
    with pytest.raises(DriverError):
        made.get_instance(WEB1)


# Options


@pytest.mark.parametrize(
    ("vault", "fault"),
    [
        ({}, "either directory or url"),
        ({"directory": "/", "url": "http://x"}, "either directory or url"),
        ({"directory": "/nope"}, "vault.directory: /nope: No such file"),
        ({"directory": "/", "mount": "x"}, "no mount with directory"),
        ({"url": "http://x"}, "either token_file, or role_id and secret_id_file"),
        ({"url": "http://x", "role_id": "r"}, "role_id and secret_id_file together"),
        ({"url": "http://x", "token_file": "/nope"}, "vault.token_file: /nope"),
        ({"url": "http://u:p@x", "token_file": "/nope"}, "without a query, user and password"),
        ({"url": "ftp://x", "token_file": "/nope"}, "vault: url: found 'ftp://x', expected: http"),
        ({"url": "https://x", "token_file": "/nope", "ca_file": "/no"}, "vault: ca-file: /no: No"),
        ({"url": "http://x", "token_file": "/", "approle_mount": "x"}, "no approle_mount with"),
        ({"url": "http://x", "token_file": "/nope", "mount": "a/../b"}, "names with / between"),
        ({"url": "http://x", "token_file": "/nope", "kv_version": 3}, "vault.kv_version"),
        ({"url": "http://x", "token_file": "/nope", "max_age_s": -1}, "vault.max_age_s"),
        ({"url": "http://x", "secret-id": "topsecret"}, "expected 'secret_id_file'"),
    ],
)
def test_vault_that_cannot_be_used_is_refused(
    tmp_path: Path, vault: Mapping[str, Any], fault: str
) -> None:
    with pytest.raises(DriverError) as raised:
        FileDriver({"directory": str(tmp_path), "vault": vault})
    assert fault in str(raised.value)
    assert "topsecret" not in str(raised.value)
    assert "u:p" not in str(raised.value)


# show


def test_show_names_references_and_prints_no_value(driver: Make, secrets: Path) -> None:
    made = driver(of_documents("${secret:vms/web1#root_password}"))
    options = f'{{"directory": "{made.options.directory}", "vault": {{"directory": "{secrets}"}}}}'
    for further in ((), ("--explain",), ("--document", "x")):
        shown = run("show", "web1", "--driver-opts", options, *further)
        assert shown.returncode == 0, shown.stderr
        assert "<secret vms/web1#root_password>" in shown.stdout
        assert "with <secret vms/web1#root_password>" in shown.stderr
        assert "hunter2" not in shown.stdout + shown.stderr
    (secrets / "vms/web1").unlink()
    failed = run("show", "web1", "--driver-opts", options)
    assert failed.returncode == 1
    assert "<secret vms/web1#root_password>: there is no file" in failed.stderr
