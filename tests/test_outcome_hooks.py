"""Webhooks of how boots have ended: signed, repeated until taken, and bounded."""

from __future__ import annotations

import hmac
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.certificates import make_pair
from tests.process import ServerProcess, run
from tests.test_admin import Admin
from tests.test_boot_outcomes import BOOT, OTHER_UUID, booted, report
from tests.test_upgrade import RUN, upgrade
from tests.vm import LIMIT_S, Vm
from tests.waiting import wait_until
from vmw_cloudinit_metadata.monitoring.counters import OUTCOME_HOOKS
from vmw_cloudinit_metadata.monitoring.facts import BootReported
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.process.outcomes.hookchild import AttemptError, connection_to, post
from vmw_cloudinit_metadata.process.outcomes.hookwork import HookWork
from vmw_cloudinit_metadata.process.outcomes.outcomehooks import (
    MAX_HOOK_BYTES,
    OutcomeHooks,
    OutcomeHookSettings,
    hook_of,
)
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.settings.values import parse_hook_url

Start = Callable[..., ServerProcess]

KEY = b"0123456789abcdef0123456789abcdef"


class Receiver:
    """Answers with each of `statuses` once, then with 204; hears only what is signed rightly."""

    def __init__(self, statuses: tuple[int, ...] = (), context: ssl.SSLContext | None = None):
        self.statuses = list(statuses)
        self.heard: list[dict[str, Any]] = []
        self.hangs = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                signature = hmac.digest(KEY, body, "sha512").hex()
                assert self.headers["X-Hook-Signature"] == signature
                assert self.headers["Content-Type"] == "application/json"
                receiver.heard.append(json.loads(body))
                if receiver.hangs.is_set():
                    threading.Event().wait(60)
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self.server.server_bind()  # its port is nobody else's, also while it does not listen
        self.server.daemon_threads = True
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]

    @contextmanager
    def listening(self) -> Iterator[Receiver]:
        self.server.server_activate()
        thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "hook.key"
    path.write_bytes(KEY + b"\n")
    path.chmod(0o600)
    return path


def options(port: int, key_file: Path, scheme: str = "http") -> list[str]:
    url = f"{scheme}://localhost:{port}/outcomes?site=1"
    return ["--outcome-hook", url, "--outcome-hook-key-file", str(key_file)]


def sent(admin: Admin, outcome: str) -> float:
    return admin.metric("vmw_metadata_outcome_hooks_total", outcome=outcome)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_each_outcome_arrives_signed(start: Start, key_file: Path, workers: str) -> None:
    with Receiver().listening() as receiver:
        server = start(*options(receiver.port, key_file), "--workers", workers)
        admin = Admin(server)
        machine, test = (
            booted(server),
            Vm(server.port, vc_uuid=OTHER_UUID, uri="my-metadata?vmw-test=1"),
        )
        test.metadata()
        report(test)  # says nothing of a VM
        report(machine)
        wait_until(lambda: sent(admin, "delivered") == 1)
        (heard,) = receiver.heard
        assert heard["kind"] == "boot report"
        assert (heard["status"], heard["machine_name"]) == ("error", "web1")
        assert heard["errors"] == ["('scripts_user', RuntimeError('Runparts: 1 failures'))"]
        assert heard["hosts"] == ["myhostnamehere", "192.168.1.1"]
        assert heard["boot_id"] == BOOT
        assert len(heard["id"]) == 32
        status = admin.json("/api/status")["outcome_hook"]
        assert status == {"state": "on", "waiting": 0, "failing_since": None, "problem": ""}
        machine.close()
        test.close()


def test_outcome_is_sent_again_until_it_is_taken(start: Start, key_file: Path) -> None:
    with Receiver((503, 429)).listening() as receiver:
        server = start(*options(receiver.port, key_file))
        admin = Admin(server)
        machine = booted(server)
        report(machine)
        server.wait_for("a webhook of a boot's outcome: the receiver answers 503")
        wait_until(lambda: sent(admin, "delivered") == 1)
        assert sent(admin, "retried") == 2
        assert len({one["id"] for one in receiver.heard}) == 1
        assert len(receiver.heard) == 3
        machine.close()


