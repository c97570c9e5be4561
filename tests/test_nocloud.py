"""The documents: what the example gives, and that all comes back equal as cloud-init reads it."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.instance import nocloud
from vmw_cloudinit_metadata.instance.documents import STANDARD, USER_DATA, StandardDocument
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.instance.metadata.fields import METADATA_KEYS
from vmw_cloudinit_metadata.instance.model import MAX_DOCUMENT_BYTES, InstanceData
from vmw_cloudinit_metadata.instance.parsing import seed
from vmw_cloudinit_metadata.instance.values.dump import block_text, document_text, yaml_text
from vmw_cloudinit_metadata.protocol.vmware import Machine

UUID = "01234567-89ab-cdef-fedc-ba9876543210"
MACHINE = Machine(name="web1", vc_uuid=UUID)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC20Q6Q9Gpyvl7QM4ZdK6Y2sVszlLzRR9yUEKujZP2Jn"
EXAMPLE = f"""\
metadata:
  ami-id: my-image
  instance-id: my-instance
  region: us-east1
  availability-zone: us-east1-a
  tags: [a, b, c]
  public-keys: [{KEY}]
  hostname: myhostnamehere
network:
  address: 192.168.1.1
  netmask: 255.255.255.0
  gateway: 192.168.1.254
  search: 'example.com'
  nameservers: [8.8.8.8, 8.8.4.4]
userdata: |
  #cloud-config
  growpart: {{mode: auto, devices: ['/'], ignore_growroot_disabled: false}}
