"""How a boot ended, as the agent reports it: what it reads, what it sends, and when it gives up."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Constants
from tests.guest import Guest, Serial
from tests.uart import DOCUMENTS, Answers, ScriptedUart, refusal, response, server_of, silent
from vmw_cloudinit_metadata.guest.agent.bootoutcome import BootOutcome, read_outcome
from vmw_cloudinit_metadata.guest.agent.conf import defaults
from vmw_cloudinit_metadata.guest.agent.failures import Unusable
from vmw_cloudinit_metadata.guest.agent.journal import Journal
from vmw_cloudinit_metadata.guest.agent.machinekeys import KEY_TYPES, is_of_type
from vmw_cloudinit_metadata.guest.agent.osfiles import read_end
from vmw_cloudinit_metadata.guest.agent.outcomereport import (
    MAX_ERRORS,
    MAX_KEYS,
    boot_report,
    shown,
)
from vmw_cloudinit_metadata.guest.agent.reporting import BOOT_ID, UUID, run_report
from vmw_cloudinit_metadata.guest.agent.system import System
from vmw_cloudinit_metadata.protocol.bootreport import parse
from vmw_cloudinit_metadata.protocol.hostkey import host_key
from vmw_cloudinit_metadata.protocol.packet import MAX_LINE_BYTES, WITH_ARGUMENT, requested

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC20Q6Q9Gpyvl7QM4ZdK6Y2sVszlLzRR9yUEKujZP2Jn"
ECDSA = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBCkrIuZf3/8aML88mAUC"
    "2aFf7p/j2wlIla5ZLxvIzQaKRHOVOIIXgzvw36Iw7BrholMsGw9zaqJTTaeyJsd40vE="
)
BOOT = "5e1c9bd2-3ad5-4ab1-8f3c-2a6b4f0e2d11"
SEED = "DataSourceNoCloud [seed=/var/lib/cloud/seed/nocloud][dsmode=net]"
STAGES = ("init-local", "init", "modules-config", "modules-final")
RUNPARTS = "('scripts-user', RuntimeError('Runparts: 1 failures (runcmd) in 1 attempted commands'))"
LOG = """\
2026-11-28 10:00:00,001 - util.py[DEBUG]: Cloud-init v. 22.4.2 running 'init-local' at Sat
2026-11-28 10:00:01,001 - util.py[WARNING]: of the boot before
2026-11-29 10:00:00,001 - util.py[DEBUG]: Cloud-init v. 22.4.2 running 'init-local' at Sun
2026-11-29 10:00:01,001 - util.py[WARNING]: Failed loading yaml blob. Invalid format at line 3
2026-11-29 10:00:01,002 - util.py[DEBUG]: Failed loading yaml blob
Traceback [WARNING]: of nothing
2026-11-29 10:00:02,003 - cc_x.py[ERROR]: worse
"""


def status_of(**v1: Any) -> dict[str, Any]:
    """status.json of cloud-init 22.4, with changes."""
    stages = {
        name: {"errors": [], "start": 100.0 + number, "finished": 100.25 + 2 * number}
        for number, name in enumerate(STAGES)
    }
    return {"v1": {"datasource": SEED, "stage": None, **stages, **v1}}


def with_recoverable(*found: dict[str, list[str]]) -> dict[str, Any]:
    """status.json of cloud-init 23.4 or later."""
    status = status_of()
    for number, name in enumerate(STAGES):
        status["v1"][name]["recoverable_errors"] = found[number] if number < len(found) else {}
    return status


def put(guest: Guest, status: Any, result: Any = ..., log: str = "") -> Guest:
    """What cloud-init has written; the result follows from the status unless it is given."""
    if result is ...:
        stages = [stage for stage in status["v1"].values() if isinstance(stage, dict)]
        errors = [error for stage in stages for error in stage["errors"]]
        result = {"v1": {"datasource": status["v1"]["datasource"], "errors": errors}}
    for name, content in (("status", status), ("result", result)):
        if content is not None:
            guest.write(f"run/cloud-init/{name}.json", json.dumps(content))
    guest.write("var/log/cloud-init.log", log)
    return guest


@pytest.fixture
def booted(guest: Guest, serial: Serial) -> Guest:
    """A machine with data of a server and two host keys, on which cloud-init has ended."""
    serial(server_of(DOCUMENTS))
    guest.fetch()
    guest.write("etc/ssh/ssh_host_ed25519_key.pub", f"{ED25519} root@web1\n")
    guest.write("etc/ssh/ssh_host_ecdsa_key.pub", f"{ECDSA} root@web1\n")
    guest.write("etc/ssh/ssh_host_ed25519_key", "a private key\n")
    guest.write("etc/ssh/ssh_host_bad_key.pub", "-----BEGIN\n")
    guest.write("etc/ssh/ssh_host_dsa_key.pub", "ssh-dss AAAAB3Nz root@web1\n")
    guest.write("proc/sys/kernel/random/boot_id", f"{BOOT}\n")
    return put(guest, status_of())


def confirming(serial: Serial, *first: Answers, name: str = "ttyS1") -> ScriptedUart:
    """A server that takes a report after other answers to it."""
    left = list(first)

    def answer(asked: str) -> bytes:
        if asked != "STATUS":
            return server_of(DOCUMENTS)(asked)
        if left:
            return left.pop(0)(asked)
        digest = hashlib.sha256(uart.server.argument).hexdigest()
        return response("STATUS", json.dumps({"sha256": digest}).encode())

    uart = serial(answer, name)
    return uart


def reported(uart: ScriptedUart) -> Any:
    return json.loads(uart.server.argument)


# What it sends


def test_report_has_outcome_keys_and_boot(booted: Guest, serial: Serial) -> None:
    uart = confirming(serial)
    began_s = time.monotonic()
    output = booted.fetch("report")
    assert time.monotonic() - began_s < 10
    assert uart.asked == ["STATUS"]
    assert reported(uart) == {
        "v": 1,
        "instance": "i-1",
        "status": "done",
        "errors": [],
        "stages": {
            "init-local": 0.2,
            "init": 1.2,
            "modules-config": 2.2,
            "modules-final": 3.2,
        },
        "hostkeys": [ECDSA, ED25519],
        "boot": BOOT,
    }
    assert output.startswith("reported how this boot ended: done, ")


def test_report_names_the_instance_that_was_served(guest: Guest, serial: Serial) -> None:
    serial(server_of(DOCUMENTS))
    guest.fetch()
    serial(server_of({**DOCUMENTS, "METADATA": b'{"instance-id": "i-2"}'}))
    guest.fetch("--keep-instance-id")
    assert guest.metadata["instance-id"] == "i-1"
    uart = confirming(serial)
    put(guest, status_of()).fetch("report")
    assert reported(uart)["instance"] == "i-2"


def test_boot_id_of_linux_is_read(booted: Guest, serial: Serial) -> None:
    place = booted.root / "proc/sys/kernel/random/boot_id"
    place.unlink()
    uart = confirming(serial)
    booted.fetch("report")
    assert reported(uart)["boot"] == ""
    assert UUID.match(read_end(BOOT_ID, 100).strip())


def test_dry_run_prints_the_report_and_sends_nothing(booted: Guest, serial: Serial) -> None:
    uart = confirming(serial)
    ended = booted.run("report", "--dry-run")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["boot"] == BOOT
    assert uart.asked == []


def test_report_goes_to_the_port_alone_that_answers(booted: Guest, serial: Serial) -> None:
    stranger = serial(silent, "ttyS2")
    uart = confirming(serial)
    booted.fetch("report")
    assert uart.asked == ["DIGEST", "STATUS"]
    assert b"STATUS" not in stranger.written


LOGINS = {
    "getty": ("etc/systemd/system/getty.target.wants/serial-getty@ttyS1.service", ""),
    "console": ("proc/consoles", "ttyS1                -W- (EC  p a)    4:65\n"),
}


@pytest.mark.parametrize("login", LOGINS)
def test_login_prompt_hears_no_answer(booted: Guest, serial: Serial, login: str) -> None:
    booted.write(*LOGINS[login])
    uart = confirming(serial)
    ended = booted.run("report", "--device", "/dev/ttyS1")
    assert (ended.returncode, uart.asked) == (1, [])
    assert "/dev/ttyS1 has a login prompt" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_console_without_a_login_prompt_is_used(booted: Guest, serial: Serial) -> None:
    booted.write(*LOGINS["console"])
    mask = booted.root / "usr/lib/systemd/system/serial-getty@ttyS1.service"
    mask.parent.mkdir(parents=True)
    mask.symlink_to("/dev/null")
    uart = confirming(serial)
    booted.fetch("report", "--device", "/dev/ttyS1")
    assert uart.asked == ["STATUS"]


def test_port_with_a_getty_gets_its_attributes_back(guest: Guest, serial: Serial) -> None:
    guest.write(*LOGINS["getty"])
    uart = serial(server_of(DOCUMENTS))
    with Path(uart.path).open("rb", buffering=0) as port:
        before = termios.tcgetattr(port)
        guest.fetch("--device", "/dev/ttyS1")
        after = termios.tcgetattr(port)
    assert after[:2] + after[3:] == before[:2] + before[3:]
    assert after[2] == before[2] & ~termios.HUPCL


# When it gives up


def test_old_server_is_told_once(booted: Guest, serial: Serial) -> None:
    uart = serial(lambda name: refusal(name, "unknown-request"))
    began_s = time.monotonic()
    output = booted.fetch("report")
    assert time.monotonic() - began_s < 10
    assert uart.asked == ["STATUS"]
    assert len(output.splitlines()) == 1
    assert "unknown-request" in output


@pytest.mark.parametrize("setting", ["yes", "no"])
def test_nothing_is_reported_without_data_or_consent(
    guest: Guest, serial: Serial, setting: str
) -> None:
    if setting == "no":
        serial(server_of(DOCUMENTS))
        guest.fetch()
    guest.write("etc/vmw-metadata-agent.conf", f"[agent]\nreport = {setting}\n")
    uart = confirming(serial)
    assert guest.fetch("report").endswith(": nothing is reported\n")
    assert uart.asked == []


def test_seed_of_another_machine_is_not_reported(
    booted: Guest, serial: Serial, tmp_path: Path
) -> None:
    uart = confirming(serial)
    clone = booted.clone(tmp_path / "clone", "564dffff-5678-9abc-def0-123456789abc")
    assert "nothing is reported" in clone.fetch("report")
    assert uart.asked == []


Run = Callable[[Guest], tuple[int, str]]


@pytest.fixture
def report(constants: Constants, capsys: pytest.CaptureFixture[str]) -> Run:
    """Reports in this process, soon again; gives exit code and journal."""
    constants(guest__agent__reporting__REPORT_EVERY_S=0.8)

    def run(guest: Guest) -> tuple[int, str]:
        settings = {**defaults(), "device": "/dev/ttyS1"}
        code = run_report(System(str(guest.root)), settings, Journal("/dev/null"))
        return code, capsys.readouterr().err

    return run


def test_server_that_does_not_know_the_line_is_asked_for_metadata(
    booted: Guest, serial: Serial, report: Run
) -> None:
    uart = confirming(serial, lambda name: refusal(name, "refused", "ask for METADATA first"))
    code, journal = report(booted)
    assert code == 0
    assert uart.asked == ["STATUS", "METADATA", "STATUS"]
    assert "the server answered refused: ask for METADATA first: retrying" in journal


def damaged(_name: str) -> bytes:
    return b"!!RESPONSE_STATUS#eyJz[ 12.3] usb\n"


def of_another(_name: str) -> bytes:
    return response("STATUS", json.dumps({"sha256": "0" * 64}).encode())


@pytest.mark.parametrize(
    "answer",
    [silent, damaged, of_another, lambda _: response("STATUS", b"[" * 9999)],
    ids=["silence", "damaged", "another", "no JSON"],
)
def test_report_that_is_not_confirmed_is_sent_again(
    booted: Guest, serial: Serial, report: Run, answer: Answers
) -> None:
    uart = confirming(serial, answer)
    assert report(booted)[0] == 0
    assert uart.asked == ["STATUS"] * 2


def test_third_try_is_the_last(booted: Guest, serial: Serial, report: Run) -> None:
    uart = serial(silent)
    began_s = time.monotonic()
    code, journal = report(booted)
    assert time.monotonic() - began_s > 2.4 - 0.8
    assert code == 1
    assert uart.asked == ["STATUS"] * 3
    assert "was not reported: no valid answer to REQUEST_STATUS" in journal.splitlines()[-1]


def test_report_that_the_server_takes_for_invalid_is_not_sent_again(
    booted: Guest, serial: Serial, report: Run
) -> None:
    uart = serial(lambda name: refusal(name, "invalid"))
    assert report(booted)[0] == 1
    assert uart.asked == ["STATUS"]


def test_machine_without_port_reports_nothing(booted: Guest, report: Run) -> None:
    (booted.root / "dev/ttyS1").unlink()
    code, journal = report(booted)
    assert (code, journal.count("\n")) == (1, 1)


# What cloud-init says, by its releases

FAILED = status_of(**{"modules-final": {"errors": [RUNPARTS], "start": 1.0, "finished": 2.0}})
RECOVERED = with_recoverable({"WARNING": ["one"], "DEPRECATED": ["old"]}, {"WARNING": ["one"]})
STOPPED = status_of(stage="modules-config")
OUTCOMES = {
    "22.4 done": (status_of(), ..., "", "done", []),
    "22.4 failed": (FAILED, ..., "", "error", [RUNPARTS]),
    "22.4 warned": (
        status_of(),
        ...,
        LOG,
        "degraded",
        ["ERROR: worse", "WARNING: Failed loading yaml blob. Invalid format at line 3"],
    ),
    "25.1 done": (with_recoverable(), ..., LOG, "done", []),
    "25.1 recovered": (RECOVERED, ..., "", "degraded", ["WARNING: one", "DEPRECATED: old"]),
    "stopped": (
        STOPPED,
        None,
        "",
        "error",
        ["cloud-init did not finish: it ended in the stage modules-config"],
    ),
    "other data": (
        status_of(datasource="DataSourceNone"),
        ...,
        "",
        "error",
        ["cloud-init used DataSourceNone, and not the data of the server"],
    ),
    "nothing": (
        None,
        None,
        "",
        "error",
        ["cloud-init has written no status: it did not run, or its first stage failed"],
    ),
}


@pytest.mark.parametrize("case", OUTCOMES)
def test_outcome_is_what_cloud_init_says(guest: Guest, case: str) -> None:
    status, result, log, word, errors = OUTCOMES[case]
    put(guest, status, result, log)
    outcome = read_outcome(System(str(guest.root)))
    assert (outcome.status, outcome.errors) == (word, errors)


CONDITIONS = """
import json, sys
from cloudinit.cmd.status import get_errors
for status in json.load(sys.stdin):
    errors, recoverable = get_errors(status)
    print("error" if errors else "degraded" if recoverable else "done")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot")
