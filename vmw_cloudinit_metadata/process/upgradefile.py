"""The state that one program hands over to the next one, in a file in memory.

The file has a line with the format, and JSON. The environment has its descriptor, which stays open
through execv. What this version reads: its own format, and that of the version before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ujson

from vmw_cloudinit_metadata.process.collector import collector_off
from vmw_cloudinit_metadata.protocol.state import InvalidState, State, mapping

FORMAT = 1
READABLE = (FORMAT,)

# Not VMW_METADATA_: those are settings.
VARIABLE = "VMW_CLOUDINIT_METADATA_UPGRADE"

MAX_BYTES = 1024**3

_HEAD = b"state of vmw-cloudinit-metadata, format %d\n"
_CHECK, _STATE = "check", "state"


def for_check(listening: Iterable[str]) -> dict[str, str]:
    """Return the environment of a program that is to check whether it could take over from this
    one, which listens at these addresses."""
    return {**os.environ, VARIABLE: " ".join([f"{_CHECK}:{FORMAT}", *listening])}


def for_state(file: int) -> dict[str, str]:
    """Return the environment of the program that takes over."""
    return {**os.environ, VARIABLE: f"{_STATE}:{file}"}


def write(state: State) -> int:
    """Return the descriptor of a file with the state; it stays open through execv. Raise OSError or
    ValueError."""
    parts = {name: ujson.dumps(part, ensure_ascii=False) for name, part in state.items()}
    text = ujson.dumps(parts, ensure_ascii=False).encode()
    if len(text) > MAX_BYTES:
        raise ValueError(f"the state has more than {MAX_BYTES:,} bytes")
    file = os.memfd_create("upgrade", 0)
    try:
        with os.fdopen(file, "wb", closefd=False) as out:
            out.write(_HEAD % FORMAT)
            out.write(text)
    except BaseException:
        os.close(file)
        raise
    return file


class Handed(Mapping[str, Any]):
    """A state whose parts are read when they are asked for, since they are large."""

    def __init__(self, parts: Mapping[str, str]) -> None:
        self._parts = parts

    def __getitem__(self, name: str) -> Any:
        with collector_off():
            return ujson.loads(self._parts[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


@dataclass(frozen=True, slots=True)
class Before:
    """What the program before has left."""

    checked_format: int | None = None  # this program was started to check whether it can read it
    listening: frozenset[str] = frozenset()  # the addresses at which the program before listens
    state: Handed | None = None


def before() -> Before:
    """Return what the program before has left, and take it out of the environment. Raise
    InvalidState."""
    text, *listening = os.environ.pop(VARIABLE, "").split(" ")
    what, _, number = text.partition(":")
    if not what:
        return Before()
    if not (number.isascii() and number.isdigit()):
        raise InvalidState(f"{VARIABLE}: expected a number")
    if what == _CHECK:
        return Before(checked_format=int(number), listening=frozenset(listening))
    return Before(state=_read(int(number)))


def _read(file: int) -> Handed:
    with os.fdopen(file, "rb") as found:
        found.seek(0)
        size = min(os.fstat(file).st_size, MAX_BYTES)  # read() allocates all that it may return
        head, text = found.readline(len(_HEAD) + 20), found.read(size)
    if head not in {_HEAD % one for one in READABLE}:
        raise InvalidState("the state of the program before has another format")
    try:
        return Handed(mapping(ujson.loads(text)))
    except ValueError as error:
        raise InvalidState(f"the state of the program before is no JSON: {error}") from error
