"""The fleet process: keeps the connections to the database, for all processes of its server.

    python -m vmw_cloudinit_metadata.process.fleet.fleetchild

The server starts it and writes one line with its work to the standard input; the database's address
is a secret, and no argument. `stop` is the second line: what waits is written, and the server is
marked as stopped; or `pause`: what waits is written, and the next program of the server goes on.
The process ends when its input does: then the server is gone.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import ujson
from psycopg import sql

from vmw_cloudinit_metadata.process import keptchild
from vmw_cloudinit_metadata.process.fleet import (
    fleetdatabase,
    fleetschema,
    fleetservers,
    frames,
    migrations,
)
from vmw_cloudinit_metadata.process.fleet.fleetdatabase import BoundedConnection, DatabaseLane
from vmw_cloudinit_metadata.process.fleet.fleetdesk import Desk
from vmw_cloudinit_metadata.process.fleet.fleetpart import Context, channel_of
from vmw_cloudinit_metadata.process.fleet.fleetparts import PARTS
from vmw_cloudinit_metadata.process.fleet.fleetstate import PAUSE, STOP, FleetState
from vmw_cloudinit_metadata.process.fleet.linkserver import LinkServer
from vmw_cloudinit_metadata.process.fleet.migrations import WrongSchemaError
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened
from vmw_cloudinit_metadata.settings.knownsecrets import KnownSecrets, parts_of

MEMORY_BYTES = 384 * 1024**2
STATE_S = 1.0  # from one to the next: each is a sign of life too
PING_S = 1.0  # of the listener; the answer has WAIT_S
RETRY_S = 0.25  # after a connection was lost; doubled each time
MAX_RETRY_S = 5.0
STEADY_S = 5.0  # what lasts for less does not count as reached
REFUSED_S = 10.0  # until a schema of another version is looked at again
STOP_S = 1.0  # for what waits, when the server stops
MAX_PROBLEM = 300  # characters


class RestoredError(Exception):
    """The database is not as this server has left it: what it was told may be gone."""


_FAILURES = (psycopg.Error, OSError, TimeoutError, WrongSchemaError, RestoredError)


@dataclass(frozen=True, slots=True)
class FleetWork:
    url: str
    address: str  # of the links
    server: str  # the id of this start of the server
    name: str
    started_s: float  # by time.monotonic(), which all processes of a machine share
    retention_days: int
    forget_failed_s: float

    @classmethod
    def of(cls, line: bytes) -> FleetWork:
        """Parse what the server has written, which is trusted."""
        return cls(**ujson.loads(line))


class FleetKeeper:
    """Keeps the connections, says how they are, and connects again when they are lost."""

    def __init__(self, work: FleetWork) -> None:
        self._work = work
        self._counts: Counter[str] = Counter()
        self._desk = Desk(PARTS, self._counts)
        self._links = LinkServer(self._desk.hear, self._state_frame)
        self._secrets = KnownSecrets(parts_of(work.url))
        self._state = FleetState(since_s=time.time(), server=work.server, place=self._place())
        self._context: Context | None = None
        self._beaten_s: float | None = None  # the last heartbeat of this connection

    async def run(self, stop: asyncio.Future[bytes]) -> None:
        """Work until `stop` has STOP or PAUSE."""
        await self._links.start(self._work.address)
        every: list[asyncio.Future[Any]] = [
            asyncio.create_task(one) for one in (self._say_state(), self._keep())
        ]
        await asyncio.wait([*every, stop], return_when=asyncio.FIRST_COMPLETED)
        for task in every:
            if task.done():
                task.result()  # raises: a fault of ours
        with suppress(*_FAILURES):
            async with asyncio.timeout(STOP_S):
                await self._end(is_stopped=stop.result() == STOP)

    async def _end(self, *, is_stopped: bool) -> None:
        await self._desk.flush()
        if self._context and is_stopped:
            await fleetservers.stop(self._context)

    # The connections

    async def _keep(self) -> None:
        wait_s = RETRY_S
        while True:
            begun_s = time.monotonic()
            try:
                await self._connect()
            except WrongSchemaError as error:
                self._lost(str(error))
                wait_s = REFUSED_S
            except _FAILURES as error:
                was_steady = self._state.is_connected and time.monotonic() - begun_s > STEADY_S
                wait_s = RETRY_S if was_steady else min(2 * wait_s, MAX_RETRY_S)
                self._lost(self._reason_of(error))
            await asyncio.sleep(wait_s)

    async def _connect(self) -> None:
        """Connect, and return by an exception when a connection is lost."""
        url = self._work.url
        async with (
            fleetdatabase.connected(url) as listener,
            fleetdatabase.connected(url) as quick,
            fleetdatabase.connected(url, fleetdatabase.SLOW_WAIT_S) as slow,
        ):
            broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def fail(error: psycopg.Error) -> None:
                if not broken.done():
                    broken.set_exception(error)

            quick_lane, slow_lane = (DatabaseLane(one, self._count, fail) for one in (quick, slow))
            await self._use(listener, quick_lane, slow_lane, broken)

    async def _use(
        self,
        listener: BoundedConnection,
        quick: DatabaseLane,
        slow: DatabaseLane,
        broken: asyncio.Future[None],
    ) -> None:
        work = self._work
        schema = migrations.check(await fleetschema.version_in(quick))
        context = Context(
            *(work.server, work.name, schema, work.retention_days, quick, slow),
            forget_failed_s=work.forget_failed_s,
        )
        self._beaten_s = None
        await self._beat(context)
        channel = sql.Identifier(channel_of(work.server))
        await listener.execute(sql.SQL("LISTEN {}").format(channel))
        self._context = context
        self._desk.open(context)
        self._connected(schema)
        tasks = [self._listen(listener), self._keep_beating(context), *self._desk.work(context)]
        running = [asyncio.create_task(one) for one in tasks]
        try:
            await asyncio.wait([*running, broken], return_when=asyncio.FIRST_EXCEPTION)
            for done in (one for one in (*running, broken) if one.done()):
                done.result()
        finally:
            self._context = None
            self._desk.close()
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await self._desk.settle()
            broken.cancel()

    async def _listen(self, listener: BoundedConnection) -> None:
        while True:
            async for notification in listener.notifies(timeout=PING_S):
                self._desk.notified(notification.payload, self._links)
            self._count()
            await listener.execute("SELECT 1")  # a server that hangs is noticed by nothing else

    async def _keep_beating(self, context: Context) -> None:
        while True:
            await asyncio.sleep(fleetservers.HEARTBEAT_S)
            try:
                await self._beat(context)
            except psycopg.Error as error:  # such as a lock that is not free in time
                self._desk.failed(error)

    async def _beat(self, context: Context) -> None:
        running_s = time.monotonic() - self._work.started_s
        work = self._work
        beat = await fleetservers.beat(context.quick, work.server, work.name, running_s)
        expected_s, self._beaten_s = self._beaten_s, beat.at_s
        if expected_s not in (None, beat.before_s):
            raise RestoredError("the database was restored or emptied: it is told all again")
        if beat.namesake != self._state.namesake:
            self._set(replace(self._state, namesake=beat.namesake))

    # What it says of itself

    def _connected(self, schema: int) -> None:
        self._counts["connects"] += 1
        # The process may be another one of the same server: its epochs differ from mine.
        epoch = time.monotonic_ns() // 1000
        self._set(
            replace(
                self._state,
                is_connected=True,
                since_s=time.time(),
                problem="",
                schema=schema,
                epoch=epoch,
            )
        )

    def _lost(self, problem: str) -> None:
        since_s = time.time() if self._state.is_connected else self._state.since_s
        self._set(replace(self._state, is_connected=False, since_s=since_s, problem=problem))

    def _set(self, state: FleetState) -> None:
        self._state = state
        self._links.send(self._state_frame())

    async def _say_state(self) -> None:
        while True:
            await asyncio.sleep(STATE_S)
            self._links.send(self._state_frame())

    def _state_frame(self) -> bytes:
        packed = self._state.pack() | {"fault": self._desk.fault, "counts": dict(self._counts)}
        return frames.encode({"state": packed})

    def _count(self) -> None:
        self._counts["statements"] += 1

    def _reason_of(self, error: BaseException) -> str:
        """Return why the database is out of reach, without secrets."""
        text = " ".join(str(error).split()) or type(error).__name__
        return one_line(shortened(self._secrets.hide(text), MAX_PROBLEM))

    def _place(self) -> str:
        return one_line(shortened(fleetdatabase.place_of(self._work.url), MAX_PROBLEM))


async def _run(line: bytes) -> None:
    loop = asyncio.get_running_loop()
    stop = loop.create_future()

    def heard() -> None:
        loop.remove_reader(0)
        last = os.read(0, len(PAUSE))
        if last not in (STOP, PAUSE):
            os._exit(0)  # the server is gone: there is nobody to do anything for
        stop.set_result(last)

    loop.add_reader(0, heard)
    await FleetKeeper(FleetWork.of(line)).run(stop)


if __name__ == "__main__":
    keptchild.run(_run, MEMORY_BYTES)
