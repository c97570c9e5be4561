"""Documents behind HTTPS: without max-age, and with it and webhooks."""

from __future__ import annotations

import hmac
import json
import shutil
import socket
import sys
from collections.abc import Collection, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.certificates import make_pair
from tests.process import CHECKOUT
from tests.servers import LIMIT_S, Daemon, DaemonBackend, Data, written
from tests.storm import free_port

TOKEN = "t0ken-of-the-cmdb"
KEY = b"key-of-the-webhooks"


class HttpBackend(DaemonBackend):
    name = "http"
    driver = "vmw_cloudinit_metadata.drivers.stores.httpstore:HttpStore"
    cache_control = ""

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self._daemon = Daemon(self.directory, as_us=True)  # its Python may be ours alone
        self.daemons = [self._daemon]
        self._place = self.directory / "documents"
        self._layers: dict[str, Data] = {}
        self._listed: set[str] = set()
        openssl = shutil.which("openssl")
        assert openssl, "needs openssl (Debian: apt-get install openssl)"
        self._pair = make_pair(openssl, self.directory, "localhost")
        self._token_file = self._secret("token", TOKEN.encode())

    def _secret(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        path.chmod(0o600)
        return path

    @property
    def options(self) -> Mapping[str, Any]:
        url = f"https://localhost:{self.port}"
        return {
            "url": url + "/vms/{name}",
            "layers-url": url + "/layers",
            "list-url": url + "/list",
            "health-url": url + "/layers",
            "token-file": str(self._token_file),
            "ca-file": str(self._pair.certificate),
        }

    def start(self) -> None:
        (self._place / "vms").mkdir(parents=True, exist_ok=True)
        self._daemon.start(
            *(sys.executable, CHECKOUT / "tests/servers/documentserver.py", self._place),
            *(str(self.port), self._pair.certificate, self._pair.key, TOKEN, self.cache_control),
            is_ready=self._is_ready,
        )

    def _is_ready(self) -> bool:
        socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT_S).close()
        return True

    def put(self, vms: Mapping[str, Data]) -> None:
        for name, data in vms.items():
            self._write(self._place / "vms" / name, written(data))
        self._list(self._listed | set(vms))
        self._tell({"names": list(vms)})

    def delete(self, name: str) -> None:
        (self._place / "vms" / name).unlink()
        self._list(self._listed - {name})
        self._tell({"names": [name]})

    def put_layer(self, name: str, data: Data) -> None:
        self._layers[name] = data
        layers = [layer for _, layer in sorted(self._layers.items())]
        self._write(self._place / "layers", json.dumps(layers))
        self._tell({"layers": True})

    def _list(self, names: set[str]) -> None:
        if names != self._listed:
            self._listed = names
            self._write(self._place / "list", json.dumps(sorted(names)))

    def _write(self, place: Path, text: str) -> None:
        new = self.directory / "new"
        new.write_text(text)
        new.rename(place)

    def _tell(self, changed: Mapping[str, bool | Collection[str]]) -> None:
        pass


class HttpHookBackend(HttpBackend):
    name = "http-hook"
    cache_control = "max-age=600"
    prepares = True

    def __init__(self) -> None:
        super().__init__()
        self._key_file = self._secret("key", KEY)
        self._admin_port = 0

    @property
    def options(self) -> Mapping[str, Any]:
        return {**super().options, "webhook-key-file": str(self._key_file)}

    def attach(self, port: int, admin_port: int) -> None:  # noqa: ARG002
        self._admin_port = admin_port

    def _tell(self, changed: Mapping[str, bool | Collection[str]]) -> None:
        if not self._admin_port:
            return  # nothing is kept yet
        body = json.dumps(changed).encode()
        signature = hmac.digest(KEY, body, "sha256").hex()
        connection = HTTPConnection("127.0.0.1", self._admin_port, timeout=LIMIT_S)
        headers = {"X-Hub-Signature-256": f"sha256={signature}"}
        connection.request("POST", "/hooks/changes", body, headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        connection.close()
