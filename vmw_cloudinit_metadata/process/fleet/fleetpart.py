"""What a part of the fleet does in the fleet process: the statements of servers, moves, machines.

A part is a value: which kinds it is asked and told, what it fetches when another server notifies
this one, and what it does from time to time. `fleetparts.py` lists them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString, Protocol

from vmw_cloudinit_metadata.process.fleet.frames import Fields, Reply

SCHEMA = "vmw_fleet"
EVERY_PROCESS = 0  # of a server, in a notice

# A notice: process, kind and the id of a row. What it is about lies in the row.
_NOTICE = "{} {} {}"
_MAX_NOTICE_PARTS = 3


class Lane(Protocol):
    """A connection to the database that runs one statement after the other."""

    async def run(
        self, statement: LiteralString, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run one statement as a transaction of its own, and return its rows.

        Raise psycopg.Error. A list as a parameter is an array, for `unnest`.
        """


@dataclass(frozen=True, slots=True)
class Context:
    """What the statements of a part know of their server, while the database is reached."""

    server: str  # the id of this start of the server
    name: str
    schema: int  # the version of the schema, which may be one older or newer than this program's
    retention_days: int
    quick: Lane  # for what a VM or a move waits for
    slow: Lane  # for all else: batches, pages, retention
    forget_failed_s: float = 24 * 3600.0  # of machines in trouble, after they have disconnected


Ask = Callable[[Context, int, Fields, bytes], Awaitable[Reply | None]]
Write = Callable[[Context, Sequence["Row"]], Awaitable[None]]
Fetch = Callable[[Context, int], Awaitable[Reply | None]]
Run = Callable[[Context], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Row:
    """A tell, with the process of this server that told it."""

    process: int
    fields: Fields
    payload: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """How tells of a kind are written: together, one call of `write` every `every_s`."""

    write: Write
    every_s: float = 0.25
    most: int = 5_000  # rows of one call


@dataclass(frozen=True, slots=True)
class Round:
    """What is done every `every_s`; `is_alone`: by one server of the fleet at a time."""

    name: str
    every_s: float
    run: Run
    is_alone: bool = False


@dataclass(frozen=True, slots=True)
class FleetPart:
    """A part counts from the version `since` of the schema on; before, it is as if it were not."""

    asks: Mapping[str, Ask] = field(default_factory=dict)  # by kind; ask(context, process, ...)
    tells: Mapping[str, Batch] = field(default_factory=dict)  # by kind
    notices: Mapping[str, Fetch] = field(default_factory=dict)  # by kind; fetch(context, row id)
    rounds: Sequence[Round] = ()
    since: int = 1


def channel_of(server: str) -> str:
    """Return the channel on which a server is notified."""
    return f"{SCHEMA}_{server}"


def notice_of(kind: str, row: int, process: int = EVERY_PROCESS) -> str:
    """Return the payload of a notification, for pg_notify."""
    return _NOTICE.format(process, kind, row)


def parse_notice(text: str) -> tuple[int, str, int] | None:
    """Return process, kind and row of a notification; None if it is none of ours."""
    parts = text.split(" ")
    if len(parts) != _MAX_NOTICE_PARTS:
        return None
    process, kind, row = parts
    if not all(one.isascii() and one.isdigit() and len(one) < 19 for one in (process, row)):
        return None
    return int(process), kind, int(row)


def storable(text: str, most: int) -> str:
    """Return a text, cut to `most` characters, that PostgreSQL can store: without NUL and halves of
    surrogate pairs."""
    return text[:most].replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