"""
BASIC = {"instance-id": UUID, "hostname": "web1", "local-hostname": "web1"}

# All of a text that YAML, a JSON writer or PyYAML could trip over.
HARD = "".join(map(chr, [*range(0x20), 0x22, 0x5C, *range(0x7F, 0xA0), 0x2028, 0x2029]))
HARD += "\ufeff\ufffe\uffff\ufdd0\U0001f600\U0010ffff\U0001fffe/</script>#: ,[]{}'&*!|>%@`"
TEXTS = st.text() | st.text(alphabet=HARD)
KEYS = st.text(max_size=40) | st.text(HARD, max_size=40)  # short enough, whatever is escaped
NUMBERS = st.integers() | st.sampled_from([0.0, -0.0, 2**64, -(2**64)])
NUMBERS |= st.floats(1e-4, 1e15) | st.floats(-1e15, -1e-4)  # what Python writes without exponent
SCALARS = st.booleans() | NUMBERS | TEXTS
NESTED = st.recursive(
    st.none() | SCALARS,
    lambda below: st.lists(below) | st.dictionaries(KEYS, below),
    max_leaves=10,
)
VALUES = SCALARS | st.lists(NESTED, max_size=3) | st.dictionaries(KEYS, NESTED, max_size=3)
FURTHER = KEYS.filter(lambda name: name.replace("_", "-") not in METADATA_KEYS)


def read(text: str) -> InstanceData:
    return InstanceData.from_mapping(seed.read(text).value)


def documents_of(machine: Machine = MACHINE, **parts: Any) -> dict[str, bytes]:
    return nocloud.render(InstanceData.from_mapping({"metadata": {}, **parts}), machine)


@pytest.mark.parametrize("document", USER_DATA, ids=lambda document: document.key)
def test_document_in_user_data_format_is_served_by_the_row_of_the_table(
    document: StandardDocument,
) -> None:
    documents = documents_of(**{document.key: "#!/bin/sh"})
    assert documents[document.code] == b"#!/bin/sh"
    assert documents.keys() == {row.code for row in STANDARD}


def metadata_of(metadata: object, machine: Machine = MACHINE) -> dict[str, Any]:
    """The meta-data as cloud-init reads it."""
    return dict(yaml.safe_load(documents_of(machine, metadata=metadata)["METADATA"]))


def test_example_gives_its_metadata_in_order() -> None:
    document = nocloud.render(read(EXAMPLE), MACHINE)["METADATA"]
    assert list(json.loads(document).items()) == [
        ("ami-id", "my-image"),
        ("instance-id", "my-instance"),
        ("region", "us-east1"),
        ("availability-zone", "us-east1-a"),
        ("tags", ["a", "b", "c"]),
        ("public-keys", [KEY]),
        ("hostname", "myhostnamehere"),
        ("local-hostname", "myhostnamehere"),
    ]


def test_example_gives_its_network_config() -> None:
    text = nocloud.render(read(EXAMPLE), MACHINE)["NETWORKDATA"].decode()
    assert text.startswith('{\n "version": 1,\n "config": [\n  {\n   "type": "physical",\n')
    subnet = {
        "type": "static",
        "address": "192.168.1.1",
        "netmask": "255.255.255.0",
        "gateway": "192.168.1.254",
        "dns_search": ["example.com"],
        "dns_nameservers": ["8.8.8.8", "8.8.4.4"],
    }
    interface = {"type": "physical", "name": "eth0", "subnets": [subnet]}
    assert json.loads(text) == yaml.safe_load(text) == {"version": 1, "config": [interface]}


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"version": 1, "config": [], 1: 2}, id="a key that is no text"),
        pytest.param({"version": 2, "cost": 1e30}, id="a number that JSON writes otherwise"),
        pytest.param({"version": 2, "key": b"\0\xff"}, id="bytes"),
        pytest.param({"version": 2, "k" * 1024: 1}, id="a key of 1024 characters"),
        pytest.param({"version": 2, "\x85" * 171: 1}, id="a key of as many once escaped"),
    ],
)
def test_network_that_json_would_change_is_yaml(value: dict[object, object]) -> None:
    text = document_text(value)
    assert not text.startswith("{")
    assert yaml.safe_load(text) == value


@given(st.dictionaries(FURTHER, VALUES))
def test_block_of_any_mapping_is_the_same_the_second_time(value: dict[str, Any]) -> None:
    assert block_text(value) == block_text(value) == yaml_text(value)


def test_example_gives_its_user_data_as_written() -> None:
    assert nocloud.render(read(EXAMPLE), MACHINE)["USERDATA"].decode() == (
        "#cloud-config\ngrowpart: {mode: auto, devices: ['/'], ignore_growroot_disabled: false}\n"
    )


@pytest.mark.parametrize(
    "path", sorted(Path("conf/instances").glob("*.yaml")), ids=lambda p: p.name
)
def test_example_file_gives_documents(path: Path) -> None:
    documents = nocloud.render(read(path.read_text()), MACHINE)
    assert all(documents[name] for name in ("METADATA", "NETWORKDATA", "USERDATA"))


@given(st.dictionaries(FURTHER, VALUES))
def test_metadata_of_any_further_keys_comes_back_equal(further: dict[str, Any]) -> None:
    assert metadata_of(further) == {**BASIC, **further}


@given(TEXTS)
def test_metadata_of_any_text_comes_back_equal(text: str) -> None:
    metadata = dict.fromkeys(("ami-id", "region", "availability-zone"), text)
    assert metadata_of({**metadata, "tags": [text]}) == {**BASIC, **metadata, "tags": [text]}


@pytest.mark.parametrize("character", HARD, ids=lambda c: f"U+{ord(c):04X}")
def test_metadata_of_a_hard_character_comes_back_equal(character: str) -> None:
    assert metadata_of({"x": {character: character}}) == {**BASIC, "x": {character: character}}


@pytest.mark.parametrize("letter", ["a", "\x7f", "\1", "\u2028", '"', "😀"], ids=ascii)
@pytest.mark.parametrize("length", [128, 200, 256, 1024, 2000])
@pytest.mark.parametrize("below", [False, True], ids=["further-key", "below-one"])
def test_metadata_of_a_long_key_comes_back_equal_or_is_a_fault(
    letter: str, length: int, below: bool
) -> None:
    further: Any = {"x": {letter * length: 1}} if below else {letter * length: 1}
    with suppress(InvalidInstanceData):
        assert metadata_of(further) == {**BASIC, **further}


@pytest.mark.parametrize(
    "text",
    ["2024-01-01", "010", "yes", "1.10", "12:30", "~", "=", "<<", "", " ", "#", "0o7", "1e3"],
)
def test_metadata_of_a_text_that_looks_like_another_value_comes_back_equal(text: str) -> None:
    assert metadata_of({"x": [text]}) == {**BASIC, "x": [text]}


def test_metadata_is_one_line_of_utf_8_without_escaped_slashes() -> None:
    document = documents_of(metadata={"x": "a/b ä 😀\n"})["METADATA"]
    assert b"\n" not in document
    assert 'a/b ä 😀\\n"' in document.decode()


def test_metadata_has_the_known_keys_first_and_the_further_ones_as_written() -> None:
    metadata = {"z": 1, "hostname": "h", "b": 2, "a": 3, "ami-id": "x"}
    assert list(metadata_of(metadata)) == [
        "ami-id",
        "instance-id",
        "hostname",
        "local-hostname",
        "z",
        "b",
        "a",
    ]


def test_metadata_has_only_what_is_given() -> None:
    assert metadata_of({}) == BASIC


@pytest.mark.parametrize(
    ("metadata", "hostname", "local_hostname"),
    [
        ({}, "Web-Server-1", "Web-Server-1"),
        ({"hostname": "a.example.com"}, "a.example.com", "a.example.com"),
        ({"local-hostname": "b"}, "b", "b"),
        ({"hostname": "a", "local-hostname": "b"}, "a", "b"),
        ({"hostname": None}, "Web-Server-1", "Web-Server-1"),
    ],
    ids=str,
)
def test_hostname_has_its_defaults(metadata: object, hostname: str, local_hostname: str) -> None:
    found = metadata_of(metadata, Machine(name="Web Server_1", vc_uuid=UUID))
    assert (found["hostname"], found["local-hostname"]) == (hostname, local_hostname)


@pytest.mark.parametrize("name", [None, "日本"], ids=["no-name", "no-legal-name"])
def test_hostname_is_absent_where_the_vm_name_gives_none(name: str | None) -> None:
    assert metadata_of({}, Machine(name=name, vc_uuid=UUID)) == {"instance-id": UUID}


@pytest.mark.parametrize("metadata", [{}, {"instance-id": None}], ids=["absent", "null"])
def test_instance_id_defaults_to_the_vc_uuid(metadata: object) -> None:
    assert metadata_of(metadata)["instance-id"] == UUID


def test_instance_id_that_is_given_is_not_the_vc_uuid() -> None:
    assert metadata_of({"instance-id": "i"})["instance-id"] == "i"


def test_instance_id_without_a_vc_uuid_is_a_fault() -> None:
    with pytest.raises(
        InvalidInstanceData, match=r"^metadata\.instance-id: found nothing, expected"
    ):
        documents_of(Machine(name="web1", bios_uuid=UUID))


def test_documents_that_are_not_given_are_empty() -> None:
    documents = documents_of()
    assert {name for name, body in documents.items() if body} == {"METADATA"}
    assert set(documents) == {"METADATA", "NETWORKDATA", "USERDATA", "VENDORDATA"}


def test_further_documents_stand_beside_the_standard_ones() -> None:
    assert documents_of(documents={"securitydata": "x"})["SECURITYDATA"] == b"x"


@pytest.mark.parametrize(
    "parts",
    [
        {"metadata": {"x": "x" * MAX_DOCUMENT_BYTES}},
        {"network": {"version": 2, "x": "x" * MAX_DOCUMENT_BYTES}},
    ],
    ids=["metadata", "network"],
)
def test_document_of_more_than_one_mebibyte_is_a_fault(parts: dict[str, Any]) -> None:
    with pytest.raises(InvalidInstanceData, match=r"expected at most 1,048,576 bytes$"):
        documents_of(**parts)


def test_digest_has_length_and_sha_256_of_every_document_there_is() -> None:
    documents = {"METADATA": b"{}", "USERDATA": b"", "KEYS": b"\xff\0"}
    assert json.loads(nocloud.digest(documents)) == {
        name: {"length": 2, "sha256": hashlib.sha256(documents[name]).hexdigest()}
        for name in ("METADATA", "KEYS")
    }


@pytest.mark.parametrize(
    ("name", "metadata", "found"),
    [
        ("日本", {}, "found nothing, and the VM name gives no host name"),
        ("サーバー01", {}, "found nothing, and the VM name gives '01'"),
        ("Straße", {"region": "a"}, "found nothing, and the VM name gives 'Stra-e'"),
    ],
)
def test_vm_name_that_gives_no_whole_host_name_is_a_warning(
    name: str, metadata: Any, found: str
) -> None:
    instance = InstanceData.from_mapping({"metadata": metadata})
    (warning,) = nocloud.hostname_warnings(instance, name)
    told = f"warning: metadata.local-hostname: {found}, expected a host name"
    assert str(warning) == told


@pytest.mark.parametrize(
    ("name", "metadata"),
    [
        *(("web1", {}), ("Bücher", {}), ("proj-10.0.0.234", {}), ("", {})),
        *(("日本", {"hostname": "a"}), ("日本", {"local-hostname": "a"})),
    ],
)
def test_vm_with_a_host_name_is_no_warning(name: str, metadata: Any) -> None:
    instance = InstanceData.from_mapping({"metadata": metadata})
    assert list(nocloud.hostname_warnings(instance, name)) == []


@pytest.mark.parametrize(
    ("written", "served"),
    [
        ({"0": KEY}, {"0": KEY}),
        (f"# the team's\n{KEY} one\n\n{KEY} two\n", f"# the team's\n{KEY} one\n\n{KEY} two\n"),
        ([KEY], [KEY]),
        (KEY, [KEY]),
    ],
    ids=["mapping", "text", "list", "one"],
)
def test_public_keys_come_back_equal(written: Any, served: Any) -> None:
    assert metadata_of({"public-keys": written})["public-keys"] == served
