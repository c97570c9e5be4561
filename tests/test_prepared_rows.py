"""Answers prepared of rows: what the catalogue prepares is what a look-up gives."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.preparedworld import PreparedWorld
from vmw_cloudinit_metadata import Machine
from vmw_cloudinit_metadata.drivers.store import Changes
from vmw_cloudinit_metadata.drivers.stores.sql import sqltables
from vmw_cloudinit_metadata.drivers.stores.sql.database import Database
from vmw_cloudinit_metadata.drivers.stores.sql.sqlstore import SqlStore

UUIDS = ("11111111-2222-3333-4444-5555555555aa", "99999999-2222-3333-4444-5555555555bb")
NAMES = ("web1", "ci/build", "db")


class ToldStore(SqlStore):
    """Its changes are told by the test."""

    changes: Any = None

    def listen(self, changes: Changes) -> None:
        self.changes = changes
        changes.connected()
        changes.closed.wait()


class World(PreparedWorld):
    """In a database."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "vms.sqlite"
        url = f"sqlite:///{self._path}"
        Database(url, None, 1, "").run(sqltables.SCHEMAS[sqltables.SQLITE])
        self.store, self._other = ToldStore({"url": url}), ToldStore({"url": url})
        super().__init__(self.store, self._other)

    def put(
        self,
        rows: list[Mapping[str, Any]],
        layers: Mapping[str, str],
        *,
        told: tuple[str, ...] = ("server", "process"),
    ) -> None:
        with closing(sqlite3.connect(self._path)) as db, db:
            db.execute("DELETE FROM cloudinit_vms")
            for row in rows:
                columns, marks = ", ".join(row), ", ".join("?" * len(row))
                db.execute(
                    f"INSERT INTO cloudinit_vms ({columns}) VALUES ({marks})", [*row.values()]
                )
            db.execute("DELETE FROM cloudinit_layers")
            db.executemany("REPLACE INTO cloudinit_layers VALUES (?, ?)", layers.items())

        for name, store in (("server", self.store), ("process", self._other)):
            assert store.changes
            if name in told:
                store.changes.everything()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    yield made
    made.close()


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from([None, *NAMES, "ci%2fbuild", "ci%2Fbuild"]),
            "bios_uuid": st.sampled_from([None, None, *UUIDS]),
            "data": st.sampled_from(
                [
                    "metadata: {role: a}",
                    "metadata: {of: '${vm.name}'}\nuserdata: 'x'",
                    f"metadata: {{role: b}}\nmatch: {{bios-uuid: {UUIDS[1]}}}",
                    "network: {addres: x}",
                    "network: {address: 10.0.0.5/24}\nmetadata: {region: eu1}",
                ]
            ),
        }
    ),
    max_size=4,
)
VC_UUIDS = st.lists(st.sampled_from([None, *UUIDS]), min_size=4, max_size=4)
LAYERS = st.dictionaries(
    st.sampled_from(["10", "20"]),
    st.sampled_from(["metadata: {layer: '1'}", "match: {name: 'web*'}\nmetadata: {web: 'y'}"]),
)
MACHINES = [
    Machine(name=name, vc_uuid=vc, bios_uuid=bios)
    for name in ("web1", "ci/build", "none")
    for vc in UUIDS
    for bios in (None, UUIDS[1])
]


@settings(max_examples=30)
@given(rows=ROWS, uuids=VC_UUIDS, layers=LAYERS)
def test_prepared_answers_are_those_of_look_ups(
    world: World,
    rows: list[dict[str, Any]],
    uuids: list[str | None],
    layers: dict[str, str],
) -> None:
    taken: set[str | None] = set()
    whole = []
    for row, vc_uuid in zip(rows, uuids, strict=False):
        row = {**row, "vc_uuid": None if vc_uuid in taken else vc_uuid}
        taken.add(vc_uuid)
        if row["name"] or row["vc_uuid"] or row["bios_uuid"]:
            whole.append(row)
    world.put(whole, layers)
    world.survey()
    for machine in MACHINES:
        found = world.found(machine)
        assert found in (None, world.looked_up(machine)), machine


def test_row_is_prepared_until_its_change_is_told(world: World) -> None:
    world.put([{"name": "web1", "data": "metadata: {a: b}"}], {})
    world.survey()
    machine = Machine(name="web1", vc_uuid=UUIDS[0])
    assert world.found(machine)[0] == {"a": "b"}
    assert world.store.changes
    world.store.changes.changed([("name", "db")])
    assert world.found(machine)
    world.store.changes.changed([("name", "web1")])
    assert world.found(machine) is None
    world.survey()
    assert world.found(machine)
    world.store.changes.changed([("vc-uuid", UUIDS[0])])  # a row that would count before
    assert world.found(machine) is None
    world.survey()
    world.store.changes.lost("a reason")
    assert world.found(machine) is None
    world.store.changes.connected()


def test_row_with_several_identities_is_looked_up_by_others_than_the_first(world: World) -> None:
    rows = [
        {"name": "web1", "vc_uuid": UUIDS[0], "data": "metadata: {a: first}"},
        {"name": "web1", "data": "metadata: {a: second}"},
    ]
    world.put(rows, {})
    world.survey()
    assert world.found(Machine(name="web1", vc_uuid=UUIDS[0]))[0] == {"a": "first"}
    by_name = Machine(name="web1", vc_uuid=UUIDS[1])
    assert world.found(by_name) is None
    assert world.looked_up(by_name) == "invalid"  # two rows


@pytest.mark.parametrize("layered", [False, True], ids=["row", "layer"])
def test_process_that_is_told_late_prepares_nothing_old(world: World, layered: bool) -> None:
    machine = Machine(name="web1", vc_uuid=UUIDS[0])
    for number in range(3):
        row = {"name": "web1", "data": f"metadata: {{row: '{0 if layered else number}'}}"}
        layer = {"10": f"metadata: {{layer: '{number if layered else 0}'}}"}
        world.put([row], layer, told=("server",))
        world.survey()
        assert world.found(machine) == world.looked_up(machine)
        assert str(number) in str(world.found(machine)[0])
    world.put([row], {}, told=("server",))
    world.survey()
    assert world.found(machine) == world.looked_up(machine)
    assert "layer" not in world.found(machine)[0]
