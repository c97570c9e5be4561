"""Identity documents: who gets one, what it says, and whether others accept it."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.openbao import OpenBao, Refused
from tests.process import ServerProcess, run
from tests.test_admin import Admin
from tests.test_identity_token import MINE, OTHER, token_of, with_token
from tests.vm import Vm
from tests.waiting import wait_until

ISSUER = "https://metadata.example.com"
AUDIENCE = "https://openbao.example.com"
KINDS = {"EdDSA": ("ed25519",), "ES256": ("EC", "-pkeyopt", "ec_paramgen_curve:P-256")}

Start = Callable[..., ServerProcess]


@pytest.fixture
def new_key(tmp_path: Path, program: Callable[[str, str], str]) -> Callable[..., Path]:
    openssl = program("openssl", "openssl")

    def make(name: str = "signing.pem", kind: str = "EdDSA") -> Path:
        path = tmp_path / name
        algorithm = KINDS.get(kind, (kind,))
        command = [openssl, "genpkey", "-algorithm", *algorithm, "-out", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        path.chmod(0o600)
        return path

    return make


@pytest.fixture
def token_key(tmp_path: Path) -> Path:
    path = tmp_path / "identity.key"
    path.write_bytes(b"0123456789abcdef")
    path.chmod(0o600)
    return path


def signing(*keys: Path) -> list[str]:
    options = [option for key in keys for option in ("--identity-signing-key", str(key))]
    return ["--identity-issuer", ISSUER, *options]


def warning(token_key: Path) -> list[str]:
    return ["--identity-key-file", str(token_key), "--identity-token", "warn"]


def identity(machine: Vm, audience: str = AUDIENCE) -> str:
    code, body = machine.ask("IDENTITY", argument=audience.encode())
    assert code == "RESPONSE_IDENTITY", (code, body)
    return body.decode()


def checked(admin: Admin, document: str) -> dict[str, Any]:
    """What a service knows of the VM that shows this: by the published keys alone."""
    keys = jwt.PyJWKSet.from_dict(admin.json("/.well-known/jwks.json"))
    key = keys[jwt.get_unverified_header(document)["kid"]]
    required = ["iss", "sub", "aud", "iat", "nbf", "exp"]
    return jwt.decode(
        document, key, [key.algorithm_name], {"require": required}, audience=AUDIENCE, issuer=ISSUER
    )


@pytest.mark.parametrize("kind", KINDS)
def test_proved_vm_gets_a_document_that_the_published_keys_verify(
    start: Start, new_key: Callable[..., Path], token_key: Path, kind: str
) -> None:
    server = start(*warning(token_key), *signing(new_key(kind=kind)))
    admin = Admin(server)
    machine = Vm(server.port, uri=with_token(token_of(MINE)))
    document = identity(machine)
    claims = checked(admin, document)
    assert jwt.get_unverified_header(document)["alg"] == kind
    assert (claims["sub"], claims["name"], claims["proof"]) == (MINE, "web1", "token")
    assert claims["exp"] - claims["iat"] == 300
    assert abs(claims["iat"] - time.time()) < 60
    head, body, signature = document.split(".")
    flipped = base64.urlsafe_b64decode(signature + "==")
    flipped = bytes([flipped[0] ^ 1]) + flipped[1:]
    forged = base64.urlsafe_b64encode(flipped).rstrip(b"=").decode()
    with pytest.raises(jwt.InvalidSignatureError):
        checked(admin, f"{head}.{body}.{forged}")
    outcome = {"document": "IDENTITY", "outcome": "answered"}
    assert admin.metric("vmw_metadata_requests_total", **outcome) == 1
    assert machine.metadata()["instance-id"] == "my-instance"
    machine.close()


def test_openssl_verifies_the_signature(
    start: Start,
    new_key: Callable[..., Path],
    token_key: Path,
    tmp_path: Path,
    program: Callable[[str, str], str],
) -> None:
    openssl, key = program("openssl", "openssl"), new_key()
    server = start(*warning(token_key), *signing(key))
    machine = Vm(server.port, uri=with_token(token_of(MINE)))
    signed, _, signature = identity(machine).rpartition(".")
    machine.close()
    (tmp_path / "signed").write_text(signed)
    (tmp_path / "signature").write_bytes(base64.urlsafe_b64decode(signature + "=="))
    options = ("-inkey", str(key), "-in", "signed", "-sigfile", "signature")
    command = [openssl, "pkeyutl", "-verify", "-rawin", *options]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)


def test_vm_without_proof_gets_none_and_its_data_all_the_same(
    start: Start, new_key: Callable[..., Path], token_key: Path
) -> None:
    server = start(*warning(token_key), *signing(new_key()))
    for uri in ("my-metadata", with_token(token_of(OTHER)), with_token("1.SECRET")):
        machine = Vm(server.port, uri=uri)
        assert machine.error("IDENTITY", argument=b"x") == "refused"
        assert machine.metadata()["instance-id"] == "my-instance"
        machine.close()


def test_server_without_tokens_proves_nobody(start: Start, new_key: Callable[..., Path]) -> None:
    server = start(*signing(new_key()))
    machine = Vm(server.port)
    assert machine.error("IDENTITY", argument=b"x") == "refused"
    machine.close()


def test_server_without_a_key_does_not_know_the_request(start: Start, token_key: Path) -> None:
    server = start(*warning(token_key))
    machine = Vm(server.port, uri=with_token(token_of(MINE)))
    assert machine.error("IDENTITY", argument=b"x") == "unknown-request"
    machine.close()
    assert Admin(server).status("/.well-known/jwks.json") == 404


@pytest.mark.parametrize("audience", [b"", b"a b", b"a\nb", b"\xff", "é".encode(), b"a" * 256])
def test_audience_that_is_none_is_refused(
    start: Start, new_key: Callable[..., Path], token_key: Path, audience: bytes
) -> None:
    server = start(*warning(token_key), *signing(new_key()))
    machine = Vm(server.port, uri=with_token(token_of(MINE)))
    assert machine.error("IDENTITY", argument=audience) == "invalid"
    _, body = machine.ask("IDENTITY", argument=audience)
    assert "The audience is invalid" in json.loads(body)["message"]  # and not the VM's data
    machine.close()


def test_moved_vm_gets_a_document_that_says_so(
    start: Start, new_key: Callable[..., Path], token_key: Path
) -> None:
    server = start(*warning(token_key), *signing(new_key()))
    source = Vm(server.port, uri=with_token(token_of(MINE)))
    assert source.metadata()
    target = Vm.arriving(server.port, source.begin_move())
    target.is_welcome()
    source.send(b"!!REQUEST_IDENTITY#" + base64.b64encode(AUDIENCE.encode()) + b"\n")
    target.complete()
    code, body = target.answer()  # the request came while the VM was moving
    assert code == "RESPONSE_IDENTITY"
    assert checked(Admin(server), body.decode())["sub"] == MINE
    source.close()
    target.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_key_that_is_replaced_signs_after_hup_and_the_old_one_is_still_published(
    start: Start, new_key: Callable[..., Path], token_key: Path, tmp_path: Path, workers: str
) -> None:
    old, new = new_key("old.pem"), new_key("new.pem", "ES256")
    settings = tmp_path / "settings.yaml"
    settings.write_text(json.dumps({"identity-signing-key": [str(old)]}))
    issuer = "--identity-issuer", ISSUER, "--workers", workers
    server = start("--config", str(settings), *issuer, *warning(token_key))
    admin = Admin(server)
    machine = Vm(server.port, uri=with_token(token_of(MINE)))
    before = identity(machine)

    def signs_by(algorithm: str) -> bool:
        return bool(jwt.get_unverified_header(identity(machine))["alg"] == algorithm)

    assert signs_by("EdDSA")
    settings.write_text(json.dumps({"identity-signing-key": [str(new), str(old)]}))
    server.signal(signal.SIGHUP)
    server.wait_for("reload: identity-signing-key has changed")
    wait_until(lambda: signs_by("ES256"))
    assert checked(admin, before)["sub"] == checked(admin, identity(machine))["sub"] == MINE
    new_key("new.pem", "EdDSA")  # in its place
    server.signal(signal.SIGHUP)
    server.wait_for("(?s)identity-signing-key has changed.*identity-signing-key has changed")
    wait_until(lambda: signs_by("EdDSA"))
    assert checked(admin, identity(machine))["sub"] == MINE
    machine.close()


def test_keys_are_published_by_the_parent_of_workers_without_the_token(
    start: Start, new_key: Callable[..., Path], token_key: Path, tmp_path: Path
) -> None:
    token = tmp_path / "admin.token"
    token.write_text("admin-token-of-the-test")
    token.chmod(0o600)
    key = new_key()
    server = start(
        *warning(token_key), *signing(key), "--workers", "2", "--admin-token-file", str(token)
    )
    admin = Admin(server)
    machine = Vm(server.port, uri=with_token(token_of(MINE)))
    assert checked(admin, identity(machine))["sub"] == MINE
    assert admin.status("/api/status") == 401
    private = key.read_text().split("\n")[1]
    assert private not in server.log
    machine.close()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--identity-issuer", ISSUER), "--identity-issuer needs --identity-signing-key"),
        (("--identity-signing-key", "KEY"), "--identity-signing-key needs --identity-issuer"),
        (("--identity-issuer", "metadata", "--identity-signing-key", "KEY"), "expected a URL"),
        (("--identity-issuer", ISSUER, "--identity-signing-key", "RSA"), "another kind (RSA)"),
        (("--identity-issuer", ISSUER, "--identity-signing-key", "TEXT"), "no private key in PEM"),
        (("--identity-issuer", ISSUER, "--identity-signing-key", "LOCKED"), "is encrypted"),
        (("--identity-issuer", ISSUER, "--identity-signing-key", "NONE"), "No such file"),
    ],
    ids=str,
)
def test_key_that_cannot_sign_is_refused(
    options: tuple[str, ...],
    expected: str,
    new_key: Callable[..., Path],
    tmp_path: Path,
    program: Callable[[str, str], str],
) -> None:
    key = new_key("KEY")
    if "RSA" in options:
        new_key("RSA", "RSA")
    (tmp_path / "TEXT").write_text("SECRET")
    command = [program("openssl", "openssl"), "pkcs8", "-topk8", "-passout", "pass:x"]
    locked = [*command, "-in", str(key), "-out", str(tmp_path / "LOCKED")]
    subprocess.run(locked, check=True, capture_output=True)
    given = [str(tmp_path / one) if one.isupper() else one for one in options]
    ended = run("check-config", "--uri", "my-metadata", *given)
    assert ended.returncode == 2
    assert expected in ended.stderr
    assert "SECRET" not in ended.stderr


@pytest.mark.slow
def test_openbao_lets_a_vm_read_its_own_secret_and_no_other(
    start: Start, new_key: Callable[..., Path], token_key: Path, openbao: OpenBao
) -> None:
    """As docs/identity.md says it."""
    server = start(*warning(token_key), *signing(new_key()))
    admin = Admin(server)
    mount, method = openbao.mount_kv(), openbao.mount_auth("jwt")
    accessor = openbao.ask("GET", "sys/auth")["data"][f"{method}/"]["accessor"]
    own = f"{mount}/data/vms/{{{{identity.entity.aliases.{accessor}.name}}}}"
    policy = openbao.policy({own: ["read"]})
    jwks = f"http://127.0.0.1:{admin.port}/.well-known/jwks.json"
    openbao.ask("POST", f"auth/{method}/config", {"jwks_url": jwks, "bound_issuer": ISSUER})
    role = {
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": [AUDIENCE],
        "token_policies": [policy],
    }
    openbao.ask("POST", f"auth/{method}/role/vms", role)
    for vc_uuid in (MINE, OTHER):
        openbao.put(mount, f"vms/{vc_uuid}", root_password=f"secret of {vc_uuid}")
    machine = Vm(server.port, uri=with_token(token_of(MINE)))

    def log_in(document: str) -> str:
        login = {"role": "vms", "jwt": document}
        made = openbao.ask("POST", f"auth/{method}/login", login, token="")
        return str(made["auth"]["client_token"])

    token = log_in(identity(machine))
    read = openbao.ask("GET", f"{mount}/data/vms/{MINE}", token=token)
    assert read["data"]["data"] == {"root_password": f"secret of {MINE}"}
    with pytest.raises(Refused, match="403"):
        openbao.ask("GET", f"{mount}/data/vms/{OTHER}", token=token)
    with pytest.raises(Refused, match="audience"):
        log_in(identity(machine, "another"))
    machine.close()