def test_outcome_is_the_condition_that_cloud_init_itself_tells(
    guest: Guest, debian_tree: Callable[[str], Path]
) -> None:
    """As `cloud-init status` of Debian 13 decides it."""
    stages: list[dict[str, Any]] = [
        {"errors": errors, "recoverable_errors": recoverable, "start": 1.0, "finished": 2.0}
        for errors in ([], ["one"])
        for recoverable in ({}, {"WARNING": ["w"]}, {"DEPRECATED": ["d"]}, {"ERROR": ["e"]})
    ]
    both = [
        {"datasource": SEED, "stage": None, "init": one, "modules-final": other}
        for one in stages
        for other in stages
    ]
    told = subprocess.run(
        ["chroot", str(debian_tree("debian-13")), "/usr/bin/python3", "-c", CONDITIONS],
        input=json.dumps(both),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    ours = [read_outcome(System(str(put(guest, {"v1": status}).root))).status for status in both]
    assert ours == told
    assert set(ours) == {"done", "degraded", "error"}


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=20,
)
stage_like = st.fixed_dictionaries(
    {},
    optional={
        "errors": json_values,
        "recoverable_errors": st.dictionaries(st.sampled_from(["WARNING", "X"]), json_values)
        | json_values,
        "start": json_values,
        "finished": json_values,
    },
)


