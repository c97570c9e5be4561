"""Secrets of a real OpenBao: logins, versions, faults, and that no output has a value."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.openbao import AppRole, OpenBao
from tests.process import ServerProcess, run
from tests.simulator import Pair
from tests.test_admin import Admin
from tests.vm import VC_UUID, Vm
from tests.waiting import wait_until
from vmw_cloudinit_metadata import Machine, StoreDriver
from vmw_cloudinit_metadata.drivers.drivererror import SecretUnavailableError
from vmw_cloudinit_metadata.drivers.memorystore import MemoryStore
from vmw_cloudinit_metadata.drivers.vault.vault import Vault, vault_of
from vmw_cloudinit_metadata.drivers.vault.vaultoptions import VaultOptions

pytestmark = pytest.mark.slow

MARKER = "hunter2-zq"
SECRET = f'{MARKER}: "${{vm.name}}"\n- x'
REFERENCE = "vms/web1#root_password"
USERDATA = {"chpasswd": {"users": [{"name": "root", "password": f"${{secret:{REFERENCE}}}"}]}}
QUICK_S = 2.9  # less than a look-up has

Options = Callable[..., dict[str, Any]]


def private(path: Path, text: str) -> str:
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """Makes options of a vault: with a token of its own if nothing else is given."""

    def make(openbao: OpenBao, mount: str, **others: Any) -> dict[str, Any]:
        found = {"url": openbao.url, "mount": mount, **others}
        if not {"token_file", "role_id"} & set(found):
            place = f"{mount}/*"
            token = openbao.new_token(openbao.policy({place: ["read"]}))
            found["token_file"] = private(tmp_path / "token", token)
        return found

    return make


def by_role(role: AppRole, directory: Path) -> dict[str, str]:
    secret_id = private(directory / "secret-id", role.new_secret_id())
    return {"role_id": role.role_id, "secret_id_file": secret_id, "approle_mount": role.mount}


def mount_with(openbao: OpenBao, version: int = 2, **values: Any) -> str:
    mount = openbao.mount_kv(version)
    openbao.put(mount, "vms/web1", **(values or {"root_password": SECRET}))
    return mount


def vault(options: Mapping[str, Any]) -> Vault:
    made = vault_of(VaultOptions.model_validate({"max_age_s": 0.0, **options}))
    assert made
    return made


def problem_of(one: Vault, reference: str = REFERENCE) -> tuple[str, str]:
    with pytest.raises(SecretUnavailableError) as raised:
        one.value(reference)
    assert f"<secret {reference}>: " in str(raised.value)
    assert MARKER not in str(raised.value)
    return raised.value.problem, str(raised.value)


# Where it is, and how the server logs in


@pytest.mark.parametrize("version", [1, 2])
def test_value_of_each_version(openbao: OpenBao, options: Options, version: int) -> None:
    mount = mount_with(openbao, version)
    assert vault(options(openbao, mount, kv_version=version)).value(REFERENCE) == SECRET


@pytest.mark.parametrize("version", [1, 2])
def test_other_version_is_absent_with_a_hint(
    openbao: OpenBao, options: Options, version: int
) -> None:
    mount = mount_with(openbao, version)
    problem, text = problem_of(vault(options(openbao, mount, kv_version=3 - version)))
    assert problem == "absent"
    assert "check mount and kv_version" in text


def test_role_logs_in_once_for_many_threads(
    openbao: OpenBao, options: Options, tmp_path: Path
) -> None:
    mount = mount_with(openbao)
    role = openbao.app_role(
        openbao.policy({f"{mount}/data/*": ["read"]}), secret_id_num_uses=1, token_ttl="1h"
    )
    one = vault(options(openbao, mount, **by_role(role, tmp_path)))
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(one.value(REFERENCE))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [SECRET] * 8


def test_role_whose_secret_id_is_wrong_is_denied_and_no_value_is_quoted(
    openbao: OpenBao, options: Options, tmp_path: Path
) -> None:
    role = openbao.app_role("none")
    given = by_role(role, tmp_path) | {"secret_id_file": private(tmp_path / "wrong", MARKER)}
    problem, text = problem_of(vault(options(openbao, mount_with(openbao), **given)))
    assert problem == "denied"
    assert f"auth/{role.mount}/login refuses role_id and secret_id_file" in text


def test_namespace(openbao: OpenBao, options: Options, tmp_path: Path) -> None:
    name = openbao.fresh("team")
    openbao.ask("POST", f"sys/namespaces/{name}", {})
    there: dict[str, Any] = {"namespace": name}
    openbao.ask("POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "1"}}, **there)
    openbao.ask("POST", "kv/vms/web1", {"root_password": SECRET}, **there)
    rules = json.dumps({"path": {"kv/*": {"capabilities": ["read"]}}})
    openbao.ask("PUT", "sys/policies/acl/reader", {"policy": rules}, **there)
    made = openbao.ask("POST", "auth/token/create", {"policies": ["reader"]}, **there)
    token = private(tmp_path / "token", made["auth"]["client_token"])
    given = options(openbao, "kv", kv_version=1, token_file=token)
    assert vault({**given, "namespace": name}).value(REFERENCE) == SECRET
    assert problem_of(vault(given))[0] == "denied"


def test_seal_and_health_are_seen_through_a_namespace(options: Options, tmp_path: Path) -> None:
    with OpenBao() as server:
        name = server.fresh("team")
        server.ask("POST", f"sys/namespaces/{name}", {})
        token = private(tmp_path / "token", server.root_token)
        one = vault({**options(server, "kv", token_file=token), "namespace": name})
        assert problem_of(one)[0] == "absent"
        server.seal()
        assert problem_of(one)[0] == "sealed"


def test_certificate_must_be_trusted(options: Options, simulator_certificate: Pair) -> None:
    with OpenBao(simulator_certificate) as server:
        given = options(server, mount_with(server))
        trusted = {**given, "ca_file": str(simulator_certificate.certificate)}
        assert vault(trusted).value(REFERENCE) == SECRET
        problem, text = problem_of(vault(given))
    assert problem == "unreachable"
    assert "its certificate is not trusted" in text


# Tokens that end


def test_token_that_is_revoked_is_replaced_by_a_login(
    openbao: OpenBao,
    options: Options,
    tmp_path: Path,
    constants: Callable[..., None],
) -> None:
    constants(drivers__stores__openbao__openbaosession__AGAIN_S=0.0)
    mount = mount_with(openbao)
    role = openbao.app_role(openbao.policy({f"{mount}/data/*": ["read"]}), token_ttl="1h")
    one = vault(options(openbao, mount, **by_role(role, tmp_path)))
    assert one.value(REFERENCE) == SECRET
    for accessor in openbao.ask("LIST", "auth/token/accessors")["data"]["keys"]:
        found = openbao.ask("POST", "auth/token/lookup-accessor", {"accessor": accessor})["data"]
        if found["path"] == f"auth/{role.mount}/login":
            openbao.ask("POST", "auth/token/revoke-accessor", {"accessor": accessor})
    assert one.value(REFERENCE) == SECRET


def test_path_that_the_policy_forbids_costs_no_token_though_no_login_works(
    openbao: OpenBao,
    options: Options,
    tmp_path: Path,
    constants: Callable[..., None],
) -> None:
    constants(drivers__stores__openbao__openbaosession__AGAIN_S=0.0)
    mount = mount_with(openbao)
    policy = openbao.policy({f"{mount}/data/vms/*": ["read"]})
    role = openbao.app_role(policy, secret_id_num_uses=1, token_ttl="1h")
    one = vault(options(openbao, mount, **by_role(role, tmp_path)))
    assert one.value(REFERENCE) == SECRET
    problem, text = problem_of(one, "others/x#y")
    assert problem == "denied"
    assert f"permission denied for {mount}/data/others/x, and no new token: " in text
    assert one.value(REFERENCE) == SECRET


def test_token_is_renewed_before_it_ends_though_nobody_asks(
    openbao: OpenBao, options: Options, tmp_path: Path
) -> None:
    mount = mount_with(openbao)
    paths = {f"{mount}/data/*": ["read"], "auth/token/renew-self": ["update"]}
    policy = openbao.policy({**paths, "auth/token/lookup-self": ["read"]})
    token = openbao.new_token(policy, period="3s")
    one = vault(options(openbao, mount, token_file=private(tmp_path / "token", token)))
    reports: list[str] = []
    one.watch(reports.append)
    assert one.value(REFERENCE) == SECRET
    time.sleep(5)  # longer than it lives unless it is renewed
    assert one.value(REFERENCE) == SECRET
    one.close()
    assert reports == []


def test_role_logs_in_anew_when_its_token_cannot_be_renewed_further(
    openbao: OpenBao, options: Options, tmp_path: Path
) -> None:
    mount = mount_with(openbao)
    policy = openbao.policy({f"{mount}/data/*": ["read"]})
    role = openbao.app_role(policy, token_ttl="2s", token_max_ttl="3s")
    one = vault(options(openbao, mount, **by_role(role, tmp_path)))
    one.watch(lambda _: None)
    end_s = time.monotonic() + 7
    while time.monotonic() < end_s:
        assert one.value(REFERENCE) == SECRET
        time.sleep(0.1)
    one.close()


def test_token_of_a_changed_file_counts_at_once(
    openbao: OpenBao, options: Options, tmp_path: Path
) -> None:
    mount = mount_with(openbao)
    given = options(openbao, mount, token_file=private(tmp_path / "token", "s.wrong"))
    one = vault(given)
    assert problem_of(one)[0] == "denied"
    options(openbao, mount)  # writes the same file
    assert one.value(REFERENCE) == SECRET


# Faults


def test_each_fault_has_its_problem_and_remedy(openbao: OpenBao, options: Options) -> None:
    mount = mount_with(openbao, root_password=SECRET, port=22)
    one = vault(options(openbao, mount))
    assert problem_of(one, "vms/web1#nope")[0] == "absent"
    assert "no such key" in problem_of(one, "vms/web1#nope")[1]
    assert f"nothing at {mount}/data/vms/web2" in problem_of(one, "vms/web2#x")[1]
    assert problem_of(one, "vms/web1#port")[0] == "unusable"
    openbao.ask("DELETE", f"{mount}/data/vms/web1")
    assert problem_of(one)[0] == "absent"
    other = mount_with(openbao)
    problem, text = problem_of(vault({**options(openbao, mount), "mount": other}))
    assert problem == "denied"
    assert f"allow read of {other}/data/vms/web1" in text


def test_secret_that_is_too_large_is_no_value(openbao: OpenBao, options: Options) -> None:
    mount = mount_with(openbao, root_password="x" * 150_000, other="y" * 150_000)
    assert problem_of(vault(options(openbao, mount)))[0] == "unusable"


def test_server_that_is_sealed_hangs_or_is_gone_fails_in_time_and_returns(
    options: Options,
) -> None:
    with OpenBao() as server:
        one = vault(options(server, mount_with(server)))
        assert one.value(REFERENCE) == SECRET
        for away, back, problem in (
            (server.seal, server.unseal, "sealed"),
            (server.stop, server.cont, "unreachable"),
            (server.kill, server.start, "unreachable"),
        ):
            away()
            began_s = time.monotonic()
            assert problem_of(one)[0] == problem
            assert time.monotonic() - began_s < QUICK_S
            began_s = time.monotonic()
            assert problem_of(one)[0] == problem
            assert time.monotonic() - began_s < 0.5  # it has just failed
            back()
            wait_until(lambda: one_value(one) == SECRET)


def one_value(one: Vault) -> str | None:
    try:
        return one.value(REFERENCE)
    except SecretUnavailableError:
        return None


# Stores


def test_record_of_a_store_has_the_same_references(openbao: OpenBao, options: Options) -> None:
    store = MemoryStore()
    store.put("name", "web1", {"metadata": {}, "userdata": USERDATA})
    driver = StoreDriver(store, vault=options(openbao, mount_with(openbao)))
    instance = driver.get_instance(Machine(name="web1"))
    driver.close()
    assert instance
    assert yaml.safe_load(instance.userdata)["chpasswd"]["users"][0]["password"] == SECRET


# A whole server


@pytest.mark.parametrize("workers", [0, 2])
def test_guest_gets_the_value_and_no_output_has_it(
    openbao: OpenBao,
    options: Options,
    own_instances: Path,
    tmp_path: Path,
    workers: int,
) -> None:
    mount = mount_with(openbao)
    given = options(openbao, mount, max_age_s=0)
    token = Path(given["token_file"]).read_text().strip()
    text = yaml.safe_dump({"metadata": {}, "userdata": USERDATA})
    (own_instances / "web1.yaml").write_text(text)
    opts = {"directory": str(own_instances), "vault": given}
    written = tmp_path / "written"
    written.mkdir()
    server = ServerProcess(
        own_instances,
        *("--log-level", "debug", "--log-format", "json", "--catalogue"),
        *("--audit-log", str(written / "audit"), "--last-good-dir", str(written / "good")),
        *("--state-file", str(written / "state")),
        *(("--workers", str(workers)) if workers else ()),
        driver_opts=opts,
    )
    try:
        admin = Admin(server)
        vm = Vm(server.port)
        userdata = vm.document("USERDATA")
        assert yaml.safe_load(userdata)["chpasswd"]["users"][0]["password"] == SECRET
        vm.document("METADATA")
        openbao.put(mount, "vms/web1", root_password=f"{SECRET}2")
        second = vm.document("USERDATA")
        assert second != userdata  # nothing is given again
        openbao.ask("DELETE", f"{mount}/data/vms/web1")
        assert vm.error("USERDATA") == "failed"
        server.wait_for("there is nothing at")
        wait_until(lambda: admin.machines())
        machine = admin.machines()[0]
        place = f"/api/machines/{machine['vc_uuid']}"
        wait_until(lambda: "<secret vms/web1#root_password>" in str(admin.json(place)))
        paths = ("/api/machines", place, "/api/status", "/metrics")
        pages = [admin.request(path)[1].decode() for path in (*paths, "/", "/readyz")]
        wait_until(lambda: admin.metric("vmw_metadata_secrets_unavailable_total", reason="absent"))
        vm.close()
        wait_until(lambda: (written / "state").exists() and (written / "audit").read_text())
        shown = run("show", "web1", "--driver-opts", json.dumps(opts))
        checked = run("validate", "--driver-opts", json.dumps(opts))
        config = run("check-config", "--uri", "x", "--driver-opts", json.dumps(opts))
        log = server.log
    finally:
        server.end()
    outputs = [log, *pages]
    outputs += [one.stdout + one.stderr for one in (shown, checked, config)]
    outputs += [path.read_text() for path in written.rglob("*") if path.is_file()]
    assert len(outputs) >= 12
    digests = [hashlib.sha256(text).hexdigest() for text in (userdata, second)]
    assert any('"sha256":""' in output for output in outputs)  # there is a place for it
    for output in outputs:
        assert not [text for text in (MARKER, token, *digests) if text in output]
    assert "secret vms/web1#root_password" in log


def test_last_good_answer_replaces_no_answer_with_a_secret(
    options: Options, own_instances: Path, tmp_path: Path
) -> None:
    """Of two VMs, the one without a secret is served while OpenBao is away."""
    (own_instances / "web2.yaml").write_text("metadata: {}\n")
    text = yaml.safe_dump({"metadata": {}, "userdata": USERDATA})
    (own_instances / "web1.yaml").write_text(text)
    good = tmp_path / "good"
    with OpenBao() as openbao:
        given = options(openbao, mount_with(openbao), max_age_s=0)
        server = ServerProcess(
            own_instances,
            *("--last-good-dir", str(good)),
            driver_opts={"directory": str(own_instances), "vault": given},
        )
        try:
            admin = Admin(server)
            vm = Vm(server.port)
            assert MARKER in vm.document("USERDATA").decode()
            openbao.kill()
            assert vm.error("USERDATA") == "failed"
            other = Vm(server.port, "web2", vc_uuid=VC_UUID.replace("01", "02"))
            assert other.metadata()
            assert admin.status("/readyz") == 200
            openbao.start()
            wait_until(lambda: vm.ask("USERDATA")[0] == "RESPONSE_USERDATA")
            vm.close()
            other.close()
        finally:
            server.end()
