"""User-data for a window of time: real servers, over the wire."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fleet import two_servers
from tests.httppeer import Asked, HttpPeer, reply
from tests.peer import OTHER_VC_UUID
from tests.process import COMMAND, ServerProcess, counters, run
from tests.servers.postgresql import PostgresqlBackend
from tests.test_admin import Admin
from tests.vm import SEQUENCE, VC_UUID, Vm
from tests.waiting import wait_until
from vmw_cloudinit_metadata.process.fleet import ledgerrows
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid
from vmw_cloudinit_metadata.serving.ledger import IN_WINDOW, WINDOW, Claimed, Use, instance_of
from vmw_cloudinit_metadata.serving.ondisk.ledgerfile import LedgerEntry, LedgerFile, reopen
from vmw_cloudinit_metadata.settings.errors import ConfigError

Start = Callable[..., ServerProcess]

MINE = parse_uuid(VC_UUID) or ""
LIMITED = ("USERDATA", "VENDORDATA", "SOMEDATA")
FILE = """\
metadata: {{instance-id: {instance_id}}}
userdata: "#cloud-config"
documents: {{somedata: text, joindata: {{text: secret, once: true}}}}
"""
SHORT_S = 1.5  # of a window that closes in a test
LONG_S = 600.0


def written(directory: Path, instance_id: str = "one") -> None:
    (directory / "web1.yaml").write_text(FILE.format(instance_id=instance_id))


@pytest.fixture
def options(own_instances: Path, tmp_path: Path) -> tuple[str, ...]:
    written(own_instances)
    return "--ledger", str(tmp_path / "ledger"), "--userdata-window", str(SHORT_S)


def outcomes(vm: Vm) -> set[str]:
    """What is said to the requests for what has a window."""
    found = {name: vm.ask(name) for name in LIMITED}
    return {
        "served" if code == f"RESPONSE_{name}" else str(json.loads(body)["error"])
        for name, (code, body) in found.items()
    }


def outcome(server: ServerProcess, **settings: str) -> str:
    with closing(Vm(server.port, **settings)) as vm:
        return min(outcomes(vm))  # "closed", if it closes meanwhile


def is_calm(server: ServerProcess) -> bool:
    story = Admin(server).json(f"/api/machines/{MINE}")
    return story["state"] in ("served", "left") and story["last_error"] is None


def closes(server: ServerProcess) -> None:
    wait_until(lambda: outcome(server) == "closed")


def test_user_data_is_served_in_the_window_only(start: Start, options: tuple[str, ...]) -> None:
    server = start(*options)
    began_s = time.monotonic()
    with closing(Vm(server.port)) as vm:
        vm.metadata()
        assert outcomes(vm) == {"served"} or time.monotonic() - began_s > SHORT_S
        wait_until(lambda: outcomes(vm) == {"closed"})
        assert time.monotonic() - began_s >= SHORT_S
        assert vm.metadata()["instance-id"] == "one"
        assert vm.document("NETWORKDATA") == b""
        assert vm.document("DIGEST")
        assert vm.error("JOINDATA") == "closed"
    assert outcome(server) == "closed"  # a redial
    assert outcome(server, vc_uuid=OTHER_VC_UUID) == "served"
    assert counters(server)["answered closed"] >= 4


def test_vm_that_has_had_its_user_data_is_not_in_trouble_after_the_window(
    start: Start, options: tuple[str, ...], tmp_path: Path
) -> None:
    audit = tmp_path / "audit"
    server = start(*options, "--audit-log", str(audit))
    closes(server)  # each time, it has asked for what has a window only
    server.end()
    again = start(*options, "--audit-log", str(audit))  # which knows it by the ledger
    with closing(Vm(again.port)) as vm:
        assert vm.metadata()
        assert outcomes(vm) == {"closed"}
        admin = Admin(again)
        wait_until(lambda: admin.json(f"/api/machines/{MINE}")["state"] == "served")
        story = admin.json(f"/api/machines/{MINE}")
        assert story["last_error"] is None
        closed = [one for one in story["story"] if one["kind"] == "window closed"]
        assert closed[0]["reason"].startswith("user-data window closed at 20")
        assert "has had its user-data before" in closed[0]["reason"]
        assert ("USERDATA", "closed") in {
            (one["document"], one["outcome"]) for one in story["asked"]
        }
        assert admin.json("/api/status")["machines"]["failed"] == 0
        told = run("status", MINE, "--admin", f"http://127.0.0.1:{admin.port}")
        assert told.returncode == 0
        assert re.search("user-data: +user-data window closed at 20", told.stdout), told.stdout
    again.end()
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    refused = [line for line in lines if line["kind"] == "window closed"]
    assert {(line["vc_uuid"], line["error"]) for line in refused} == {(MINE, "closed")}


def is_closed(ledger: Path) -> bool:
    """Whether the only window is."""
    with closing(sqlite3.connect(ledger)) as connection:
        opened = connection.execute("SELECT at FROM uses").fetchall()
    return bool(opened) and time.time() > opened[0][0] + SHORT_S


def test_vm_that_has_never_had_its_user_data_is_in_trouble_after_the_window(
    start: Start, options: tuple[str, ...]
) -> None:
    server = start(*options)
    with closing(Vm(server.port)) as vm:
        assert vm.metadata()
        wait_until(lambda: is_closed(Path(options[1])))
        assert outcomes(vm) == {"closed"}
        story = Admin(server).json(f"/api/machines/{MINE}")
        assert (story["state"], story["last_error"]["error"]) == ("failed", "closed")
        assert story["last_error"]["reason"].startswith("user-data window closed at 20")
        assert "window reopen" in story["next"]


def test_new_instance_opens_a_new_window(
    start: Start, options: tuple[str, ...], own_instances: Path
) -> None:
    server = start(*options)
    closes(server)
    written(own_instances, "two")
    wait_until(lambda: outcome(server) == "served")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_restart_does_not_reopen_the_window(
    start: Start, options: tuple[str, ...], number: int
) -> None:
    first = start(*options)
    closes(first)
    first.signal(number)
    first.wait()
    again = start(*options, "--workers", "2")
    assert [outcome(again) for _ in range(6)] == ["closed"] * 6


def test_clock_that_is_set_back_does_not_reopen_the_window(
    start: Start, options: tuple[str, ...]
) -> None:
    first = start(*options[:3], str(LONG_S))
    assert outcome(first) == "served"
    first.signal(signal.SIGTERM)
    first.wait()
    with closing(sqlite3.connect(options[1], isolation_level=None)) as ledger:
        ledger.execute("UPDATE uses SET at = at + 86400")  # of a day before, if it is right now
    again = start(*options[:3], str(LONG_S))
    assert outcome(again) == outcome(again) == "closed"
    again.wait_for("user-data window closed, because the clock was set back")
    assert outcome(again, vc_uuid=OTHER_VC_UUID) == "served"
    assert run("window", "reopen", *options[:2], MINE).returncode == 0
    wait_until(lambda: outcome(again) == "served")


def test_operator_reopens_the_window_and_the_server_records_it(
    start: Start, options: tuple[str, ...], tmp_path: Path
) -> None:
    audit = tmp_path / "audit"
    server = start(*options, "--workers", "2", "--audit-log", str(audit))
    closes(server)
    done = run("window", "reopen", *options[:2], VC_UUID)
    assert (done.returncode, done.stdout) == (0, f"{MINE}: reopened\n"), done.stderr
    wait_until(lambda: outcome(server) == "served")
    server.wait_for(f"INFO .*{MINE}.*: user-data window opened again by the operator")
    wait_until(lambda: "window reopened" in audit.read_text())
    reopened = [line for line in map(json.loads, audit.open()) if line["kind"] == "window reopened"]
    assert [line["vc_uuid"] for line in reopened] == [MINE]
    done = run("window", "reopen", *options[:2], OTHER_VC_UUID)
    assert (done.returncode, done.stdout) == (
        1,
        f"{parse_uuid(OTHER_VC_UUID)}: no window was open or closed\n",
    )
    assert run("window", "reopen", VC_UUID).returncode == 2


def test_window_is_reopened_by_the_name_of_one_vm(start: Start, options: tuple[str, ...]) -> None:
    server = start(*options)
    with closing(Vm(server.port)) as vm:
        vm.metadata()
        wait_until(lambda: outcomes(vm) == {"closed"})
        admin = ("--admin", f"http://127.0.0.1:{Admin(server).port}")
        done = run("window", "reopen", *options[:2], *admin, "nope", MINE)
        assert (done.returncode, done.stdout) == (2, "")
        assert "nope: no machine with this VC UUID or name" in done.stderr
        assert outcomes(vm) == {"closed"}  # also of the VM that is known
        with closing(Vm(server.port, vc_uuid=OTHER_VC_UUID)) as other:  # of the same name
            other.metadata()
            done = run("window", "reopen", *options[:2], *admin, "web1")
            assert (done.returncode, done.stdout) == (2, "")
            assert "web1: 2 machines have this name: use one of their ids: " in done.stderr
            for vc_uuid in (MINE, parse_uuid(OTHER_VC_UUID)):
                assert str(vc_uuid) in done.stderr
    with closing(Vm(server.port)) as vm:  # connected alone
        assert outcomes(vm) == {"closed"}
        wait_until(lambda: Admin(server).json("/api/machines/web1")["id"] == MINE)
        done = run("window", "reopen", *options[:2], *admin, "web1")
        assert (done.returncode, done.stdout) == (0, f"web1, {MINE}: reopened\n"), done.stderr
        wait_until(lambda: outcomes(vm) == {"served"})


def test_vmotion_keeps_the_window(start: Start, options: tuple[str, ...]) -> None:
    server = start(*options)
    with closing(Vm(server.port)) as source:
        wait_until(lambda: outcomes(source) == {"closed"})
        secret = source.begin_move()
        with closing(Vm.arriving(server.port, secret)) as target:
            target.is_welcome()
            target.complete(SEQUENCE)
            assert outcomes(target) == {"closed"}


def test_secret_that_user_data_refers_to_is_not_served_after_the_window(
    start: Start, options: tuple[str, ...], own_instances: Path, tmp_path: Path
) -> None:
    vault = tmp_path / "secrets"
    vault.mkdir()
    (vault / "web1").write_text("hunter2")
    reference = "${secret:${vm.name}}"
    (own_instances / "web1.yaml").write_text(
        f"""metadata: {{}}