@given(
    st.dictionaries(st.sampled_from([*STAGES, "stage", "datasource"]), stage_like | json_values)
    | json_values,
    json_values,
)
def test_whatever_cloud_init_writes_has_an_outcome(
    tmp_path_factory: pytest.TempPathFactory, v1: Any, result: Any
) -> None:
    guest = object.__new__(Guest)
    guest.root = tmp_path_factory.mktemp("root")
    put(guest, {"v1": v1}, {"v1": result}, "\n")
    outcome = read_outcome(System(str(guest.root)))
    assert outcome.status in ("done", "degraded", "error")
    assert (outcome.status == "done") == (outcome.errors == [])
    boot_report("i-1", outcome, [], BOOT)


def test_log_that_is_long_is_read_at_its_end(guest: Guest) -> None:
    put(guest, status_of(), log="x" * 2_000_000 + "\n" + LOG)
    began_s = time.process_time()
    assert len(read_outcome(System(str(guest.root))).errors) == 2
    assert time.process_time() - began_s < 2


# Bounds

SECONDS = st.floats(0, 999_999).map(lambda seconds: round(seconds, 1))
BLOB = b"\0\0\0\7ssh-rsa\0\0\0\3\1\0\1\0\0\2\1\0" + b"\xff" * 512
KEYS = [ED25519, ECDSA, "ssh-rsa " + base64.b64encode(BLOB).decode()]
texts = st.text(max_size=400) | st.sampled_from(
    ["é" * 300, '"\\' * 200, "\x1b[2J" * 90, "💥" * 300]
)


