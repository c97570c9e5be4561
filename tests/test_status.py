"""`status` and `tail`, of a real server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import pytest

from tests.commandline import in_process
from tests.process import CHECKOUT, COMMAND, LIMIT_S, Program, ServerProcess, begin, run
from tests.starter import Started
from tests.test_admin import Admin, boot, canonical, uuid
from tests.test_terminal import on_terminal
from tests.vm import suboption
from tests.waiting import wait_until

Start = Callable[..., ServerProcess]


def url_of(server: ServerProcess) -> str:
    return f"http://127.0.0.1:{Admin(server).port}"


def started(peers: ExitStack, *command: str) -> tuple[subprocess.Popen[bytes] | Started, TextIO]:
    """A command that goes on, and its output; it is ended after the test."""
    read, write = os.pipe()
    output = peers.enter_context(os.fdopen(read))
    process = begin(Program([*COMMAND, *command]), write, 2, CHECKOUT, {})
    os.close(write)
    peers.callback(process.wait)
    peers.callback(process.kill)
    return process, output


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
    wait_until(lambda: Admin(server).status("/readyz") == 200)
    own_instances.rename(own_instances.with_name("moved"))
    wait_until(lambda: Admin(server).status("/readyz") == 503)
    ended = run("status", "--admin", url_of(server))
    assert ended.returncode == 1
    assert str(own_instances) in ended.stdout


def test_status_as_json_is_what_the_api_says(start: Start) -> None:
    server = start()
    wait_until(lambda: Admin(server).status("/readyz") == 200)
    ended = run("status", "--json", "--admin", url_of(server))
    assert json.loads(ended.stdout)["state"] == "ready"


@pytest.mark.parametrize("command", ["status", "tail"])
def test_port_for_vms_is_not_taken_for_an_admin_port(
    start: Callable[..., ServerProcess], command: str
) -> None:
    url = f"http://127.0.0.1:{start().port}"
    ended = run(command, "--admin", url)
    assert ended.returncode == 2
    said = "is no admin port: it does not answer in HTTP. Use --admin for another address"
    assert ended.stderr == f"vmw-cloudinit-metadata: error: {url} {said}\n"


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
    tail, told = started(peers, "tail", "--admin", url_of(server), *options)
    wait_until(lambda: Admin(server).json("/api/status")["followers"])
    peers.callback(boot(server, "nobody").close)
    identified, failed = told.readline(), told.readline()
    assert "identified" in identified
    assert "nobody.yaml" in failed
    if options:
        assert json.loads(failed)["kind"] == "failed"
    else:
        assert "WARNING" in failed
    tail.send_signal(signal.SIGINT)
    assert tail.wait(LIMIT_S) == 130


def listening(server: ServerProcess) -> str:
    return f"127.0.0.1:{Admin(server).port}"


def config_of(tmp_path: Path, **settings: object) -> str:
    file = tmp_path / "server.yaml"
    lines = [f"{name.replace('_', '-')}: {json.dumps(value)}" for name, value in settings.items()]
    file.write_text("\n".join(lines))
    return str(file)


def test_settings_of_run_name_the_server(start: Start, tmp_path: Path) -> None:
    """Also those that the command does not know, as `uri`."""
    token = tmp_path / "token"
    token.write_text("correct-horse-battery-staple")
    token.chmod(0o600)
    server = start("--admin-token-file", str(token))
    about = {"admin_listen": listening(server), "admin_token_file": str(token)}
    ended = run("status", "--config", config_of(tmp_path, uri="my-metadata", **about))
    assert ended.returncode == 0, ended.stderr
    env = {f"VMW_METADATA_{name.upper()}": value for name, value in about.items()}
    assert run("status", env=env).returncode == 0


@pytest.mark.parametrize(
    ("listen", "text"), [("off", "--admin-listen is off"), ("127.0.0.1:0", "give its port")]
)
def test_admin_port_that_cannot_be_asked_is_an_error(listen: str, text: str) -> None:
    ended = run("status", "--admin-listen", listen)
    assert (ended.returncode, text in ended.stderr) == (2, True)


def test_address_of_all_interfaces_is_asked_on_this_machine(start: Start) -> None:
    server = start()
    assert run("status", "--admin-listen", f"0.0.0.0:{Admin(server).port}").returncode == 0


def test_status_of_a_vm_shows_what_it_got_and_exits_by_its_state(
    start: Start, peers: ExitStack
) -> None:
    server = start()
    admin = Admin(server)
    peers.callback(boot(server, "web1", vc_uuid=uuid(1)).close)
    peers.callback(boot(server, "nobody", vc_uuid=uuid(2)).close)
    wait_until(lambda: admin.state_of("web1") == "served")
    wait_until(lambda: admin.state_of("nobody") == "failed")
    ended = run("status", "web1", "--admin", url_of(server))
    assert ended.returncode == 0
    assert "web1: served" in ended.stdout
    assert "SHA-256" in ended.stdout
    assert "web1.yaml" in ended.stdout
    ended = run("status", uuid(2), "--admin", url_of(server))
    assert (ended.returncode, "not-found" in ended.stdout) == (1, True)
    ended = run("status", "stranger", "--admin", url_of(server))
    assert (ended.returncode, "no machine" in ended.stderr) == (1, True)
    ended = run("status", "web1", "--json", "--admin", url_of(server))
    assert json.loads(ended.stdout)["name"] == "web1"


def test_vm_is_forgotten(start: Start, peers: ExitStack) -> None:
    server = start()
    admin = Admin(server)
    peers.callback(boot(server, "nobody", vc_uuid=uuid(2)).close)
    wait_until(lambda: admin.state_of("nobody") == "failed")
    ended = run("status", "--forget", "nobody", "--admin", url_of(server))
    assert (ended.returncode, ended.stdout) == (0, f"forgotten: {canonical(2)}\n")
    assert admin.json("/api/status")["problems"] == {}
    ended = run("status", "--forget", "nobody", "--admin", url_of(server))
    assert (ended.returncode, "nothing to forget" in ended.stderr) == (1, True)
    assert run("status", "web1", "--forget", "web1", "--admin", url_of(server)).returncode == 2


def test_restart_is_safe_unless_something_is_under_way(start: Start, peers: ExitStack) -> None:
    server = start()
    ended = run("status", "--safe-to-restart", "--admin", url_of(server))
    assert (ended.returncode, ended.stdout) == (
        0,
        "restart: safe to restart: 0 answers, 0 moves under way\n",
    )
    vm = boot(server, "web1", vc_uuid=uuid(1))
    peers.callback(vm.close)
    vm.send(suboption(40, b"sequence"))  # VMOTION-BEGIN
    wait_until(lambda: Admin(server).json("/api/status")["under_way"]["moves"] == 1)
    ended = run("status", "--safe-to-restart", "--admin", url_of(server))
    assert (ended.returncode, "not safe" in ended.stdout) == (1, True)


def test_status_is_watched_until_interrupted(start: Start, peers: ExitStack) -> None:
    watch, told = started(peers, "status", "--watch", "--admin", url_of(start()))
    seen = 0
    while seen < 2:
        seen += told.readline().startswith("connections:")
    watch.send_signal(signal.SIGINT)
    assert watch.wait(LIMIT_S) == 130


def test_tail_begins_with_the_last_events_in_local_time(start: Start, peers: ExitStack) -> None:
    server = start()
    for number in range(3):
        peers.callback(boot(server, f"nobody{number}", vc_uuid=uuid(number)).close)
    wait_until(lambda: Admin(server).json("/api/status")["machines"]["failed"] == 3)
    command = [*COMMAND, "tail", "-n", "2", "--level", "warning", "--admin", url_of(server)]
    env = {**os.environ, "TZ": "Asia/Tokyo"}
    tail = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    peers.callback(tail.wait)
    peers.callback(tail.kill)
    assert tail.stdout
    lines = [tail.stdout.readline() for _ in range(2)]
    assert ["nobody1" in lines[0], "nobody2" in lines[1]] == [True, True]
    assert " JST WARNING" in lines[0]


def test_page_and_status_show_settings_without_secrets(start: Start, own_instances: Path) -> None:
    server = start("--allow", "127.0.0.0/8", driver_opts={"directory": str(own_instances)})
    shown = Admin(server).json("/api/status")["settings"]
    assert shown["uris"] == ["my-metadata"]
    assert shown["directory"] == str(own_instances)
    assert shown["peers"]["allow"] == ["127.0.0.0/8"]
    assert shown["driver"].endswith(":FileDriver")


def test_show_compares_with_what_the_vm_got(
    start: Start, own_instances: Path, peers: ExitStack
) -> None:
    server = start()
    peers.callback(boot(server, "web1", vc_uuid=uuid(1)).close)
    wait_until(lambda: Admin(server).state_of("web1") == "served")
    wait_until(lambda: Admin(server).json("/api/machines/web1")["documents"])
    options = ("--admin", url_of(server), "--driver-opts", f'{{"directory": "{own_instances}"}}')
    ended = run("show", "--sha256", "web1", *options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "  meta-data  the VM got this" in ended.stdout
    (own_instances / "web1.yaml").write_text("metadata: {role: other}\n")
    ended = run("show", "--sha256", "web1", *options)
    assert (ended.returncode, "  meta-data  differs" in ended.stdout) == (1, True)
    ended = run("show", "--sha256", "stranger", *options)
    assert (ended.returncode, "nothing to compare with" in ended.stderr) == (1, True)


def test_show_compares_no_document_of_data_with_a_secret(
    start: Start, own_instances: Path, peers: ExitStack, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "one").write_text("password: hunter2\n")
    (own_instances / "web1.yaml").write_text(
        'metadata: {}\nuserdata: {password: "${secret:one#password}"}\n'
    )
    opts = {"directory": str(own_instances), "vault": {"directory": str(secrets)}}
    server = start(driver_opts=opts)
    peers.callback(boot(server, "web1", vc_uuid=uuid(1)).close)
    wait_until(lambda: Admin(server).json("/api/machines/web1")["documents"])
    options = ("--admin", url_of(server), "--driver-opts", json.dumps(opts))
    ended = run("show", "--sha256", "web1", *options)
    assert ended.returncode == 1, ended.stderr
    assert "-  user-data  cannot be compared: its data has a secret" in ended.stdout
    assert not re.search("[0-9a-f]{64}", ended.stdout)


@pytest.mark.parametrize(
    "words",
    [
        ("show", "web1", "--sha256", "--explain"),
        ("show", "web1", "--sha256", "--document", "meta-data"),
        ("show", "web1", "--explain", "--document", "meta-data"),
        ("status", "--json", "--safe-to-restart"),
        ("status", "--json", "--forget", "web1"),
        ("status", "web1", "--forget", "web1"),
    ],
    ids=" ".join,
)
def test_options_of_which_one_has_no_effect_are_refused(words: tuple[str, ...]) -> None:
    code, _, errors = in_process(*words, "--admin", "http://127.0.0.1:1")
    assert code == 2
    assert "does not answer" not in errors[-1]


@pytest.mark.parametrize("command", [["status"], ["status", "web1"]], ids=" ".join)
def test_status_is_in_colour_unless_no_color_is_set(
    start: Start, peers: ExitStack, command: list[str]
) -> None:
    server = start()
    peers.callback(boot(server, "web1", vc_uuid=uuid(1)).close)
    wait_until(lambda: Admin(server).state_of("web1") == "served")
    whole = [*COMMAND, *command, "--admin", url_of(server)]
    assert "\x1b[32m" in on_terminal(*whole)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", on_terminal(*whole, NO_COLOR="1"))
