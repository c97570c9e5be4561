"""What a process tells of what its VMs use, and what it believes of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import ujson
from hypothesis import given
from hypothesis import strategies as st

from tests.process import Constants
from tests.waiting import wait_in_hub_until
from vmw_cloudinit_metadata.process.fleet.frames import Reply
from vmw_cloudinit_metadata.serving.fleetuses import FleetUses, Others

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=12,
)


class PlayedTable:
    """The edge: keeps what processes use, and says what the test wants of others."""

    def __init__(self) -> None:
        self.is_connected = True
        self.used: set[tuple[str, str]] = set()
        self.asked: list[bool] = []  # whether the process began anew
        self.told: list[tuple[str, str]] = []
        self.found: object = []
        self.answer: object = None  # instead of one with `found`
        self.reports: list[str] = []  # that were asked for
        self.reported: set[str] = set()  # elsewhere
        self.is_lost = False  # no reply comes

    def ask(
        self,
        kind: str,
        fields: Mapping[str, Any],
        payload: bytes,
        within_s: float,
        then: Callable[[Reply | None], None],
    ) -> None:
        assert (kind, within_s > 0) == ("uses", True)
        self.asked.append(fields["is_anew"])
        if fields["is_anew"]:
            self.used.clear()
        told = ujson.loads(payload)
        for what, user, age_s in told["uses"]:
            self.told.append((what, user))
            assert age_s is None or age_s >= 0
            (self.used.discard if age_s is None else self.used.add)((what, user))
        self.reports += told["reports"]
        passed = [[name, 3] for name in told["reports"] if name not in self.reported]
        answer = {"found": self.found, "passed": passed} if self.answer is None else self.answer
        then(None if self.is_lost else Reply({}, ujson.dumps(answer).encode()))

    def when_connected(self, call: Callable[[], None]) -> None:
        self.begin_epoch = call


@pytest.fixture
def table() -> PlayedTable:
    return PlayedTable()


@pytest.fixture
def uses(table: PlayedTable, constants: Constants) -> Iterator[FleetUses]:
    constants(serving__fleetuses__TOLD_EVERY_S=0.01)
    uses = FleetUses(table)
    yield uses
    uses.close()


def settles(table: PlayedTable, users: set[str]) -> None:
    wait_in_hub_until(lambda: {user for _, user in table.used} == users)


def ignore(_others: Others) -> None:
    raise AssertionError("nobody else uses anything")


def test_uses_are_told_until_they_end_and_in_each_epoch(
    table: PlayedTable, uses: FleetUses
) -> None:
    for user in ("one", "other"):
        uses.begin("data web1.yaml", user, ignore)
    settles(table, {"one", "other"})
    uses.end("data web1.yaml", "one")
    settles(table, {"other"})
    assert table.asked[0]
    assert not any(table.asked[1:])
    table.used.clear()  # the database has crashed
    table.begin_epoch()
    settles(table, {"other"})


def test_uses_are_told_anew_if_it_is_unknown_what_was_written(
    table: PlayedTable, uses: FleetUses
) -> None:
    table.is_lost = True
    uses.begin("data", "one", ignore)
    wait_in_hub_until(lambda: table.asked[1:])
    assert all(table.asked)
    table.is_connected = table.is_lost = False
    uses.end("data", "one")
    uses.begin("data", "other", ignore)
    table.is_connected = True
    settles(table, {"other"})


def test_long_names_are_short_in_the_table(table: PlayedTable, uses: FleetUses) -> None:
    for number in range(3):
        uses.begin(f"data {'x' * number * 1000}.yaml", "one", ignore)
    wait_in_hub_until(lambda: len(table.used) == 3)
    assert max(len(name) for name, _ in table.used) <= 100


@given(st.lists(st.sampled_from(["one", "other", "tell"]), max_size=12))
def test_table_has_what_is_used_however_often_that_changes(steps: list[str]) -> None:
    table = PlayedTable()
    uses, used = FleetUses(table), set[str]()
    for step in [*steps, "tell"]:
        if step == "tell":
            uses.tell()
            assert {user for _, user in table.used} == used
        elif step in used:
            uses.end("data", step)
            used.remove(step)
        else:
            uses.begin("data", step, ignore)
            used.add(step)
    uses.close()


def test_what_ends_at_once_is_not_told(table: PlayedTable, uses: FleetUses) -> None:
    uses.begin("data", "one", ignore)
    uses.end("data", "one")
    uses.begin("data", "other", ignore)
    settles(table, {"other"})
    assert table.told == [("data", "other")]


def test_others_are_told_to_whoever_uses_it_now(table: PlayedTable, uses: FleetUses) -> None:
    noticed: list[Others] = []
    uses.begin("data", "one", noticed.append)
    settles(table, {"one"})
    ((name, _),) = table.used
    table.found = [
        ["unknown", "one", 1, ["x"], ["y"], 0],
        [name, "other", 1, ["x"], ["y"], 0],
        [name, "one", 4, ["two", "three"], ["server-a", "server-b"], 2],
    ]
    wait_in_hub_until(lambda: noticed)
    named = [("two", "server-a"), ("three", "server-b")]
    assert noticed[0] == Others(4, named, 2)
    assert noticed[0].remark == " (2 more since the last such line)"


def test_report_passes_unless_another_process_has_made_it(
    table: PlayedTable, uses: FleetUses
) -> None:
    made: list[str] = []
    table.reported = {"b"}
    for about in "abc":
        uses.report_once(about, lambda remark, about=about: made.append(about + remark))  # type: ignore[misc]
    wait_in_hub_until(lambda: made)
    assert made == [f"{about} (3 more since the last such line)" for about in "ac"]


@pytest.mark.parametrize("way", ["down", "lost", "odd"])
def test_report_is_made_if_nobody_can_be_asked(
    table: PlayedTable, uses: FleetUses, way: str
) -> None:
    made: list[str] = []
    table.is_connected, table.is_lost = way != "down", way == "lost"
    table.answer = 5 if way == "odd" else None
    uses.report_once("a", made.append)
    wait_in_hub_until(lambda: made)
    assert made == [""]


@given(JSON, JSON)
def test_whatever_the_database_says_is_checked(found: object, passed: object) -> None:
    table = PlayedTable()
    table.answer = found if isinstance(passed, str) else {"found": found, "passed": passed}
    uses = FleetUses(table)
    uses.begin("data", "one", lambda others: others.remark)
    uses.tell()
    uses.close()
    assert len(table.asked) == 1