@given(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=60),
    st.lists(texts, max_size=12),
    st.dictionaries(st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True), SECONDS, max_size=30),
    st.lists(st.sampled_from(KEYS), max_size=9),
)
def test_report_is_valid_and_bounded(
    instance: str, errors: list[str], stages: dict[str, float], keys: list[str]
) -> None:
    body = boot_report(instance, BootOutcome("error", errors, stages), keys, BOOT)
    report = parse(body)  # as the server reads it
    assert (report.instance_id, report.status, report.boot_id) == (instance, "error", BOOT)
    assert len(report.errors) == min(len(errors), MAX_ERRORS)
    assert report.host_keys == tuple(dict.fromkeys(keys[:MAX_KEYS]))[: len(report.host_keys)]
    line = b"!!REQUEST_STATUS#" + base64.b64encode(body)
    assert len(line) <= MAX_LINE_BYTES
    assert "STATUS" in WITH_ARGUMENT
    assert requested(line) == ("STATUS", body)


@pytest.mark.parametrize(
    ("key_chars", "error", "left"),
    [
        (80, "x" * 200, (4, 200, 6)),
        (372, "x" * 10, (4, 10, 6)),
        (372, "x" * 72, (0, 72, 6)),
        (372, "x" * 200, (0, 50, 6)),
        (720, "x" * 200, (0, 25, 3)),
    ],
)
def test_report_without_room_loses_stages_then_errors_then_keys(
    key_chars: int, error: str, left: tuple[int, int, int]
) -> None:
    stages = dict.fromkeys(STAGES, 1.5)
    keys = ["k" * key_chars] * 6
    report = json.loads(boot_report("i-1", BootOutcome("error", [error] * 8, stages), keys, BOOT))
    (chars,) = {len(text) for text in report["errors"]}
    assert (len(report["stages"]), chars, len(report["hostkeys"])) == left


