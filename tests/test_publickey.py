"""Public keys: real ones of every type are taken, and what is none is told."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.instance.publickey import fault_of

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
        pytest.param(f"{ED25519}\n{ED25519}", "one public key for each item", id="two-keys"),
        pytest.param(f'command="ls {ED25519}', "an SSH public key such as", id="open-quote"),
        pytest.param("-----BEGIN OPENSSH PRIVATE KEY-----", "an SSH public key", id="private-key"),
        pytest.param("ssh-ed25519 AAAA…", "an SSH public key such as", id="ellipsis"),
        pytest.param("ssh-ed25519 AAAAC", "is it cut off?", id="no-base64"),
        pytest.param(f"ssh-rsa {ED25519.split()[1]}", "says ssh-rsa too", id="another-type"),
        pytest.param(f"{ED25519}AAAA", "a whole SSH public key", id="bytes-behind-it"),
    ],
)
def test_text_that_is_no_key_is_a_fault(line: str, expected: str) -> None:
    assert expected in str(fault_of(line))


@given(st.text() | st.text(alphabet='ssh-ed25519 AC3="\\\t'))
def test_fault_of_any_text_never_raises(text: str) -> None:
    assert isinstance(fault_of(text), str)
