"""etcd, of one member or of several. Nothing of the package is in here."""

from __future__ import annotations

import http.client
import json
import ssl
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers import Daemon, DaemonBackend, Data, written
from tests.storm import free_port
from tests.waiting import wait_until

PREFIX = "/vms"
PUTS = 100  # of one transaction: etcd takes 128
ANSWER_S = 2.0  # of a member that has a majority
LOCALHOST = "127.0.0.1"


def base64(text: str | bytes) -> str:
    return b64encode(text.encode() if isinstance(text, str) else text).decode()


class Refused(Exception):  # noqa: N818 - what has happened
    """A member has answered with an error."""


class Member:
    """One process, with a directory and ports of its own."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.port, self.peer_port = free_port(), free_port()
        self.directory = directory / name
        self.directory.mkdir()
        self.daemon = Daemon(self.directory)

    @property
    def peer(self) -> str:
        return f"{self.name}=http://{LOCALHOST}:{self.peer_port}"


class EtcdBackend(DaemonBackend):
    """`kill`, `stop` and `restart` are for the member that is asked first."""

    name = "etcd"
    driver = "etcd"
    size = 1
    arguments: Sequence[str] = ()  # of each member
    scheme = "http"
    host = LOCALHOST
    tls: ssl.SSLContext | None = None

    def __init__(self) -> None:
        super().__init__()
        self.members = [Member(f"m{number}", self.directory) for number in range(self.size)]
        self.daemons = [self.asked_first.daemon]
        self.directory.chmod(0o755)
        self.token = ""

    @property
    def options(self) -> Mapping[str, Any]:
        return {"url": self.urls, "prefix": PREFIX}

    @property
    def urls(self) -> list[str]:
        return [f"{self.scheme}://{self.host}:{member.port}" for member in self.members]

    # Processes

    def start(self) -> None:
        """Start the members that do not run."""
        for member in self.members:
            if not member.daemon.is_running:
                self._begin(member)
        wait_until(lambda: all(map(self.is_ready, self.members)))

    def _begin(self, member: Member) -> None:
        client = f"{self.scheme}://{LOCALHOST}:{member.port}"
        peer = f"http://{LOCALHOST}:{member.peer_port}"
        member.daemon.start(
            *("etcd", "--name", member.name, "--data-dir", member.directory / "data"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", ",".join(one.peer for one in self.members)),
            *("--logger", "zap", "--log-level", "warn", *self.arguments),
            is_ready=lambda: True,
        )

    def is_ready(self, member: Member) -> bool:
        """Return whether a majority answers by way of this member."""
        try:
            self._ask(member, "/v3/kv/range", {"key": base64("x")})
        except (OSError, http.client.HTTPException):
            return False
        except Refused:
            pass  # as nobody: it is ready
        return True

    @property
    def asked_first(self) -> Member:
        return self.members[0]

    def close(self) -> None:
        for member in self.members:
            member.daemon.close()

    # Data

    def put(self, vms: Mapping[str, Data]) -> None:
        self.put_keys({f"{PREFIX}/{name}": written(data) for name, data in vms.items()})

    def put_keys(self, values: Mapping[str | bytes, str | bytes]) -> None:
        """Set keys, many in one transaction."""
        puts = [
            {"request_put": {"key": base64(key), "value": base64(value)}}
            for key, value in values.items()
        ]
        for begin in range(0, len(puts), PUTS):
            self.ask("/v3/kv/txn", {"success": puts[begin : begin + PUTS]})

    def delete(self, name: str) -> None:
        self.ask("/v3/kv/deleterange", {"key": base64(f"{PREFIX}/{name}")})

    def clear(self) -> None:
        """Remove all keys."""
        self.ask("/v3/kv/deleterange", {"key": base64("\0"), "range_end": base64("\0")})

    def put_layer(self, name: str, data: Data) -> None:
        self.put_keys({f"{PREFIX}/layers/{name}": written(data)})

    def ask(self, path: str, question: Mapping[str, Any]) -> Any:
        """Return the answer of the first member that gives one."""
        for member in self.members:
            try:
                return self._ask(member, path, question)
            except OSError as error:
                reason = error
        raise reason

    def _ask(self, member: Member, path: str, question: Mapping[str, Any]) -> Any:
        if self.tls:
            line: http.client.HTTPConnection = http.client.HTTPSConnection(
                self.host, member.port, timeout=ANSWER_S, context=self.tls
            )
        else:
            line = http.client.HTTPConnection(self.host, member.port, timeout=ANSWER_S)
        try:
            headers = {"Authorization": self.token} if self.token else {}
            line.request("POST", path, json.dumps(question), headers)
            answer = line.getresponse()
            text = answer.read()
            if answer.status >= 500:
                raise ConnectionError(text)
            if answer.status != 200:
                raise Refused(text)
            return json.loads(text)
        finally:
            line.close()


class EtcdCluster(EtcdBackend):
    """Three members, of which one may be away."""

    name = "etcd3"
    size = 3