def blob_of(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


small = st.binary(max_size=3) | st.sampled_from([b"\1\0\1", b"nistp256", b"\4" * 65, b"\5" * 65])
large = st.sampled_from([b"\0" + b"\xff" * 256, b"\xff" * 256, b"\0" + b"\x7f" * 256, b"\1" * 32])
blobs = st.builds(
    lambda kind, fields, rest: blob_of(kind, *fields) + rest,
    st.sampled_from([key.split()[0].encode() for key in KEYS]),
    st.lists(small | large, max_size=3),
    st.sampled_from([b"", b"\0", b"\0\0\0\1"]),
) | st.binary(max_size=60)


@given(st.sampled_from(KEYS), blobs | st.none(), st.integers(0, 3))
def test_keys_that_the_agent_sends_are_those_that_the_server_takes(
    key: str, blob: bytes | None, cut: int
) -> None:
    kind, _, text = key.partition(" ")
    text = text if blob is None else base64.b64encode(blob).decode()
    text = text[: len(text) - cut]
    try:
        is_taken = host_key(f"{kind} {text}") is not None
    except ValueError:
        is_taken = False
    assert kind in KEY_TYPES
    assert is_of_type(kind, text) == is_taken


@pytest.mark.parametrize(
    "damaged",
    [
        *(f"{key[:-5]}\n" for key in KEYS),
        *(f"{key.split()[0]} {ED25519.split()[1]}\n" for key in (ECDSA, KEYS[2])),
        ED25519.replace("AAAAC3", "AAAAD3"),
    ],
)
def test_damaged_host_key_costs_no_report(guest: Guest, serial: Serial, damaged: str) -> None:
    serial(server_of(DOCUMENTS))
    guest.fetch()
    guest.write("etc/ssh/ssh_host_a_key.pub", damaged)
    guest.write("etc/ssh/ssh_host_ed25519_key.pub", f"{ED25519}\n")
    uart = confirming(serial)
    put(guest, status_of()).fetch("report")
    assert parse(uart.server.argument).host_keys == (ED25519,)


def test_character_that_an_older_server_does_not_know_is_not_sent() -> None:
    assert shown("a\U0001fae8b\u00e4", 200) == "a b\u00e4"  # of Unicode 15


def test_instance_id_without_room_is_a_failure() -> None:
    with pytest.raises(Unusable, match="too long"):
        boot_report("i" * 3000, BootOutcome("done", [], {}), [], BOOT)


def test_error_is_one_line_without_control_characters() -> None:
    assert shown("a\x1b]0;\x07b\r\n\tc \u202e\ud800d\u00e9", 200) == "a ]0; b c dé"
    assert shown("x" * 201, 200) == "x" * 197 + "..."


# Identity documents

JWT = b"eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl-_"


def test_identity_prints_the_document_alone(guest: Guest, serial: Serial) -> None:
    uart = serial(lambda name: response(name, JWT))
    ended = guest.run("identity", "--audience", "https://vault.example.com")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, JWT.decode() + "\n", "")
    assert uart.server.argument == b"https://vault.example.com"
    assert uart.asked == ["IDENTITY"]


