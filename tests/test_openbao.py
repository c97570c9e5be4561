"""The real OpenBao of the tests: secrets of both versions, tokens, roles, seals, and a restart."""

from __future__ import annotations

import pytest

from tests.openbao import ACTIVE, OpenBao, Refused

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("version", [1, 2])
def test_secret_is_read_with_a_token_of_its_policy_alone(openbao: OpenBao, version: int) -> None:
    mount = openbao.mount_kv(version)
    openbao.put(mount, "web1", password="one")
    path = f"{mount}/data/web1" if version == 2 else f"{mount}/web1"
    token = openbao.new_token(openbao.policy({path: ["read"]}))
    data = openbao.ask("GET", path, token=token)["data"]
    assert (data["data"] if version == 2 else data) == {"password": "one"}
    with pytest.raises(Refused, match="403"):
        openbao.ask("GET", path, token=openbao.new_token(openbao.policy({"none": ["read"]})))


def test_role_logs_in_with_its_secret_id(openbao: OpenBao) -> None:
    mount = openbao.mount_kv()
    openbao.put(mount, "web1", password="one")
    role = openbao.app_role(openbao.policy({f"{mount}/data/*": ["read"]}))
    login = {"role_id": role.role_id, "secret_id": role.new_secret_id()}
    auth = openbao.ask("POST", f"auth/{role.mount}/login", login, token="")["auth"]
    assert openbao.ask("GET", f"{mount}/data/web1", token=auth["client_token"])["data"]


def test_sealed_and_killed_server_has_its_data_afterwards() -> None:
    with OpenBao() as server:
        mount = server.mount_kv()
        server.put(mount, "web1", password="one")
        server.seal()
        with pytest.raises(Refused, match="503"):
            server.ask("GET", f"{mount}/data/web1")
        server.unseal()
        server.kill()
        assert server.health() == 0
        server.start()
        assert server.health() == ACTIVE
        assert server.ask("GET", f"{mount}/data/web1")["data"]["data"] == {"password": "one"}
