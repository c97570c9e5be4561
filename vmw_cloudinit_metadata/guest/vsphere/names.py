"""The names of VMs: given, from a file, from standard input, or from a folder of instance files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from vmw_cloudinit_metadata.drivers.directory import Directory
from vmw_cloudinit_metadata.settings.errors import ConfigError

STANDARD_INPUT = "-"


def names(given: Sequence[str], sources: Iterable[str], defaults: str | None) -> list[str]:
    """Each name once, in their order; raises ConfigError if there is none, or none can be read.

    `defaults`: the instance file that lies under all others, and is no VM's.
    """
    found = [*given, *(name for source in sources for name in _of_source(source, defaults))]
    if not found:
        raise ConfigError("no VM is named: give names, or --from FILE, a folder, or -")
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
        raise ConfigError(f"--from: {source}: byte {error.start} is no UTF-8") from error


def _of_text(text: str) -> list[str]:
    """One on a line; blank lines and those that begin with # are none."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _of_folder(path: Path, defaults: str | None) -> list[str]:
    """The instance files' names, without suffix: VM names as vCenter writes them, or UUIDs."""
    folder = Directory(str(path))
    shared = folder.path_of(defaults) if defaults else None
    return [Path(file).stem for file in folder.all_paths() if file != shared]
