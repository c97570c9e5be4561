"""The register of answers: no worker gives an older answer than another one has given."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.laws import cases
from tests.process import Constants, ServerProcess
from tests.vm import Vm
from tests.waiting import wait_in_hub_until, wait_until
from vmw_cloudinit_metadata import Driver, DriverError, InstanceData, Machine, StoreDriver
from vmw_cloudinit_metadata.drivers.memorystore import MemoryStore
from vmw_cloudinit_metadata.drivers.preparedanswers import PreparedAnswers
from vmw_cloudinit_metadata.process.budget import Budget
from vmw_cloudinit_metadata.protocol import packet
from vmw_cloudinit_metadata.serving import registerbucket
from vmw_cloudinit_metadata.serving.answer import Answer, Failure, Origin, Outcome
from vmw_cloudinit_metadata.serving.answerregister import PART_BYTES, AnswerRegister, WorkerRegister
from vmw_cloudinit_metadata.serving.lookup import Lookup
from vmw_cloudinit_metadata.serving.ondisk.answersondisk import AnswersOnDisk
from vmw_cloudinit_metadata.serving.registerbucket import (
    BUCKET_BYTES,
    EMPTY,
    HASH_BYTES,
    SLOTS,
    RegisterRecord,
)

Start = Callable[..., ServerProcess]

UUID = "00000000-0000-0000-0000-000000000001"
VM = Machine(name="web1", vc_uuid=UUID, service_uri="my-metadata")
OLDER = "another worker has given a newer answer than the last good one here"

# Buckets of several workers

WORKERS = 2
VMS = 3
ROOM = 1  # slots for these: some must make room


@dataclass
class Given:
    """An answer that a worker has given: the data as it was at a moment of the reading."""

    content: int
    read_s: int


@dataclass
class Tables:
    """The buckets of all workers, and what these have given to each VM."""

    buckets: list[bytes] = field(default_factory=lambda: [FULL] * WORKERS)
    own: dict[tuple[int, int], Given] = field(default_factory=dict)  # by worker and VM
    newest: dict[int, Given] = field(default_factory=dict)  # by VM

    def read(self, worker: int, vm: int, given: Given, began_s: int, ended_s: int) -> None:
        record = RegisterRecord(hash_of(vm), hash_of(given.content), began_s, ended_s)
        self.buckets[worker] = registerbucket.with_record(record, self.buckets[worker])
        self.own[worker, vm] = given
        self.newest[vm] = max(self.newest.get(vm, given), given, key=lambda one: one.read_s)

    def allows(self, worker: int, vm: int) -> bool:
        records = [
            record
            for bucket in self.buckets
            for record in registerbucket.of_vm(hash_of(vm), bucket)
        ]
        return registerbucket.is_newest(hash_of(self.own[worker, vm].content), records)


def hash_of(number: int) -> bytes:
    return (number + 1).to_bytes(HASH_BYTES, "little")


def full_bucket() -> bytes:
    """Return a bucket with few free slots, and others that never make room."""
    bucket = EMPTY
    for other in range(SLOTS - 1 - ROOM):
        record = RegisterRecord(hash_of(1000 + other), hash_of(0), 1e6, 1e6)
        bucket = registerbucket.with_record(record, bucket)
    return bucket


FULL = full_bucket()
READINGS = st.lists(
    st.tuples(
        st.integers(0, WORKERS - 1),
        st.integers(0, VMS - 1),
        st.tuples(*[st.integers(0, 4)] * 2),  # from the beginning to the moment, and to the end
    ),
    max_size=40,
)
CONTENTS = st.lists(st.integers(0, 2), min_size=2, max_size=10)  # one may return


@given(READINGS, CONTENTS, st.integers(1, 3))
@settings(max_examples=cases(300))
def test_no_worker_may_give_older_data_than_any_has_given(
    readings: list[tuple[int, int, tuple[int, int]]], contents: list[int], lasts_s: int
) -> None:
    tables = Tables()
    for ended_s, (worker, vm, (before_s, after_s)) in enumerate(readings, start=10):
        read_s = ended_s - after_s
        given = Given(contents[read_s // lasts_s % len(contents)], read_s)
        tables.read(worker, vm, given, read_s - before_s, ended_s)
        for (any_worker, any_vm), last in tables.own.items():
            if tables.allows(any_worker, any_vm):
                newest = tables.newest[any_vm]
                assert last.content == newest.content or last.read_s >= newest.read_s


@given(READINGS, CONTENTS)
def test_data_may_be_given_if_it_is_what_the_vm_was_given_last(
    readings: list[tuple[int, int, tuple[int, int]]], contents: list[int]
) -> None:
    tables = Tables()
    of_few = [one for one in readings if one[1] < ROOM]
    for now_s, (worker, vm, _) in enumerate(of_few, start=1):
        given = Given(contents[now_s % len(contents)], now_s)
        tables.read(worker, vm, given, now_s, now_s)
        for (any_worker, any_vm), last in tables.own.items():
            is_same = last.content == tables.newest[any_vm].content
            assert tables.allows(any_worker, any_vm) == is_same


def test_same_data_read_twice_at_a_time_is_the_newest() -> None:
    tables = Tables()
    for ended_s in (3, 4):
        tables.read(0, 0, Given(1, 2), 1, ended_s)
    assert tables.allows(0, 0)
    tables.read(0, 0, Given(2, 2), 1, 5)
    assert not tables.allows(0, 0)  # nobody knows which of them is newer


@given(READINGS, st.integers(0, BUCKET_BYTES - 1), st.integers(1, 255))
def test_damaged_bucket_allows_nothing_until_it_is_written_again(
    readings: list[tuple[int, int, tuple[int, int]]], place: int, changed: int
) -> None:
    tables = Tables()
    for ended_s, (worker, vm, _) in enumerate(readings, start=1):
        tables.read(worker, vm, Given(ended_s, ended_s), ended_s, ended_s)
    harmed = bytearray(tables.buckets[0])
    harmed[place] ^= changed
    in_padding = 4 <= place < BUCKET_BYTES - SLOTS * 40
    assert registerbucket.is_sound(bytes(harmed)) is in_padding
    tables.buckets[0] = bytes(harmed)
    now_s = len(readings) + 1
    tables.read(0, VMS, Given(now_s, now_s), now_s, now_s)
    assert registerbucket.is_sound(tables.buckets[0])
    for worker, vm in tables.own:
        is_newest = tables.own[worker, vm] == tables.newest[vm]
        assert is_newest or not tables.allows(worker, vm)


# The memory that workers share


def answer(text: str = "1", **origin: Any) -> Answer:
    return Answer({}, Origin(digest=text, **origin))


@pytest.fixture
def shared() -> Iterator[AnswerRegister]:
    register = AnswerRegister.of(2)
    yield register
    for part in register.parts:
        os.close(part)


@pytest.fixture
def registers(shared: AnswerRegister) -> list[WorkerRegister]:
    return [shared.of_worker(number) for number in range(2)]


def note(register: WorkerRegister, text: str, machine: Machine = VM) -> None:
    register.note(machine, answer(text), time.monotonic())


def test_answer_is_the_newest_until_another_worker_has_another_one(
    registers: list[WorkerRegister],
) -> None:
    one, other = registers
    note(one, "1")
    kept = answer("1")
    assert one.is_newest(VM, kept)
    note(other, "1")
    assert one.is_newest(VM, kept)
    note(other, "2")
    assert not one.is_newest(VM, kept)
    assert other.is_newest(VM, answer("2"))
    note(one, "1")
    assert one.is_newest(VM, kept)
    assert not other.is_newest(VM, answer("2"))


def test_answers_to_others_and_last_good_ones_count_for_nothing(
    registers: list[WorkerRegister],
) -> None:
    one, other = registers
    note(one, "1")
    note(other, "2", replace(VM, name="web2"))
    other.note(VM, answer("2", problem="the file is invalid"), time.monotonic())
    assert one.is_newest(VM, answer("1"))
    elsewhere = replace(VM, peer_address="10.0.0.2")
    note(other, "3", elsewhere)
    assert not one.is_newest(VM, answer("1"))  # it is the same VM
    unnamed = replace(VM, vc_uuid=None)
    note(other, "4", unnamed)
    assert one.is_newest(unnamed, answer("1"))


def test_vm_that_is_gone_has_no_newest_answer(registers: list[WorkerRegister]) -> None:
    one, other = registers
    other.note_absent(VM, time.monotonic())  # nobody knows it: it takes no slot
    assert one.is_newest(VM, answer("0"))
    note(one, "1")
    other.note_absent(VM, time.monotonic())
    assert not one.is_newest(VM, answer("1"))


def test_worker_goes_on_with_the_part_of_its_predecessor(shared: AnswerRegister) -> None:
    note(shared.of_worker(0), "2")
    one, other = shared.of_worker(0), shared.of_worker(1)
    note(other, "1", replace(VM, name="web2"))
    assert not other.is_newest(VM, answer("1"))
    kept = answer("2")
    assert other.is_newest(VM, kept)
    note(one, "3")
    assert not other.is_newest(VM, kept)


def test_worker_that_is_killed_leaves_whole_buckets(
    shared: AnswerRegister, constants: Constants
) -> None:
    constants(serving__answerregister__BUCKETS=1)
    other = shared.of_worker(1)
    for killed_after_s in (0.002, 0.01, 0.03):
        pid = os.fork()
        if pid == 0:
            try:
                register = shared.of_worker(0)
                for number in range(10**9):
                    note(register, str(number), replace(VM, name=f"web{number % 50}"))
            finally:
                os._exit(1)
        time.sleep(killed_after_s)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for part in shared.parts:
            for place in range(0, PART_BYTES, BUCKET_BYTES):
                bucket = os.pread(part, BUCKET_BYTES, place)
                assert registerbucket.is_sound(bucket) or place == 0  # the number of writes
        note(other, "1")
        assert other.is_newest(VM, answer("1"))


def test_damaged_bucket_holds_up_last_good_answers_until_its_worker_writes_it(
    shared: AnswerRegister, registers: list[WorkerRegister], constants: Constants
) -> None:
    constants(serving__answerregister__BUCKETS=1)
    one, other = registers
    note(one, "1", replace(VM, name="web2"))
    note(other, "1")
    os.pwrite(shared.parts[0], b"x", PART_BYTES - 4096 * BUCKET_BYTES + 50)
    assert not other.is_newest(VM, answer("1"))
    note(one, "1", replace(VM, name="web2"))
    note(other, "1")
    assert other.is_newest(VM, answer("1"))


def test_register_counts_against_the_budget(registers: list[WorkerRegister]) -> None:
    assert [register.kept_bytes for register in registers] == [PART_BYTES] * 2
    assert PART_BYTES < 5 * 1024 * 1024


# Look-ups of two workers


class Ledger(Driver):
    """Has versions of one VM's data."""

    def __init__(self, **options: Any) -> None:
        super().__init__({"stale_if_error": 600, **options})
        self.version: str | None = "1"
        self.is_down = False

    def get_instance(self, machine: Machine) -> InstanceData | None:  # noqa: ARG002
        if self.is_down:
            raise DriverError("the database is down")
        if self.version is None:
            return None
        return InstanceData.from_mapping({"metadata": {"instance-id": self.version}})


