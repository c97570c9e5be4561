"""Answers prepared of records that the process of the catalogue has of its own, older or newer:
only those of the very record that the server has are given."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.waiting import wait_until
from vmw_cloudinit_metadata import Changes, Key, Machine, Record, Store, StoreDriver
from vmw_cloudinit_metadata.drivers.catalogue import records
from vmw_cloudinit_metadata.drivers.preparedanswers import PreparedAnswers
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData

LIMIT_BYTES = 1024 * 1024
UUIDS = ("11111111-2222-3333-4444-5555555555aa", "99999999-2222-3333-4444-5555555555bb")
DATA: dict[str, Mapping[str, Any]] = {
    "a": {"metadata": {"role": "a"}},
    "b": {"metadata": {"role": "b", "of": "${vm.name}"}, "userdata": "x"},
    "bios": {"metadata": {"role": "c"}, "match": {"bios-uuid": UUIDS[1]}},
    "wrong": {"network": {"addres": "x"}},
}
MACHINES = [
    Machine(name=name, vc_uuid=vc, bios_uuid=bios)
    for name in ("web1", "ci/build", "none")
    for vc in UUIDS
    for bios in (None, UUIDS[1])
]

PROBABLE_NAME = "web1"

Rows = list[tuple[Key, str]]


class Copy(Store):
    """A process's own copy of records, which the test replaces."""

    can_prepare = tells_versions = True

    def __init__(self) -> None:
        super().__init__({})
        self.rows: Rows = []
        self.is_sure = True
        self.changes: Changes | None = None

    def all(self) -> Iterable[Record]:
        return [
            Record(key, DATA[name], f"{key}: {name}", version=name, vm_name=PROBABLE_NAME)
            for key, name in self.rows
        ]

    def fetch(self, keys: Collection[Key]) -> Iterable[Record]:
        return [record for record in self.all() if record.key in keys]

    def record_version(self, key: Key) -> str | None:
        versions = [name for of, name in self.rows if of == key]
        if not self.is_sure or len(versions) > 1:
            return None
        return versions[0] if versions else ""

    def listen(self, changes: Changes) -> None:
        self.changes = changes
        changes.connected()
        changes.closed.wait()

    def set(self, rows: Rows) -> None:
        changed = {key for key, _ in [*self.rows, *rows]}
        self.rows = rows
        assert self.changes
        self.changes.changed(changed)


class World:
    def __init__(self) -> None:
        self.server, self.process = Copy(), Copy()
        self.drivers = [StoreDriver(store) for store in (self.server, self.process)]
        for driver in self.drivers:
            driver.watch(lambda _: None)
        wait_until(lambda: all(driver.revision() is not None for driver in self.drivers))
        self.answers.limit_bytes = LIMIT_BYTES
        preparing = self.drivers[1].prepared
        assert preparing
        preparing.prepare(self._hear, LIMIT_BYTES)

    @property
    def answers(self) -> PreparedAnswers:
        assert self.drivers[0].prepared
        return self.drivers[0].prepared

    def _hear(self, line: bytes) -> None:
        record: Any = records.decode(line.removesuffix(b"\n"))
        self.answers.take(record)

    def survey(self) -> None:
        self.answers.begin()
        list(self.drivers[1].survey())

    def found(self, machine: Machine) -> Any:
        return parts(self.answers.find(machine, time.monotonic()))

    def looked_up(self, machine: Machine) -> Any:
        try:
            return parts(self.drivers[0].get_instance(machine))
        except InvalidInstanceData:
            return "invalid"

    def close(self) -> None:
        for driver in self.drivers:
            driver.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with closing(World()) as made:
        yield made


@pytest.fixture
def world(shared: World) -> World:
    shared.server.is_sure = True
    for store in (shared.server, shared.process):
        store.set([])
    return shared


def parts(found: Any) -> Any:
    return found and (
        *(dict(found.metadata), found.network, found.userdata, found.matched_by),
        *(found.sources, found.documents),
    )


KEYS = [*(Key("vc-uuid", one) for one in UUIDS), Key("name", "web1"), Key("name", "ci%2fbuild")]
ROWS = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(sorted(DATA))), max_size=4)
WEB1 = Machine(name="web1", vc_uuid=UUIDS[0])
BY_UUID, BY_NAME = KEYS[0], KEYS[2]


@given(of_server=ROWS, of_process=ROWS)
def test_prepared_answers_are_those_of_look_ups_whatever_the_process_has_read(
    shared: World, of_server: Rows, of_process: Rows
) -> None:
    shared.process.set(of_process)
    shared.survey()
    shared.server.set(of_server)
    for machine in MACHINES:
        assert shared.found(machine) in (None, shared.looked_up(machine)), machine


def test_answer_is_given_once_both_have_the_same_record(world: World) -> None:
    world.server.set([(BY_NAME, "a")])
    world.process.set([(BY_NAME, "a")])
    world.survey()
    assert world.found(WEB1)[0] == {"role": "a"}
    world.server.set([(BY_NAME, "b")])
    assert world.found(WEB1) is None  # the process has the older one
    world.process.set([(BY_NAME, "b")])
    world.survey()
    assert world.found(WEB1) == world.looked_up(WEB1)
    world.process.set([(BY_NAME, "a")])
    world.survey()
    assert world.found(WEB1) is None  # the server has the older one


def test_record_of_a_higher_rank_that_the_process_does_not_know_hides_others(world: World) -> None:
    world.process.set([(BY_NAME, "a")])
    world.survey()
    world.server.set([(BY_NAME, "a"), (BY_UUID, "b")])
    assert world.found(WEB1) is None
    world.server.set([(BY_NAME, "a")])
    assert world.found(WEB1)


def test_reference_to_the_name_of_a_vm_is_prepared_for_the_probable_one(world: World) -> None:
    for store in (world.server, world.process):
        store.set([(BY_UUID, "b")])
    world.survey()
    assert world.found(WEB1)[0] == {"role": "b", "of": "web1"}
    renamed = Machine(name="renamed", vc_uuid=UUIDS[0])
    assert world.found(renamed) is None
    assert world.looked_up(renamed)[0] == {"role": "b", "of": "renamed"}


def test_answer_whose_record_is_in_doubt_is_not_given(world: World) -> None:
    for store in (world.server, world.process):
        store.set([(BY_NAME, "a")])
    world.survey()
    world.server.is_sure = False
    assert world.found(WEB1) is None
    world.server.is_sure = True
    assert world.found(WEB1)


def test_answer_holds_until_a_change_is_told(world: World) -> None:
    for store in (world.server, world.process):
        store.set([(BY_NAME, "a")])
    world.survey()
    found = world.answers.find(WEB1, time.monotonic())
    assert found
    driver = world.drivers[0]
    assert driver.held_at(found.token, time.monotonic())
    world.server.set([(BY_NAME, "b")])
    assert not driver.held_at(found.token, time.monotonic())


class Named(Store):
    """Two VMs under UUIDs, whose names are known."""

    def fetch(self, keys: Collection[Key]) -> Iterable[Record]:
        return [record for record in self.all() if record.key in keys]

    def all(self) -> Iterable[Record]:
        data = {"metadata": {"hostname": "${vm.name}"}}
        return [
            Record(key, data, str(key), vm_name=f"web{number}")
            for number, key in enumerate(KEYS[:2])
        ]


def test_host_names_made_of_the_names_of_vms_are_checked_with_the_probable_ones() -> None:
    with closing(StoreDriver(Named({}))) as driver:
        assert list(driver.validate()) == []
