"""No message reveals a secret: a value, a key, a tag or a name in the place of a secret."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.laws import cases
from tests.process import ServerProcess
from tests.test_admin import Admin
from tests.vm import Vm
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.instance import advice, keys
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData, describe
from vmw_cloudinit_metadata.instance.metadata import fields
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.network import shortform
from vmw_cloudinit_metadata.instance.secrecy import NAMES, is_secret_name, shown
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.settings import configfile
from vmw_cloudinit_metadata.settings.configfile import Shape
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.values import parse_driver_options

MARKER = "QX7ZJ9KW8VQ"
WINDOW = 6

# Where a secret stands (@), or has slipped to; each is a whole file.
PLACES = {
    "text": "metadata: {}\nuserdata: |\n  #cloud-config\n  password: @\n",
    "text-without-a-beginning": "metadata: {}\nuserdata: @\n",
    "cloud-config-tag": "metadata: {}\nuserdata: |\n  #cloud-config\n  password: !@ x\n",
    "cloud-config-alias": "metadata: {}\nuserdata: |\n  #cloud-config\n  password: *@\n",
    "cloud-config-twice": "metadata: {}\nuserdata: |\n  #cloud-config\n  @: 1\n  @: 1\n",
    "cloud-config-list": "metadata: {}\nvendordata: |\n  #cloud-config\n  - @\n",
    "cloud-config-text": "metadata: {}\nvendordata: |\n  #cloud-config\n  @\n",
    "cloud-config-merge": "metadata: {}\nuserdata: |\n  #cloud-config\n  <<: @\n",
    "tag": "metadata: {}\nuserdata: {password: !@ x}\n",
    "tag-of-a-mapping": "metadata: {}\nuserdata: {password: !@ {a: b}}\n",
    "local-tag": "metadata: {}\nuserdata: !<@> x\n",
    "tag-with-a-handle": "metadata: {}\nuserdata: {password: !@!x y}\n",
    "alias": "metadata: {}\nuserdata: {password: *@}\n",
    "alias-as-a-key": "metadata: {}\nuserdata: {*@ : x}\n",
    "anchor": "metadata: {}\nuserdata: {password: &@ [*@]}\n",
    "duplicate-key": "metadata: {}\nuserdata: {@: x, @: x}\n",
    "duplicate-below": "metadata: {}\nuserdata: {a: {@: x, @: x}}\n",
    "number": "metadata: {}\nuserdata: 987654321987\n",
    "float": "metadata: {}\nvendordata: 98765.4321987\n",
    "list": "metadata: {}\nuserdata: [@]\n",
    "merge": "metadata: {}\nuserdata: {<<: @}\n",
    "wrong-number": "metadata: {}\nuserdata: {a: !!int @}\n",
    "wrong-binary": "metadata: {}\nuserdata: !!binary @é\n",
    "document-name": "metadata: {}\ndocuments: {@: x}\n",
    "document-twice": "metadata: {}\ndocuments: {QXZJKWVQ: x, qxzjkwvq: x}\n",
    "document-value": "metadata: {}\ndocuments: {a: [@]}\n",
    "document-tag": "metadata: {}\ndocuments: {a: !@ x}\n",
    "documents-of-text": "metadata: {}\ndocuments: @\n",
    "documents-of-a-list": "metadata: {}\ndocuments: [@]\n",
    "file-name-of-content": "metadata: {}\nuserdata-file: |\n  #cloud-config\n  p: @\n",
    "file-name-outside": "metadata: {}\nuserdata-file: '../#@'\n",
    "slipped-key": "metadata: {}\nuserdata:\n@: x\n",
    "slipped-twice": "metadata: {}\nuserdata:\n@: x\n@: x\n",
    "slipped-value": "metadata: {}\nuserdata:\npassword: @\n",
    "slipped-into-metadata": "metadata:\n  password: !@ x\n  hashed-passwd: [*@]\n",
    "slipped-into-metadata-as-a-key": "metadata:\n  @: !x y\n  a: {@: .nan}\n",
    "slipped-into-the-network": "metadata: {}\nnetwork:\n  address: 10.0.0.1/24\n  @: x\n",
    "slipped-into-a-route": "metadata: {}\nnetwork:\n  dhcp: true\n  routes: [{@: x}]\n",
    "slipped-into-match": "metadata: {}\nmatch: {@: x}\n",
    "password-of-metadata": "metadata: {my-password: [.nan, @]}\n",
    "private-key": f"metadata:\n  public-keys: '-----BEGIN PRIVATE KEY----- {'@' * 8}'\n",
    "base64-of-a-private-key": f"metadata:\n  public-keys: {MARKER * 4}@\n",
    "hash-in-a-wrong-place": "metadata:\n  hostname: $6$@$x\n",
    "key-of-a-mapping": "metadata: {}\nuserdata: {? {@: x} : y}\n",
    "text-instead-of-a-file": "@\n",
    "list-instead-of-a-file": "- @\n",
    "comment": "metadata: {}\nuserdata: [ # @\n",
    "second-document": "metadata: {}\n--- @\n",
    "open-quote": "metadata: {}\nuserdata: '@\n",
    "open-list": "metadata: {}\nuserdata: [@\n",
    "tab": "metadata: {}\nuserdata:\n\t@: x\n",
    "two-colons": "metadata: {}\nuserdata: a: @: x\n",
    "directive": "%@ x\n---\nmetadata: {}\n",
    "escape": 'metadata: {}\nuserdata: "\\@"\n',
    "block-header": "metadata: {}\nuserdata: |@\n",
    "control-character": "metadata: {}\nuserdata: @\x01@\n",
    "wifi": "metadata: {}\nnetwork: {version: 2, wifis: {w: {password: @, macaddress: 1}}}\n",
    "native-name": "metadata: {}\nnetwork: {version: 1, config: [{type: physical, name: '@ @'}, "
    "{type: physical, name: '@ @'}]}\n",
    "native-interface": "metadata: {}\nnetwork: {version: 2, ethernets: {@: {mtu: x}}}\n",
    "native-key": "metadata: {}\nnetwork: {version: 2, ethernets: {a: {@: {mtu: x}}}}\n",
    "misspelt-key": "metadata: {}\nuserdata: |\n  #cloud-config\n  pakages: @\n  @: 1\n",
    "folded": "metadata: {}\nuserdata: >\n  #cloud-config\n  password: @\n",
    "mime": "metadata: {}\nuserdata: |\n  MIME-Version: 1.0\n  Content-Type: text/@\n\n  @\n",
    "archive": "metadata: {}\nuserdata: |\n  #cloud-config-archive\n  - {type: @, content: @}\n",
    "base64-of-user-data": f"metadata: {{}}\nuserdata: {'@' * 8}\n",
    "key-in-user-data": "metadata: {}\nuserdata: '-----BEGIN PRIVATE KEY----- @'\n",
    "user-data-in-metadata": "metadata: {userdata: @, network: {password: @}}\n",
}
# What is put anywhere behind the beginning of a secret, to break the YAML in many ways.
PIECES = [
    *("\n", "\n  ", "\n    ", "\t", " ", ": ", ", ", "- ", "? ", "{", "}", "[", "]", "'", '"'),
    *("!", "!!", "!<", ">", "&", "*", "|", "#", "%", "@", "`", "<<: ", "---", "...", "\\", "\x01"),
    *("~", "1", ".nan", "!!binary ", "!!int ", "password: ", "a: ", MARKER, MARKER, MARKER, "\x85"),
]


def told_of(text: str) -> list[str]:
    """Everything that `validate` and a boot print about a file."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "web1.yaml").write_text(text, "utf-8", "surrogatepass")
        driver = FileDriver({"directory": directory})
        told = list(map(str, driver.validate()))
        try:
            driver.get_instance(Machine(name="web1"))
        except InvalidInstanceData as error:
            told.append(str(error))
    return [line.replace(directory, "") for line in told]