@pytest.mark.parametrize("error", ["unknown-request", "invalid"])
def test_identity_that_is_refused_for_good_is_asked_once(
    guest: Guest, serial: Serial, error: str
) -> None:
    uart = serial(lambda name: refusal(name, error, "no key"))
    ended = guest.run("identity", "--audience", "x")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"no identity document: the server answered {error}: no key\n"
    assert uart.asked == ["IDENTITY"]


def test_identity_of_a_vm_without_proof_is_refused(guest: Guest, serial: Serial) -> None:
    uart = serial(lambda name: refusal(name, "refused", "no proof"))
    ended = guest.run("identity", "--audience", "x", "--retry", "0.3")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines()[-1] == (
        "no identity document: the server answered refused: no proof"
    )
    assert uart.asked.count("IDENTITY") == 3


@pytest.mark.parametrize("answer", [b"", b"a.b", b"a.b.c\n", b"a.b.\x1b[2J", b"a.b." + b"c" * 4096])
def test_answer_that_is_no_jwt_is_not_printed(guest: Guest, serial: Serial, answer: bytes) -> None:
    serial(lambda name: response(name, answer))
    ended = guest.run("identity", "--audience", "x", "--retry", "0.3")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines()[-1] == "no identity document: the answer is not a JWT"


@pytest.mark.parametrize(
    "options",
    [["identity"], ["--audience", "x"], ["report", "--audience", "x"], ["nothing"]]
    + [["identity", "--audience", text] for text in ("", "a b", "ä", "x" * 256, "x\n")],
)
def test_command_line_without_meaning_is_rejected(guest: Guest, options: list[str]) -> None:
    ended = guest.run(*options)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.search("audience|invalid choice", ended.stderr)
