"""InstanceData.from_mapping: what it takes, what it makes of it, and what it refuses."""

from __future__ import annotations

import datetime
import math
from contextlib import suppress
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.laws import cases
from vmw_cloudinit_metadata.instance import nocloud
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData
from vmw_cloudinit_metadata.instance.keys import TOP_LEVEL
from vmw_cloudinit_metadata.instance.metadata.fields import MAX_KEY_CHARACTERS, METADATA_KEYS
from vmw_cloudinit_metadata.instance.model import MAX_DOCUMENT_BYTES, InstanceData
from vmw_cloudinit_metadata.instance.network import shortform
from vmw_cloudinit_metadata.instance.values.dump import json_text
from vmw_cloudinit_metadata.protocol.vmware import Machine

UUID = "01234567-89ab-cdef-fedc-ba9876543210"
MACHINE = Machine(name="web1", vc_uuid=UUID)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC20Q6Q9Gpyvl7QM4ZdK6Y2sVszlLzRR9yUEKujZP2Jn"

WORDS = ["10.0.0.1", "10.0.0.1/24", "255.0.0.0", "2001:db8::1/64", "default", "web1", KEY, UUID]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(WORDS)
)
NAMES = st.sampled_from(
    [*METADATA_KEYS, *shortform.KEYS, *shortform.ROUTE_KEYS, "version", "config"]
)
JSON = st.recursive(
    SCALARS,
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(NAMES | st.text(), below, max_size=3)
    ),
    max_leaves=8,
)
INTERFACES = st.dictionaries(st.sampled_from(sorted(shortform.KEYS)), JSON, max_size=4)
MAPPINGS = st.fixed_dictionaries(
    {
        "metadata": JSON
        | st.dictionaries(st.sampled_from(METADATA_KEYS) | st.text(), JSON, max_size=4)
    },
    optional={
        "network": JSON | INTERFACES | st.lists(INTERFACES, max_size=3),
        "userdata": JSON,
        "vendordata": JSON,
        "documents": JSON,
        "match": JSON | st.dictionaries(st.sampled_from(["vc-uuid", "name"]), JSON, max_size=2),
    },
) | st.dictionaries(st.sampled_from(sorted(TOP_LEVEL)) | st.text(), JSON, max_size=4)


def instance_of(**parts: Any) -> InstanceData:
    return InstanceData.from_mapping({"metadata": {}, **parts})


def faults_of(mapping: Any) -> tuple[Fault, ...]:
    with pytest.raises(InvalidInstanceData) as raised:
        InstanceData.from_mapping(mapping)
    return raised.value.faults


# A further key of meta-data, of one letter: it is not quoted.
OTHER = "metadata.<1 character>"


def fault_of(**parts: Any) -> str:
    """The only fault, as it is reported."""
    (fault,) = faults_of({"metadata": {}, **parts})
    return str(fault)


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


@given(MAPPINGS)
@settings(max_examples=cases(300))
def test_from_mapping_of_any_mapping_raises_nothing_but_faults(mapping: dict[str, Any]) -> None:
    with suppress(InvalidInstanceData):
        nocloud.render(InstanceData.from_mapping(mapping), MACHINE)


@pytest.mark.parametrize(
    "value",
    [
        "\ud800",
        10**400,
        16**5000,
        math.nan,
        math.inf,
        nested(1000),
        {"\ud800": 1},
        {"a": nested(1000)},
    ],
    ids=["surrogate", "large", "endless", "nan", "inf", "deep", "surrogate-key", "deep-mapping"],
)
@pytest.mark.parametrize(
    "place",
    [
        ("metadata",),
        ("metadata", "instance-id"),
        ("metadata", "tags"),
        ("metadata", "further"),
        ("network",),
        ("network", "address"),
        ("network", "mtu"),
        ("userdata",),
        ("documents", "securitydata"),
        ("match", "name"),
        ("further",),
    ],
    ids=".".join,
)
def test_hostile_value_anywhere_raises_nothing_but_faults(
    place: tuple[str, ...], value: Any
) -> None:
    for name in reversed(place):
        value = {name: value}
    with suppress(InvalidInstanceData):
        nocloud.render(InstanceData.from_mapping({"metadata": {}, **value}), MACHINE)