def leaks(told: str, secret: str) -> bool:
    """Whether six successive characters of the secret are printed."""
    ends = range(WINDOW, len(secret) + 1)
    return any(secret[end - WINDOW : end].lower() in told.lower() for end in ends)


@pytest.mark.parametrize("place", PLACES)
def test_secret_is_printed_from_no_place(place: str) -> None:
    text = PLACES[place].replace("@", MARKER)
    told = told_of(text)
    for secret in (MARKER, "987654321987", "98765.4321987", "QXZJKWVQ"):
        assert not [line for line in told if leaks(line, secret)]


# What is right: then there is nothing to tell.
SILENT = {"text", "hash-in-a-wrong-place", "wifi", "cloud-config-merge"}


@pytest.mark.parametrize("place", sorted(PLACES.keys() - SILENT))
def test_fault_of_a_secret_place_is_reported_with_its_line(place: str) -> None:
    told = told_of(PLACES[place].replace("@", MARKER))
    assert told
    assert all("web1.yaml:" in line or "warning" in line for line in told)


@settings(max_examples=cases(400))
@given(
    st.sampled_from(sorted(PLACES)),
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
)
@example("tag", "!", "")
@example("base64-of-a-private-key", "\n#", "")
@example("slipped-into-the-network", "\n    \n    ", "\n---")
@example("slipped-into-the-network", "\n    ", "\n---")
@example("native-interface", "---<<: ", ", ---")
def test_secret_is_printed_for_no_broken_yaml(place: str, before: str, behind: str) -> None:
    text = PLACES[place].replace("@", f"{before}{MARKER}{behind}", 1).replace("@", MARKER)
    assert not [line for line in told_of(text) if leaks(line, MARKER)]