class Pair:
    """Two workers, each with its driver."""

    def __init__(self, shared: AnswerRegister, drivers: list[Any], directory: Path | None) -> None:
        self.drivers = drivers
        on_disk = [AnswersOnDisk(directory, one) if directory else None for one in drivers]
        self.lookups = [
            Lookup(driver, 2, 3.0, Budget(1024**3), disk, shared.of_worker(number))
            for number, (driver, disk) in enumerate(zip(drivers, on_disk, strict=True))
        ]
        for lookup in self.lookups:
            lookup.watch()

    def ask(self, worker: int, machine: Machine = VM) -> Outcome:
        """Return the worker's answer to a VM that has just connected."""
        lookup = self.lookups[worker]
        kept = lookup.kept(machine)
        if kept and lookup.is_fresh(kept):
            return kept
        found: list[Outcome] = []
        lookup.ask(machine, found.append)
        wait_in_hub_until(lambda: found)
        return found[0]

    def id_of(self, worker: int) -> str:
        """Return the instance-id, or the error."""
        outcome = self.ask(worker)
        if isinstance(outcome, Failure):
            return outcome.error
        metadata = json.loads(packet.body_of(outcome.packets["METADATA"]))
        return str(metadata["instance-id"])

    def set(self, **state: Any) -> None:
        for driver in self.drivers:
            for name, value in state.items():
                setattr(driver, name, value)


