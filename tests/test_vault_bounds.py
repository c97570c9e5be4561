"""What a faulty or slow server of secrets can do: cost a bounded time, and be quoted nowhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.httppeer import Answer, Asked, HttpPeer, reply
from vmw_cloudinit_metadata import Machine
from vmw_cloudinit_metadata.drivers.drivererror import SecretUnavailableError
from vmw_cloudinit_metadata.drivers.memorystore import MemoryStore
from vmw_cloudinit_metadata.drivers.storedriver import StoreDriver
from vmw_cloudinit_metadata.drivers.vault.vault import Vault, vault_of
from vmw_cloudinit_metadata.drivers.vault.vaultoptions import VaultOptions
from vmw_cloudinit_metadata.protocol import packet
from vmw_cloudinit_metadata.serving.answer import Answer as Served
from vmw_cloudinit_metadata.serving.answer import Failure, look_up

TOKEN = "s.token-zq"
VALUE = "hunter2-zq"
LOGIN = reply(json.dumps({"auth": {"client_token": TOKEN, "lease_duration": 3600}}))
READ = reply(json.dumps({"data": {"data": {"key": VALUE}}}))


@contextmanager
def vault_at(directory: Path, answer: Answer) -> Iterator[tuple[Vault, HttpPeer]]:
    secret_id = directory / "secret-id"
    secret_id.write_text("x\n")
    secret_id.chmod(0o600)
    with HttpPeer(answer) as peer:
        given: dict[str, Any] = {"url": peer.url, "role_id": "r", "secret_id_file": str(secret_id)}
        one = vault_of(VaultOptions(**given, max_age_s=0))
        assert one
        try:
            yield one, peer
        finally:
            one.close()


def answering(login: list[bytes], read: list[bytes], pause_s: float = 0) -> Answer:
    def answer(asked: Asked) -> Iterable[bytes]:
        time.sleep(pause_s)
        return login if asked.method == "POST" else read

    return answer


def failure_of(one: Vault, reference: str = "a#key") -> SecretUnavailableError:
    with pytest.raises(SecretUnavailableError) as raised:
        one.value(reference)
    assert not [text for text in (TOKEN, VALUE) if text in str(raised.value)]
    return raised.value


def test_login_and_read_share_the_time_of_one_request(tmp_path: Path) -> None:
    with vault_at(tmp_path, answering(LOGIN, READ, pause_s=1.6)) as (one, _):
        began_s = time.monotonic()
        assert failure_of(one).problem == "unreachable"
        assert time.monotonic() - began_s < 2.9  # a look-up has 3 s


def test_secrets_of_a_document_share_the_time_of_one_request(tmp_path: Path) -> None:
    """The guest gets `timeout`; what was read is kept, so that it has all when it asks again."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    store = MemoryStore()
    text = "".join(f"${{secret:{name}#key}}" for name in ("a", "b", "c", "a"))
    store.put("name", "web1", {"metadata": {"instance-id": "1"}, "documents": {"x": text}})

    def answer(asked: Asked) -> Iterable[bytes]:
        time.sleep(1.0 if "/data/" in asked.target else 0)
        return READ if "/data/" in asked.target else reply("{}")

    with HttpPeer(answer) as peer:
        driver = StoreDriver(store, vault={"url": peer.url, "token_file": str(token)})
        began_s = time.monotonic()
        late = look_up(driver, Machine(name="web1"), with_secrets=True)
        assert time.monotonic() - began_s < 2.9
        assert isinstance(late, Failure)
        assert (late.error, late.secret) == ("timeout", "late")
        assert "<secret c#key>: it was not read within 2.5 s, together with" in late.reason
        found = look_up(driver, Machine(name="web1"), with_secrets=True)
        assert isinstance(found, Served)
        assert packet.body_of(found.packets["X"]).decode() == VALUE * 4
        reads = [asked.target for asked in peer.asked if "/data/" in asked.target]
        driver.close()
    assert [read[-1] for read in reads] == ["a", "b", "c", "c"]  # and not again after `late`


