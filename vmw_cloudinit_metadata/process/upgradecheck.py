"""Whether the program on disk could take over: it is started, and says so.

It runs with the same command line, reads settings and certificates, loads the driver, and listens
to nothing. A program of before upgrades says nothing, and counts as one that cannot.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from vmw_cloudinit_metadata import __version__
from vmw_cloudinit_metadata.process import upgradefile
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened

CHECK_S = 60.0  # as long as a worker may take to start

_MAX_OUTPUT = 64 * 1024
_PIECE_BYTES = 4096
_MAX_VERSION = 100  # characters
_CAN = "can take over, as version "
_ALONE = "takes part in no fleet"


@dataclass(frozen=True, slots=True)
class NextProgram:
    """The program that can take over."""

    version: str
    has_fleet: bool  # also if it does not say


class UpgradeError(Exception):
    """There is no upgrade; says why."""


def program() -> list[str]:
    """Return the command of this process, as it is to be executed now: a script with a `#!` line is
    executed itself, so that an interpreter that was replaced with it is used."""
    _, *arguments = sys.orig_argv
    if arguments and _is_script(arguments[0]):
        return arguments
    return [sys.executable, *arguments]


def _is_script(path: str) -> bool:
    if path.startswith("-") or not os.access(path, os.X_OK):
        return False
    with suppress(OSError), open(path, "rb") as file:  # noqa: PTH123 - as the command line has it
        return file.read(2) == b"#!"
    return False


def say_can(checked_format: int, *, has_fleet: bool) -> None:
    """Say, in the program that is checked, that it can take over. Raise UpgradeError."""
    if checked_format not in upgradefile.READABLE:
        raise UpgradeError(
            f"version {__version__} cannot read the state of the version that runs (format "
            f"{checked_format}): restart the server instead"
        )
    without = "" if has_fleet else f"{_ALONE}\n"
    print(f"{without}{_CAN}{__version__}", flush=True)


def check(command: Sequence[str], listening: Iterable[str] = ()) -> NextProgram:
    """Start the program on disk; return what it says if it can take over from this one, which
    listens at these addresses. Raise UpgradeError.

    Blocks: call it in a thread.
    """
    try:
        process = subprocess.Popen(  # nosec B603 # the command of this process
            command,
            env=upgradefile.for_check(listening),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        raise UpgradeError(f"cannot start {command[0]}: {error.strerror}") from error
    try:
        output = _output_of(process)
    finally:
        process.kill()
        code = process.wait()
        assert process.stdout
        process.stdout.close()
    lines = output.decode(errors="replace").strip().splitlines()
    can = [line.removeprefix(_CAN) for line in lines if line.startswith(_CAN)]
    if code == 0 and can:
        return NextProgram(shortened(one_line(can[0]), _MAX_VERSION), _ALONE not in lines)
    said = shortened(one_line(lines[-1])) if lines else "it says nothing"
    raise UpgradeError(f"the new version does not start (exit code {code}): {said}")


def _output_of(process: subprocess.Popen[bytes]) -> bytes:
    """Return the end of the output, once the process has ended."""
    assert process.stdout
    poll = select.poll()  # the descriptor may be beyond what select() takes
    poll.register(process.stdout, select.POLLIN)
    output, end_s = b"", time.monotonic() + CHECK_S
    while (left_s := end_s - time.monotonic()) > 0:
        if not poll.poll(1000 * left_s):
            break
        piece = os.read(process.stdout.fileno(), _PIECE_BYTES)
        if not piece:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(end_s - time.monotonic(), 0.1))
                return output
            break
        output = (output + piece)[-_MAX_OUTPUT:]
    raise UpgradeError(f"the new version is not ready within {CHECK_S:g} s")