@pytest.fixture
def pair_of(shared: AnswerRegister, constants: Constants) -> Iterator[Callable[..., Pair]]:
    constants(serving__ondisk__answersondisk__PAUSE_S=0.0)
    pairs: list[Pair] = []

    def make(*drivers: Any, directory: Path | None = None) -> Pair:
        pairs.append(Pair(shared, list(drivers), directory))
        return pairs[-1]

    yield make
    for pair in pairs:
        for lookup in pair.lookups:
            lookup.close()


@pytest.fixture
def ledgers(pair_of: Callable[..., Pair]) -> Pair:
    return pair_of(Ledger(), Ledger())


def test_worker_that_has_the_older_answer_gives_none_while_the_driver_fails(ledgers: Pair) -> None:
    assert [ledgers.id_of(0), ledgers.id_of(1)] == ["1", "1"]
    ledgers.set(version="2")
    assert ledgers.id_of(0) == "2"
    ledgers.set(is_down=True)
    assert [ledgers.id_of(0), ledgers.id_of(1)] == ["2", "failed"]
    failure = ledgers.ask(1)
    assert isinstance(failure, Failure)
    assert failure.reason == f"the database is down; {OLDER}"
    ledgers.set(is_down=False)
    assert ledgers.id_of(1) == "2"
    ledgers.set(is_down=True)
    assert [ledgers.id_of(0), ledgers.id_of(1)] == ["2", "2"]


