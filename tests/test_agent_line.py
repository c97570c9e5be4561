"""The guest agent's side of the line protocol, by laws; and that its file runs on old Pythons."""

from __future__ import annotations

import ast
import base64
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.coverage_fuzz.law import kept_bytes
from tests.guest import AGENT
from tests.uart import response
from vmw_cloudinit_metadata.guest.agent import conf, responses
from vmw_cloudinit_metadata.guest.agent.responses import (
    MAX_LINE_BYTES,
    MAX_NOISE_BYTES,
    GuestResponse,
    LineReader,
)
from vmw_cloudinit_metadata.protocol import packet

BODIES = st.binary(max_size=60)
NAMES = st.sampled_from(["METADATA", "USERDATA", "DIGEST", "ERROR"])
PACKETS = st.builds(response, NAMES, BODIES)
KERNEL = st.text(max_size=20).map(lambda text: f"[    1.2] {text}\r\n".encode())
# Bytes of which packets are made, so that noise is nearly one, again and again.
NOISE = st.lists(
    st.sampled_from([b"!!", b"RESPONSE_", b"METADATA", b"#", b"=", b"\n", b"\0", b"QQ"])
)
STREAMS = st.lists(PACKETS | KERNEL | NOISE.map(b"".join) | BODIES).map(b"".join)


def heard(*pieces: bytes) -> list[GuestResponse]:
    reader = LineReader()
    return [answer for piece in pieces for answer in reader.receive(piece)]


@given(STREAMS, st.lists(st.integers(0, 500)))
def test_answers_do_not_depend_on_how_the_bytes_arrive(data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in zip(places, [*places[1:], None], strict=True)]
    assert heard(*pieces) == heard(data) == heard(*(data[n : n + 1] for n in range(len(data))))


@given(NAMES, BODIES, KERNEL | NOISE.map(b"".join), KERNEL)
def test_answer_is_found_behind_noise(name: str, body: bytes, noise: bytes, after: bytes) -> None:
    assert GuestResponse(name, body) in heard(noise + response(name, body) + after)


@given(NAMES, BODIES, KERNEL, st.integers(0, 200))
def test_noise_within_an_answer_makes_no_other_answer(
    name: str, body: bytes, noise: bytes, at: int
) -> None:
    """At worst it cuts it short: the digest then shows it."""
    said = response(name, body)
    at %= len(said)
    for answer in heard(said[:at] + noise + said[at:]):
        assert answer.body is None or body.startswith(answer.body)
        assert answer.name in name


@given(st.binary())
def test_server_reads_what_the_agent_asks(noise: bytes) -> None:
    lines = packet.LineSplitter().receive_data(noise + b"\n" + responses.request("METADATA"))
    parsed = packet.parse(lines[-1])
    assert parsed
    assert parsed.requests == "METADATA"


@given(st.text("AQ=+/ -", max_size=9))
def test_base64_is_strict(text: str) -> None:
    (answer,) = heard(f"!!RESPONSE_METADATA#{text}\n".encode())
    if answer.body is not None:
        assert base64.b64encode(answer.body).decode() == text.rstrip(" ")


def test_line_is_bounded_while_it_fills() -> None:
    reader = LineReader()
    for _ in range(200):
        reader.receive(b"!!RESPONSE_METADATA#" + b"A" * 65536)
        assert kept_bytes(reader) <= MAX_LINE_BYTES
    reader.forget()
    for _ in range(200):
        reader.receive(b"x" * 65536)
        assert kept_bytes(reader) <= MAX_NOISE_BYTES
    assert reader.receive(b"!!RESPONSE_METADATA#QQ==\n") == [GuestResponse("METADATA", b"A")]


def test_file_is_python_3_6() -> None:
    ast.parse(AGENT.read_text(), feature_version=(3, 6))
    vermin = Path(sys.executable).parent / "vermin"
    command = [str(vermin), "--target=3.6-", "--violations", str(AGENT)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout


def test_help_lists_every_option_and_exit_code() -> None:
    command = [sys.executable, str(AGENT), "--help"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert {f"--{setting.name}" for setting in conf.SETTINGS} <= set(output.split())
    assert "exit codes:\n  0  the boot can go on" in output
