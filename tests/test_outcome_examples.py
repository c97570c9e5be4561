"""The receivers of webhooks in examples/outcomes, as programs: what they make of an outcome."""

from __future__ import annotations

import hmac
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.httppeer import Asked, HttpPeer, reply
from tests.process import CHECKOUT, ServerProcess
from tests.storm import free_port
from tests.test_boot_outcomes import answers, booted, instance, report
from tests.test_outcome_hooks import KEY, key_file, options  # noqa: F401 - a fixture
from tests.waiting import wait_until

EXAMPLES = CHECKOUT / "examples/outcomes"
OUTCOME = {
    "id": "1",
    "status": "error",
    "errors": ["**bold** [x](http://evil)"],
    "seconds": 12.5,
    "machine_name": "web 1",
    "hosts": ["web1.example.com", "web1", "10.0.0.1", "fd00::1"],
}


@contextmanager
def program(name: str, key: Path, **environment: str) -> Iterator[int]:
    port = free_port()
    env = {"HOOK_ADDRESS": f"127.0.0.1:{port}", "HOOK_KEY_FILE": str(key), **environment}
    process = subprocess.Popen([sys.executable, str(EXAMPLES / name)], env=os.environ | env)
    try:
        wait_until(lambda: answers(port))
        yield port
    finally:
        process.terminate()
        process.wait()


def send(port: int, outcome: dict[str, Any], key: bytes = KEY) -> int:
    body = json.dumps(outcome).encode()
    headers = {"X-Hook-Signature": hmac.digest(key, body, "sha512").hex()}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


class NetBox:
    """The two paths of NetBox that the example uses."""

    def __init__(self, authorization: str) -> None:
        self.authorization = authorization
        self.entries: list[Any] = []
        self.vms: list[dict[str, Any]] = [{"id": 7}]
        self.is_down = False

    def __call__(self, asked: Asked) -> list[bytes] | None:
        assert asked.headers["authorization"] == self.authorization
        if self.is_down:
            return reply("{}", "503 Down")
        if asked.method == "POST":
            assert asked.target == "/api/extras/journal-entries/"
            self.entries.append(json.loads(asked.body))
            return reply("{}", "201 Created")
        assert asked.target == "/api/virtualization/virtual-machines/?name=web%201"
        return reply(json.dumps({"results": self.vms}))


@pytest.mark.parametrize(
    ("token", "scheme"), [("nbt_key.secret", "Bearer"), ("secret", "Token")], ids=["v2", "v1"]
)
def test_outcome_is_in_the_journal_once(
    key_file: Path,  # noqa: F811
    tmp_path: Path,
    token: str,
    scheme: str,
) -> None:
    (tmp_path / "token").write_text(f"{token}\n")
    netbox = NetBox(f"{scheme} {token}")
    with HttpPeer(netbox) as peer:
        about = {"NETBOX_URL": peer.url, "NETBOX_TOKEN_FILE": str(tmp_path / "token")}
        with program("netbox_journal.py", key_file, **about) as port:
            assert send(port, OUTCOME, b"another key") == 403
            netbox.is_down = True
            assert send(port, OUTCOME) == 503
            netbox.is_down = False
            assert [send(port, OUTCOME) for _ in range(2)] == [204, 204]
            netbox.vms.clear()
            assert send(port, OUTCOME | {"id": "2"}) == 204
    (entry,) = netbox.entries
    assert (entry["kind"], entry["assigned_object_id"]) == ("danger", 7)
    assert entry["comments"] == "boot error after 12 s\n\n    **bold** [x](http://evil)"


@pytest.fixture
def nsupdate(tmp_path: Path) -> Path:
    """A program that writes down what it is told."""
    directory = tmp_path / "bin"
    directory.mkdir()
    path = directory / "nsupdate"
    path.write_text(f'#!/bin/sh\necho "$@" >>{directory}/said\ncat >>{directory}/said\n')
    path.chmod(0o755)
    return directory


UPDATE = """\
-k tsig.key
server 10.0.0.53
zone example.com
update delete web1.example.com A
update delete web1.example.com AAAA
update add web1.example.com 300 A 10.0.0.1
update add web1.example.com 300 AAAA fd00::1
send
"""


def dns(nsupdate: Path) -> dict[str, str]:
    path = f"{nsupdate}:{os.environ['PATH']}"
    about = {"DNS_SERVER": "10.0.0.53", "DNS_ZONE": "example.com", "DNS_KEY_FILE": "tsig.key"}
    return {"PATH": path, **about}


def test_vm_that_has_booted_is_in_the_dns(key_file: Path, nsupdate: Path) -> None:  # noqa: F811
    with program("dns_update.py", key_file, **dns(nsupdate)) as port:
        assert send(port, OUTCOME) == 204
        assert not (nsupdate / "said").exists()
        hostile = {"hosts": ["a.example.com\nsend", "a b.example.com", "*.example.com", "10.0.0.1"]}
        assert send(port, OUTCOME | {"id": "2", "status": "done"} | hostile) == 204
        assert not (nsupdate / "said").exists()
        assert send(port, OUTCOME | {"id": "3", "status": "done"}) == 204
    assert (nsupdate / "said").read_text() == UPDATE


def test_server_and_receiver_agree(
    start: Callable[..., ServerProcess],
    own_instances: Path,
    key_file: Path,  # noqa: F811
    nsupdate: Path,
) -> None:
    instance(own_instances, "a", "web1.example.com", "10.0.0.1")
    with program("dns_update.py", key_file, **dns(nsupdate)) as port:
        machine = booted(start(*options(port, key_file)), "a")
        report(machine, instance="i-a", status="done", errors=[])
        wait_until(lambda: (nsupdate / "said").exists())
        wait_until(lambda: "add web1.example.com 300 A 10.0.0.1" in (nsupdate / "said").read_text())
        machine.close()
