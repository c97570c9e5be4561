"""Public keys: real ones of every type are accepted, anything else is reported."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cloudinit import CloudInit
from vmw_cloudinit_metadata.instance import nocloud
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.instance.metadata.publickey import fault_of, faults_in, warnings_in
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine

TYPES = ["rsa-2048", "ecdsa-256", "ecdsa-384", "ecdsa-521", "ed25519"]


def blob(*fields: bytes) -> str:
    return base64.b64encode(b"".join(len(f).to_bytes(4, "big") + f for f in fields)).decode()


ED25519 = f"ssh-ed25519 {blob(b'ssh-ed25519', bytes(range(32)))}"


class Keys:
    """Keys of ssh-keygen, each made once."""

    def __init__(self, ssh_keygen: str, directory: Path) -> None:
        self._ssh_keygen = ssh_keygen
        self._directory = directory

    def public(self, kind: str) -> str:
        """The public key, as the .pub file has it."""
        return self._path(kind).with_suffix(".pub").read_text()

    def certificate(self, kind: str) -> str:
        """A certificate for the key, signed by another one."""
        path = self._path(kind)
        certificate = path.with_name(f"{path.name}-cert.pub")
        if not certificate.exists():
            authority = self._path("ed25519-256")
            self._run("-s", authority, "-I", "test", "-n", "root", path.with_suffix(".pub"))
        return certificate.read_text()

    def _path(self, kind: str) -> Path:
        path = self._directory / kind
        if not path.exists():
            name, _, bits = kind.partition("-")
            size = ("-b", bits) if bits else ()
            self._run("-t", name, *size, "-N", "", "-C", "a comment", "-f", path)
        return path

    def _run(self, *arguments: str | Path) -> None:
        subprocess.run([self._ssh_keygen, "-q", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(program: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(program("ssh-keygen", "openssh-client"), tmp_path_factory.mktemp("keys"))


@pytest.mark.parametrize("kind", TYPES)
def test_key_of_ssh_keygen_is_right(keys: Keys, kind: str) -> None:
    assert fault_of(keys.public(kind)) is None


@pytest.mark.parametrize("kind", TYPES)
def test_certificate_of_ssh_keygen_is_right(keys: Keys, kind: str) -> None:
    assert fault_of(keys.certificate(kind)) is None


def assert_no_cut_is_a_key(line: str) -> None:
    kind, text = line.split()[:2]
    assert [cut for cut in range(len(text)) if fault_of(f"{kind} {text[:cut]}") is None] == []


@pytest.mark.parametrize("kind", TYPES)
def test_key_cut_off_anywhere_is_a_fault(keys: Keys, kind: str) -> None:
    assert_no_cut_is_a_key(keys.public(kind))


@pytest.mark.parametrize("kind", TYPES)
def test_certificate_cut_off_anywhere_is_a_fault(keys: Keys, kind: str) -> None:
    assert_no_cut_is_a_key(keys.certificate(kind))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("sk-ssh-ed25519@openssh.com", (bytes(32), b"ssh:")),
        ("sk-ecdsa-sha2-nistp256@openssh.com", (b"nistp256", b"\4" + bytes(64), b"ssh:")),
        ("ssh-dss", (b"\1" * 128, b"\1" * 20, b"\1" * 128, b"\1" * 128)),
    ],
    ids=["sk-ed25519", "sk-ecdsa", "dss"],
)
def test_key_that_needs_a_device_to_make_is_right(kind: str, fields: tuple[bytes, ...]) -> None:
    assert fault_of(f"{kind} {blob(kind.encode(), *fields)} comment") is None


@pytest.mark.parametrize(
    "options",
    [
        "restrict",
        'from="10.0.0.0/8,*.example.com",no-pty',
        r'command="echo \"two words\" # ssh-rsa AAAA"',
        'environment="A=b c",restrict',
    ],
)
def test_key_behind_options_is_right(options: str) -> None:
    assert fault_of(f"{options} {ED25519} comment") is None


@pytest.mark.parametrize("comment", ["", " admin@example.com", " two words", "\tä"])
def test_key_before_a_comment_is_right(comment: str) -> None:
    assert fault_of(ED25519 + comment) is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("", "an SSH public key such as", id="empty"),
        pytest.param("ssh-ed25519", "an SSH public key such as", id="type-alone"),
        pytest.param(ED25519.split()[1], "an SSH public key such as", id="blob-alone"),
        pytest.param("ssh-ed25518 AAAA", "an SSH public key such as", id="no-such-type"),
        pytest.param(f"# {ED25519}", "an SSH public key such as", id="comment"),
        pytest.param(f"{ED25519}\n{ED25519}", "one public key (write several", id="two-keys"),
        pytest.param(f'command="ls {ED25519}', "an SSH public key such as", id="open-quote"),
        pytest.param("-----BEGIN OPENSSH PRIVATE KEY-----", "an SSH public key", id="private-key"),
        pytest.param("ssh-ed25519 AAAA…", "an SSH public key such as", id="ellipsis"),
        pytest.param("ssh-ed25519 AAAAC", "is it cut off?", id="no-base64"),
        pytest.param(
            f"ssh-rsa {ED25519.split()[1]}", "contains the same type, ssh-rsa", id="another-type"
        ),
        pytest.param(f"{ED25519}AAAA", "a complete SSH public key", id="bytes-behind-it"),
    ],
)
def test_text_that_is_no_key_is_a_fault(line: str, expected: str) -> None:
    assert expected in str(fault_of(line))


@given(st.text() | st.text(alphabet='ssh-ed25519 AC3="\\\t'))
def test_fault_of_any_text_never_raises(text: str) -> None:
    assert isinstance(fault_of(text), str)


# The forms of public-keys in meta-data

KEYS = ("metadata", "public-keys")
OTHER = f"ssh-ed25519 {blob(b'ssh-ed25519', bytes(range(1, 33)))} other"
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END-----\n"


def told(value: Any) -> list[str]:
    return [str(fault) for fault in faults_in(value, KEYS)]


@pytest.mark.parametrize(
    ("value", "document"),
    [
        pytest.param([ED25519, OTHER], [ED25519, OTHER], id="list"),
        pytest.param(f" {ED25519}\n", [ED25519], id="one"),
        pytest.param([f"{ED25519}\n"], [ED25519], id="list-of-a-files-content"),
        pytest.param(
            f"# team\n{ED25519}\n\n{OTHER}\n", f"# team\n{ED25519}\n\n{OTHER}\n", id="text"
        ),
        pytest.param(f"{ED25519}\r\n{OTHER}\r\n", f"{ED25519}\r\n{OTHER}\r\n", id="windows"),
        pytest.param({"0": ED25519}, {"0": ED25519}, id="mapping"),
        pytest.param({"a": [ED25519, OTHER, ""]}, {"a": [ED25519, OTHER, ""]}, id="as-of-ec2"),
        pytest.param([], [], id="no-item"),
        pytest.param({}, {}, id="no-name"),
    ],
)
def test_form_of_public_keys_is_served(value: Any, document: Any) -> None:
    instance = InstanceData.from_mapping({"metadata": {"public-keys": value}})
    assert instance.metadata == {"public-keys": document}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        pytest.param("", "found '', expected an SSH public key such as", id="empty"),
        pytest.param("# a\n# b\n", "found only comments, expected an SSH", id="comments"),
        pytest.param(
            f"{ED25519}\nx\n", "found 'x' on line 2 of the value, expected an SSH", id="line"
        ),
        pytest.param(f"{ED25519} a {OTHER}", "expected one public key per line", id="folded"),
        pytest.param(
            [f"{ED25519}\n{OTHER}"], "expected one public key (write", id="two-in-an-item"
        ),
        pytest.param(
            {"a": f"{ED25519}\n{OTHER}"}, "expected one public key (write", id="two-of-one"
        ),
        pytest.param({"a": {"openssh-key": ED25519}}, "or a list of them", id="as-of-openstack"),
        pytest.param({"a": None}, "found nothing, expected an SSH public key", id="name-alone"),
        pytest.param({"a": [""]}, "found '', expected an SSH public key", id="empty-item"),
        pytest.param([[ED25519]], "found a list, expected an SSH public key", id="list-in-a-list"),
        pytest.param(5, "found 5, expected a list of SSH public keys, a string", id="number"),
        pytest.param(
            "---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n", "ssh-keygen -i -f FILE", id="rfc-4716"
        ),
        pytest.param("-----BEGIN PUBLIC KEY-----\nMII\n", "ssh-keygen -i -m PKCS8", id="pkcs8"),
        pytest.param("-----BEGIN RSA PUBLIC KEY-----\nMII\n", "ssh-keygen -i -m PEM", id="pem"),
        pytest.param("~/.ssh/id_rsa.pub", "the key itself: the content of", id="file"),
        pytest.param("https://example.com/a.keys", "ssh_import_id", id="url"),
        pytest.param(
            "ssh-rsa {{ key }}",
            "(it contains an unrendered template placeholder)",
            id="placeholder",
        ),
        pytest.param([ED25519] * 4001, "found a list, expected at most 4,000 items", id="many"),
        pytest.param(f"{ED25519}\n" * 4001, "at most 4,000 public keys", id="many-lines"),
    ],
)
def test_public_keys_that_are_none_are_one_fault(value: Any, fault: str) -> None:
    (line,) = told(value)
    assert fault in line


@pytest.mark.parametrize("value", [PRIVATE, [PRIVATE], {"a": PRIVATE}, {"a": [PRIVATE]}], ids=repr)
def test_private_key_is_recognised_and_not_repeated(value: Any) -> None:
    (line,) = told(value)
    assert "found a private key, expected the public key, from the file that ends with .pub" in line
    assert "b3Blbn" not in line


@pytest.mark.parametrize("text", ["PuTTY-User-Key-File-3: ssh-ed25519\n", "AGE-SECRET-KEY-1QQ"])
def test_private_key_of_another_kind_is_recognised(text: str) -> None:
    assert "found a private key" in told(text)[0]


@pytest.mark.parametrize(
    ("kind", "fields", "who"),
    [
        ("ssh-ed448", (bytes(57),), "cloud-init"),
        ("ssh-dss", (b"\1",) * 4, "newer cloud-init and OpenSSH"),
    ],
)
def test_key_of_a_type_that_cloud_init_ignores_is_a_warning(
    kind: str, fields: tuple[bytes, ...], who: str
) -> None:
    key = f"{kind} {blob(kind.encode(), *fields)}"
    for value in (key, [key], {"a": key}, {"a": [key]}):
        assert told(value) == []
        (warning,) = warnings_in(value, KEYS)
        assert warning.is_warning
        assert f"found a key of the type {kind}, expected another type" in str(warning)
        assert f"{who} ignores this one" in str(warning)


OPTIONS = st.sampled_from(["", "no-pty ", 'command="a b \\" # c",restrict ', "  "])
LINES = st.tuples(
    OPTIONS, st.binary(min_size=32, max_size=32), st.sampled_from(["", " a", " two words", "\tä"])
).map(lambda part: f"{part[0]}ssh-ed25519 {blob(b'ssh-ed25519', part[1])}{part[2]}")
TEXTS = st.lists(LINES | st.sampled_from(["", "  ", "# ssh-rsa AAAA", "  # b"]), max_size=5)
FORMS = (
    st.lists(LINES, max_size=4)
    | TEXTS.map("\n".join)
    | st.dictionaries(st.text("ab01", max_size=3), LINES | st.lists(LINES, max_size=3), max_size=3)
)


def keys_of(value: Any) -> list[list[str]]:
    """The fields of each line that is to be a key."""
    match value:
        case str():
            lines = [line.split() for line in value.splitlines()]
            return [line for line in lines if line and not line[0].startswith("#")]
        case dict():
            return [key for item in value.values() for key in keys_of(item)]
        case _:
            return [key for item in value for key in keys_of(item)]


@pytest.mark.slow
def test_every_key_that_is_accepted_reaches_cloud_init(cloud_init: CloudInit) -> None:
    written: list[Any] = []
    served: list[Any] = []

    @settings(max_examples=300, database=None, derandomize=True)
    @given(FORMS)
    def collect(value: Any) -> None:
        with suppress(InvalidInstanceData):
            instance = InstanceData.from_mapping({"metadata": {"public-keys": value}})
            document = nocloud.render(instance, Machine(vc_uuid="x"))["METADATA"]
            written.append(value)
            served.append(yaml.safe_load(document)["public-keys"])

    collect()
    assert len(written) > 100
    found = cloud_init.public_keys(served)
    assert [[line.split() for line in lines] for lines in found] == [keys_of(v) for v in written]
