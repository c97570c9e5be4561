"""`status` and `tail`, of a real server."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.process import COMMAND, LIMIT_S, ServerProcess, run
from tests.test_admin import Admin, boot, uuid
from tests.waiting import wait_until

Start = Callable[..., ServerProcess]


def url_of(server: ServerProcess) -> str:
    return f"http://127.0.0.1:{Admin(server).port}"


def test_status_prints_who_is_in_trouble_and_why(start: Start, peers: ExitStack) -> None:
    server = start()
    peers.callback(boot(server, "web1\x1b[2J\nforged", vc_uuid=uuid(1)).close)
    ended = run("status", "--admin", url_of(server))
    assert ended.returncode == 0
    assert ended.stdout.startswith("vmw-cloudinit-metadata 0.1.0: ready")
    assert "1 not-found" in ended.stdout
    assert "no file named" in ended.stdout
    assert "\x1b" not in ended.stdout
    assert not [line for line in ended.stdout.splitlines() if line.startswith("forged")]


def test_status_of_a_driver_that_cannot_be_used_ends_with_1(
    start: Start, own_instances: Path
) -> None:
    server = start()
    own_instances.rename(own_instances.with_name("moved"))
    wait_until(lambda: Admin(server).status("/readyz") == 503)
    ended = run("status", "--admin", url_of(server))
    assert ended.returncode == 1
    assert str(own_instances) in ended.stdout


def test_status_as_json_is_what_the_api_says(start: Start) -> None:
    ended = run("status", "--json", "--admin", url_of(start()))
    assert json.loads(ended.stdout)["state"] == "ready"


@pytest.mark.parametrize("command", ["status", "tail"])
def test_server_that_is_not_there_is_reported_in_one_line(command: str) -> None:
    ended = run(command, "--admin", "http://127.0.0.1:1")
    assert ended.returncode == 2
    assert "does not answer" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_token_is_needed_and_let_in(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("correct-horse-battery-staple")
    url = url_of(start("--admin-token-file", str(file)))
    ended = run("status", "--admin", url)
    assert (ended.returncode, "--admin-token-file" in ended.stderr) == (2, True)
    assert run("status", "--admin", url, "--admin-token-file", str(file)).returncode == 0


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_tail_follows_events(start: Start, peers: ExitStack, options: list[str]) -> None:
    server = start()
    command = [*COMMAND, "tail", "--admin", url_of(server), *options]
    tail = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peers.callback(tail.wait)
    peers.callback(tail.kill)
    assert tail.stdout
    wait_until(lambda: Admin(server).json("/api/status")["followers"])
    peers.callback(boot(server, "nobody").close)
    identified, failed = tail.stdout.readline(), tail.stdout.readline()
    assert "identified" in identified
    assert "nobody.yaml" in failed
    if options:
        assert json.loads(failed)["kind"] == "failed"
    else:
        assert "WARNING" in failed
    tail.send_signal(signal.SIGINT)
    assert tail.wait(LIMIT_S) == 130