@pytest.mark.parametrize(
    "value", ["\ud800", 16**5000, nested(1000)], ids=["surrogate", "endless", "deep"]
)
@pytest.mark.parametrize("form", [{"version": 1, "config": []}, {"version": 2}], ids=["v1", "v2"])
def test_native_network_that_yaml_has_no_form_for_is_a_fault(form: Any, value: Any) -> None:
    assert "network" in fault_of(network={**form, "x": value})


@pytest.mark.parametrize("metadata", [{}, None], ids=["empty", "null"])
def test_metadata_may_be_empty(metadata: object) -> None:
    assert InstanceData.from_mapping({"metadata": metadata}) == InstanceData(metadata={})


def test_metadata_is_required() -> None:
    (fault,) = faults_of({"userdata": "#!/bin/sh\n"})
    assert str(fault) == "metadata: found nothing, expected a mapping (it may be empty: {})"


def test_parts_may_be_null() -> None:
    nothing = dict.fromkeys(("network", "userdata", "vendordata", "documents", "match"))
    assert instance_of(**nothing) == InstanceData(metadata={})


def test_known_keys_may_be_written_with_underscores() -> None:
    instance = instance_of(
        metadata={"ami_id": "a", "instance_id": "i", "availability_zone": "z", "public_keys": [KEY]}
    )
    assert instance.metadata == {
        "ami-id": "a",
        "instance-id": "i",
        "availability-zone": "z",
        "public-keys": [KEY],
    }


def test_further_keys_keep_their_underscores() -> None:
    assert instance_of(metadata={"my_key": {"a_b": 1}}).metadata == {"my_key": {"a_b": 1}}


@pytest.mark.parametrize("tags", [["a", "b"], {"env": "test"}, []], ids=str)
def test_tags_are_a_list_or_a_mapping(tags: object) -> None:
    assert instance_of(metadata={"tags": tags}).metadata == {"tags": tags}


def test_one_public_key_stands_for_a_list() -> None:
    assert instance_of(metadata={"public-keys": f" {KEY}\n"}).metadata == {"public-keys": [KEY]}


@pytest.mark.parametrize(
    "name", ["ami-id", "instance-id", "region", "availability-zone", "hostname"]
)
def test_number_of_a_driver_for_a_text_is_text(name: str) -> None:
    assert instance_of(metadata={name: 10}).metadata == {name: "10"}


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 0, -1, 2**70, 1.5, -0.0, "", "10", "yes", "😀\x7f\x85\u2028\ufeff\0"),
        *([], {}, [None, [1]], {"a": {"b": None}}),
    ],
    ids=repr,
)
def test_further_key_keeps_its_value(value: object) -> None:
    assert instance_of(metadata={"x": [value]}).metadata == {"x": [value]}


