"""The help of all commands: sections, variables, value names, --version; completion in shells."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.commandline import in_process
from vmw_cloudinit_metadata import __version__
from vmw_cloudinit_metadata.cli import cli
from vmw_cloudinit_metadata.cli.client.playoptions import SECTIONS as OF_CLIENT
from vmw_cloudinit_metadata.cli.run import run
from vmw_cloudinit_metadata.cli.runoptions import SECTIONS
from vmw_cloudinit_metadata.settings.command import Command
from vmw_cloudinit_metadata.settings.layers import settings_of, variable_of

PROGRAM = "vmw-cloudinit-metadata"
ROOT = Path(__file__).parent.parent


def commands(
    command: click.Command = cli, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from commands(below, (*words, name))


EACH_COMMAND = pytest.mark.parametrize(
    ("words", "command"), [pytest.param(*one, id=" ".join(one[0])) for one in commands()]
)


def help_of(*words: str) -> str:
    code, lines, _ = in_process(*words, "--help")
    assert code == 0
    return "\n".join(lines)


def sections_in(text: str) -> dict[str, str]:
    """The text below each heading."""
    parts = re.split(r"^(\S.*):$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@EACH_COMMAND
def test_every_command_says_its_version(words: tuple[str, ...], command: click.Command) -> None:
    assert isinstance(command, Command)
    assert in_process(*words, "--version") == (0, [f"{PROGRAM}, version {__version__}"], [])
    assert "--version" in help_of(*words)


@EACH_COMMAND
def test_every_value_has_a_name_of_its_own(words: tuple[str, ...], command: click.Command) -> None:
    ctx = click.Context(command, info_name=" ".join(words))
    names = {
        param.make_metavar(ctx)
        for param in command.params
        if isinstance(param, click.Option) and not param.is_flag
    }
    assert not names & {"INTEGER", "INTEGER RANGE", "FLOAT", "FLOAT RANGE", "TEXT", "PATH"}


@EACH_COMMAND
def test_every_option_is_once_in_the_help(words: tuple[str, ...], command: click.Command) -> None:
    text = help_of(*words)
    for param in command.params:
        if isinstance(param, click.Option):
            option = max(param.opts, key=len)
            assert len(re.findall(rf"^  (?:-\w, )?{option}\b(?!-)", text, re.MULTILINE)) == 1


def test_each_setting_of_run_is_in_one_section_with_its_variable() -> None:
    placed = [name for names in SECTIONS.values() for name in names]
    assert sorted(placed) == sorted(str(option.name) for option in settings_of(run))
    found = sections_in(help_of("run"))
    for title, names in SECTIONS.items():
        text = re.sub(r"\s+", "", found[title])
        for option in settings_of(run):
            assert (f"[envvar:{variable_of(option)}" in text) == (option.name in names)


def test_sections_of_the_client_hold_only_its_options() -> None:
    client = dict(commands())[("client",)]
    known = {str(param.name) for _, command in commands(client) for param in command.params}
    assert {name for names in OF_CLIENT.values() for name in names} <= known


@pytest.mark.parametrize("program", ["vmw-metadata-server", "vmw-metadata-client"])
def test_programs_of_their_own_say_their_version(program: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "bin" / program, "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"{program}, version {__version__}\n")


def completion(shell: str, *options: str) -> str:
    code, lines, errors = in_process("completion", shell, *options)
    assert (code, errors) == (0, [])
    return "\n".join(lines) + "\n"


BASH = """
COMP_WORDS=({words})
COMP_CWORD={place}
_vmw_cloudinit_metadata_completion {program}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("vm",), {"vm-port"}),
        (("fle",), {"fleet"}),
        (("fleet", "mi"), {"migrate"}),
        (("run", "--log-f"), {"--log-format"}),
        (("run", "--log-format", "j"), {"json"}),
    ],
    ids=" ".join,
)
def test_bash_completes(tmp_path: Path, words: tuple[str, ...], found: set[str]) -> None:
    program = tmp_path / PROGRAM
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m vmw_cloudinit_metadata "$@"\n')
    program.chmod(0o755)
    typed = " ".join((PROGRAM, *words))
    script = completion("bash") + BASH.format(words=typed, place=len(words), program=program)
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert set(done.stdout.split()) == found


@pytest.mark.parametrize("program", [PROGRAM, "vmw-metadata-server", "vmw-metadata-client"])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_for_one_program_and_has_the_syntax_of_its_shell(
    shell: str, program: str
) -> None:
    text = completion(shell, "--program", program)
    variable = f"_{program.upper().replace('-', '_')}_COMPLETE={shell}_complete"
    assert variable in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)


def test_completion_of_another_shell_says_which_ones_there_are() -> None:
    code, _, errors = in_process("completion", "tcsh")
    assert code == 2
    assert "'bash', 'zsh', 'fish'" in errors[0]