@pytest.mark.parametrize(
    ("read", "problem", "text"),
    [
        (reply(VALUE, "307 Temporary Redirect", location="http://x/"), "unusable", "redirects"),
        (reply(VALUE, "503 Sealed"), "sealed", "unseal it"),
        (reply(VALUE, "500 Error"), "unreachable", "500"),
        (reply(VALUE, "404 Not Found"), "absent", "check mount and kv_version"),
        (reply(VALUE), "unusable", "no JSON object"),
        (reply('{"data": {"key": "' + VALUE + '"}}'), "unusable", "check kv_version"),
        (reply('{"data": {"data": {"key": "\\ud800"}}}'), "unusable", "no text"),
        (reply('{"data": {"data": {"key": "' + "x" * 2_000_000), "unusable", "more than"),
        (reply("[" * 100_000), "unusable", "no JSON object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_answer_that_has_no_value_is_a_failure_that_quotes_nothing(
    tmp_path: Path, read: list[bytes], problem: str, text: str
) -> None:
    with vault_at(tmp_path, answering(LOGIN, read)) as (one, _):
        failure = failure_of(one)
    assert failure.problem == problem
    assert text in str(failure)


@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Unavailable", "429 Slow"])
def test_path_that_fails_alone_keeps_no_other_from_its_secret(tmp_path: Path, status: str) -> None:
    def answer(asked: Asked) -> Iterable[bytes]:
        if asked.method == "POST":
            return LOGIN
        return reply(VALUE, status) if asked.target.endswith("/a") else READ

    with vault_at(tmp_path, answer) as (one, peer):
        for _ in range(3):
            failure = failure_of(one)
            assert failure.problem == "failing"
            assert f"{status[:3]}" in str(failure)
            assert "for secret/data/a alone" in str(failure)
            assert one.value("b#key") == VALUE
        paths = [asked.target.removeprefix("/v1/").partition("?")[0] for asked in peer.asked]
    assert paths[1:] == 3 * ["secret/data/a", "sys/health", "secret/data/b"]


@pytest.mark.parametrize(
    ("health", "problem"),
    [("503 Sealed", "sealed"), ("500 Error", "unreachable"), ("429 Slow", "unreachable")],
)
def test_server_whose_health_is_bad_is_asked_once(
    tmp_path: Path, health: str, problem: str
) -> None:
    def answer(asked: Asked) -> Iterable[bytes]:
        if asked.method == "POST":
            return LOGIN
        return reply(VALUE, health if "/sys/" in asked.target else "500 Error")

    with vault_at(tmp_path, answer) as (one, peer):
        assert failure_of(one).problem == problem
        assert failure_of(one, "b#key").problem == problem
        assert [asked.target[-2:] for asked in peer.asked[1:]] == ["/a", "ue"]


@pytest.mark.parametrize("token", ["", "a\r\nx-evil: 1", 7, None])
def test_login_without_a_usable_token_is_a_failure(tmp_path: Path, token: object) -> None:
    login = reply(json.dumps({"auth": {"client_token": token}}))
    with vault_at(tmp_path, answering(login, READ)) as (one, peer):
        assert "no token in the answer" in str(failure_of(one))
        assert [asked.method for asked in peer.asked] == ["POST"]


def test_paths_that_are_forbidden_cost_few_logins(
    tmp_path: Path, constants: Callable[..., None]
) -> None:
    """Too many would lock the role out."""
    constants(drivers__stores__openbao__openbaosession__AGAIN_S=0.3)
    may_log_in = True

    def answer(asked: Asked) -> Iterable[bytes]:
        if asked.method == "POST":
            return LOGIN if may_log_in else reply("{}", "400 Bad Request")
        return READ if asked.target.endswith("/a") else reply("{}", "403 Forbidden")

    with vault_at(tmp_path, answer) as (one, peer):
        assert one.value("a#key") == VALUE
        may_log_in = False
        end_s = time.monotonic() + 1
        while time.monotonic() < end_s:
            assert failure_of(one, "b#key").problem == "denied"
            assert one.value("a#key") == VALUE
        assert 2 <= [asked.method for asked in peer.asked].count("POST") <= 5