def test_nothing_is_signed_with_a_key_that_was_emptied(start: Start, key_file: Path) -> None:
    with Receiver().listening() as receiver:
        server = start(*options(receiver.port, key_file))
        key_file.write_bytes(b"\n")
        machine = booted(server)
        report(machine)
        server.wait_for("hook.key has 0 bytes, expected at least 16")
        assert receiver.heard == []
        key_file.write_bytes(KEY)
        wait_until(lambda: len(receiver.heard) == 1)
        machine.close()


@pytest.mark.parametrize("status", [400, 404, 302])
def test_outcome_that_is_refused_holds_up_no_other(
    start: Start, key_file: Path, status: int
) -> None:
    with Receiver((status,)).listening() as receiver:
        server = start(*options(receiver.port, key_file))
        admin = Admin(server)
        machines = [booted(server), booted(server, vc_uuid=OTHER_UUID)]
        for machine in machines:
            report(machine)
        wait_until(lambda: sent(admin, "delivered") == 1)
        assert sent(admin, "refused") == 1
        assert len({one["id"] for one in receiver.heard}) == 2
        for machine in machines:
            machine.close()


def child_of(server: ServerProcess) -> int:
    """The process that delivers webhooks."""
    found = subprocess.run(
        ["pgrep", "-P", str(server.pid), "-f", "hookchild"], capture_output=True, text=True
    )
    return int(found.stdout)


def test_outcome_arrives_although_the_process_is_killed(start: Start, key_file: Path) -> None:
    with Receiver().listening() as receiver:
        receiver.hangs.set()
        server = start(*options(receiver.port, key_file))
        admin = Admin(server)
        machine = booted(server)
        report(machine)
        wait_until(lambda: receiver.heard)
        receiver.hangs.clear()
        os.kill(child_of(server), signal.SIGKILL)
        wait_until(lambda: sent(admin, "delivered") == 1)
        assert len({one["id"] for one in receiver.heard}) == 1
        machine.metadata()  # the hub was never late
        machine.close()


@pytest.mark.slow
def test_upgrade_takes_along_what_waits(start: Start, key_file: Path) -> None:
    receiver = Receiver()  # it does not listen yet
    server = start(*options(receiver.port, key_file), command=RUN)
    admin = Admin(server)
    machine = booted(server)
    report(machine)
    server.wait_for("out of reach: Connection refused")
    upgrade(server)
    assert admin.metric("vmw_metadata_outcome_hooks_waiting") == 1
    assert admin.metric("vmw_metadata_outcome_hooks_oldest_seconds") > 0
    with receiver.listening():
        wait_until(lambda: receiver.heard)
    machine.close()


