"""`validate --schema-dir`: what cloud-init's own schemas refuse."""

from __future__ import annotations

import json
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import schemas as trees
from tests.commandline import in_process
from tests.laws import cases
from tests.test_networkdocument import RIGHT, UNKNOWN_TO_SCHEMAS
from tests.test_secrecy import MARKER, leaks
from vmw_cloudinit_metadata.cli import schemas
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.instance.fault import MAX_FAULTS
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.settings.errors import ConfigError

FILE = """\
metadata: {}
network:
  version: 2
  ethernets: {ens192: {wakeonlan: 'x'}}
userdata: |
  #cloud-config
  users:
    - name: a
      lock_passwd: "QX7ZJ9KW8VQ"
  runcmd: {a: QX7ZJ9KW8VQ}
  write_files:
    - QX7ZJ9KW8VQ: a
      path: /QX7ZJ9KW8VQ
  power_state: {mode: QX7ZJ9KW8VQ}
vendordata:
  growpart: 5
"""
TOLD = [
    "4: warning: network.ethernets.ens192.wakeonlan: found 'x', expected true or false, without "
    "quotes",
    "5: warning: userdata: found 11 characters at users.0.lock_passwd on line 4 of the "
    "#cloud-config, expected true or false",
    "5: warning: userdata: found a mapping at runcmd on line 5 of the #cloud-config, "
    "expected a list",
    "5: warning: userdata: found an unknown key (11 characters) at "
    "write_files.0.<11 characters> on line 7 of the #cloud-config, expected one of append, "
    "content, defer, encoding, owner, path, permissions, source",
    "5: warning: userdata: found 11 characters at power_state.mode on line 9 of the "
    "#cloud-config, expected one of poweroff, reboot, halt",
    "16:3: warning: vendordata: found a number at growpart on line 2 of the #cloud-config, "
    "expected a mapping",
]


def options(directory: Path) -> list[str]:
    return ["--driver-opts", json.dumps({"directory": str(directory)})]


def judge(suite: str) -> schemas.Judge:
    found, note = schemas.judge(trees.schema_dir(suite))
    assert found
    assert not note
    return found


def asked(**parts: Any) -> list[str]:
    instance = InstanceData.from_mapping({"metadata": {}, **parts})
    return [str(fault).removeprefix("warning: ") for fault in judge("sid")(instance)]


def test_validate_asks_the_schemas_that_are_named(tmp_path: Path) -> None:
    (tmp_path / "web1.yaml").write_text(FILE)
    (tmp_path / "web1.yaml").chmod(0o600)
    named = ["--schema-dir", str(trees.schema_dir("sid"))]
    code, out, err = in_process("validate", *options(tmp_path), *named)
    told = [line.removeprefix(f"{tmp_path}/web1.yaml:") for line in out]
    assert sorted(told) == sorted(TOLD)
    assert code == 0
    assert not any(leaks(line, MARKER) for line in [*out, *err])


def test_boot_does_not_ask_the_schemas(tmp_path: Path) -> None:
    """Only `validate` gives the driver a judge, and only its validate() asks it."""

    def refuse(_: InstanceData) -> Any:
        raise AssertionError

    (tmp_path / "web1.yaml").write_text("metadata: {instance-id: a}\n")
    driver = FileDriver({"directory": str(tmp_path)})
    assert driver.judge is None
    driver.judge = refuse
    assert driver.get_instance(Machine(name="web1"))
    with pytest.raises(AssertionError):
        list(driver.validate())


def test_directory_without_schemas_is_a_usage_error_that_names_them(tmp_path: Path) -> None:
    code, _, err = in_process("validate", *options(tmp_path), "--schema-dir", str(tmp_path))
    assert code == 2
    for file in ("network-config-v1", "network-config-v2", "cloud-config-v1"):
        assert f"schema-{file}.json" in err[-1]


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "\xff"])
def test_schema_that_is_none_is_a_usage_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "schema-cloud-config-v1.json").write_text(text, "latin-1")
    code, _, err = in_process("validate", *options(tmp_path), "--schema-dir", str(tmp_path))
    assert code == 2
    assert "schema-cloud-config-v1.json: found" in err[-1]


def test_missing_jsonschema_is_reported_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    directory = trees.schema_dir("sid")
    with pytest.raises(ConfigError, match=r"pip install 'vmw-cloudinit-metadata\[schema\]'"):
        schemas.judge(directory)
    found, note = schemas.judge(None, installed=directory)
    assert found is None
    assert "were not used" in note


