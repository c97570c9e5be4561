"""Identity tokens: what proves a VM, what does not, and who gets to see a token."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.process import COMMAND, ServerProcess, run
from tests.test_admin import Admin
from tests.test_vmotion import Clock, Counting
from tests.vm import VC_UUID, Vm
from tests.waiting import wait_until
from vmw_cloudinit_metadata.protocol import identitytoken
from vmw_cloudinit_metadata.protocol.identitytoken import Proof
from vmw_cloudinit_metadata.protocol.vcentercheck import uri_digest
from vmw_cloudinit_metadata.protocol.vmotion import Claim, KeyedSecrets, Moves
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid, serves

KEY = b"0123456789abcdef"
UUIDS = st.uuids().map(str)
MINE = parse_uuid(VC_UUID) or ""
OTHER = "01234567-89ab-cdef-fedc-ba9800000002"
URIS = st.text(st.sampled_from("ab?&=t%74+#…"), max_size=24)


def token_of(vc_uuid: str, key: bytes = KEY, number: int = 1) -> str:
    """As documented: no code of the package in here."""
    digest = hmac.new(key, vc_uuid.encode(), hashlib.sha256).digest()
    return f"{number}.{base64.b32encode(digest[:15]).decode()}"


# By themselves


@given(UUIDS, st.binary(min_size=16, max_size=200), st.integers(0, 999_999_999))
@example(MINE, b"k" * 64, 1)
@example(MINE, b"k" * 65, 1)  # longer than a block of the hash
def test_token_proves_its_vm_with_its_key(vc_uuid: str, key: bytes, number: int) -> None:
    token = identitytoken.token(number, key, vc_uuid)
    assert token == token_of(vc_uuid, key, number)
    assert len(token.partition(".")[2]) == 24
    for written in (token, token.lower()):
        assert identitytoken.proof(written, vc_uuid, {number: key}) is Proof.TOKEN


@given(UUIDS, UUIDS, st.binary(min_size=16, max_size=64))
def test_token_proves_no_other_vm_and_with_no_other_key(a: str, b: str, key: bytes) -> None:
    if a != b:
        assert identitytoken.proof(token_of(a), b, {1: KEY}) is Proof.WRONG
    if key != KEY:
        assert identitytoken.proof(token_of(a, key), a, {1: KEY}) is Proof.WRONG
    assert identitytoken.proof(token_of(a, number=2), a, {1: KEY}) is Proof.OLD
    assert identitytoken.proof(token_of(a, key, 2), a, {1: KEY, 2: key}) is Proof.TOKEN
    assert identitytoken.proof(None, a, {1: KEY}) is Proof.MISSING
    assert identitytoken.proof(token_of(a), None, {1: KEY}) is Proof.NO_UUID
    assert identitytoken.proof(token_of(a), a, {}) is Proof.UNASKED


def hostile() -> Iterator[str]:
    """Claims of who knows all but the key: tokens of other VMs, cut, changed and invented ones."""
    chance = random.Random(20)  # nosec B311 # not for secrets
    right, foreign = token_of(MINE), token_of(OTHER)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    for _ in range(21_000):
        place = chance.randrange(2, 26)
        changed = chance.choice([letter for letter in letters if letter != right[place]])
        yield right[:place] + changed + right[place + 1 :]
        yield f"1.{''.join(chance.choices(letters, k=24))}"
        yield foreign[:place] + changed + foreign[place + 1 :]
        yield (
            chance.choice(("", "0", "2", "01", "1.", "-1", "\u0661"))
            + right[chance.choice((0, 2)) :]
        )
        yield right[:place] if place < 26 else foreign
    yield foreign


def test_none_of_100_000_hostile_claims_is_a_proof() -> None:
    claims = [claim for claim in hostile() if claim.upper() != token_of(MINE)]
    assert len(claims) >= 100_000
    assert not [claim for claim in claims if identitytoken.proof(claim, MINE, {1: KEY}).is_proved]


@given(URIS)
@example("x?t=secret&%74=secret")
@example("x?t=1.secret")
@example("x?t=1.%41+b")
@example("x?t")
def test_taken_uri_shows_no_token_and_is_served_alike(uri: str) -> None:
    shown, token = identitytoken.taken_from(uri)
    given_tokens = [
        value
        for name, value in parse_qsl(uri.partition("?")[2], keep_blank_values=True)
        if name == "t"
    ]
    if token is None:
        assert shown == uri
    elif len(given_tokens) == 1:
        assert token == given_tokens[0]
    assert all(value == "…" for name, value in parse_qsl(shown.partition("?")[2]) if name == "t")
    assert identitytoken.without_token(shown) == identitytoken.without_token(uri)
    assert "t" not in Machine(service_uri=shown).query


MISPLACED = [
    f"{before}{token_of(MINE)}"
    for before in ("my?a=1?t=", "my&t=", "my#t=", "my?T=", "my?a=1;t=", "my?a=", "my?t=1&b=")
]


@pytest.mark.parametrize("uri", MISPLACED)
def test_token_in_the_wrong_place_is_hidden_and_no_proof(uri: str) -> None:
    shown, token = identitytoken.taken_from(uri)
    assert token_of(MINE)[2:] not in shown
    assert identitytoken.proof(token, MINE, {1: KEY}) is Proof.MALFORMED
    assert identitytoken.taken_from(shown)[0] == shown
    assert uri_digest(shown) == uri_digest(uri)  # of the server, and of vCenter
    beside_a_right_one, token = identitytoken.taken_from(f"{uri}&t={token_of(OTHER)}")
    assert token_of(MINE)[2:] not in beside_a_right_one
    assert identitytoken.proof(token, OTHER, {1: KEY}) is Proof.MALFORMED


@pytest.mark.parametrize("uri", ["my", "my?profile=web"])
def test_uri_with_token_is_served_as_without(uri: str) -> None:
    with_token = identitytoken.with_token(uri, token_of(MINE))
    assert identitytoken.with_token(with_token, token_of(OTHER)).count("t=") == 1
    assert serves(identitytoken.taken_from(with_token)[0], frozenset({uri}))
    assert identitytoken.taken_from(with_token)[1] == token_of(MINE)


@pytest.mark.parametrize("proof", [Proof.TOKEN, Proof.MISSING, Proof.UNASKED])
def test_move_from_another_server_proves_only_what_that_one_has_proved(proof: Proof) -> None:
    secrets = KeyedSecrets(KEY, Counting(), Clock())
    secret = secrets.make(b"seq1", MINE, proof)
    claim = Claim(b"seq1", secret)
    settled = Moves[str](10, secrets).settle(claim, MINE, "10.0.0.1")
    assert settled is (Proof.MOVE if proof.is_proved else Proof.UNASKED)
    assert Moves[str](10, secrets).settle(claim, OTHER, "10.0.0.1") is None


# Over the wire


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "identity.key"
    path.write_bytes(KEY)
    path.chmod(0o600)
    return path


def with_token(token: str) -> str:
    return f"my-metadata?profile=web&t={token}"


def test_vm_without_a_right_token_is_refused_and_its_token_shown_nowhere(
    start: Callable[..., ServerProcess], key_file: Path, tmp_path: Path
) -> None:
    audit = tmp_path / "audit.log"
    server = start(
        *("--identity-key-file", str(key_file), "--identity-token", "require"),
        *("--log-level", "debug", "--audit-log", str(audit)),
    )
    admin = Admin(server)
    right, foreign = token_of(MINE), token_of(OTHER)
    claims = {
        "missing": "my-metadata?profile=web",
        "wrong": with_token(foreign),
        "old": with_token(token_of(MINE, number=7)),
        "malformed": with_token("1.SECRET"),
    }
    for proof, uri in claims.items():
        machine = Vm(server.port, uri=uri)
        assert machine.error("METADATA") == "refused", proof
        assert machine.error("ANYTHING") == "refused"
        machine.close()
    machine = Vm(server.port, vc_uuid=None, uri=with_token(right))
    assert machine.error("USERDATA") == "refused"
    machine = Vm(server.port, uri=with_token(right))
    assert machine.metadata()["instance-id"] == "my-instance"
    for proof in ("token", *claims, "no VC UUID"):
        assert admin.metric("vmw_metadata_identity_proofs_total", proof=proof) == 1
    wait_until(lambda: admin.json(f"/api/machines/{MINE}")["state"] == "served")
    story = admin.json(f"/api/machines/{MINE}")
    assert [port["proof"] for port in story["ports"]] == ["token"]
    assert story["ports"][0]["service_uri"] == "my-metadata?profile=web&t=…"
    with admin.follow() as follower:
        again = Vm(server.port, uri=with_token(right))
        event = next(follower.events())
    again.close()
    for uri in ("my-metadata?profile=web?t=", "my-metadata&t="):
        misplaced = Vm(server.port, uri=uri + right)
        server.wait_for(rf"service URI '{re.escape(uri)}")
        misplaced.close()
    seen = server.log + json.dumps([story, admin.machines(), event]) + audit.read_text()
    seen += admin.request("/metrics")[1].decode() + admin.request("/api/status")[1].decode()
    for secret in (right, foreign, "1.SECRET", token_of(MINE, number=7)):
        assert secret.partition(".")[2] not in seen
    machine.close()


def test_moved_vm_keeps_what_its_source_has_proved(
    start: Callable[..., ServerProcess], key_file: Path
) -> None:
    server = start("--identity-key-file", f"1={key_file}", "--identity-token", "require")
    source = Vm(server.port, uri=with_token(token_of(MINE)))
    assert source.metadata()["instance-id"] == "my-instance"
    target = Vm.arriving(server.port, source.begin_move())
    target.is_welcome()
    target.complete()
    assert target.metadata()["instance-id"] == "my-instance"
    unproved = Vm(server.port, uri=with_token(token_of(OTHER)))
    assert unproved.error("METADATA") == "refused"
    moved = Vm.arriving(server.port, unproved.begin_move())
    moved.is_welcome()
    moved.complete()
    assert moved.error("METADATA") == "refused"
    for line in (source, target, unproved, moved):
        line.close()


@pytest.mark.parametrize("further", [(), ("--uri", "other")], ids=["one-uri", "two-uris"])
def test_move_between_servers_keeps_the_proof_too(
    start: Callable[..., ServerProcess], key_file: Path, further: tuple[str, ...]
) -> None:
    """Of several URIs, the server that a VM comes to does not know which it has."""
    options = ("--identity-key-file", str(key_file), "--identity-token", "require", *further)
    here, there = (start(*options, "--vmotion-key-file", str(key_file)) for _ in range(2))
    for token, is_proved in ((token_of(MINE), True), (token_of(OTHER), False)):
        source = Vm(here.port, uri=with_token(token))
        target = Vm.arriving(there.port, source.begin_move())
        target.is_welcome()
        target.complete()
        if is_proved:
            assert target.metadata()["instance-id"] == "my-instance"
        else:
            assert target.error("METADATA") == "refused"
        source.close()
        target.close()


def test_vm_that_changes_its_uuid_is_no_longer_proved(
    start: Callable[..., ServerProcess], key_file: Path
) -> None:
    server = start("--identity-key-file", str(key_file), "--identity-token", "require")
    machine = Vm(server.port, uri=with_token(token_of(MINE)))
    assert machine.metadata()["instance-id"] == "my-instance"
    machine.send(b"\xff\xfa\xe8\x50" + OTHER.encode() + b"\xff\xf0")
    assert machine.error("METADATA") == "refused"
    machine.close()


def test_warn_serves_and_reports(start: Callable[..., ServerProcess], key_file: Path) -> None:
    server = start("--identity-key-file", str(key_file), "--identity-token", "warn")
    machine = Vm(server.port, uri=with_token(token_of(OTHER)))
    assert machine.metadata()["instance-id"] == "my-instance"
    server.wait_for("served without proof of its identity: the identity token .* a new VC UUID")
    machine.close()


def test_replaced_key_counts_for_new_connections_after_hup(
    start: Callable[..., ServerProcess], key_file: Path
) -> None:
    server = start("--identity-key-file", str(key_file), "--identity-token", "require")
    other = b"another key of the server"
    machine = Vm(server.port, uri=with_token(token_of(MINE, other)))
    assert machine.error("METADATA") == "refused"
    key_file.write_bytes(other)
    server.signal(signal.SIGHUP)
    server.wait_for("reload: identity-key-file has changed")
    again = Vm(server.port, uri=with_token(token_of(MINE, other)))
    assert again.metadata()["instance-id"] == "my-instance"
    machine.close()
    again.close()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_line_that_came_before_tokens_were_checked_is_checked_at_its_next_request(
    start: Callable[..., ServerProcess], key_file: Path, tmp_path: Path, number: int
) -> None:
    settings = tmp_path / "server.yaml"
    settings.write_text("identity-token: off\n")
    server = start("--config", str(settings), command=[*COMMAND, "run"])
    right = Vm(server.port, uri=with_token(token_of(MINE)))
    claimed = [Vm(server.port), Vm(server.port, uri=with_token(token_of(OTHER)))]
    for machine in (right, *claimed):
        assert machine.metadata()["instance-id"] == "my-instance"
    moved = Vm.arriving(server.port, right.begin_move())
    moved.is_welcome()
    moved.complete()
    assert moved.metadata()["instance-id"] == "my-instance"
    settings.write_text(f"identity-token: require\nidentity-key-file: {key_file}\n")
    server.signal(number)
    server.wait_for("reload: identity-token has changed|upgraded from")
    for machine in claimed:
        wait_until(lambda machine=machine: machine.ask("METADATA")[0] == "RESPONSE_ERROR")
        assert machine.error("USERDATA") == "refused"
    assert moved.metadata()["instance-id"] == "my-instance"
    admin = Admin(server)
    for proof in ("token", "missing", "wrong"):
        assert admin.metric("vmw_metadata_identity_proofs_total", proof=proof) == 1
    for machine in (right, moved, *claimed):
        machine.close()


# The command line


def test_token_print_prints_a_line_for_each_vm(key_file: Path) -> None:
    ended = run("token", "print", "--key-file", f"12={key_file}", MINE.upper(), OTHER)
    assert ended.stdout.split("\n") == [
        token_of(MINE, number=12),
        token_of(OTHER, number=12),
        "",
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--identity-token", "require"), "--identity-token require needs --identity-key-file"),
        (("--identity-key-file", "KEY", "--identity-key-file", "1=KEY"), "two keys have number 1"),
        (("--identity-key-file", "SHORT"), "has 15 bytes, expected at least 16"),
        (("--identity-key-file", "9999999999=KEY"), "expected FILE or N=FILE"),
        (("--uri", "x?t=1"), "found the key t, which is the identity token"),
    ],
    ids=str,
)
def test_option_that_cannot_take_effect_is_refused(
    options: tuple[str, ...], expected: str, key_file: Path
) -> None:
    short = key_file.with_name("short")
    short.write_bytes(KEY[:15])
    given_options = [
        text.replace("KEY", str(key_file)).replace("SHORT", str(short)) for text in options
    ]
    ended = run("check-config", "--uri", "my-metadata", *given_options)
    assert ended.returncode == 2
    assert expected in ended.stderr


def test_key_without_effect_is_a_warning(key_file: Path) -> None:
    ended = run("check-config", "--uri", "x", "--identity-key-file", str(key_file))
    assert "warning: --identity-key-file has no effect: --identity-token is off" in ended.stderr


@pytest.mark.parametrize(
    ("options", "is_warned"),
    [
        (("--identity-token", "require"), True),
        (("--identity-token", "require", "--driver-opts", '{"match": ["vc-uuid", "name"]}'), True),
        (("--identity-token", "require", "--driver-opts", '{"match": ["vc-uuid"]}'), False),
        (
            ("--identity-token", "require", "--driver", "tests.scripted_driver:ScriptedDriver"),
            False,
        ),
        (("--identity-token", "warn"), False),
    ],
    ids=str,
)
def test_data_found_by_names_that_nothing_proves_is_a_warning(
    options: tuple[str, ...], is_warned: bool, key_file: Path
) -> None:
    given_key = ("--identity-key-file", str(key_file))
    ended = run("check-config", "--uri", "x", *given_key, *options)
    assert ended.returncode == 0, ended.stderr
    assert ("found by its name too, which nothing proves" in ended.stderr) is is_warned


def test_client_plays_vms_with_tokens(
    start: Callable[..., ServerProcess], key_file: Path, own_instances: Path
) -> None:
    server = start("--identity-key-file", f"3={key_file}", "--identity-token", "require")
    common = ("--server", f"127.0.0.1:{server.port}", "--uri", "my-metadata")
    vc_uuid = str(uuid.uuid4())
    fetched = run("client", "fetch", "web1", "--vc-uuid", vc_uuid, *common)
    assert "refused" in fetched.stdout + fetched.stderr
    key = ("--identity-key-file", f"3={key_file}")
    fetched = run("client", "fetch", "web1", "--vc-uuid", vc_uuid, *common, *key)
    assert fetched.returncode == 0, fetched.stderr
    storm = ("client", "storm", "--directory", str(own_instances), "-n", "1", *common)
    assert run(*storm).returncode != 0
    ended = run(*storm, *key)
    assert ended.returncode == 0, ended.stderr
