"""Man pages and completion, made from the commands: judged by man, and by bash itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click

from packages import completion, manual
from vmw_cloudinit_metadata.cli import cli

PAGES = dict(manual.pages())


def test_each_command_has_a_page() -> None:
    def names(command: click.Command, name: str) -> list[str]:
        inner = command.commands.items() if isinstance(command, click.Group) else ()
        return [name, *(one for word, own in inner for one in names(own, f"{name}-{word}"))]

    assert sorted(PAGES) == sorted(names(cli, "vmw-cloudinit-metadata"))
    assert len(PAGES) > 30


def test_page_has_all_options_of_its_command() -> None:
    text = PAGES["vmw-cloudinit-metadata-run"].replace("\\-", "-")
    context = click.Context(cli.commands["run"])
    names = {name for one in cli.commands["run"].get_params(context) for name in one.opts}
    assert len(names) > 30
    assert {name for name in names if name not in text} == set()


def test_line_that_begins_like_a_request_is_text() -> None:
    @click.command()
    def odd() -> None:
        """Do it.

        .TH is a request, and \\fB is one too.

        \b
        'so are these
            lines
        """

    ((_, text),) = manual.pages(odd, "odd")
    assert "\\&.TH is a request, and \\efB is one too." in text
    assert ".nf\n\\&'so are these\n    lines\n.fi" in text


def test_pages_have_no_fault_that_man_reports(
    tmp_path: Path, program: Callable[[str, str], str]
) -> None:
    man = program("man", "man-db")
    (tmp_path / "man1").mkdir()
    manual.write(tmp_path / "man1")
    for page in sorted((tmp_path / "man1").iterdir()):
        ended = subprocess.run(
            [man, "--warnings", "--encoding=UTF-8", "--local-file", "-Tutf8", "-Z", page],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"},
        )
        assert (ended.returncode, ended.stderr) == (0, ""), page.name


def test_completion_of_bash_offers_commands_and_options(tmp_path: Path) -> None:
    completion.write(tmp_path)
    script = tmp_path / "bash-completion/completions/vmw-cloudinit-metadata"
    subprocess.run(["bash", "-n", script], check=True)
    assert len([file for file in tmp_path.rglob("*") if file.is_file()]) == 9
    words = {"COMP_WORDS": "vmw-cloudinit-metadata tls", "COMP_CWORD": "1"}
    asked = {**os.environ, **words, "_VMW_CLOUDINIT_METADATA_COMPLETE": "bash_complete"}
    ended = subprocess.run(
        [Path(sys.executable).with_name("vmw-cloudinit-metadata")],
        capture_output=True,
        text=True,
        env=asked,
        timeout=60,
    )
    assert ended.stdout == "plain,tls-info\n"