def test_same_answer_of_both_workers_is_given_by_both(ledgers: Pair) -> None:
    for version in ("1", "2", "1"):
        ledgers.set(version=version)
        assert ledgers.id_of(0) == version
    assert ledgers.id_of(1) == "1"
    ledgers.set(is_down=True)
    assert [ledgers.id_of(0), ledgers.id_of(1)] == ["1", "1"]


def test_vm_that_another_worker_has_not_found_gets_no_last_answer(ledgers: Pair) -> None:
    assert ledgers.id_of(0) == "1"
    ledgers.set(version=None)
    assert ledgers.id_of(1) == "not-found"
    ledgers.set(is_down=True)
    assert ledgers.id_of(0) == "failed"


def test_newer_answer_of_another_worker_comes_from_the_disk(
    pair_of: Callable[..., Pair], tmp_path: Path
) -> None:
    pair = pair_of(Ledger(), Ledger(), directory=tmp_path / "kept")
    assert [pair.id_of(0), pair.id_of(1)] == ["1", "1"]
    pair.set(version="2")
    assert pair.id_of(0) == "2"
    pair.set(is_down=True)
    wait_in_hub_until(lambda: pair.id_of(1) != "failed")
    assert [pair.id_of(0), pair.id_of(1)] == ["2", "2"]


def test_answer_that_is_kept_is_asked_for_again_if_another_worker_has_a_newer_one(
    pair_of: Callable[..., Pair],
) -> None:
    pair = pair_of(Ledger(cache_ttl=60), Ledger(cache_ttl=60))
    assert [pair.id_of(0), pair.id_of(1)] == ["1", "1"]
    pair.set(version="2")
    assert pair.id_of(1) == "1"  # nobody knows better
    pair.lookups[0].ask(VM, lambda _: None)
    wait_in_hub_until(lambda: pair.id_of(0) == "2")
    assert pair.id_of(1) == "2"