SECRET = st.text("QXZJKWVY6789!*&@#%{}", min_size=8, max_size=40)
VALUES = st.recursive(
    SECRET | SECRET.map(str.encode) | st.integers(10**8, 10**300) | st.just(object()),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(SECRET, below, max_size=3),
    max_leaves=6,
)


def markers_in(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case bytes():
            yield value.decode()
        case bool() | int():
            yield str(value)
        case dict():
            for name, item in value.items():
                yield name
                yield from markers_in(item)
        case list():
            for item in value:
                yield from markers_in(item)


@given(
    st.sampled_from(["userdata", "vendordata", "documents", "password", "my_token"]),
    VALUES,
    st.booleans(),
)
def test_secret_of_a_driver_is_not_printed(part: str, value: Any, below_metadata: bool) -> None:
    mapping = {"metadata": {part: value}} if below_metadata else {"metadata": {}, part: value}
    try:
        told = list(map(str, advice.warnings_of(InstanceData.from_mapping(mapping))))
    except InvalidInstanceData as error:
        told = [str(error), *map(str, error.faults)]
    for secret in markers_in(value):
        assert not [line for line in told if leaks(line, secret)]


@given(
    st.text('{}[]":,0123456789.eE-+truefalsn\\u \n' + MARKER, max_size=20),
    st.text('{}[]":,0123456789.eE-+truefalsn\\u \n', max_size=20),
)
@example('{"password": "', '"')
@example("", "")
def test_secret_of_driver_options_is_not_printed(before: str, behind: str) -> None:
    told = ""
    try:
        parse_driver_options(f"{before}{MARKER}{behind}")
    except ConfigError as error:
        told = str(error)
    assert not leaks(told, MARKER)


@pytest.mark.parametrize(
    "text",
    [
        "driver-opts: {password: !@ x}\n",
        "driver-opts: {password: *@}\n",
        "driver-opts: {@: 1, @: 1}\n",
        "driver-opts: @\n",
        "@: 1\n",
        "@: 1\n@: 2\n",
        "@\n",
        "uri: [{@: 1}]\n",
        "uri: !@ x\n",
        "driver-opts: '@\n",
    ],
)
def test_secret_of_the_settings_is_not_printed(text: str, tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(text.replace("@", MARKER))
    with pytest.raises(ConfigError) as caught:
        configfile.read(file, {"uri": Shape.LIST, "driver-opts": Shape.MAPPING})
    assert not leaks(str(caught.value), MARKER)


@pytest.mark.parametrize(
    "options", [{MARKER: 1}, {"directory": [MARKER]}, {"directory": ".", MARKER: {MARKER: 1}}]
)
def test_secret_of_a_wrong_option_of_the_driver_is_not_printed(options: Any) -> None:
    with pytest.raises(DriverError) as caught:
        FileDriver(options)
    assert not leaks(str(caught.value), MARKER)


# Only what is really told is named


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (("userdata", "a", 1), "userdata"),
        (("documents", "SECURITYDATA"), "documents"),
        (("metadata", "password", "x"), "metadata.password"),
        (("metadata", "my-password", "x"), "metadata.<11 characters>"),
        (("metadata", "rack"), "metadata.<4 characters>"),
        (("metadata", "public_keys", 3), "metadata.public_keys.3"),
        (("network", 1, "routes", 0, "via"), "network.1.routes.0.via"),
        ((), ""),
    ],
    ids=str,
)
def test_key_is_shown_down_to_what_is_secret(key: Any, told: str) -> None:
    assert shown(key) == told