def test_schemas_that_are_installed_are_asked() -> None:
    found, note = schemas.judge(None, installed=trees.schema_dir("sid"))
    assert found
    assert not note


def test_machine_without_cloud_init_asks_nothing(tmp_path: Path) -> None:
    assert schemas.judge(None, installed=tmp_path) == (None, "")


@pytest.mark.parametrize("name", sorted(RIGHT.keys() - UNKNOWN_TO_SCHEMAS | {"disabled"}))
def test_right_network_is_not_refused(name: str) -> None:
    assert asked(network=yaml.safe_load(RIGHT[name])) == []


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (
            {"version": 1, "config": [{"type": "loopback", "name": "lo"}]},
            "network.config.0.type: found 'loopback', expected one of",
        ),
        (
            {"version": 1, "config": [{"type": "physical", "name": "a", "subnets": [{}, {}]}]},
            "",
        ),
    ],
)
def test_network_that_the_schema_alone_refuses_is_reported_once(network: Any, told: str) -> None:
    found = asked(network=network)
    assert [line.startswith(told) for line in found] == ([True] if told else [])


# Each is checked by the schema of cloud-init, at whatever depth and size.

CONFIGS: dict[str, Any] = {
    "runcmd": {"runcmd": [["a", {"b": 1}]]},
    "unknown": {"my_key": 1},
    "write-files": {"write_files": [{"content": b"x", "path": "/x"}]},
    "users": {"users": [{"name": "a", "sudo": 5}, 5]},
    "key-that-is-no-text": {"write_files": [{1: 2, "path": "/a"}]},
    "unique": {"ssh_import_id": ["a", "a"]},
    "apt": {"apt": {"sources": {"a.list": {"source": 5}}}},
}


@cache
def validator() -> Any:
    from jsonschema import Draft4Validator  # slow: only where it is used

    return Draft4Validator(trees.schema("sid", "cloud-config-v1"))


def is_valid(config: Any) -> bool:
    return bool(validator().is_valid(config))


@pytest.mark.parametrize("name", CONFIGS)
def test_cloud_config_is_refused_as_jsonschema_refuses_it(name: str) -> None:
    config = json.loads(json.dumps(CONFIGS[name], default=bytes.decode))
    assert bool(asked(userdata=CONFIGS[name])) is not is_valid(config)


LEAVES = st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["a", MARKER])
VALUES = st.recursive(
    LEAVES,
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "path", "content", "groups", "enabled", MARKER]), below
        )
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["users", "write_files", "runcmd", "apt", "ntp", "chpasswd", "power_state", "snap", "lxd"]
)


@settings(max_examples=cases(100), deadline=None)
@given(st.dictionaries(KEYS, VALUES, min_size=1))
def test_refused_cloud_config_is_reported_and_not_quoted(config: Any) -> None:
    told = asked(userdata=config)
    assert bool(told) is not is_valid(config)
    assert not any(leaks(line, MARKER) for line in told)


HOSTILE: dict[str, str] = {
    "runcmd": "#cloud-config\nruncmd:\n" + "- {a: b}\n" * 24_000,
    "users": "#cloud-config\nusers:\n" + "- {name: 5, x: y}\n" * 16_000,
    "unique": "#cloud-config\nssh_import_id:\n" + "".join(f"- {{a: {i}}}\n" for i in range(20_000)),
    "unknown": "#cloud-config\n" + "".join(f"k{i}: 1\n" for i in range(49_000)),
    "deep": "#cloud-config\nruncmd: " + "[" * 35 + "]" * 35,
    "mounts": "#cloud-config\nmounts:\n" + "- [a, b, c, d, e, f, g, h]\n" * 10_000,
    "alias": "#cloud-config\na: &a [1, 1]\nb: [" + "*a, " * 20_000 + "]\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_cloud_config_is_checked_in_bounds(name: str) -> None:
    before_s = time.process_time()
    told = asked(userdata=HOSTILE[name])
    assert len(told) <= MAX_FAULTS
    assert time.process_time() - before_s < schemas.MAX_SECONDS + 15  # on a busy machine


def test_document_that_takes_too_long_is_reported() -> None:
    path = trees.schema_dir("sid") / schemas.FILES["cloud-config"]
    timed = schemas.Schemas({"cloud-config": json.loads(path.read_text())}, limit_s=0.0)
    instance = InstanceData.from_mapping({"metadata": {}, "userdata": {"runcmd": ["a"]}})
    (told,) = map(str, timed.warnings(instance))
    assert "it was not checked by its schema" in told
