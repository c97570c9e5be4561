"""Mistakes that people have made, as files, with the answer or the message they get."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.mistakes import told_of
from tests.process import ServerProcess
from tests.vm import Vm
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.instance import nocloud
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC20Q6Q9Gpyvl7QM4ZdK6Y2sVszlLzRR9yUEKujZP2Jn"
TEAM = f"# the team's\n{KEY} one\n\n{KEY} two\n"


def documents_of(directory: Path, name: str, text: str, **options: Any) -> dict[str, Any]:
    """The documents of the VM of that name, as cloud-init reads them."""
    (directory / f"{name}.yaml").write_text(text)
    machine = Machine(name=name, vc_uuid="01234567-89ab-cdef-fedc-ba9876543210")
    instance = FileDriver({"directory": str(directory), **options}).get_instance(machine)
    assert instance
    return {k: yaml.safe_load(v) for k, v in nocloud.render(instance, machine).items() if v}


@pytest.mark.parametrize("name", ["proj-10.0.0.234", "proj-10.0.0.235"])
def test_vms_named_by_addresses_have_host_names_of_their_own(tmp_path: Path, name: str) -> None:
    metadata = documents_of(tmp_path, name, "metadata: {instance-id: a}\n")["METADATA"]
    assert metadata["local-hostname"] == name.replace(".", "-")


@pytest.mark.parametrize(
    ("written", "served"),
    [
        (f'{{"0": "{KEY} admin"}}', {"0": f"{KEY} admin"}),
        (f"{{0: {KEY}}}", {"0": KEY}),
        (f"{{0: [{KEY}]}}", {"0": [KEY]}),
        ("|\n    " + TEAM.replace("\n", "\n    "), TEAM),
    ],
    ids=["mapping", "number-as-a-name", "mapping-of-lists", "file"],
)
def test_public_keys_reach_the_document_as_written(
    tmp_path: Path, written: str, served: Any
) -> None:
    text = f"metadata:\n  instance-id: a\n  public-keys: {written}\n"
    assert documents_of(tmp_path, "web1", text)["METADATA"]["public-keys"] == served
    assert told_of(tmp_path, "web1", text.encode()) == []


ANCHORS = """\
x-net: &net {nameservers: [10.0.0.53], search: a.example}
metadata: {instance-id: a}
network: {<<: *net, address: 10.0.0.5/24}
"""
WITHOUT = """\
metadata: {instance-id: a}
network: {nameservers: [10.0.0.53], search: a.example, address: 10.0.0.5/24}
"""


def test_anchors_in_a_key_of_the_top_level_give_the_same_documents(tmp_path: Path) -> None:
    expected = documents_of(tmp_path, "web1", WITHOUT)
    assert documents_of(tmp_path, "web1", ANCHORS) == expected
    assert told_of(tmp_path, "web1", ANCHORS.encode()) == []


def test_anchors_may_stand_in_the_defaults_too(tmp_path: Path) -> None:
    expected = documents_of(tmp_path, "web1", WITHOUT)
    (tmp_path / "common.yaml").write_text(ANCHORS.replace(", address: 10.0.0.5/24", ""))
    text = "x-any: &a {address: 10.0.0.5/24}\nmetadata: {}\nnetwork: *a\n"
    assert documents_of(tmp_path, "web1", text, defaults="common.yaml") == expected


def test_fault_in_an_anchor_is_reported_where_it_is_used(tmp_path: Path) -> None:
    (told,) = told_of(tmp_path, "web1", ANCHORS.replace("10.0.0.53", "x").encode())
    assert told.startswith("3: network.nameservers.0: found 'x', expected an IP address such as")


def test_expansion_of_an_anchor_in_a_key_of_the_top_level_is_bounded(tmp_path: Path) -> None:
    lines = ["x-l0: &l0 x"]
    lines += [f"x-l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9)]
    (told,) = told_of(tmp_path, "web1", "\n".join([*lines, "metadata: {}"]).encode())
    assert "found too much data after expanding aliases" in told


def test_content_of_a_key_for_anchors_is_not_reported(tmp_path: Path) -> None:
    text = "x-secrets: {a: QX7ZJ9KW8VQ, a: QX7ZJ9KW8VQ, b: !QX7ZJ9KW8VQ x}\nmetadata: {}\n"
    told = told_of(tmp_path, "web1", text.encode())
    assert len(told) == 2
    assert not [line for line in told if "QX7ZJ9" in line]


def test_vm_without_a_vc_uuid_hears_of_an_empty_instance_id_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "web1.yaml").write_text('metadata:\n  instance-id: ""\n')
    with pytest.raises(InvalidInstanceData) as caught:
        FileDriver({"directory": str(tmp_path)}).get_instance(Machine(name="web1"))
    (fault,) = caught.value.faults
    assert (os.path.basename(fault.file), fault.line) == ("web1.yaml", 2)
    assert "UUID" not in str(fault)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("web1", []),
        ("01234567-89ab-cdef-fedc-ba9876543210", []),
        (
            "サーバー01",
            [
                "1: warning: metadata.local-hostname: found nothing, and the VM name gives '01',"
                " expected a host name"
            ],
        ),
    ],
)
def test_file_of_a_vm_whose_name_gives_no_whole_host_name_is_a_warning(
    tmp_path: Path, name: str, told: list[str]
) -> None:
    assert told_of(tmp_path, name, b"metadata: {instance-id: a}\n") == told


def test_file_of_a_uuid_has_the_warning_of_the_name_that_it_matches(tmp_path: Path) -> None:
    text = "metadata: {}\nmatch: {name: 日本}\n"
    (told,) = told_of(tmp_path, "01234567-89ab-cdef-fedc-ba9876543210", text.encode())
    assert "found nothing, and the VM name gives no host name" in told


@pytest.mark.parametrize(
    ("file", "name", "is_told"),
    [
        ("web1", "web2", True),
        ("web1", "web1", False),
        ("ci%2fb", "ci/b", False),
        ("cafe\u0301", "café", False),
        ("01234567-89ab-cdef-fedc-ba9876543210", "web1", False),
    ],
)
def test_file_that_its_match_keeps_from_every_vm_is_a_warning(
    tmp_path: Path, file: str, name: str, is_told: bool
) -> None:
    text = f"metadata: {{}}\nmatch: {{name: {name}}}\n"
    told = [line for line in told_of(tmp_path, file, text.encode()) if "match.name" in line]
    assert len(told) == is_told
    assert all("expected the VM name by which the file is named" in line for line in told)


def test_key_whose_yaml_is_wrong_is_reported_once(tmp_path: Path) -> None:
    text = "metadata: {}\nnetwork: {address: {{ ip }}, mtu: *a}\n"
    assert [line.partition(": found")[0] for line in told_of(tmp_path, "web1", text.encode())] == [
        "2:20: network.address",
        "2:35: network.mtu",
    ]


def test_server_gives_vms_named_by_addresses_host_names_of_their_own(
    start: Callable[..., ServerProcess], own_instances: Path
) -> None:
    names = ["proj-10.0.0.234", "proj-10.0.0.235"]
    for name in names:
        (own_instances / f"{name}.yaml").write_text(f"metadata: {{instance-id: {name}}}\n")
    port = start().port
    found = [Vm(port, name, vc_uuid=None).metadata()["local-hostname"] for name in names]
    assert found == ["proj-10-0-0-234", "proj-10-0-0-235"]


def test_server_logs_an_empty_instance_id_by_its_line(
    start: Callable[..., ServerProcess], own_instances: Path
) -> None:
    (own_instances / "web9.yaml").write_text('metadata:\n  instance-id: ""\n')
    server = start()
    assert Vm(server.port, "web9", vc_uuid=None).error("METADATA") == "invalid"
    server.wait_for(r"web9\.yaml:2: metadata\.instance-id: found '', expected an ID")