userdata: {{password: "{reference}"}}
documents: {{somedata: "{reference}", joindata: {{text: "{reference}", once: true}}}}
"""
    )
    drive = {"directory": str(own_instances), "vault": {"directory": str(vault)}}
    server = start(*options, driver_opts=drive)
    with closing(Vm(server.port)) as vm:
        assert vm.metadata()
        assert vm.ask("SOMEDATA") == ("RESPONSE_SOMEDATA", b"hunter2")
        wait_until(lambda: outcomes(vm) == {"closed"})
        assert vm.metadata()
        assert vm.error("JOINDATA") == "closed"  # which was not used
    assert outcome(server) == "closed"
    assert "hunter2" not in server.log
    wait_until(lambda: is_calm(server))


class Secrets:
    """A server of secrets in place of OpenBao, which counts what is read."""

    def __init__(self, directory: Path) -> None:
        self.peer = HttpPeer(self._answer)
        self.reads = 0
        self.is_well = True
        self._token = directory / "token"
        self._token.write_text("s.token")
        self._token.chmod(0o600)

    def _answer(self, asked: Asked) -> Iterable[bytes]:
        if not asked.target.startswith("/v1/secret/data/"):
            return reply('{"data": {}}')
        self.reads += 1
        if not self.is_well:
            return reply("{}", "404 Not Found")
        return reply(json.dumps({"data": {"data": {"key": "hunter2"}}}))

    def options(self, instances: Path) -> dict[str, object]:
        vault = {"url": self.peer.url, "token_file": str(self._token), "max_age_s": 0}
        return {"directory": str(instances), "vault": vault}


@pytest.fixture
def vault(tmp_path: Path, own_instances: Path) -> Iterator[Secrets]:
    reference = "${secret:${vm.name}#key}"
    (own_instances / "web1.yaml").write_text(
        f"""metadata: {{}}
