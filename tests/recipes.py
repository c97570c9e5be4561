"""The recipes of docs/guest.md, taken from its text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.process import CHECKOUT


def _recipe(pattern: str) -> str:
    """The one code block that matches, without its fence."""
    text = (CHECKOUT / "docs/guest.md").read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if re.match(pattern, block)]
    return found


def printing() -> str:
    return _recipe("vmw-cloudinit-metadata guest print agent ")


def by_hand() -> str:
    return _recipe("install -D ")


def virt_customize() -> str:
    return _recipe("virt-customize ")


def guestmount() -> str:
    return _recipe("guestmount ")


def packer() -> str:
    """The commands of the shell provisioner."""
    (inline,) = re.findall(r"inline = \[\n(.*?)\n  \]", _recipe('provisioner "file"'), re.DOTALL)
    return "\n".join(re.findall(r'^    "(.*)",$', inline, re.MULTILINE))


def kickstart() -> str:
    """The script of %post."""
    (script,) = re.findall(r"^%post.*?\n(.*)^%end", _recipe("%packages"), re.DOTALL | re.MULTILINE)
    return script


def with_program(directory: Path) -> dict[str, str]:
    """The environment in which a script in a directory finds the program of this checkout."""
    program = directory / "bin" / "vmw-cloudinit-metadata"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m vmw_cloudinit_metadata "$@"\n')
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(CHECKOUT)}


def print_files(directory: Path) -> None:
    """Run the commands that print the files, in a directory."""
    shell(printing(), directory, **with_program(directory))


def shell(script: str, directory: Path, limit_s: float = 60, **env: str) -> str:
    """Run a script that ends with its first failure; give what it prints."""
    ended = subprocess.run(
        ["sh", "-eu"],
        input=script,
        cwd=directory,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout
