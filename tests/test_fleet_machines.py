"""Machines and boots in a real PostgreSQL: what servers write, and what each of them reads."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fleet import connects, fleet_of, rows
from tests.process import CHECKOUT
from tests.servers.postgresql import PostgresqlBackend
from tests.waiting import wait_in_hub_until
from vmw_cloudinit_metadata.admin import views
from vmw_cloudinit_metadata.admin.chronicle import Chronicle
from vmw_cloudinit_metadata.admin.fleetbatch import told_machine
from vmw_cloudinit_metadata.admin.fleetrecorder import FleetRecorder
from vmw_cloudinit_metadata.admin.machinerecord import TROUBLE
from vmw_cloudinit_metadata.monitoring.counters import FLEET_STATEMENTS
from vmw_cloudinit_metadata.monitoring.facts import (
    DocumentsServed,
    Fact,
    PeerRejected,
    RequestFailed,
    StaleServed,
    VmIdentified,
    VmLeft,
    VmotionBegun,
)
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.kept import kept, short_name
from vmw_cloudinit_metadata.process.fleet import (
    fleetservers,
    frames,
    machineforgetting,
    machinereading,
    machinestory,
    machinewriting,
    moverows,
    userows,
)
from vmw_cloudinit_metadata.process.fleet.fleetdatabase import DatabaseLane, connected
from vmw_cloudinit_metadata.process.fleet.fleetpart import Context, FleetPart
from vmw_cloudinit_metadata.process.fleet.frames import Reply
from vmw_cloudinit_metadata.process.fleet.machinerows import ToldAnswers, ToldBoot, ToldMachine
from vmw_cloudinit_metadata.process.fleet.migrations import BEGIN, MIGRATIONS, NEWEST
from vmw_cloudinit_metadata.process.fleet.outcomerows import ToldOutcome
from vmw_cloudinit_metadata.protocol.vmware import Machine

pytestmark = pytest.mark.slow

RETENTION_DAYS = 30
SERVED = ToldAnswers(0.0, 1.0, "", ("/srv/a.yaml",), "name", 0)


class Store:
    """What the fleet processes of some servers do, one after the other."""

    def __init__(self, url: str, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._open = connected(url)
        self.statements = 0
        self.lane = DatabaseLane(runner.run(self._open.__aenter__()), self._count, print)
        self._contexts: dict[str, Context] = {}
        self._numbers = itertools.count(1)

    def close(self) -> None:
        self._runner.run(self._open.__aexit__(None, None, None))

    def _count(self) -> None:
        self.statements += 1

    def sql(self, statement: Any, *parameters: Any) -> list[tuple[Any, ...]]:
        return self._runner.run(self.lane.run(statement, parameters))

    def server(self, name: str, start: int = 1) -> Context:
        """Return a server that runs; another `start` of it has another id."""
        key = f"{name}-{start}"
        if key not in self._contexts:
            lane = self.lane
            self._contexts[key] = Context(key, name, NEWEST, RETENTION_DAYS, lane, lane)
            self._runner.run(fleetservers.beat(lane, key, name, 0.0))
        return self._contexts[key]

    def kill(self, name: str, start: int = 1, ago: str = "1 minute") -> None:
        self.sql(
            "UPDATE vmw_fleet.servers SET heartbeat = now() - %s::interval WHERE id = %s",
            *(ago, f"{name}-{start}"),
        )

    def record(
        self,
        server: Context,
        *machines: ToldMachine,
        boots: tuple[ToldBoot, ...] = (),
        outcomes: tuple[ToldOutcome, ...] = (),
        number: int | None = None,
        announced: int = 0,
    ) -> None:
        payload = json.dumps({"machines": machines, "boots": boots, "outcomes": outcomes}).encode()
        fields = {"number": number or next(self._numbers), "announced": announced}
        reply = self._runner.run(machinewriting.record(server, 1, fields, payload))
        assert reply.fields == {"invalid": 0}

    def page(self, asking: Context, **fields: Any) -> tuple[int, list[dict[str, Any]]]:
        reply = self.reply_to_page(asking, **fields)
        return reply.fields["total"], json.loads(reply.payload)

    def reply_to_page(self, asking: Context, **fields: Any) -> Reply:
        asked = {"start": 0, "count": 100} | fields
        return self._runner.run(machinereading.page(asking, 1, asked, b""))

    def ids(self, asking: Context, **fields: Any) -> list[str]:
        return [machine["id"] for machine in self.page(asking, **fields)[1]]

    def machine(self, server: Context, name: str) -> tuple[dict[str, Any], Any]:
        reply = self._runner.run(machinereading.machine(server, 1, {"id": name}, b""))
        return dict(reply.fields), json.loads(reply.payload)

    def summary(self, server: Context) -> dict[str, Any]:
        reply = self._runner.run(machinereading.summary(server, 1, {}, b""))
        found: dict[str, Any] = json.loads(reply.payload)
        return found

    def ask_story(self, asker: Context, server: Context, question: int) -> bool:
        fields = {"question": question, "server": server.server, "id": told().key}
        reply = self._runner.run(machinestory.ask(asker, 7, fields, b""))
        return bool(reply.fields["is_asked"])

    def story_asked(self, server: Context, question: int) -> Reply | None:
        return self._runner.run(machinestory.asked(server, question))

    def tell_story(self, server: Context, question: int, story: bytes) -> None:
        self._runner.run(machinestory.tell(server, 1, {"question": question}, story))

    def story_told(self, asker: Context, question: int) -> Reply | None:
        return self._runner.run(machinestory.told(asker, question))

    def forget(self, server: Context) -> None:
        self._runner.run(machinewriting.forget_boots(server))
        self._runner.run(machinewriting.forget_machines(server))

    def age(self, server: Context) -> None:
        self._runner.run(machineforgetting.age(server))

    def forgotten(self, server: Context, name: str) -> dict[str, Any]:
        """Return what is replied to an operator who forgets a machine."""
        return dict(self._runner.run(machineforgetting.forget(server, 1, {"id": name}, b"")).fields)

    def notified(self, server: Context, number: int) -> Reply | None:
        return self._runner.run(machineforgetting.forgotten(server, number))

    def go_round(self, server: Context, part: FleetPart) -> None:
        for one in part.rounds:
            self._runner.run(one.run(server))


@pytest.fixture(scope="module")
def opened(fleet_backend: PostgresqlBackend) -> Iterator[Store]:
    with psycopg.connect(fleet_backend.url) as db:
        db.execute("DROP SCHEMA IF EXISTS vmw_fleet CASCADE")
        for statement in itertools.chain(BEGIN, *(one.statements for one in MIGRATIONS)):
            db.execute(statement)
    with asyncio.Runner() as runner:
        store = Store(fleet_backend.url, runner)
        yield store
        store.close()


@pytest.fixture
def store(opened: Store) -> Store:
    empty(opened)
    return opened


def empty(store: Store) -> None:
    store.sql("DELETE FROM vmw_fleet.machine")
    store.sql("DELETE FROM vmw_fleet.boot")
    store.sql("DELETE FROM vmw_fleet.outcome")
    store.sql("DELETE FROM vmw_fleet.servers")
    store.sql("DELETE FROM vmw_fleet.forgotten")
    store.__dict__["_contexts"].clear()


def told(
    number: int = 1,
    state: str = "served",
    since_s: float = 100.0,  # ago; 0: not connected
    changed_s: float = 10.0,  # ago
    **changes: Any,
) -> ToldMachine:
    now_s = time.time()
    uuid = f"50120000-0000-0000-0000-{number:012x}"
    return ToldMachine(
        *(uuid, f"vm-{number}", uuid, None, None, "10.0.0.1", "my-metadata", "client", ""),
        *(state, "not-found" if state == "failed" else "", 1 if since_s else 0),
        now_s - since_s if since_s else 0.0,
        now_s - changed_s,
        None,
        None,
    )._replace(**changes)


def boot(number: int, outcome: str = "served", ago_s: float = 10.0, **changes: Any) -> ToldBoot:
    at_s = time.time() - ago_s
    uuid = f"50120000-0000-0000-0000-{number:012x}"
    about = (uuid, f"vm-{number}", uuid, "10.0.0.1", at_s - 3, at_s - 1, at_s, outcome)
    return ToldBoot(number, *about, None, "", SERVED)._replace(**changes)


def test_each_server_lists_the_machines_of_all(store: Store) -> None:
    first, second = store.server("first"), store.server("second")
    store.record(first, told(1))
    store.record(second, told(2, "failed", changed_s=20))
    for server in (first, second):
        total, rows = store.page(server)
        assert total == 2
        assert [(row["name"], row["server"]) for row in rows] == [
            ("vm-2", "second"),
            ("vm-1", "first"),
        ]
        assert all(row["connected"] for row in rows)


@pytest.mark.parametrize("is_late", [False, True])
def test_newer_connection_counts_whoever_writes_last(store: Store, is_late: bool) -> None:
    old, new = store.server("old"), store.server("new")
    writes = [(old, told(since_s=1000, changed_s=0)), (new, told(since_s=5, changed_s=4))]
    for server, machine in reversed(writes) if is_late else writes:
        store.record(server, machine)
    total, (row,) = store.page(old)
    assert (total, row["server"]) == (1, "new")


def test_machine_that_left_one_server_is_where_it_is_connected(store: Store) -> None:
    old, new = store.server("old"), store.server("new")
    store.record(new, told(since_s=5, changed_s=4))
    store.record(old, told(state="left", since_s=0, changed_s=0))
    assert store.page(old)[1][0]["server"] == "new"


def test_other_line_of_a_machine_counts_when_the_newer_one_has_ended(store: Store) -> None:
    old, new = store.server("old"), store.server("new")
    store.record(old, told(since_s=1000))
    store.record(new, told(since_s=5))
    store.record(new, told(state="left", since_s=0, changed_s=0))
    _, (row,) = store.page(old)
    assert (row["server"], row["connected"]) == ("old", True)


def test_batch_that_comes_late_replaces_nothing_newer(store: Store) -> None:
    server = store.server("first")
    store.record(server, told(state="served"), number=2)
    store.record(server, told(state="waiting"), number=1)
    assert store.page(server)[1][0]["state"] == "served"


def test_machine_that_a_server_does_not_announce_again_has_left(store: Store) -> None:
    first, second = store.server("first"), store.server("second")
    store.record(first, told(1), told(2), told(3, "failed"), number=5)
    store.record(second, told(4), number=5)
    store.record(first, told(1), number=7, announced=6)
    states = {row["name"]: (row["state"], row["connected"]) for row in store.page(first)[1]}
    assert states == {
        "vm-1": ("served", True),
        "vm-2": ("left", False),
        "vm-3": ("failed", False),
        "vm-4": ("served", True),
    }


def test_machines_of_a_server_that_is_gone_are_shown_so(store: Store) -> None:
    first, second = store.server("first"), store.server("second")
    store.record(first, told(1), told(2, "failed"), told(3, "left", since_s=0))
    store.record(second, told(4))
    store.kill("first")
    states = {row["name"]: (row["state"], row["connected"]) for row in store.page(second)[1]}
    assert states == {
        "vm-1": ("gone", False),
        "vm-2": ("failed", False),
        "vm-3": ("left", False),
        "vm-4": ("served", True),
    }
    assert store.ids(second, state="gone") == [told(1).key]
    summary = store.summary(second)
    assert summary["machines"] == {"gone": 1, "failed": 1, "left": 1, "served": 1}
    assert [(one["name"], one["state"], one["connected"]) for one in summary["servers"]] == [
        ("first", "gone", 0),
        ("second", "running", 1),
    ]
    store.record(second, told(1, since_s=1))
    assert store.ids(second, state="gone") == []


def test_machines_of_a_server_that_was_restarted_are_missing(store: Store) -> None:
    store.record(store.server("first"), told(1))
    store.kill("first")
    again = store.server("first", start=2)
    assert store.page(again)[1][0]["state"] == "missing"
    assert [one["state"] for one in store.summary(again)["servers"]] == ["running"]
    store.record(again, told(1, since_s=1))
    assert store.page(again)[1][0]["state"] == "served"


def test_stopped_server_is_shown_so(store: Store) -> None:
    first, second = store.server("first"), store.server("second")
    store.sql("UPDATE vmw_fleet.servers SET stopped = now() WHERE id = %s", first.server)
    states = {one["name"]: one["state"] for one in store.summary(second)["servers"]}
    assert states == {"first": "stopped", "second": "running"}
    assert [one["is_this"] for one in store.summary(second)["servers"]] == [False, True]


@pytest.mark.parametrize(
    "word", ["100%", "a_b", "back\\slash", "'; DROP TABLE x; --", '"q"', "é\u4e2d\U0001f600", "{}"]
)
def test_search_takes_every_character_as_it_is(store: Store, word: str) -> None:
    server = store.server("first")
    store.record(server, told(1, name=f"x{word}y"), told(2, name="100 aXb backslash q"))
    assert store.ids(server, words=[word.lower()]) == [told(1).key]


def test_search_looks_at_all_that_is_known(store: Store) -> None:
    server = store.server("Berlin-1")
    trouble = [time.time(), "not-found", "METADATA", "no file web.yaml"]
    store.record(server, told(7, "failed", trouble=trouble, name="WEB"))
    for word in ("web", "0007", "10.0.0.1", "failed", "web.yaml", "berlin"):
        assert store.ids(server, words=[word]), word
    assert store.ids(server, words=["web", "berlin", "failed"])
    assert not store.ids(server, words=["web", "nothing"])
    assert not store.ids(server, words=["a\0b"])


def test_server_filters_and_pages(store: Store) -> None:
    first, second = store.server("first"), store.server("second")
    store.record(first, *(told(n, changed_s=n) for n in range(1, 8)))
    store.record(second, told(100))
    assert store.page(second, server="first", start=0, count=3)[0] == 7
    pages = [store.ids(second, server="first", start=start, count=3) for start in (0, 3, 6, 9)]
    assert [len(page) for page in pages] == [3, 3, 1, 0]
    assert [*itertools.chain(*pages)] == [told(n).key for n in range(1, 8)]
    for other in ("nobody", "fir\0st", "fir\ud800st"):
        assert store.page(second, server=other) == (0, [])


def test_one_machine_has_its_data_and_its_boots_on_all_servers(store: Store) -> None:
    first, second = store.server("first"), store.server("second")
    store.record(first, told(1, since_s=1000), boots=(boot(1, ago_s=500),))
    store.record(second, told(1, since_s=1), boots=(boot(1, "not-found", 400, reason="no file"),))
    fields, machine = store.machine(second, "vm-1")
    assert fields == {"count": 1, "server_id": second.server, "is_own": True}
    assert machine["server"] == "second"
    assert [(one["server"], one["outcome"], one["reason"]) for one in machine["boots"]] == [
        ("second", "not-found", "no file"),
        ("first", "served", None),
    ]
    assert machine["ports"][0]["service_uri"] == "my-metadata"
    fields, machine = store.machine(first, told(1).key)
    assert fields == {"count": 1, "server_id": second.server, "is_own": False}
    assert store.machine(first, "nobody") == ({"count": 0}, [])


def test_name_of_several_machines_lists_the_connected_ones(store: Store) -> None:
    server = store.server("first")
    store.record(server, *(told(n, name="twin") for n in (1, 2)))
    store.record(server, told(3, "left", since_s=0, name="twin"))
    fields, rows = store.machine(server, "twin")
    assert fields == {"count": 2}
    assert {row["id"] for row in rows} == {told(1).key, told(2).key}


def test_hostile_texts_are_stored_and_read(store: Store) -> None:
    server = store.server("first")
    name = "a\0b\udcff<script>\u202e" + "n" * 2000
    trouble = [time.time(), name, name, name]
    served = [time.time(), 1.0, name, [name] * 100, name, 0]
    hostile = told(1, key=name, name=name, state=name, trouble=trouble, served=served)
    store.record(server, hostile._replace(service_uri=f"uri?{name}"))
    _, (row,) = store.page(server)
    assert row["name"].startswith("a\ufffdb?<script>\u202e")
    fields, machine = store.machine(server, name)
    assert fields["count"] == 1
    assert machine["id"] == row["id"]
    assert len(machine["files"]) == 24
    assert machine["ports"][0]["service_uri"] == "uri"


def test_longest_page_of_the_longest_texts_fits_into_a_frame(store: Store) -> None:
    server = store.server("first")
    wide = "\U0001f600" * 1024
    trouble = [time.time(), "not-found", "METADATA", wide]
    name = short_name(wide)
    keys = [f"{number:04}{name[:-4]}" for number in range(1000)]
    for start in range(0, 1000, 250):
        some = keys[start : start + 250]
        store.record(server, *(told(1, key=key, name=name, trouble=trouble) for key in some))
    reply = store.reply_to_page(server, count=1000)
    assert reply.fields["total"] == 1000
    assert len(frames.encode(reply.fields, reply.payload)) > 1_000_000


def test_story_is_told_by_the_server_that_was_asked_to_the_one_that_asked(store: Store) -> None:
    first, second, third = map(store.server, ("first", "second", "third"))
    assert store.ask_story(first, second, 5)
    assert store.story_asked(third, 5) is None
    assert store.story_asked(second, 5) == Reply({"question": 5, "id": told().key})
    store.tell_story(third, 5, b"forged")
    store.tell_story(second, 5, b"{}")
    assert store.story_told(third, 5) is None
    assert store.story_told(first, 5) == Reply({"question": 5}, b"{}")
    assert store.story_told(first, 5) is None
    assert store.sql("SELECT count(*) FROM vmw_fleet.story") == [(0,)]


def test_story_is_not_asked_of_a_server_that_is_gone(store: Store) -> None:
    first, second = store.server("first"), store.server("second")
    store.kill("second")
    assert not store.ask_story(first, second, 6)
    assert store.sql("SELECT count(*) FROM vmw_fleet.story") == [(0,)]


@pytest.mark.parametrize(
    ("part", "table", "key", "old"),
    [
        (moverows.PART, "moves", "move", "INSERT INTO vmw_fleet.moves (move, changed) VALUES"),
        (
            userows.PART,
            "reports",
            "about",
            "INSERT INTO vmw_fleet.reports (about, reported) VALUES",
        ),
    ],
    ids=["moves", "reports"],
)
def test_old_row_that_is_locked_stays_and_the_others_are_removed(
    store: Store,
    fleet_backend: PostgresqlBackend,
    part: FleetPart,
    table: str,
    key: str,
    old: str,
) -> None:
    locked, other = "0" * 32, "1" * 32
    for name in (locked, other):
        store.sql(f"{old} (%s, now() - interval '1 day')", name)
    with psycopg.connect(fleet_backend.url) as db:
        db.execute(f"SELECT FROM vmw_fleet.{table} WHERE {key} = %s FOR UPDATE".encode(), [locked])
        store.go_round(store.server("first"), part)
        assert store.sql(f"SELECT {key} FROM vmw_fleet.{table}") == [(locked,)]
    store.go_round(store.server("first"), part)
    assert not store.sql(f"SELECT {key} FROM vmw_fleet.{table}")


def test_uses_of_a_process_that_is_gone_are_removed(store: Store) -> None:
    for process in (1, 2):
        store.sql(
            "INSERT INTO vmw_fleet.uses (what, used_by, server, process, since) "
            "SELECT 'file ' || number, '', 'first', %s, now() FROM generate_series(1, 12) number",
            process,
        )
    store.sql("INSERT INTO vmw_fleet.processes VALUES ('first', 2, now())")
    store.go_round(store.server("first"), userows.PART)
    found = store.sql("SELECT process, count(*) FROM vmw_fleet.uses GROUP BY process")
    assert found == [(2, 12)]


def test_boot_that_is_told_twice_counts_once(store: Store) -> None:
    server = store.server("first")
    for _ in range(2):
        store.record(server, boots=(boot(1),))
    assert store.sql("SELECT count(*) FROM vmw_fleet.boots") == [(1,)]


def test_pulse_counts_boots_of_all_servers(store: Store) -> None:
    first, second = store.server("first"), store.server("second")
    store.record(first, boots=(boot(1, ago_s=5), boot(2, "invalid", 105), boot(3, ago_s=1000)))
    store.record(second, boots=(boot(1, "stale", 5), boot(2, ago_s=895)))
    pulse = store.summary(first)["pulse"]
    assert pulse["served"][-1] == 2
    assert pulse["served"][0] == 1
    assert pulse["failed"][-11] == 1
    assert pulse["failures"] == {"invalid": 1}
    assert sum(pulse["served"]) == 3


def test_revision_changes_with_machines_and_servers(store: Store) -> None:
    first = store.server("first")
    revisions = [store.summary(first)["revision"]]
    store.record(first, told(1))
    revisions.append(store.summary(first)["revision"])
    assert store.summary(first)["revision"] == revisions[-1]
    store.record(first, told(1))
    revisions.append(store.summary(first)["revision"])
    store.kill("first")
    revisions.append(store.summary(first)["revision"])
    assert len(set(revisions)) == 4


def test_retention_removes_what_counts_no_more(store: Store, constants: Any) -> None:
    constants(process__fleet__machinewriting__REMOVED_TOGETHER=2)  # several rounds
    day_s = 86_400
    first, second = store.server("first"), store.server("second")
    store.record(first, told(1, since_s=40 * day_s, changed_s=40 * day_s))  # connected for long
    store.record(first, *(told(n, "left", 0, 40 * day_s) for n in range(2, 8)))
    store.record(first, told(8, "left", 0, 1), told(9, "left", 0, 1), told(10, since_s=100))
    store.record(second, told(9), told(10, since_s=1))  # 10 has two lines
    boots = [boot(n, ago_s=(31 if n < 6 else 29) * day_s) for n in range(1, 8)]
    store.record(first, boots=tuple(boots))
    store.forget(first)
    rows = store.sql("SELECT key, server_name FROM vmw_fleet.machine ORDER BY key, server_name")
    assert [(int(key[-2:], 16), server) for key, server in rows] == [
        (1, "first"),
        (8, "first"),
        (9, "second"),
        (10, "first"),
        (10, "second"),
    ]
    numbers = store.sql("SELECT number FROM vmw_fleet.boot ORDER BY number")
    assert numbers == [(6,), (7,)]
    store.kill("first", ago="40 days")
    store.forget(second)
    rows = store.sql("SELECT key, server_name FROM vmw_fleet.machine ORDER BY key, server_name")
    assert [(int(key[-2:], 16), server) for key, server in rows] == [
        (8, "first"),
        (9, "second"),
        (10, "second"),
    ]


# Forgetting


def test_machines_in_trouble_age_out_with_all_their_rows(store: Store) -> None:
    first, second = store.server("first"), store.server("second")
    old_s = first.forget_failed_s + 10
    store.record(
        first, *(told(n, "failed", 0, old_s) for n in (1, 2, 4)), told(3, "test", 0, old_s)
    )
    store.record(second, told(1, "left", 0, old_s + 10), told(4), told(5, "failed"))
    store.record(second, told(6, "left", 0, old_s), told(7, "failed", 0, old_s - 100))
    store.record(second, told(8, "failed", 900_000, 900_000))  # connected
    store.age(first)
    assert {row["name"] for row in store.page(first)[1]} == {f"vm-{n}" for n in (4, 5, 6, 7, 8)}


def test_forgotten_machine_stays_so_when_its_servers_tell_it_again(store: Store) -> None:
    first, second = store.server("first"), store.server("second")
    failed = told(1, "failed", 0, 20)
    store.record(first, failed)
    store.record(second, told(1, "left", 0, 50), told(2, "failed", 0, 20))
    assert store.forgotten(first, "vm-1") == {"count": 1, "is_calm": False, "id": failed.key}
    store.record(first, failed)  # it was away from the database
    assert store.ids(second) == [told(2).key]
    assert store.forgotten(first, "vm-1")["count"] == 0
    time.sleep(0.01)
    store.record(first, told(1, "failed", 0, 0.0))  # it has failed again
    assert set(store.ids(second)) == {told(1).key, told(2).key}


def test_forgotten_machine_of_a_server_that_is_gone_is_removed(store: Store) -> None:
    first, second = store.server("first"), store.server("second")
    store.record(first, told(1, "failed"))
    store.kill("first")
    assert store.forgotten(second, told(1).key)["count"] == 1
    assert store.ids(second) == []


def test_connected_machine_is_left_to_its_server(store: Store) -> None:
    first = store.server("first")
    store.record(first, told(1, "failed"), told(2), told(3, name="vm-2"))
    assert store.forgotten(first, "vm-1") == {"count": 1, "is_calm": False, "id": told(1).key}
    assert store.forgotten(first, told(2).key)["is_calm"]
    assert store.forgotten(first, "vm-2")["count"] == 2
    assert len(store.ids(first)) == 3
    (number,) = store.sql("SELECT id FROM vmw_fleet.forgotten WHERE key = %s", told(1).key)[0]
    assert store.notified(first, number) == Reply({"id": told(1).key})


def test_schema_without_the_table_is_written_to(store: Store) -> None:
    server = dataclasses.replace(store.server("first"), schema=3)
    store.record(server, told(1, "failed", 0, 5))
    assert store.ids(server) == [told(1).key]


def test_two_servers_that_write_the_same_machines_never_wait_for_each_other(
    store: Store, fleet_backend: PostgresqlBackend
) -> None:
    first, second = store.server("first"), store.server("second")
    store.record(first, told(1))
    with psycopg.connect(fleet_backend.url) as other:
        other.execute("UPDATE vmw_fleet.machine SET number = 0 WHERE server = %s", [first.server])
        store.record(second, told(1, since_s=1))
        assert store.page(second)[1][0]["server"] == "second"


# What the database lists is what a server lists of its own machines.

FACTS: tuple[Fact, ...] = (
    VmIdentified("identified"),
    VmotionBegun("move begun"),
    VmLeft("left"),
    DocumentsServed("served", {"METADATA": 1.0}, 1.0, "", ("/a",), "name", ""),
    RequestFailed("not-found: no file", "METADATA", "not-found", "no file"),
    PeerRejected("refused", "refused: another service URI"),
    StaleServed("stale", ()),
)
QUERIES = [
    {"state": state, "words": words}
    for state in ("", "trouble", "connected", "left", "served", "failed", "waiting")
    for words in ([], ["vm-1"], ["failed"], ["10.0", "no file"])
]


@given(
    st.lists(st.tuples(st.sampled_from(FACTS), st.integers(1, 12), st.integers(0, 6)), max_size=40)
)
@settings(max_examples=25)
def test_list_is_the_one_of_a_server_alone(
    opened: Store, happened: list[tuple[Fact, int, int]]
) -> None:
    empty(opened)
    chronicle, begun_s = Chronicle(), time.time() - 1000
    for at_s, (fact, number, connection) in enumerate(happened):
        machine = Machine(name=f"vm-{number}", vc_uuid=f"50120000-0000-0000-0000-{number:012x}")
        chronicle.hear(
            Happening(
                *(fact, 20, begun_s + at_s, f"7-{connection}", "10.0.0.1:4", "10.0.0.1"),
                *(machine, ""),
            )
        )
    server = opened.server("first")
    opened.record(server, *map(told_machine, chronicle.entries()))
    for query in QUERIES:
        found = [
            one for one in chronicle.entries() if views.matches(one, query["state"], query["words"])
        ]
        found.sort(key=lambda one: (one.state not in TROUBLE, -one.changed_s, one.key))
        expected = [one.key for one in found]
        assert opened.ids(server, **query) == expected, query
    counts = {state: number for state, number in chronicle.states.items() if number}
    assert opened.summary(server)["machines"] == counts
    problems = {name: number for name, number in chronicle.problems.items() if number}
    assert opened.summary(server)["problems"] == problems


# The reports of the documentation

REPORTS = re.findall(
    r"^```sql\n(.*?)^```", (Path(CHECKOUT) / "docs/fleet.md").read_text(), re.MULTILINE | re.DOTALL
)


def test_documentation_has_reports() -> None:
    assert len(REPORTS) >= 5


@pytest.mark.parametrize("report", REPORTS)
def test_report_of_the_documentation_finds_something(store: Store, report: str) -> None:
    first, second = store.server("first"), store.server("second")
    served = SERVED._replace(matched_by="name")
    boots = [boot(n, ago_s=60.0 * n) for n in range(1, 6)]
    boots += [boot(n, "not-found", 30.0 * n, served=None, reason="no file") for n in range(6, 9)]
    boots += [boot(9, "stale", served=served), boot(10, first_s=0.0)]
    store.record(first, *(told(n) for n in range(1, 6)), boots=tuple(boots))
    store.record(second, *(told(n, "failed", trouble=[1.0, "x", "y", "z"]) for n in range(6, 9)))
    store.record(second, told(20, "left", since_s=0, changed_s=40 * 86_400))
    store.kill("first")
    assert store.sql(report)


# A storm, from the chronicle of a server to the database

BOOTS = 5_000


def test_storm_of_boots_takes_few_statements_and_loses_none(
    fleet_database: PostgresqlBackend,
) -> None:
    chronicle = Chronicle()
    with fleet_of(fleet_database.url) as process:
        connects(process)
        recorder = FleetRecorder(chronicle, process.link)
        recorder.start()
        begun_s, before = time.monotonic(), process.counted()[FLEET_STATEMENTS]
        for number in range(BOOTS):
            uuid = f"50120000-0000-0000-0000-{number:012x}"
            machine = Machine(name=f"vm-{number}", vc_uuid=uuid)
            about = (20, time.time(), f"7-{number}", "10.0.0.1:4", "10.0.0.1", machine, "")
            served = DocumentsServed("", {"METADATA": time.time()}, 1.0, "", ("/a",), "name", "")
            weighed = [kept(Happening(fact, *about)) for fact in (FACTS[0], served)]
            for one in weighed:
                chronicle.take(*one)
            chronicle.settle()
            recorder.take(weighed)
            if number % 100 == 0:
                gevent.sleep(0.001)
        wait_in_hub_until(lambda: stored_in(fleet_database) == (BOOTS, BOOTS))
        took_s = time.monotonic() - begun_s
        wait_in_hub_until(lambda: process.state.counts["statements"] > before)
        statements = process.counted()[FLEET_STATEMENTS] - before
        recorder.stop()
    print(f"{BOOTS} boots told in {took_s:.1f} s by {statements} statements")
    assert statements < 10 * took_s + 10  # and the heartbeat
    assert not recorder.shed_counts.total()


def stored_in(backend: PostgresqlBackend) -> tuple[Any, ...]:
    machines = "SELECT count(*) FROM vmw_fleet.machine WHERE state = 'served'"
    return rows(backend, f"SELECT ({machines}), (SELECT count(*) FROM vmw_fleet.boot)")[0]