userdata: {{password: "{reference}"}}
documents: {{joindata: {{text: "{reference}", once: true}}}}
"""
    )
    secrets = Secrets(tmp_path)
    with secrets.peer:
        yield secrets


def digests(vm: Vm) -> set[str]:
    return set(json.loads(vm.document("DIGEST")))


def test_no_secret_is_read_for_what_the_window_refuses(
    start: Start, options: tuple[str, ...], own_instances: Path, vault: Secrets
) -> None:
    window = ("--userdata-window", "5")
    server = start(*options[:2], *window, driver_opts=vault.options(own_instances))
    with closing(Vm(server.port)) as vm:
        assert vm.metadata()
        assert vm.document("NETWORKDATA") == b""
        assert vault.reads == 0
        assert vm.document("USERDATA") == b"#cloud-config\npassword: hunter2\n"
        assert digests(vm) == {"METADATA", "USERDATA"}
        assert vault.reads == 2  # each look-up reads it once for all documents
        wait_until(lambda: vm.ask("USERDATA")[0] == "RESPONSE_ERROR")
        before = vault.reads
        for _ in range(3):
            assert vm.metadata()
            assert vm.error("USERDATA") == vm.error("JOINDATA") == "closed"
            assert vm.error("NOSUCHDATA") == "unknown-request"
            assert digests(vm) == {"METADATA"}  # by which a short secret could be guessed
        assert vault.reads == before
    assert outcome(server) == "closed"
    assert vault.reads == before
    wait_until(lambda: is_calm(server))


def test_document_whose_secret_cannot_be_read_is_not_used_up(
    start: Start, options: tuple[str, ...], own_instances: Path, vault: Secrets
) -> None:
    server = start(*options[:2], driver_opts=vault.options(own_instances))
    with closing(Vm(server.port)) as vm:
        vault.is_well = False
        assert vm.error("JOINDATA") == "failed"
        vault.is_well = True
        wait_until(lambda: vm.ask("JOINDATA") == ("RESPONSE_JOINDATA", b"hunter2"))
        wait_until(lambda: vm.error("JOINDATA") == "used")
        assert digests(vm) == {"METADATA", "USERDATA"}


@pytest.mark.slow
def test_upgrade_does_not_reopen_the_window(start: Start, options: tuple[str, ...]) -> None:
    server = start(*options, command=[*COMMAND, "run"])
    closes(server)
    with closing(Vm(server.port)) as vm, closing(Vm(server.port, vc_uuid=OTHER_VC_UUID)) as other:
        assert outcomes(vm) == {"closed"}
        assert other.metadata()
        done = run("upgrade", "--pid", str(server.pid))
        assert done.returncode == 0, (done.stderr, server.log)
        assert outcomes(vm) == {"closed"}
        wait_until(lambda: outcomes(other) == {"closed"})
    assert outcome(server) == "closed"
    wait_until(lambda: is_calm(server))


def ledger_says(ledger: LedgerFile, claimant: bytes, use: Use) -> Claimed:
    (verdict,) = ledger.record([LedgerEntry(use, claimant)])
    assert isinstance(verdict, Claimed)
    return verdict


def test_ledger_tells_what_an_instance_has_had_and_what_lasts_no_more(tmp_path: Path) -> None:
    ledger, window = LedgerFile(tmp_path / "ledger"), Use(MINE, instance_of("one"), WINDOW)
    assert ledger_says(ledger, b"a", window) == Claimed(is_first=True)
    assert not ledger_says(ledger, b"b", window).had_in_window
    ledger_says(ledger, b"b", Use(MINE, instance_of("one"), IN_WINDOW))
    ledger_says(ledger, b"b", Use(MINE, instance_of("two"), WINDOW))
    found = ledger_says(ledger, b"b", window)
    assert (found.is_first, found.had_in_window, found.was_reopened) == (False, True, False)
    assert not ledger_says(ledger, b"b", replace(window, lasts_s=LONG_S)).is_first
    assert ledger_says(ledger, b"b", replace(window, lasts_s=-1.0)).is_first
    assert not ledger_says(ledger, b"c", window).is_first
    assert reopen(ledger.path, MINE) == 2
    found = ledger_says(ledger, b"c", window)
    assert (found.is_first, found.had_in_window, found.was_reopened) == (True, True, True)
    found = ledger_says(ledger, b"d", replace(window, lasts_s=-1.0))  # a power-on, later
    assert (found.is_first, found.was_reopened) == (True, False)


def test_ledger_of_another_user_says_as_whom_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = LedgerFile(tmp_path / "ledger")
    us = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: us + 1)
    expected = f"owned by user {us}, and this program is run by user {us + 1}: run it as the server"
    with pytest.raises(ConfigError, match=expected):
        reopen(ledger.path, MINE)


def test_window_needs_a_ledger() -> None:
    done = run("check-config", "--uri", "u", "--userdata-window", "60")
    assert done.returncode == 2
    assert "--userdata-window needs --ledger FILE or --fleet" in done.stderr


def test_reload_that_adds_window_and_ledger_says_what_waits(
    start: Start, options: tuple[str, ...], tmp_path: Path
) -> None:
    settings = tmp_path / "server.yaml"
    settings.write_text("log-level: info\n")
    server = start("--config", str(settings))
    settings.write_text(f"userdata-window: {LONG_S}\nledger: {options[1]}\n")
    server.signal(signal.SIGHUP)
    server.wait_for("needs --ledger FILE .*: changes to ledger take effect at the next start; noth")
    assert outcome(server) == outcome(start("--config", str(settings))) == "served"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_reload_changes_the_window(
    start: Start, options: tuple[str, ...], tmp_path: Path, workers: str
) -> None:
    settings = tmp_path / "server.yaml"
    settings.write_text(f"userdata-window: {SHORT_S}\n")
    server = start(*options[:2], "--config", str(settings), "--workers", workers)
    closes(server)
    settings.write_text(f"userdata-window: {LONG_S}\n")
    server.signal(signal.SIGHUP)
    wait_until(lambda: outcome(server) == "served")


# In a fleet


@pytest.fixture
def fleet(
    own_instances: Path, options: tuple[str, ...], fleet_database: PostgresqlBackend
) -> Iterator[list[ServerProcess]]:
    with two_servers(own_instances, fleet_database, *options[2:]) as servers:
        yield servers


@pytest.mark.slow
def test_another_server_of_the_fleet_does_not_reopen_the_window(
    fleet: list[ServerProcess], fleet_backend: PostgresqlBackend
) -> None:
    closes(fleet[0])
    assert outcome(fleet[1]) == "closed"
    done = run("window", "reopen", "--fleet", fleet_backend.url, VC_UUID)
    assert (done.returncode, done.stdout) == (0, f"{MINE}: reopened\n"), done.stderr
    wait_until(lambda: outcome(fleet[1]) == "served")
    fleet[1].wait_for(f"{MINE}.*: user-data window opened again by the operator")
    wait_until(lambda: outcome(fleet[1]) == "closed")
    wait_until(lambda: is_calm(fleet[1]))


@pytest.mark.slow
def test_claim_of_the_fleet_lasts_as_long_as_it_is_said_to(
    fleet_database: PostgresqlBackend,
) -> None:
    def is_first(claimant: bytes, lasts_s: float | None) -> bool:
        row = MINE, b"instance", "", claimant
        ((first, age_s, _, was_reopened),) = db.execute(
            ledgerrows.CLAIM, (*row, lasts_s, lasts_s, claimant)
        )
        assert not first or age_s < 1
        reopened.append(was_reopened)
        return bool(first)

    reopened: list[bool] = []

    with fleet_database.admin("vms") as db:
        assert is_first(b"a", None)
        assert not is_first(b"b", None)
        assert not is_first(b"b", LONG_S)
        assert is_first(b"b", -1.0)
        assert not is_first(b"a", None)
        db.execute(ledgerrows.REOPEN, (MINE,))
        assert is_first(b"c", None)
        assert is_first(b"d", -1.0)  # a power-on, later
        assert reopened == [False] * 5 + [True, False]