@pytest.mark.parametrize(
    ("metadata", "fault"),
    [
        pytest.param([], "metadata: found a list, expected a mapping", id="list"),
        pytest.param("x", "metadata: found 'x', expected a mapping", id="text"),
        pytest.param(
            {"instance-id": True},
            "metadata.instance-id: found True, expected a string",
            id="boolean",
        ),
        pytest.param({"region": 1.5}, "metadata.region: found 1.5, expected a string", id="float"),
        pytest.param(
            {"region": ["x"]},
            "metadata.region: found a list, expected a string",
            id="list-for-a-text",
        ),
        pytest.param(
            {"tags": "x"}, "metadata.tags: found 'x', expected a list or a mapping", id="tags"
        ),
        pytest.param(
            {"hostname": "a_b"},
            "metadata.hostname: found 'a_b', expected a host name or FQDN: labels of letters,"
            " digits and hyphens",
            id="hostname",
        ),
        pytest.param(
            {"local_hostname": "a b"},
            "metadata.local-hostname: found 'a b', expected a host name or FQDN: labels of letters,"
            " digits and hyphens",
            id="local-hostname",
        ),
        pytest.param(
            {"public-keys": [KEY, "x"]},
            "metadata.public-keys.1: found 'x', expected an SSH public key such as"
            " 'ssh-ed25519 AAAA... name'",
            id="public-keys",
        ),
        pytest.param(
            {"public-keys": "x"},
            "metadata.public-keys: found 'x', expected an SSH public key such as"
            " 'ssh-ed25519 AAAA... name'",
            id="one-public-key",
        ),
        pytest.param(
            {"instance-id": "a", "instance_id": "a"},
            "metadata.instance-id: found a duplicate key, with - and _, expected each key once",
            id="both-forms",
        ),
        pytest.param(
            {"x": math.nan},
            f"{OTHER}: found nan, expected a number that JSON and YAML write the same way,"
            " or a string in quotes",
            id="nan",
        ),
        pytest.param(
            {"x": 1e30},
            f"{OTHER}: found 1e+30, expected a number that JSON and YAML write the same way,"
            " or a string in quotes",
            id="exponent",
        ),
        pytest.param(
            {"x": datetime.date(2024, 1, 1)},
            f"{OTHER}: found a date, expected a string, number, boolean, list or mapping",
            id="date",
        ),
        pytest.param(
            {"x": b"1"},
            f"{OTHER}: found 1 byte, expected a string, number, boolean, list or mapping",
            id="bytes",
        ),
        pytest.param(
            {"x": {5: 1}},
            f"{OTHER}: found a mapping, expected string keys of at most 256 characters",
            id="number-as-a-key",
        ),
        pytest.param(
            {"x": {"a" * 257: 1}},
            f"{OTHER}: found a mapping, expected string keys of at most 256 characters",
            id="long-key",
        ),
        pytest.param(
            {"x": nested(41)},
            f"{OTHER}{'.0' * 38}: found too many levels of nesting, expected at most 40",
            id="deep",
        ),
    ],
)
def test_metadata_that_is_none_is_a_fault(metadata: object, fault: str) -> None:
    assert fault_of(metadata=metadata) == fault


@pytest.mark.parametrize(
    "name", [None, 5, b"x", "a" * 257], ids=["null", "number", "bytes", "long"]
)
def test_metadata_with_a_key_that_json_has_not_is_a_fault(name: object) -> None:
    assert "metadata" in fault_of(metadata={name: "x"})


@pytest.mark.parametrize("part", ["userdata", "vendordata"])
@pytest.mark.parametrize(
    ("written", "document"),
    [
        pytest.param("#!/bin/sh\necho ä\n", "#!/bin/sh\necho ä\n".encode(), id="text"),
        pytest.param("\n \t\n\r\n#!/bin/sh\n\n", b"#!/bin/sh\n\n", id="leading-blank-lines"),
        pytest.param("\n  x\n", b"  x\n", id="leading-spaces"),
        pytest.param("x\r\ny", b"x\r\ny", id="windows"),
        pytest.param("\ufeffx", b"\xef\xbb\xbfx", id="byte-order-mark"),
        pytest.param(b"\n\x1f\x8b\0\xff", b"\n\x1f\x8b\0\xff", id="binary"),
        pytest.param("", b"", id="empty"),
    ],
)
def test_text_of_userdata_is_served_as_written(part: str, written: object, document: bytes) -> None:
    assert getattr(instance_of(**{part: written}), part) == document


@given(st.text(alphabet="\n\t ax"))
def test_text_of_userdata_loses_leading_blank_lines_and_nothing_else(text: str) -> None:
    served = instance_of(userdata=text).userdata.decode()
    dropped = text.removesuffix(served)
    assert dropped + served == text
    assert dropped == "" or (dropped.isspace() and dropped.endswith("\n"))
    assert served.partition("\n")[0].strip() or "\n" not in served


