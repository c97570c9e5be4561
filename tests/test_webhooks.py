"""Webhooks at the admin port: signed ones reach every worker; others change nothing."""

from __future__ import annotations

import hmac
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.httppeer import HttpPeer
from tests.process import ServerProcess
from tests.test_admin import Admin
from tests.test_http_store import KEY, STORE, VC, Cmdb, data
from tests.test_workers import children
from tests.vm import Vm
from tests.waiting import wait_until
from vmw_cloudinit_metadata.process import channel
from vmw_cloudinit_metadata.protocol.webhook import MAX_BODY_BYTES, Webhook
from vmw_cloudinit_metadata.serving.recheck import FRESH_S

Start = Callable[..., ServerProcess]

ALL = b'{"all": true}'


@pytest.fixture
def cmdb() -> Cmdb:
    cmdb = Cmdb()
    cmdb.headers = {"cache-control": "max-age=600"}
    cmdb.documents[f"/vms/{VC}"] = data("i-1")
    return cmdb


@pytest.fixture
def serve(cmdb: Cmdb, start: Start, tmp_path: Path) -> Iterator[Callable[..., Admin]]:
    key_file = tmp_path / "key"
    key_file.write_bytes(KEY)
    key_file.chmod(0o600)
    with HttpPeer(cmdb) as peer:

        def serve(*options: str, **further: Any) -> Admin:
            opts = {"url": peer.url + "/vms/{vc-uuid}", "webhook-key-file": str(key_file)}
            return Admin(start("--driver", STORE, *options, driver_opts=opts, **further))

        yield serve


def send(admin: Admin, body: bytes = ALL, key: bytes = KEY, **headers: str) -> tuple[int, Any]:
    signature = "sha256=" + hmac.digest(key, body, "sha256").hex()
    connection = HTTPConnection(admin.host, admin.port, timeout=60)
    fields = {"X-Hub-Signature-256": signature, **headers}
    connection.request("POST", "/hooks/changes", body, fields)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def boot(admin: Admin) -> str:
    with closing(Vm(admin.server.port, "web1", vc_uuid=VC)) as vm:
        return str(vm.metadata()["instance-id"])


@pytest.mark.parametrize("workers", ["1", "3"])
def test_signed_webhook_reaches_each_worker(
    workers: str, cmdb: Cmdb, serve: Callable[..., Admin]
) -> None:
    admin = serve("--workers", workers)
    assert {boot(admin) for _ in range(40)} == {"i-1"}
    cmdb.documents[f"/vms/{VC}"] = data("i-2")
    assert {boot(admin) for _ in range(5)} == {"i-1"}  # kept: max-age
    answer = send(admin, json.dumps({"vc-uuids": [VC]}).encode(), Host="cmdb.example.com")
    assert answer == (200, {"accepted": True})
    time.sleep(FRESH_S)  # answers that were found unchanged just before
    assert {boot(admin) for _ in range(20)} == {"i-2"}
    assert admin.metric("vmw_metadata_webhooks_total", outcome="accepted") == 1


def test_wrongly_signed_webhook_is_refused_counted_and_logged(
    cmdb: Cmdb, serve: Callable[..., Admin]
) -> None:
    admin = serve("--workers", "1")
    assert boot(admin) == "i-1"
    cmdb.documents[f"/vms/{VC}"] = data("i-2")
    for _ in range(3):
        status, body = send(admin, key=b"a wrong key of 16")
        assert (status, list(body)) == (403, ["error"])
    assert send(admin, b"{}")[0] == 400
    assert boot(admin) == "i-1"
    assert admin.metric("vmw_metadata_webhooks_total", outcome="refused") == 3
    assert admin.metric("vmw_metadata_webhooks_total", outcome="invalid") == 1
    admin.server.wait_for("a webhook was answered with 403: the signature in x-hub-signature-256")
    assert admin.server.log.count("answered with 403") == 1


