"""The names of VMs: from arguments, files, standard input, or folders of instance files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.files.vmnames import vm_names
from vmw_cloudinit_metadata.settings.errors import ConfigError

STANDARD_INPUT = "-"


def names(given: Sequence[str], sources: Sequence[str], defaults: str | None) -> list[str]:
    """Return each name once, in order; raise ConfigError if there is none or one cannot be read.

    `defaults`: the instance file with the defaults for all VMs, which names no VM.
    """
    if defaults is not None and not any(Path(source).is_dir() for source in sources):
        raise ConfigError("--defaults has no effect without a folder in --from")
    found = [*given, *(name for source in sources for name in _of_source(source, defaults))]
    if not found:
        raise ConfigError("no VM given: give names, or --from with a file, a folder, or -")
    return list(dict.fromkeys(found))


def _of_source(source: str, defaults: str | None) -> list[str]:
    if source == STANDARD_INPUT:
        return _of_text(sys.stdin.read())
    path = Path(source)
    try:
        return _of_folder(path, defaults) if path.is_dir() else _of_text(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"--from: {source}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--from: {source}: byte {error.start} is not UTF-8") from error


def _of_text(text: str) -> list[str]:
    """Return one name per line; skip blank lines and lines that begin with #."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _of_folder(path: Path, defaults: str | None) -> list[str]:
    """The names of files and entries: VM names as vCenter writes them, or UUIDs."""
    try:
        return vm_names(str(path), defaults)
    except DriverError as error:
        raise ConfigError(f"--from: {error}") from error
