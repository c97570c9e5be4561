"""Standard output and standard error that are full, closed, or read by nobody, in all commands."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from tests.certificates import make_pair
from tests.guest import AGENT, GUEST, Guest, Serial
from tests.process import CHECKOUT, COMMAND, Program, ServerProcess, begin, ended, run
from tests.uart import DOCUMENTS, server_of
from tests.vm import LIMIT_S
from tests.waiting import wait_until
from vmw_cloudinit_metadata.cli import cli

NO_SPACE = "standard output: No space left on device\n"
GONE = 128 + 13  # as of a program that SIGPIPE has ended
VC_UUID = "01234567-89ab-cdef-fedc-ba9800000001"

# What prints; words in capital letters stand for what the test has made.
PRINTING = {
    "check-config": "--uri u DRIVER",
    "client fetch": f"web1 --uri my-metadata SERVER --vc-uuid {VC_UUID}",
    "client herd": "--uri my-metadata SERVER --pattern web{} -n 1 -c 1",
    "client soak": "--uri my-metadata SERVER --pattern web{} -n 1 -c 1 -t 0.1",
    "client steady": "--uri my-metadata SERVER --pattern web{} -n 1 -c 1 -t 0.1",
    "client storm": "--uri my-metadata SERVER --pattern web{} -n 1 -c 1",
    "completion": "bash",
    "drivers": "",
    "fleet init": "--print --user serving",
    "guest check": "--root IMAGE",
    "guest install": "--root IMAGE",
    "guest print": "agent",
    "show": f"web1 DRIVER --vc-uuid {VC_UUID}",
    "sql init": "--url sqlite:////nowhere",
    "status": "ADMIN",
    "tail": "ADMIN -n 1",
    "tls-info": "--tls-cert CERTIFICATE --host h",
    "token print": f"--key-file KEY {VC_UUID}",
    "validate": "DRIVER --format json",
}
# Print nothing, or only with a vCenter, a database, a guest's report or a ledger.
OTHERS = {
    *("known-hosts", "window reopen"),
    *("client bridge", "run", "sql export", "sql import", "upgrade", "fleet migrate"),
    *("fleet status", "vm-port add", "vm-port remove", "vm-port reconnect", "vm-port show"),
}


def paths(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from paths(inner, f"{path} {name}".strip())


LEAVES = {path for path, command in paths(cli) if not isinstance(command, click.Group)}


def into_full(command: list[str]) -> tuple[int, str]:
    """Run it with a full standard output; return its exit status and standard error."""
    with Path("/dev/full").open("w") as full:
        done = ended(command, lambda _, err: begin(command, full.fileno(), err, CHECKOUT, {}))
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def places(
    server: ServerProcess,
    instances: Path,
    tmp_path_factory: pytest.TempPathFactory,
    program: Callable[[str, str], str],
) -> dict[str, list[str]]:
    """What the words in capital letters stand for."""
    directory = tmp_path_factory.mktemp("places")
    key = directory / "key"
    key.write_text("0123456789abcdef0123456789abcdef")
    key.chmod(0o600)
    for name in ("etc", "usr"):
        (directory / "image" / name).mkdir(parents=True)
    port = server.wait_for(r"admin on http://127\.0\.0\.1:(\d+)")[1]
    server_words = ["--server", f"127.0.0.1:{server.port}"]
    run("client", "fetch", "web1", "--uri", "my-metadata", *server_words)  # an event for `tail`
    return {
        "ADMIN": ["--admin", f"http://127.0.0.1:{port}"],
        "CERTIFICATE": [str(make_pair(program("openssl", "openssl"), directory, "h").certificate)],
        "DRIVER": ["--driver-opts", f'{{"directory": "{instances}"}}'],
        "IMAGE": [str(directory / "image")],
        "KEY": [str(key)],
        "SERVER": server_words,
    }


def test_each_command_is_known_here() -> None:
    assert {*PRINTING, *OTHERS} == LEAVES


@pytest.mark.parametrize("name", PRINTING)
def test_command_whose_output_is_full_says_so(name: str, places: dict[str, list[str]]) -> None:
    words = [part for word in PRINTING[name].split() for part in places.get(word, [word])]
    code, told = into_full(Program([*COMMAND, *name.split(), *words]))
    assert code == 2
    assert told.endswith(f"vmw-cloudinit-metadata: error: {NO_SPACE}")
    assert "Traceback" not in told


def test_help_that_cannot_be_printed_is_one_line() -> None:
    """Of all commands, also of those that print nothing else."""
    expected = (2, f"vmw-cloudinit-metadata: error: {NO_SPACE}")
    for path, _ in paths(cli):
        assert into_full(Program([*COMMAND, *path.split(), "--help"])) == expected, path


# Each program, each way; the shell closes.
MAIN = [*COMMAND, "drivers"]
SERVER = [str(CHECKOUT / "bin/vmw-metadata-server"), "--help"]
CLIENT = [str(CHECKOUT / "bin/vmw-metadata-client"), "--help"]
IN_GUEST = [sys.executable, str(AGENT), "--help"]
CLOSED = "standard output: Bad file descriptor\n"
ENDS = {
    "main-full": (MAIN, ">/dev/full", 2, f"vmw-cloudinit-metadata: error: {NO_SPACE}"),
    "main-closed": (MAIN, ">&-", 2, f"vmw-cloudinit-metadata: error: {CLOSED}"),
    "server-full": (SERVER, ">/dev/full", 2, f"vmw-metadata-server: error: {NO_SPACE}"),
    "client-closed": (CLIENT, ">&-", 2, f"vmw-metadata-client: error: {CLOSED}"),
    "agent-full": (IN_GUEST, ">/dev/full", 1, f"vmw-metadata-agent: {NO_SPACE}"),
    "agent-closed": (IN_GUEST, ">&-", 1, "vmw-metadata-agent: standard output: it is closed\n"),
    "all-closed": (MAIN, ">&- 2>&- <&-", 2, ""),
    "main-all-full": (MAIN, ">/dev/full 2>&1", 2, ""),
    "agent-all-closed": (IN_GUEST, ">&- 2>&- <&-", 1, ""),
}


def in_shell(command: list[str], redirection: str, stdout: int) -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *command],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
        timeout=LIMIT_S,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("command", "how", "code", "told"), ENDS.values(), ids=ENDS)
def test_program_without_its_output_ends_with_one_line(
    command: list[str], how: str, code: int, told: str
) -> None:
    assert in_shell(command, how, subprocess.PIPE) == (code, b"", told.encode())


@pytest.mark.parametrize("command", [MAIN, IN_GUEST], ids=["main", "agent"])
def test_program_whose_reader_is_gone_ends_without_a_word(command: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        assert in_shell(command, "", write)[::2] == (GONE, b"")
    finally:
        os.close(write)


@pytest.mark.parametrize(
    ("words", "number"),
    [(("guest", "print", "agent"), 1), (("x" * 100_000,), 2)],
    ids=["out", "err"],
)
def test_pipe_that_does_not_block_gets_all(words: tuple[str, ...], number: int) -> None:
    """Its other end has made it so, and reads slowly. The text is more than the pipe holds."""
    command = [*COMMAND, *words]  # too long for the starter
    expected = ended(command, lambda out, err: begin(command, out, err, CHECKOUT, {}))
    read, write = os.pipe()
    os.set_blocking(write, False)
    with Path(os.devnull).open("w") as other, os.fdopen(read, "rb") as reader:
        streams = (write, other.fileno()) if number == 1 else (other.fileno(), write)
        process = begin(command, *streams, CHECKOUT, {})
        wait_until(lambda: not select.select((), (write,), (), 0)[1])
        os.close(write)
        text = reader.read().decode()
        assert process.wait(LIMIT_S) == expected.returncode
    assert text == (expected.stdout, expected.stderr)[number - 1]


@pytest.mark.parametrize("how", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize(
    "command",
    [
        [*COMMAND, "show", "web1", "--driver-opts", '{"directory": "conf/instances"}'],
        [*COMMAND, "show", "nobody", "--driver-opts", '{"directory": "conf/instances"}'],
        [*COMMAND, "drivers", "--nope"],
        [*IN_GUEST[:2], "--nope"],
        [*IN_GUEST[:2], "report", "--root", "/nowhere"],
    ],
    ids=["shown", "not-found", "invalid", "agent-invalid", "agent-report"],
)
def test_result_is_the_same_without_standard_error(command: list[str], how: str) -> None:
    expected = in_shell(command, "", subprocess.PIPE)
    assert expected[2]
    assert in_shell(command, how, subprocess.PIPE) == (*expected[:2], b"")


@pytest.mark.parametrize("words", [("--check",), ("--dry-run",)], ids=["check", "dry-run"])
def test_agent_whose_output_is_full_says_so(
    guest: Guest, serial: Serial, words: tuple[str, ...]
) -> None:
    guest.add_port("ttyS0", serial(server_of(DOCUMENTS)))
    code, told = into_full(guest.command(*words))
    assert (code, told.splitlines()[-1]) == (1, f"vmw-metadata-agent: {NO_SPACE.rstrip()}")


def test_agent_prints_in_one_place() -> None:
    places = [
        file.name
        for file in sorted((GUEST / "agent").glob("*.py"))
        if re.search(r"\bprint\(|sys\.stdout|sys\.stderr", file.read_text())
    ]
    assert places == ["agentoutput.py"]