def test_webhook_that_a_worker_does_not_take_is_to_be_sent_again(
    serve: Callable[..., Admin],
) -> None:
    admin = serve("--workers", "2")
    worker = children(admin.server.pid).pop()
    os.kill(worker, signal.SIGSTOP)
    try:
        assert send(admin)[0] == 503
    finally:
        os.kill(worker, signal.SIGCONT)
    assert send(admin)[0] == 200


def test_driver_without_webhooks_says_so(start: Start) -> None:
    assert send(Admin(start()))[0] == 404


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /hooks/changes HTTP/1.1\r\nHost: a\r\n\r\n", b"405"),
        (b"PUT /hooks/changes HTTP/1.1\r\nHost: a\r\n\r\n", b"405"),
        (b"POST /hooks/changes HTTP/1.1\r\nHost: a\r\n\r\n", b"403"),
        (b"POST /hooks/changes HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n{", b"403"),
        (b"POST /hooks/changes HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n{", b"400"),
        (b"POST /hooks/changes HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n{", b"400"),
        (b"POST /hooks/changes HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n{", b"400"),
        (b"POST /hooks/changes HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (
            b"POST /hooks/changes HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
            % (MAX_BODY_BYTES + 1),
            b"413",
        ),
        (b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n{", b"400"),
    ],
)
def test_other_requests_are_refused(request_bytes: bytes, status: bytes, shared: Admin) -> None:
    with socket.create_connection((shared.host, shared.port), timeout=60) as line:
        line.sendall(request_bytes)
        line.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 " + status), answer


@pytest.mark.parametrize("workers", ["1", "2"])
def test_source_that_fails_is_named_with_its_time(workers: str, start: Start, cmdb: Cmdb) -> None:
    cmdb.documents["/health"] = "fine"
    with HttpPeer(cmdb) as peer:
        opts = {"url": peer.url + "/vms/{vc-uuid}", "health-url": peer.url + "/health"}
        admin = Admin(start("--driver", STORE, "--workers", workers, driver_opts=opts))
        wait_until(lambda: admin.status("/readyz") == 200)
        source = {"source": peer.url}
        name = "vmw_metadata_source_failing_since_seconds"
        assert admin.json("/api/status")["source"] == {"name": peer.url, "failing_since": None}
        assert admin.metric(name, **source) == 0
        begun_s = int(time.time())
        peer.stop()
        wait_until(lambda: admin.status("/readyz") == 503)
        text = admin.request("/readyz")[1].decode()
        pattern = rf"not ready since (\S+), because of {peer.url}: /api/status has the reason\n"
        found = re.fullmatch(pattern, text)
        assert found, text
        status = admin.json("/api/status")
        assert status["source"] == {"name": peer.url, "failing_since": found[1]}
        assert status["problem"] == f"{peer.url}: connection refused"
        assert begun_s <= admin.metric(name, **source) <= time.time()
        peer.start()
        wait_until(lambda: admin.status("/readyz") == 200)
        assert admin.metric(name, **source) == 0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    key_file = tmp_path_factory.mktemp("hooks") / "key"
    key_file.write_bytes(KEY)
    opts = {"url": "http://127.0.0.1:1/{vc-uuid}", "webhook-key-file": str(key_file)}
    server = ServerProcess(key_file.parent, "--driver", STORE, driver_opts=opts)
    yield Admin(server)
    server.end()


def test_body_in_pieces_and_the_next_request_are_read(shared: Admin) -> None:
    signature = hmac.digest(KEY, ALL, "sha256").hex().encode()
    head = b"POST /hooks/changes HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n" % len(ALL)
    head += b"X-Hub-Signature-256: sha256=" + signature + b"\r\n\r\n"
    following = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with socket.create_connection((shared.host, shared.port), timeout=60) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head + ALL:
            line.send(bytes([byte]))
        line.sendall(following)
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.endswith(b"ok\n")


def test_largest_webhook_has_room_in_a_message() -> None:
    headers = {f"x-{number:02}": '"' * 508 for number in range(20)}
    hook = Webhook(headers, b"\n" * MAX_BODY_BYTES)
    message = channel.of_hook(2**63, hook)
    assert len(message) <= channel.MESSAGE_BYTES
    assert channel.decode_hook(message) == (2**63, hook)