@pytest.mark.parametrize("part", ["userdata", "vendordata"])
def test_mapping_of_userdata_becomes_a_cloud_config(part: str) -> None:
    config = {"packages": ["a"], "growpart": {"mode": "auto"}, "x": "😀\x85", "n": [1, 1.5, None]}
    document = getattr(instance_of(**{part: config}), part)
    assert document.startswith(b"#cloud-config\n")
    assert yaml.safe_load(document) == config


def test_mapping_of_userdata_keeps_its_order() -> None:
    assert instance_of(userdata={"b": 1, "a": 2}).userdata == b"#cloud-config\nb: 1\na: 2\n"


@pytest.mark.parametrize("part", ["userdata", "vendordata"])
@pytest.mark.parametrize("value", [["x"], 5, True], ids=repr)
def test_userdata_of_another_kind_is_a_fault(part: str, value: object) -> None:
    expected = "expected a string, !!binary, or a mapping, which is served as #cloud-config"
    assert fault_of(**{part: value}).endswith(expected)


def test_documents_are_named_as_they_are_asked_for() -> None:
    documents = instance_of(documents={"securitydata": "\nx\n", "Keys": b"\xff"}).documents
    assert documents == {"SECURITYDATA": b"x\n", "KEYS": b"\xff"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, "a name of letters only") for name in ["", "a1", "a-b", "a b", "é", "x" * 33, 5]),
        *(
            (name, "a name that the protocol does not reserve")
            for name in ["metadata", "NetworkData"]
        ),
        *(
            (name, "a name that the protocol does not reserve")
            for name in ["userdata", "vendordata"]
        ),
        *((name, "a name that the protocol does not reserve") for name in ["digest", "error"]),
    ],
)
def test_document_of_a_wrong_name_is_a_fault(name: str, expected: str) -> None:
    assert expected in fault_of(documents={name: "x"})


def test_documents_of_one_name_are_a_fault() -> None:
    told = fault_of(documents={"keys": "", "KEYS": ""})
    assert told == "documents: found name 2, a duplicate, expected each document once"


def test_document_with_once_is_named() -> None:
    long = {"keys": {"text": "a", "once": True}, "more": {"text": "b", "once": False}, "x": "c"}
    made = InstanceData.from_mapping({"metadata": {}, "documents": long})
    assert made.documents == {"KEYS": b"a", "MORE": b"b", "X": b"c"}
    assert made.once == {"KEYS"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"text": "a", "once": "true"}, "once: true or false"),
        ({"text": "a", "once": 1}, "once: true or false"),
        ({"text": "a", "one": True}, "a string, or text and once"),
        ({"once": True}, "text, with once"),
        ({"text": {"a": 1}, "once": True}, "a string or !!binary"),
    ],
    ids=repr,
)
def test_document_with_once_in_another_form_is_a_fault(value: object, expected: str) -> None:
    assert fault_of(documents={"keys": value}).endswith(f"expected {expected}")


def test_user_data_with_once_is_a_fault() -> None:
    assert "no once, which is for documents" in fault_of(userdata={"text": "a", "once": True})


@pytest.mark.parametrize("value", [5, ["x"]], ids=repr)
def test_document_that_is_no_text_is_a_fault(value: object) -> None:
    assert fault_of(documents={"keys": value}).endswith("expected a string or !!binary")


@pytest.mark.parametrize("value", ["x", ["keys"], 5], ids=repr)
def test_documents_that_are_no_mapping_are_a_fault(value: object) -> None:
    assert fault_of(documents=value).endswith("expected a mapping of names to strings")


PLACES = [("userdata",), ("vendordata",), ("documents", "keys")]


def put(place: tuple[str, ...], value: object) -> dict[str, object]:
    return {place[0]: {place[1]: value} if len(place) > 1 else value}


@pytest.mark.parametrize("place", PLACES, ids=".".join)
@pytest.mark.parametrize("letter", ["x", b"x"], ids=["text", "binary"])
def test_document_of_one_mebibyte_is_served(place: tuple[str, ...], letter: Any) -> None:
    assert instance_of(**put(place, letter * MAX_DOCUMENT_BYTES))


@pytest.mark.parametrize("place", PLACES, ids=".".join)
@pytest.mark.parametrize("letter", ["x", b"x"], ids=["text", "binary"])
def test_document_of_more_than_one_mebibyte_is_a_fault(place: tuple[str, ...], letter: Any) -> None:
    fault = fault_of(**put(place, letter * (MAX_DOCUMENT_BYTES + 1)))
    assert fault.endswith("found 1,048,577 bytes, expected at most 1,048,576 bytes")


def test_limit_of_a_document_counts_bytes_and_not_letters() -> None:
    assert "found 1,048,578 bytes" in fault_of(userdata="é" * (MAX_DOCUMENT_BYTES // 2 + 1))


@pytest.mark.parametrize("place", PLACES, ids=".".join)
@pytest.mark.parametrize("secret", ["secret\ud800", b"secret" * 200_000], ids=["text", "binary"])
def test_fault_of_a_document_does_not_tell_its_text(place: tuple[str, ...], secret: Any) -> None:
    assert "secret" not in fault_of(**put(place, secret))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("metdata", "'metadata'"),
        ("user-data", "'userdata'"),
        ("networks", "'network'"),
    ],
)
def test_unknown_top_level_key_is_a_fault_with_the_nearest_name(name: str, expected: str) -> None:
    assert fault_of(**{name: "x"}) == f"{name}: found {name!r}, expected {expected}"


def test_unknown_top_level_key_that_resembles_none_is_not_quoted() -> None:
    assert fault_of(hunter2="x") == (
        "<7 characters>: found an unknown key (7 characters), "
        "expected one of documents, match, metadata, network, userdata, vendordata"
    )


def test_every_fault_of_a_mapping_is_reported() -> None:
    faults = faults_of(
        {
            "metadata": {"hostname": "a_b", "tags": 5},
            "network": {"address": "x"},
            "userdata": 5,
            "vendordata": 5,
            "documents": {"error": ""},
            "match": {"vc-uuid": "x"},
            "zzz": 1,
        }
    )
    assert {fault.key for fault in faults} == {
        ("metadata", "hostname"),
        ("metadata", "tags"),
        ("network", "address"),
        ("userdata",),
        ("vendordata",),
        ("documents", "error"),
        ("match", "vc-uuid"),
        ("zzz",),
    }


@pytest.mark.parametrize(
    ("match", "is_for"),
    [
        ({}, True),
        ({"vc-uuid": UUID}, True),
        ({"vc_uuid": UUID.upper()}, True),
        ({"vc-uuid": "01 23 45 67 89 ab cd ef-fe dc ba 98 76 54 32 10"}, True),
        ({"vc-uuid": UUID.replace("0", "1")}, False),
        ({"bios-uuid": UUID}, False),
        ({"name": "web1"}, True),
        ({"name": "web2"}, False),
        ({"name": "web1", "vc-uuid": UUID}, True),
        ({"name": "web2", "vc-uuid": UUID}, False),
    ],
    ids=str,
)
def test_match_is_for_a_machine_that_agrees_in_all_of_it(match: Any, is_for: bool) -> None:
    assert instance_of(match=match).is_for(MACHINE) is is_for


@pytest.mark.parametrize(
    ("match", "fault"),
    [
        ({"vc-uuid": "x"}, f"match.vc-uuid: found 'x', expected a UUID such as {UUID}"),
        ({"vcuuid": UUID}, "match.vcuuid: found 'vcuuid', expected 'vc-uuid'"),
        ({"name": True}, "match.name: found True, expected a string"),
        ("web1", "match: found 'web1', expected a mapping"),
    ],
    ids=str,
)
def test_match_that_is_none_is_a_fault(match: object, fault: str) -> None:
    assert fault_of(match=match) == fault


