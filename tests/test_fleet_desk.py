"""The desk of the fleet process with a real PostgreSQL: batches, asks, notices, rounds."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager

import psycopg
import pytest

from tests.fleet import rows
from tests.servers.postgresql import PostgresqlBackend
from vmw_cloudinit_metadata.process.fleet import fleetdatabase, frames
from vmw_cloudinit_metadata.process.fleet.fleetdatabase import DatabaseLane
from vmw_cloudinit_metadata.process.fleet.fleetdesk import MAX_WAITING_BYTES, Desk
from vmw_cloudinit_metadata.process.fleet.fleetpart import (
    Batch,
    Context,
    FleetPart,
    Round,
    Row,
    notice_of,
)
from vmw_cloudinit_metadata.process.fleet.frames import Fields, FrameReader, Reply, Told
from vmw_cloudinit_metadata.process.fleet.linkserver import LinkServer

pytestmark = pytest.mark.slow


class PlayedLink:
    """A process of the server: what it was sent."""

    process = 77

    def __init__(self) -> None:
        self.replies: dict[int, Reply | None] = {}
        self.arrived: list[tuple[int, Fields, bytes]] = []

    def reply(self, ask: int, reply: Reply | None) -> None:
        self.replies[ask] = reply

    def send(self, frame: bytes, process: int) -> None:
        (found,) = FrameReader().receive(frame)
        self.arrived.append((process, found.head["fields"], found.payload))


async def _write(context: Context, told: Sequence[Row]) -> None:
    await context.slow.run(
        "INSERT INTO vmw_fleet.numbers SELECT unnest(%s::int[])",
        ([one.fields["n"] for one in told],),
    )


async def _refused(context: Context, _: Sequence[Row]) -> None:
    await context.slow.run("INSERT INTO vmw_fleet.missing VALUES (1)")


async def _sum(context: Context, process: int, fields: Fields, payload: bytes) -> Reply:
    ((found,),) = await context.quick.run("SELECT sum(n)::int FROM vmw_fleet.numbers")
    return Reply({"sum": found, "process": process, **fields}, payload)


async def _faulty(*_: object) -> Reply:
    raise KeyError("a fault of a part, with a s3cret")


async def _slow(context: Context, *_: object) -> Reply:
    await context.quick.run("SELECT pg_sleep(30)")
    return Reply({})


async def _page(context: Context, *_: object) -> Reply:
    await context.slow.run("SELECT pg_sleep(30)")
    return Reply({})


async def _fetch(context: Context, row: int) -> Reply | None:
    found = await context.quick.run("SELECT n FROM vmw_fleet.numbers WHERE n = %s", (row,))
    return Reply({"n": found[0][0]}, b"payload") if found else None


async def _sleep(context: Context) -> None:
    await context.slow.run("SELECT pg_sleep(0.2)")
    await context.slow.run("INSERT INTO vmw_fleet.numbers VALUES (1)")


async def _short(context: Context) -> None:
    await context.slow.run("SELECT 1")


PARTS = (
    FleetPart(
        asks={"sum": _sum, "faulty": _faulty, "slow": _slow, "page": _page},
        tells={"number": Batch(_write, every_s=0.05, most=1000), "refused": Batch(_refused, 0.01)},
        notices={"number": _fetch},
    ),
    FleetPart(asks={"later": _sum}, since=2),
)


@asynccontextmanager
async def desk_of(
    backend: PostgresqlBackend, parts: Sequence[FleetPart] = PARTS, schema: int = 1
) -> AsyncIterator[tuple[Desk, Counter[str], Context]]:
    """A desk that is open, with its work under way; the counter has `statements` too."""
    counts: Counter[str] = Counter()

    def count() -> None:
        counts["statements"] += 1

    def fail(error: psycopg.Error) -> None:
        raise AssertionError(str(error))

    async with (
        fleetdatabase.connected(backend.url) as quick,
        fleetdatabase.connected(backend.url, fleetdatabase.SLOW_WAIT_S) as slow,
    ):
        lanes = [DatabaseLane(one, count, fail) for one in (quick, slow)]
        context = Context("id", "server1", schema, 30, *lanes)
        desk = Desk(parts, counts)
        desk.open(context)
        tasks = [asyncio.create_task(one) for one in desk.work(context)]
        try:
            yield desk, counts, context
        finally:
            desk.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], object], limit_s: float = 30.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def numbers(fleet_database: PostgresqlBackend) -> PostgresqlBackend:
    with fleet_database.admin("vms") as db:
        db.execute("CREATE TABLE vmw_fleet.numbers (n int)")
        db.execute("GRANT ALL ON vmw_fleet.numbers TO vmw")
    return fleet_database


def runs(work: Callable[[], Coroutine[object, object, None]]) -> None:
    asyncio.run(work())


def count_in(backend: PostgresqlBackend) -> int:
    ((found,),) = rows(backend, "SELECT count(*) FROM vmw_fleet.numbers")
    return int(found)


def test_tells_of_a_storm_are_written_by_few_statements(numbers: PostgresqlBackend) -> None:
    async def work() -> None:
        link = PlayedLink()
        async with desk_of(numbers) as (desk, counts, _):
            for n in range(10_000):
                desk.hear(link, Told("number", {"n": n}, b""))
            await until(lambda: count_in(numbers) == 10_000)
            assert counts["statements"] <= 11
            assert counts["tells dropped"] == 0

    runs(work)


def test_tells_beyond_the_bound_are_dropped_and_counted(numbers: PostgresqlBackend) -> None:
    async def work() -> None:
        async with desk_of(numbers) as (desk, counts, _):
            payload = bytes(MAX_WAITING_BYTES // 4)
            for n in range(6):
                desk.hear(PlayedLink(), Told("number", {"n": n}, payload))
            assert counts["tells dropped"] == 3
            desk.hear(PlayedLink(), Told("unknown", {}, b""))
            assert counts["tells dropped"] == 4
            await desk.flush()
            assert count_in(numbers) == 3
            desk.hear(PlayedLink(), Told("number", {"n": 1}, payload))
            desk.close()
            assert counts["tells dropped"] == 5

    runs(work)


def test_room_of_tells_that_were_written_is_free_again(numbers: PostgresqlBackend) -> None:
    async def work() -> None:
        parts = (FleetPart(tells={"number": Batch(_write, every_s=0.01, most=1)}),)
        async with desk_of(numbers, parts) as (desk, counts, _):
            payload = bytes(MAX_WAITING_BYTES // 4)
            for n in range(3):
                desk.hear(PlayedLink(), Told("number", {"n": n}, payload))
            await until(lambda: count_in(numbers) >= 1)
            desk.hear(PlayedLink(), Told("number", {"n": 3}, payload))
            await until(lambda: count_in(numbers) == 4)
            assert counts["tells dropped"] == 0

    runs(work)


def test_refused_statement_is_counted_and_named_and_the_others_go_on(
    numbers: PostgresqlBackend,
) -> None:
    async def work() -> None:
        async with desk_of(numbers) as (desk, counts, _):
            desk.hear(PlayedLink(), Told("refused", {}, b""))
            desk.hear(PlayedLink(), Told("number", {"n": 1}, b""))
            await until(lambda: counts["failed"] and count_in(numbers))
            assert counts["tells dropped"] == 1
            assert "vmw_fleet.missing" in desk.fault

    runs(work)


def test_ask_is_answered_once_and_a_fault_is_a_no(numbers: PostgresqlBackend) -> None:
    async def work() -> None:
        link = PlayedLink()
        async with desk_of(numbers) as (desk, _, _):
            until_s = time.monotonic() + 30
            desk.hear(link, Told("number", {"n": 5}, b""))
            await until(lambda: count_in(numbers))
            desk.hear(link, Told("sum", {"x": 1}, b"bytes", 1, until_s))
            desk.hear(link, Told("faulty", {}, b"", 2, until_s))
            desk.hear(link, Told("later", {}, b"", 3, until_s))
            desk.hear(link, Told("sum", {}, b"", 4, time.monotonic() - 1))
            desk.hear(link, Told("unknown", {}, b"", 5, until_s))
            await until(lambda: len(link.replies) == 5)
            assert link.replies.pop(1) == Reply({"sum": 5, "process": 77, "x": 1}, b"bytes")
            assert link.replies == dict.fromkeys((2, 3, 4, 5))
            assert "KeyError" in desk.fault
            assert "s3cret" not in desk.fault
            desk.close()
            desk.hear(link, Told("sum", {}, b"", 6, until_s))
            assert link.replies[6] is None

    runs(work)


def test_ask_under_way_is_answered_when_the_database_is_lost(numbers: PostgresqlBackend) -> None:
    async def work() -> None:
        link = PlayedLink()
        async with desk_of(numbers) as (desk, _, _):
            for ask in range(40):  # more than are under way at once
                desk.hear(link, Told("slow", {}, b"", ask, time.monotonic() + 30))
            await asyncio.sleep(0.1)
            assert not link.replies
            desk.close()
            begun_s = time.monotonic()
            await desk.settle()
            assert time.monotonic() - begun_s < 15
            assert link.replies == dict.fromkeys(range(40))

    runs(work)


def test_what_a_move_asks_waits_for_no_pages(numbers: PostgresqlBackend) -> None:
    async def work() -> None:
        link = PlayedLink()
        async with desk_of(numbers) as (desk, _, _):
            for ask in range(1, 41):
                desk.hear(link, Told("page", {}, b"", ask, time.monotonic() + 30))
            desk.hear(link, Told("sum", {}, b"", 0, time.monotonic() + 30))
            await until(lambda: link.replies)
            assert list(link.replies) == [0]
            desk.close()
            await desk.settle()

    runs(work)


def test_part_counts_from_its_version_of_the_schema_on(numbers: PostgresqlBackend) -> None:
    async def work() -> None:
        link = PlayedLink()
        async with desk_of(numbers, schema=2) as (desk, _, _):
            desk.hear(link, Told("later", {}, b"", 1, time.monotonic() + 30))
            await until(lambda: link.replies)
            assert link.replies[1]

    runs(work)


def test_notice_brings_what_lies_in_its_row(numbers: PostgresqlBackend) -> None:
    async def work() -> None:
        links = PlayedLink()
        async with desk_of(numbers) as (desk, counts, context):
            await context.quick.run("INSERT INTO vmw_fleet.numbers VALUES (8)")
            for text in (notice_of("number", 8, 99), notice_of("number", 9), "x", "1 unknown 2"):
                desk.notified(text, links)
            await until(lambda: counts["notices dropped"] == 3 and links.arrived)
            assert links.arrived == [(99, {"n": 8}, b"payload")]

    runs(work)


def test_round_is_run_by_one_server_at_a_time(numbers: PostgresqlBackend) -> None:
    parts = (FleetPart(rounds=[Round("alone", 0.01, _sleep, is_alone=True)]),)

    async def work() -> None:
        async with (
            desk_of(numbers, parts),
            desk_of(numbers, parts),
            desk_of(numbers, parts),
        ):
            begun_s = time.monotonic()
            await until(lambda: count_in(numbers) >= 4)
            assert time.monotonic() - begun_s > 0.7

    runs(work)


def test_round_that_is_cancelled_at_any_moment_ends(numbers: PostgresqlBackend) -> None:
    parts = (FleetPart(rounds=[Round("alone", 0.0, _short, is_alone=True)]),)

    async def work() -> None:
        for n in range(30):
            async with asyncio.timeout(30), desk_of(numbers, parts):
                await asyncio.sleep(0.002 * n)

    runs(work)


def test_links_serve_each_process_and_disconnect_strangers() -> None:
    async def work() -> None:
        heard: list[Told] = []
        links = LinkServer(lambda _link, told: heard.append(told), lambda: frames.encode({"x": 1}))
        address = f"vmw-test-{time.monotonic_ns()}"
        await links.start(address)
        reader, writer = await asyncio.open_unix_connection(f"\0{address}")
        assert next(FrameReader().receive(await reader.read(1000))).head == {"x": 1}
        writer.write(frames.encode_told("kind", {"a": 1}, b"payload"))
        await until(lambda: heard)
        assert heard == [Told("kind", {"a": 1}, b"payload")]
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b""

    runs(work)