def test_every_key_of_the_format_may_be_named() -> None:
    ours = {*keys.FILE_LEVEL, *fields.METADATA_KEYS, *fields.MATCH_KEYS}
    assert ours | shortform.KEYS | shortform.ROUTE_KEYS <= NAMES


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        *dict.fromkeys(
            ["password", "hashed_passwd", "chpasswd", "api-key", "private-key", "SECRET"], True
        ).items(),
        *dict.fromkeys(["ssh_keys", "token", "credentials", "auth", "user_data"], True).items(),
        *dict.fromkeys(["public-keys", "ssh_authorized_keys", "hostname", "tags"], False).items(),
    ],
)
def test_name_of_a_secret_is_known(name: str, is_secret: bool) -> None:
    assert is_secret_name(name) is is_secret


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("short", "'short'"),
        ("x" * 79 + " ", "a string of 80 characters"),  # as base64 may be
        ("a b " * 25, f"{repr('a b ' * 25)[:60]}... (100 characters)"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nx", "a string of 37 characters"),
        ("$6$salt$hash", "a string of 12 characters"),
        (base64.b64encode(bytes(30)).decode(), "a string of 40 characters"),
        (2**300, "a number of 301 bits"),
        (None, "nothing"),
        ({}, "a mapping"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_value_outside_of_secrets_is_quoted_if_it_looks_like_none(value: Any, told: str) -> None:
    assert describe(value, ("metadata", "hostname")) == told


def test_column_is_reported_where_the_key_is_not() -> None:
    (told,) = {line for line in told_of("metadata: {}\nabcdefg: 1\n") if "unknown" in line}
    assert "web1.yaml:2:1: <7 characters>: found an unknown key (7 characters)" in told


def test_text_of_a_fault_is_cut() -> None:
    told = str(Fault(("metadata",), "x" * 1000, "y" * 1000))
    assert len(told) < 900


@pytest.mark.parametrize("place", ["tag", "number", "document-name", "slipped-twice", "open-list"])
def test_secret_is_in_no_log_page_event_or_answer(place: str, own_instances: Path) -> None:
    (own_instances / "web1.yaml").write_text(PLACES[place].replace("@", MARKER))
    with ExitStack() as stack:
        server = ServerProcess(own_instances, "--log-level", "debug")
        stack.callback(server.end)
        admin = Admin(server)
        events = stack.enter_context(admin.follow())
        vm = Vm(server.port)
        stack.callback(vm.close)
        vm.send(b"!!REQUEST_METADATA#\n")
        answer = vm.receive_matching(rb"!!RESPONSE_ERROR#([A-Za-z0-9+/=]*)")
        server.wait_for("web1.yaml:")
        happened = [str(events.next("identified")), str(events.next("failed"))]
        machine = admin.machines()[0]
        pages = [str(admin.json(f"/api/machines/{machine['vc_uuid']}")), str(machine)]
        body = base64.b64decode(answer.rpartition(b"#")[2]).decode()
    for told in (server.log, *happened, *pages, body):
        assert not leaks(told, MARKER)
        assert not leaks(told, "987654321987")
