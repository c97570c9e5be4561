"""What a command imports: each start of the program pays for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.test_help import commands
from vmw_cloudinit_metadata.cli.commandlist import ListedGroup

PACKAGE = "vmw_cloudinit_metadata"
SERVER = f"{PACKAGE}.serving.server"
CLIENT, GUEST = f"{PACKAGE}.client", f"{PACKAGE}.guest"
LIBRARIES = {
    *("gevent", "jsonschema", "prometheus_client", "psutil", "pydantic", "pyVmomi", "rich", "yaml"),
}
WATCHED = {SERVER, CLIENT, GUEST, *LIBRARIES}

PROGRAM = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from vmw_cloudinit_metadata.cli import cli
cli.main(sys.argv[1:], prog_name="program", standalone_mode=False)
"""


def loaded_by(*words: str, env: Mapping[str, str] | None = None) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True, env=env
    )
    assert done.stdout
    return set(done.stderr.split()) & WATCHED


SETTINGS = {"yaml"}  # it may read the settings file


NEEDED: dict[str, set[str]] = {
    "--help": set(),
    "--version": set(),
    "client --help": set(),
    "client fetch --help": {CLIENT, "gevent"},
    "guest --help": {GUEST},
    "known-hosts --help": SETTINGS,
    "run --help": {SERVER, "gevent", "prometheus_client", "pydantic", "yaml"},
    "status --help": SETTINGS,
    "tail --help": SETTINGS,
    "token print --help": set(),
    "upgrade --help": SETTINGS,
    "window reopen --help": SETTINGS,
}


@pytest.mark.parametrize("words", NEEDED)
def test_command_imports_what_it_needs_alone(words: str) -> None:
    assert loaded_by(*words.split()) == NEEDED[words]


def test_names_of_commands_are_completed_without_their_modules() -> None:
    asked = {"_PROGRAM_COMPLETE": "bash_complete", "COMP_WORDS": "program st", "COMP_CWORD": "1"}
    assert loaded_by(env=asked) == set()


@pytest.mark.parametrize(
    "group",
    [command for _, command in commands() if isinstance(command, ListedGroup)],
    ids=lambda group: str(group.name),
)
def test_listed_summary_is_that_of_the_command(group: ListedGroup) -> None:
    own = {name: one.get_short_help_str(limit=200) for name, one in group.commands.items()}
    assert {name: row.summary for name, row in group.listed.rows.items()} == own
