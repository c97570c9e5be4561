"""Desk: does in the database what the processes of the server ask and tell, by the fleet's parts.

While the database is out of reach, each ask is answered "no" at once, and tells are dropped and
counted: nobody waits for it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any

import psycopg

from vmw_cloudinit_metadata.process.fleet import frames
from vmw_cloudinit_metadata.process.fleet.fleetpart import (
    Batch,
    Context,
    FleetPart,
    Round,
    Row,
    parse_notice,
)
from vmw_cloudinit_metadata.process.fleet.frames import InvalidFrame, Reply, Told
from vmw_cloudinit_metadata.process.fleet.linkserver import LinkServer, ProcessLink
from vmw_cloudinit_metadata.process.keptchild import where_of
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened

MAX_ASKS = 2_000  # that wait, of all processes together
MAX_ASKED_BYTES = 64 * 1024 * 1024  # payloads of these
ASKS_AT_ONCE = 16  # of a kind: moves wait for no pages
MAX_NOTICES = 2_000  # that are fetched
MAX_WAITING_BYTES = 16 * 1024 * 1024  # tells of a kind

_ROW_BYTES = 500  # what a row costs beside its payload and the text of its fields
_TRY_LOCK = "SELECT pg_try_advisory_lock(hashtext('vmw_fleet'), hashtext(%s))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtext('vmw_fleet'), hashtext(%s))"


class Waiting:
    """The tells of one kind that are not written yet."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.rows: list[Row] = []
        self._bytes = 0

    def add(self, row: Row) -> bool:
        """Return whether there was room."""
        size = _bytes_of(row)
        if self._bytes + size > MAX_WAITING_BYTES:
            return False
        self.rows.append(row)
        self._bytes += size
        return True

    def take(self) -> Sequence[Row]:
        """Return the oldest rows, as many as are written together."""
        most = self.batch.most
        taken, self.rows = self.rows[:most], self.rows[most:]
        self._bytes -= sum(map(_bytes_of, taken))
        return taken


def _bytes_of(row: Row) -> int:
    return _ROW_BYTES + len(row.payload) + sum(len(str(one)) for one in row.fields.values())