@pytest.mark.parametrize(
    "text",
    ["a", "x" * 255, "é" * 127, "a b", "a/b", "i-0123456789abcdef0", "2024-01-01", ".a", "..."],
    ids=lambda text: text[:20],
)
def test_instance_id_that_cloud_init_can_keep_is_right(text: str) -> None:
    assert instance_of(metadata={"instance-id": text}).metadata == {"instance-id": text}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "an ID (omit the key for the default)"),
        ("x" * 256, "an instance-id of at most 255 bytes (it names a directory)"),
        ("é" * 128, "an instance-id of at most 255 bytes (it names a directory)"),
        *((text, "an ID on one line, without surrounding blanks") for text in (" a", "a\n", "\ta")),
        *(
            (text, "an ID on one line, without surrounding blanks")
            for text in ("a\nb", "\xa0a", " ")
        ),
        *((text, "an ID on one line, without surrounding blanks") for text in ("a\0b", "a\u2028b")),
        *((text, "an ID that is a valid directory name") for text in (".", "..")),
    ],
)
def test_instance_id_that_cloud_init_cannot_keep_is_a_fault(text: str, expected: str) -> None:
    told = fault_of(metadata={"instance-id": text})
    assert told.startswith("metadata.instance-id: found ")
    assert told.endswith(f", expected {expected}")
    assert "UUID" not in told


@given(st.text())
def test_instance_id_that_is_taken_names_a_directory_and_is_read_back(text: str) -> None:
    with suppress(InvalidInstanceData):
        (taken,) = instance_of(metadata={"instance-id": text}).metadata.values()
        name = taken.replace("/", "_")  # as cloud-init makes the directory of it
        assert name not in ("", ".", "..")
        assert "\0" not in name
        assert len(name.encode()) <= 255
        assert f"{taken}\n".strip() == taken  # as cloud-init reads the ID of the last boot


def test_value_of_a_key_for_anchors_is_in_no_document() -> None:
    instance = instance_of(**{"x-net": {"search": "a"}, "x-any": [1]})
    assert instance == InstanceData(metadata={})


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ([{"instance-id": "a"}, {"region": "b"}], "a mapping: write its keys without '- '"),
        (["a"], "a mapping"),
        ("instance-id:a", "a mapping: KEY: VALUE, with a space after the colon"),
        ("a b", "a mapping"),
    ],
    ids=str,
)
def test_metadata_that_was_meant_to_be_a_mapping_gets_advice(metadata: Any, expected: str) -> None:
    assert fault_of(metadata=metadata).endswith(f", expected {expected}")


@pytest.mark.parametrize(
    "parts",
    [
        {"metadata": {"hostname": "{{ name }}"}},
        {"metadata": {"local-hostname": "@NAME@"}},
        {"network": {"address": "${ip}/24"}},
        {"network": {"address": "10.0.0.1/24", "nameservers": ["%DNS%"]}},
        {"match": {"vc-uuid": "{{ uuid }}"}},
    ],
    ids=str,
)
def test_fault_of_a_value_with_a_placeholder_says_so(parts: Any) -> None:
    assert fault_of(**parts).endswith(" (it contains an unrendered template placeholder)")


@given(st.text(st.sampled_from('a\0\x7f\u2028é😀"\\'), max_size=300))
@example("\0" * 42)
@example("\0" * 43)
def test_key_of_metadata_is_right_exactly_if_json_writes_it_short(name: str) -> None:
    mapping = {"metadata": {"x": {name: 1}}}
    if len(json_text(name)) <= MAX_KEY_CHARACTERS:
        assert InstanceData.from_mapping(mapping).metadata == mapping["metadata"]
    else:
        with pytest.raises(InvalidInstanceData, match="string keys"):
            InstanceData.from_mapping(mapping)