def test_receiver_with_a_foreign_certificate_gets_nothing(
    start: Start, key_file: Path, tmp_path: Path, program: Callable[[str, str], str]
) -> None:
    pair = make_pair(program("openssl", "openssl"), tmp_path, "receiver")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with Receiver(context=context).listening() as receiver:
        server = start(*options(receiver.port, key_file, "https"))
        machine = booted(server)
        report(machine)
        server.wait_for("outcome: the certificate of the receiver: self-signed certificate")
        assert receiver.heard == []
        machine.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_receiver_that_answers_byte_by_byte_is_given_up_in_time(
    scheme: str,
    key_file: Path,
    tmp_path: Path,
    program: Callable[[str, str], str],
    constants: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    constants(process__outcomes__hookchild__ATTEMPT_S=1.0)
    pair = make_pair(program("openssl", "openssl"), tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(pair.certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(
            target=dribble, args=(listening, context if scheme == "https" else None)
        )
        thread.start()
        url = f"{scheme}://localhost:{listening.getsockname()[1]}/"
        with pytest.raises(AttemptError, match="has not answered within 1 s"):
            post(HookWork(url, str(key_file)), b"{}")
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def dribble(listening: socket.socket, context: ssl.SSLContext | None) -> None:
    """Answer one connection, with a byte now and then, until it ends."""
    connection, _ = listening.accept()
    if context:
        connection = context.wrap_socket(connection, server_side=True)
    with connection, suppress(OSError):
        connection.recv(10_000)
        connection.sendall(b"HTTP/1.1 204 ")
        while True:
            connection.sendall(b"x")
            time.sleep(0.1)


def outcome(number: int = 1, text: str = "x") -> Happening:
    fact = BootReported("booted", "done", (text,), {}, 1.0, "i-1", "", (), ())
    machine = Machine(vc_uuid=f"uuid-{number}")
    return Happening(fact, 20, 1.0, "7-1", "10.0.0.1:4", "10.0.0.1", machine, "")


@pytest.mark.parametrize(
    ("url", "port"),
    [("http://[fd00::1]/x", 80), ("https://[fd00::1]/", 443), ("http://[::1]:8/", 8)],
)
def test_address_of_the_receiver_may_be_of_ipv6(url: str, port: int) -> None:
    parts = urlsplit(parse_hook_url(url))
    connection = connection_to(parts.scheme, parts.hostname or "", parts.port)
    assert (connection.host, connection.port) == (parts.hostname, port)


def test_what_waits_is_bounded_and_what_is_dropped_counted(
    constants: Callable[..., None], key_file: Path
) -> None:
    constants(process__outcomes__outcomehooks__MAX_WAITING_BYTES=20_000)
    hooks = OutcomeHooks(OutcomeHookSettings("http://127.0.0.1:9/", key_file))
    for number in range(1000):
        hooks.hear(outcome(number))
    hooks.hear(outcome(text="x" * MAX_HOOK_BYTES))
    assert hooks.kept_bytes < 20_000 + MAX_HOOK_BYTES
    assert hooks.counts[OUTCOME_HOOKS["dropped"]] == 1001 - hooks.waiting_count
    after = OutcomeHooks(OutcomeHookSettings("http://127.0.0.1:9/", key_file))
    after.restore(json.loads(json.dumps(hooks.state())))
    assert (after.state(), after.kept_bytes) == (hooks.state(), hooks.kept_bytes)
    for one in (hooks, after):
        one.pause()


def test_hook_that_waits_longest_is_the_first_one(key_file: Path) -> None:
    hooks = OutcomeHooks(OutcomeHookSettings("http://127.0.0.1:9/", key_file))
    assert hooks.oldest_s(7.5) == 0
    for number in range(2):
        hooks.hear(outcome(number)._replace(at_s=1.0 + number))
    assert hooks.oldest_s(7.5) == 6.5
    assert hooks.oldest_s(0.5) == 0  # the clock was set back
    hooks.pause()


def test_body_is_one_line_whatever_a_name_has() -> None:
    line = hook_of(outcome(text="a\nb\u2028\udfff"), "1")
    assert line.count(b"\n") == 1
    assert json.loads(line.split(b" ", 2)[2])["id"] == "1"


def test_what_has_no_value_is_left_out() -> None:
    body = json.loads(hook_of(outcome(), "1").split(b" ", 2)[2])
    assert [name for name, value in body.items() if value in (None, "", [], {})] == []


BAD = {
    "no key": (["--outcome-hook", "http://a/"], "needs --outcome-hook-key-file"),
    "no URL": (["--outcome-hook", "a"], "expected http://HOST"),
    "no host": (["--outcome-hook", "http:///x"], "expected http://HOST"),
    "a user": (["--outcome-hook", "http://me:CANARY@a/"], "without a user"),
    "a port that is none": (["--outcome-hook", "http://a:99999/"], "expected http://HOST"),
    "a host without a name": (["--outcome-hook", "http://a..b/"], "expected http://HOST"),
    "a blank": (["--outcome-hook", "http://a/ b"], "expected http://HOST"),
}


@pytest.mark.parametrize(("given", "expected"), BAD.values(), ids=BAD)
def test_wrong_option_is_reported(given: list[str], expected: str, own_instances: Path) -> None:
    opts = json.dumps({"directory": str(own_instances)})
    ended = run("check-config", "--uri", "x", "--driver-opts", opts, *given)
    assert ended.returncode != 0
    assert expected in ended.stdout + ended.stderr
    assert "CANARY" not in ended.stdout + ended.stderr


def test_short_key_is_reported(own_instances: Path, tmp_path: Path) -> None:
    key = tmp_path / "short"
    key.write_text("short\n" + " " * 20)
    key.chmod(0o600)
    opts = json.dumps({"directory": str(own_instances)})
    hook = ("--outcome-hook", "http://a/", "--outcome-hook-key-file", str(key))
    ended = run("check-config", "--uri", "x", "--driver-opts", opts, *hook)
    assert ended.returncode != 0
    assert "has 5 bytes, expected at least 16" in ended.stdout + ended.stderr
