"""The report of a boot, as a guest may write it: read whole, or rejected without a word of it."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.guest.agent.bootoutcome import BootOutcome
from vmw_cloudinit_metadata.guest.agent.outcomereport import boot_report
from vmw_cloudinit_metadata.protocol.bootreport import (
    MAX_REPORT_BYTES,
    BootReport,
    InvalidReportError,
    parse,
)
from vmw_cloudinit_metadata.protocol.hostkey import host_key

# Keys that ssh-keygen has made.
ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF4QuaHe1axjC4LCWKuKb2MqrG4JrHH7nPGVGVsrZNgT"
BOOT = "0a1b2c3d-0000-4000-8000-0123456789ab"
WHOLE: dict[str, Any] = {
    "v": 1,
    "instance": "my-instance",
    "status": "error",
    "errors": ["('scripts_user', RuntimeError('Runparts: 1 failures'))"],
    "stages": {"init-local": 0.5, "modules-final": 12},
    "hostkeys": [f"{ED25519} root@web1"],
    "boot": BOOT,
}


def written(**parts: Any) -> bytes:
    """The report with other parts; ... leaves one out."""
    report = {name: value for name, value in (WHOLE | parts).items() if value is not ...}
    return json.dumps(report).encode()


def test_whole_report_is_read() -> None:
    assert parse(written()) == BootReport(
        "my-instance",
        "error",
        ("('scripts_user', RuntimeError('Runparts: 1 failures'))",),
        {"init-local": 0.5, "modules-final": 12.0},
        (ED25519,),
        BOOT,
    )


def test_least_report_is_read() -> None:
    least = written(errors=..., stages=..., hostkeys=..., boot=...)
    assert parse(least) == BootReport("my-instance", "error")


def test_longest_report_of_the_agent_is_read() -> None:
    errors = ["é" * 200] * 5
    report = written(errors=errors, hostkeys=[ED25519] * 6, boot="", stages={})
    report = json.dumps(json.loads(report), ensure_ascii=False).encode()
    assert len(report) < MAX_REPORT_BYTES
    assert parse(report).errors == tuple(errors)


def test_key_of_a_type_to_come_is_left_out() -> None:
    keys = ["ssh-mldsa-65 AAAA", ED25519, ED25519]
    assert parse(written(hostkeys=keys)).host_keys == (ED25519,)


HOSTILE = {
    "nothing": b"",
    "no UTF-8": b"\xff" + written(),
    "no JSON": written()[:-1],
    "no object": b"[1]",
    "deep": b"[" * MAX_REPORT_BYTES,
    "deep inside": written(errors=...)[:-1] + b',"errors":' + b"[" * 2000 + b"}",
    "a key twice": written()[:-1] + b',"status":"done"}',
    "a key twice inside": written(stages=...)[:-1] + b',"stages":{"a":1,"a":2}}',
    "NaN": written(stages={"init": float("nan")}),
    "infinity": written(stages={"init": float("inf")}),
    "infinity by its size": written(stages=...)[:-1] + b',"stages":{"init":1e999}}',
    "a huge number": written(stages=...)[:-1] + b',"stages":{"init":%b}}' % (b"9" * 2000),
    "a negative time": written(stages={"init": -1}),
    "a true time": written(stages={"init": True}),
    "a text as a time": written(stages={"init": "1"}),
    "17 stages": written(stages={f"s{number}": 1 for number in range(17)}),
    "no name of a stage": written(stages={"a b": 1}),
    "stages as a list": written(stages=[]),
    "another version": written(v=2),
    "a version as a text": written(v="1"),
    "a true version": written(v=True),
    "no version": written(v=...),
    "another part": written(name="web1"),
    "no instance": written(instance=...),
    "an empty instance": written(instance=""),
    "a long instance": written(instance="é" * 128),
    "half a pair": written(instance="\ud800"),
    "no status": written(status=...),
    "another status": written(status="running"),
    "a status as a list": written(status=["done"]),
    "an error as a text": written(errors="failed"),
    "9 errors": written(errors=["x"] * 9),
    "a long error": written(errors=["x" * 201]),
    "a control character": written(errors=["\x1b[2J"]),
    "a line break": written(errors=["a\nb"]),
    "half a pair in an error": written(errors=["\udfff"]),
    "text that is written from right to left": written(errors=["\u202egnorw"]),
    "an error as a number": written(errors=[1]),
    "7 keys": written(hostkeys=[ED25519] * 7),
    "a key without its type": written(hostkeys=["ssh-ed25519"]),
    "a key that is not base64": written(hostkeys=["ssh-ed25519 ???"]),
    "a key that is not ASCII": written(hostkeys=["ssh-ed25519 é"]),
    "a cut key": written(hostkeys=[ED25519[:-4]]),
    "a key of another type": written(hostkeys=[ED25519.replace("ed25519", "rsa")]),
    "a key as a number": written(hostkeys=[1]),
    "another boot": written(boot="1"),
    "a boot as a number": written(boot=1),
    "too long": written(errors=[], instance="x" * MAX_REPORT_BYTES),
}


@pytest.mark.parametrize("report", HOSTILE.values(), ids=HOSTILE)
def test_hostile_report_is_rejected_and_not_quoted(report: bytes) -> None:
    with pytest.raises(InvalidReportError) as error:
        parse(report)
    assert len(str(error.value)) < 150
    assert str(error.value).isprintable()
    assert "Runparts" not in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.binary(max_size=4000) | st.dictionaries(st.sampled_from([*WHOLE, "x"]), JSON))
def test_whatever_is_given_is_a_report_or_the_error(given_report: Any) -> None:
    data = given_report if isinstance(given_report, bytes) else written(**given_report)
    try:
        report = parse(data)
    except InvalidReportError:
        return
    assert all(text.isprintable() for text in report.errors)


OUTCOMES = st.builds(
    BootOutcome,
    st.sampled_from(["done", "degraded", "error"]),
    st.lists(st.text(max_size=300), max_size=12),
    st.dictionaries(
        st.from_regex("[a-z][a-z0-9-]{0,20}", fullmatch=True), st.floats(0, 1e5), max_size=20
    ),
)


@given(OUTCOMES, st.text("abc-\u00e9", min_size=1, max_size=100), st.sampled_from(["", BOOT]))
def test_whatever_the_agent_reports_is_read(
    outcome: BootOutcome, instance_id: str, boot: str
) -> None:
    stages = {name: round(seconds, 1) for name, seconds in outcome.stages.items()}
    outcome = outcome._replace(stages=stages)
    report = parse(boot_report(instance_id, outcome, [ED25519] * 7, boot))
    assert (report.instance_id, report.status, report.boot_id) == (
        instance_id,
        outcome.status,
        boot,
    )
    assert len(report.errors) == min(len(outcome.errors), 8)


# Keys

KINDS = {
    "ed25519": ("ed25519",),
    "rsa": ("rsa", "-b", "2048"),
    **{f"nistp{bits}": ("ecdsa", "-b", str(bits)) for bits in (256, 384, 521)},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_key_of_ssh_keygen_is_one(
    kind: tuple[str, ...], tmp_path: Path, program: Callable[[str, str], str]
) -> None:
    keygen = program("ssh-keygen", "openssh-client")
    command = [keygen, "-q", "-t", *kind, "-N", "", "-C", "a comment, *", "-f", "key"]
    subprocess.run(command, check=True, cwd=tmp_path)
    line = (tmp_path / "key.pub").read_text().strip()
    key = host_key(line)
    assert key is not None
    assert line == f"{key} a comment, *"
    name, _, text = key.partition(" ")
    blob = base64.b64decode(text)
    for damaged in (blob[:-1], blob + b"\0", blob + b"\0\0\0\0", b"", blob[:4], b"\0" + blob):
        with pytest.raises(ValueError, match="key"):
            host_key(f"{name} {base64.b64encode(damaged).decode()}")


def rsa(exponent: int, modulus: int) -> str:
    def mpint(number: int) -> bytes:
        data = number.to_bytes(number.bit_length() // 8 + 1, "big")
        return len(data).to_bytes(4, "big") + data

    blob = b"\0\0\0\7ssh-rsa" + mpint(exponent) + mpint(modulus)
    return f"ssh-rsa {base64.b64encode(blob).decode()}"


@pytest.mark.parametrize(
    ("exponent", "modulus"),
    [(65537, 2**1000 + 1), (65537, 2**2048), (1, 2**2048 + 1), (65537, 2**16385 + 1), (0, 1)],
    ids=["short", "even", "trivial exponent", "long", "zero"],
)
def test_weak_rsa_key_is_none(exponent: int, modulus: int) -> None:
    assert host_key(rsa(65537, 2**2047 + 1))
    with pytest.raises(ValueError, match="key"):
        host_key(rsa(exponent, modulus))
