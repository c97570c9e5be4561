"""The targets of coverage-guided fuzzing hold for their seeds, and fail where they should."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.coverage_fuzz import __main__ as command
from tests.coverage_fuzz import law, wire
from tests.coverage_fuzz.targets import HERE, TARGETS, Target, TooSlow
from tests.process import CHECKOUT
from vmw_cloudinit_metadata.protocol import telnet

EACH_TARGET = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@EACH_TARGET
def test_target_holds_for_each_input_that_it_begins_with(target: Target) -> None:
    inputs = target.inputs()
    assert inputs
    for data in inputs:
        target.run(data)


@EACH_TARGET
def test_target_holds_for_an_input_with_a_piece_repeated(target: Target) -> None:
    target.run(law.pumped(target.inputs()[0], target.max_bytes))


def test_kept_cases_have_their_targets() -> None:
    assert {path.name for path in (HERE / "corpus").iterdir()} <= set(TARGETS)


@pytest.mark.parametrize("name", ["wire.dict", "text.dict"])
def test_dictionary_has_a_quoted_token_on_each_line(name: str) -> None:
    comment, *tokens = (HERE / name).read_text().splitlines()
    assert comment.startswith("#")
    assert len(tokens) > 50
    assert all(len(token) > 2 and token[0] == token[-1] == '"' for token in tokens)


def test_what_depends_on_cuts_is_found() -> None:
    with pytest.raises(AssertionError, match="depends on how the bytes are cut"):
        law.same_for_all_cuts(b"abc", lambda pieces: [len(piece) for piece in pieces])


def test_what_keeps_all_is_seen() -> None:
    decoder = telnet.Decoder(10**6)
    decoder.receive_data(b"\xff\xfa" + b"x" * 1000)
    assert law.kept_bytes(decoder) >= 1000


def test_parser_that_takes_the_square_of_its_input_is_found() -> None:
    def quadratic(data: bytes) -> None:
        assert sum(1 for _ in data for _ in data) == len(data) ** 2

    target = Target(quadratic, list, "wire.dict", limit_s=0.1)
    target.run(b"abc")
    with pytest.raises(TooSlow, match="3000 bytes took"):
        target.run(bytes(3000))


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ({"a": [1, float("nan")]}, {"a": [1, float("nan")]}, True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1], [True], False),
        ({1: "x"}, {True: "x"}, False),
        ([1.0], [1], False),
        (["a"], ["a", "b"], False),
    ],
)
def test_same_is_equal_in_value_and_type(one: object, other: object, is_same: bool) -> None:
    assert law.is_same(one, other) is is_same


def test_input_that_is_found_is_run_again_by_its_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = tmp_path / "crash-1"
    finding.write_bytes(b"PROXY TCP4 ")
    assert command.main(["--reproduce", "proxy_header", str(finding)]) == 0
    assert "holds" in capsys.readouterr().out


def test_python_without_atheris_is_reported_in_one_line() -> None:
    program = (
        "import sys; sys.modules['atheris'] = None\n"
        "from tests.coverage_fuzz.__main__ import main\n"
        "sys.exit(main([]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stdout.startswith("atheris is not installed, or has no wheel for this Python")
    assert ended.stdout.count("\n") == 1


def test_empty_piece_between_cr_and_nul_changes_nothing() -> None:
    decoder = telnet.NvtDecoder()
    assert b"".join(map(decoder.receive_data, (b"a\r", b"", b"\0b"))) == b"a\rb"


def test_target_is_a_function_of_its_input_alone() -> None:
    data = b"".join(TARGETS["telnet_decoder"].seeds())
    assert list(law.ways_to_cut(data)) == list(law.ways_to_cut(data))
    begun_s = time.process_time()
    wire.telnet_decoder(data)
    assert time.process_time() - begun_s < TARGETS["telnet_decoder"].limit_s