def test_driver_that_hangs_gives_no_older_answer(pair_of: Callable[..., Pair]) -> None:
    hangs = threading.Event()

    class Hanging(Ledger):
        def get_instance(self, machine: Machine) -> InstanceData | None:
            while hangs.is_set():
                time.sleep(0.005)
            return super().get_instance(machine)

    pair = pair_of(Hanging(), Hanging())
    assert [pair.id_of(0), pair.id_of(1)] == ["1", "1"]
    pair.set(version="2")
    assert pair.id_of(0) == "2"
    for lookup in pair.lookups:
        lookup.run_timeout_s = 0.05
    hangs.set()
    assert [pair.id_of(0), pair.id_of(1)] == ["2", "timeout"]
    fresh = [lookup.fresh_failure(VM) for lookup in pair.lookups]
    assert isinstance(fresh[0], Answer)
    assert fresh[1] is None
    hangs.clear()


class Prepared(PreparedAnswers):
    """Has prepared one version of every VM's data."""

    def __init__(self, version: str) -> None:
        self.version = version

    def find(self, machine: Machine, time_s: float) -> InstanceData | None:  # noqa: ARG002
        found = InstanceData.from_mapping({"metadata": {"instance-id": self.version}})
        return replace(found, token=object())

    @property
    def kept_bytes(self) -> int:
        return 0

    @property
    def count(self) -> int:
        return 1

    def shed(self) -> bool:
        return False

    def nothing(self, *_: object) -> None: ...

    forget = wake = begin = take = prepare = nothing


@pytest.mark.parametrize("first", [0, 1])
def test_prepared_answer_counts_and_is_not_given_after_a_newer_one(
    pair_of: Callable[..., Pair], registers: list[WorkerRegister], first: int
) -> None:
    class Told(Ledger):
        prepared = Prepared("0")

        def held_at(self, token: Any, time_s: float) -> bool:  # noqa: ARG002
            return True

    pair = pair_of(Ledger(), Told())
    assert pair.id_of(first) == "10"[first]
    assert not registers[0].is_newest(VM, answer("another"))
    assert pair.id_of(1 - first) == "1"


@pytest.mark.parametrize("is_down", [True, False], ids=["down", "invalid"])
def test_store_gives_no_older_last_good_answer(pair_of: Callable[..., Pair], is_down: bool) -> None:
    stores = [MemoryStore(), MemoryStore()]
    pair = pair_of(*[StoreDriver(store) for store in stores])

    def put(data: object) -> None:
        for store in stores:
            store.put("name", "web1", data)

    put({"metadata": {"instance-id": "1"}})
    assert [pair.id_of(0), pair.id_of(1)] == ["1", "1"]
    put({"metadata": {"instance-id": "2"}})
    wait_in_hub_until(lambda: pair.id_of(0) == "2")
    if is_down:
        for store in stores:
            store.is_down = True
            store.disconnect()
    else:
        put({"metadata": {"instance-id": ["none"]}})
    error = "failed" if is_down else "invalid"
    wait_in_hub_until(lambda: isinstance(pair.ask(1), Failure))
    assert [pair.id_of(0), pair.id_of(1)] == ["2", error]
    failure = pair.ask(1)
    assert isinstance(failure, Failure)
    assert failure.reason.endswith(OLDER)
    assert "the last good answer is served" not in failure.reason


# Real servers


@pytest.mark.slow
def test_vm_of_two_workers_gets_no_older_answer_while_the_driver_fails(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "version").write_text("1")
    server = start(
        *("--driver", "tests.ledger_driver:LedgerDriver", "--workers", "2"),
        driver_opts={"directory": str(tmp_path), "stale_if_error": 600},
    )

    def boot() -> str:
        vm = Vm(server.port)
        code, body = vm.ask("METADATA")
        vm.close()
        found = json.loads(body)
        return str(found["error" if code == "RESPONSE_ERROR" else "instance-id"])

    assert {boot() for _ in range(30)} == {"1"}  # from either worker
    (tmp_path / "version").write_text("2")
    assert boot() == "2"  # from one of them
    (tmp_path / "down").touch()
    assert {boot() for _ in range(30)} == {"2", "failed"}
    server.wait_for(OLDER)
    (tmp_path / "down").unlink()
    wait_until(lambda: {boot() for _ in range(10)} == {"2"})