class Desk:
    """`open` when the database is reached, `work` until it is lost, then `close` and `settle`."""

    def __init__(self, parts: Sequence[FleetPart], counts: Counter[str]) -> None:
        self._parts = parts
        self._counts = counts  # shown in the state
        self._context: Context | None = None
        self._open: Sequence[FleetPart] = ()  # those that the schema has tables for
        self._waiting: dict[str, Waiting] = {}
        self._asked: set[asyncio.Task[None]] = set()
        self._fetched: set[asyncio.Task[None]] = set()
        self._asked_bytes = 0
        self._at_once = defaultdict[str, asyncio.Semaphore](
            partial(asyncio.Semaphore, ASKS_AT_ONCE)
        )
        self.fault = ""  # the last statement that the database refused, and why

    # While the database is reached

    def open(self, context: Context) -> None:
        self._context = context
        self._open = [part for part in self._parts if part.since <= context.schema]
        self._waiting = {
            kind: Waiting(batch) for part in self._open for kind, batch in part.tells.items()
        }

    def close(self) -> None:
        """The database is lost: nothing of what waits will be done."""
        self._context = None
        for waiting in self._waiting.values():
            self._counts["tells dropped"] += len(waiting.rows)
        self._waiting = {}

    async def settle(self) -> None:
        """Answer "no" to what is under way, before its connections are closed."""
        under_way = [*self._asked, *self._fetched]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    def work(self, context: Context) -> Iterator[Coroutine[Any, Any, None]]:
        """Yield what is to run while the database is reached."""
        yield from (self._write(context, waiting) for waiting in self._waiting.values())
        yield from (self._go_round(context, one) for part in self._open for one in part.rounds)

    async def flush(self) -> None:
        """Write what waits."""
        if context := self._context:
            for waiting in self._waiting.values():
                while waiting.rows:
                    await self._write_some(context, waiting)

    async def _write(self, context: Context, waiting: Waiting) -> None:
        while self._context is context:
            await asyncio.sleep(waiting.batch.every_s)
            if waiting.rows:
                await self._write_some(context, waiting)

    async def _write_some(self, context: Context, waiting: Waiting) -> None:
        rows = waiting.take()
        if not await self._done(waiting.batch.write(context, rows)):
            self._counts["tells dropped"] += len(rows)

    async def _go_round(self, context: Context, one: Round) -> None:
        """Begin somewhere in the first half, so that servers which start together do not meet."""
        await asyncio.sleep(random.uniform(0, one.every_s / 2))  # nosec B311 # no secret
        while self._context is context:
            await self._done(_alone(context, one) if one.is_alone else one.run(context))
            await asyncio.sleep(one.every_s)

    async def _done(self, work: Awaitable[Any]) -> bool:
        """Wait for it; return whether the database has done it. A lost connection ends all of this
        elsewhere (see DatabaseLane)."""
        try:
            await work
        except Exception as error:  # of one part: the others go on
            self.failed(error)
            return False
        return True

    async def _found(self, work: Awaitable[Reply | None]) -> Reply | None:
        try:
            return await work
        except Exception as error:  # of one ask: the others go on
            self.failed(error)
        return None

    def failed(self, error: Exception) -> None:
        """Note that the database has refused a statement; a lost connection is noted elsewhere."""
        self._counts["failed"] += 1
        if isinstance(error, psycopg.Error):
            self.fault = text_of(error) if error.sqlstate else self.fault
        else:
            self.fault = f"internal error: {where_of(error)}"

    # What processes and other servers say

    def hear(self, link: ProcessLink, told: Told) -> None:
        if told.ask is not None:
            self._ask(link, told)
            return
        waiting = self._waiting.get(told.kind)
        if not waiting or not waiting.add(Row(link.process, told.fields, told.payload)):
            self._counts["tells dropped"] += 1

    def _ask(self, link: ProcessLink, told: Told) -> None:
        assert told.ask is not None
        is_full = (
            len(self._asked) >= MAX_ASKS or self._asked_bytes + len(told.payload) > MAX_ASKED_BYTES
        )
        if self._context is None or is_full:
            link.reply(told.ask, None)
            return
        self._asked_bytes += len(told.payload)
        _begin(self._answer(link, told, told.ask, self._context), self._asked)

    async def _answer(self, link: ProcessLink, told: Told, ask: int, context: Context) -> None:
        reply = None
        try:
            reply = await self._reply_to(link, told, context)
        finally:  # also if it is cancelled
            self._asked_bytes -= len(told.payload)
            link.reply(ask, reply)

    async def _reply_to(self, link: ProcessLink, told: Told, context: Context) -> Reply | None:
        asks = [part.asks[told.kind] for part in self._open if told.kind in part.asks]
        if not asks:
            return None
        async with self._at_once[told.kind]:
            if time.monotonic() > told.until_s:
                return None
            return await self._found(asks[0](context, link.process, told.fields, told.payload))

    def notified(self, text: str, links: LinkServer) -> None:
        """Fetch what a notification is about, and pass it on."""
        notice = parse_notice(text)
        if notice is None or self._context is None or len(self._fetched) >= MAX_NOTICES:
            self._counts["notices dropped"] += 1
            return
        _begin(self._deliver(self._context, *notice, links), self._fetched)

    async def _deliver(
        self, context: Context, process: int, kind: str, row: int, links: LinkServer
    ) -> None:
        fetches = [part.notices[kind] for part in self._open if kind in part.notices]
        reply = await self._found(fetches[0](context, row)) if fetches else None
        if reply is None:
            self._counts["notices dropped"] += 1
            return
        try:
            frame = frames.encode({"kind": kind, "fields": reply.fields}, reply.payload)
        except InvalidFrame:
            self._counts["notices dropped"] += 1
        else:
            links.send(frame, process)


def _begin(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    """Begin a task; asyncio keeps no reference to it."""
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def _alone(context: Context, one: Round) -> None:
    """Run it unless another server does so now. The lock ends with the connection, too."""
    ((is_ours,),) = await context.slow.run(_TRY_LOCK, (one.name,))
    if not is_ours:
        return
    failure: Exception | None = None
    try:
        await one.run(context)
    except Exception as error:  # raised again below, once the lock is given back
        failure = error
    # Not in a `finally`: a task that is cancelled must wait for nothing more.
    await context.slow.run(_UNLOCK, (one.name,))
    if failure:
        raise failure


def text_of(error: psycopg.Error) -> str:
    """Return why the database refused a statement, without the values that errors of data quote."""
    quotes_data = (error.sqlstate or "")[:2] in ("22", "23")
    text = "" if quotes_data else f": {error.diag.message_primary}"
    return one_line(shortened(f"{type(error).__name__} {error.sqlstate}{text}"))
