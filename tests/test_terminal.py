"""Output on a terminal, and that it is the plain one elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.process import CHECKOUT, COMMAND, Program, begin, run

ECHO = "from vmw_cloudinit_metadata.cli import terminal; terminal."
TABLE = ECHO + "echo_table(('State', 'Reason'), [('failed', '[red]x ' * 40)], ['plain line'])"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def on_terminal(*command: str, **environment: str) -> str:
    """What a command prints when its standard output is a terminal of 60 columns."""
    ours, theirs = pty.openpty()
    env = {"TERM": "xterm-256color", "COLUMNS": "60", **environment}
    with Path(os.devnull).open("w") as nothing:
        process = begin(Program(command), theirs, nothing.fileno(), CHECKOUT, env)
    os.close(theirs)
    printed = b""
    with suppress(OSError):  # the other end is closed
        while data := os.read(ours, 4096):
            printed += data
    os.close(ours)
    process.wait()
    assert printed
    return printed.decode().replace("\r\n", "\n")


def directory_with_a_fault(tmp_path: Path) -> str:
    (tmp_path / "web1.yaml").write_text("metadat:\n  a: b\n")
    (tmp_path / "web1.yaml").chmod(0o640)
    return f'{{"directory": "{tmp_path}"}}'


def test_fault_is_in_colour_and_wrapped_on_a_terminal(tmp_path: Path) -> None:
    options = ("validate", "--driver-opts", directory_with_a_fault(tmp_path))
    printed = on_terminal(*COMMAND, *options)
    plain = run(*options).stdout
    assert "\x1b[1m" in printed
    assert "\x1b" not in plain
    lines = COLOUR.sub("", printed).splitlines()
    assert max(map(len, lines)) <= 60
    assert "".join("".join(lines).split()) == "".join(plain.split())


def test_no_color_is_respected(tmp_path: Path) -> None:
    options = ("validate", "--driver-opts", directory_with_a_fault(tmp_path))
    printed = on_terminal(*COMMAND, *options, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", printed)


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_pipe_gets_plain_lines_whatever_the_environment(variable: str, tmp_path: Path) -> None:
    options = ("validate", "--driver-opts", directory_with_a_fault(tmp_path))
    plain = run(*options, env={variable: "1"}).stdout
    assert "metadat" in plain
    assert "\x1b" not in plain


def test_documents_are_the_same_bytes_below_a_heading(own_instances: Path) -> None:
    options = ("show", "web1", "--driver-opts", f'{{"directory": "{own_instances}"}}')
    assert COLOUR.sub("", on_terminal(*COMMAND, *options)) == run(*options).stdout


def test_table_is_wrapped_and_its_text_is_no_markup() -> None:
    lines = COLOUR.sub("", on_terminal(sys.executable, "-c", TABLE)).splitlines()
    assert lines[0].split() == ["State", "Reason"]
    assert max(map(len, lines)) <= 60
    assert sum(line.count("[red]x") for line in lines) == 40
    piped = subprocess.run(
        [sys.executable, "-c", TABLE], capture_output=True, text=True, check=True
    )
    assert piped.stdout == "plain line\n"
