"""Stores: what StoreDriver makes of their records, their faults, and what they tell."""

from __future__ import annotations

import asyncio
import decimal
import threading
import time
import tracemalloc
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process import Constants
from vmw_cloudinit_metadata import (
    LAYERS,
    Changes,
    DriverError,
    Key,
    Machine,
    Record,
    Store,
    StoreDriver,
)
from vmw_cloudinit_metadata.drivers.catalogue.findings import Findings
from vmw_cloudinit_metadata.drivers.loading import load
from vmw_cloudinit_metadata.drivers.memorystore import MemoryStore
from vmw_cloudinit_metadata.drivers.observation import Census
from vmw_cloudinit_metadata.drivers.records.listening import ToldChanges
from vmw_cloudinit_metadata.drivers.records.recordlayer import kept
from vmw_cloudinit_metadata.drivers.revisions import Revisions
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.knownsecrets import KnownSecrets

VC = "11111111-2222-3333-4444-555555555555"
BIOS = "99999999-2222-3333-4444-555555555555"
WEB = Key("name", "web1")
WEB1 = Machine(name="web1", vc_uuid=VC, service_uri="my-metadata?profile=web")

Report = Callable[[str], None]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def driver(store: MemoryStore) -> Iterator[StoreDriver]:
    """Its listener is connected."""
    made = StoreDriver(store)
    made.watch(lambda _: None)
    until(lambda: store.is_listening)
    yield made
    made.close()


def until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def metadata_of(driver: StoreDriver, machine: Machine = WEB1) -> dict[str, Any]:
    found = driver.get_instance(machine)
    assert found
    return dict(found.metadata)


def faults_of(driver: StoreDriver, machine: Machine = WEB1) -> list[str]:
    with pytest.raises(InvalidInstanceData) as raised:
        driver.get_instance(machine)
    return [str(fault) for fault in raised.value.faults]


def test_records_of_higher_ranks_win(store: MemoryStore) -> None:
    driver = StoreDriver(store)
    store.put("name", "web1", {"metadata": {"by": "name"}})
    store.put("bios-uuid", BIOS, {"metadata": {"by": "bios"}})
    machine = Machine(name="web1", vc_uuid=VC, bios_uuid=BIOS)
    assert metadata_of(driver, machine) == {"by": "name"}
    store.put("bios-uuid", BIOS, {"metadata": {"by": "bios"}, "match": {"bios-uuid": BIOS}})
    assert metadata_of(driver, machine) == {"by": "bios"}
    store.put("vc-uuid", VC, {"metadata": {"by": "vc"}})
    assert metadata_of(driver, machine) == {"by": "vc"}
    assert metadata_of(StoreDriver(store, match=["name"]), machine) == {"by": "name"}


def test_layers_lie_below_and_are_explained(store: MemoryStore) -> None:
    driver = StoreDriver(store)
    store.layer("10-all", "metadata: {region: eu1, tags: [all]}\n")
    store.layer("20-web", {"match": {"query.profile": "web"}, "metadata": {"tags+": ["web"]}})
    store.put("name", "web1", {"network": {"address": "10.0.0.5/24"}}, "row 1")
    assert metadata_of(driver) == {"region": "eu1", "tags": ["all", "web"]}
    assert list(driver.trace(WEB1)) == [
        "metadata.region: eu1  # 10-all:1",
        'metadata.tags: ["all","web"]  # 10-all:1 and 20-web',
        "network.address: 10.0.0.5/24  # row 1",
    ]
    found = driver.get_instance(WEB1)
    assert found
    assert found.sources == ("row 1", "20-web", "10-all")


def test_layer_with_serve_gives_vms_without_records_data(store: MemoryStore) -> None:
    driver = StoreDriver(store)
    store.layer("all", "serve: true\nmetadata: {region: eu1}\n")
    assert metadata_of(driver) == {"region": "eu1"}


def test_layers_of_one_label_are_told_apart() -> None:
    class Twins(Store):
        def fetch(self, keys: Collection[Key]) -> Iterable[Record]:  # noqa: ARG002
            for match in ("web*", "db*"):
                text = f"serve: true\nmatch: {{name: '{match}'}}\nmetadata: {{of: '{match}'}}\n"
                yield Record(LAYERS, text, "a layer")

    driver = StoreDriver(Twins({}))
    assert metadata_of(driver) == {"of": "web*"}
    assert metadata_of(driver, Machine(name="db1")) == {"of": "db*"}
    assert metadata_of(driver) == {"of": "web*"}


def test_faults_name_the_record_and_quote_no_secret(store: MemoryStore) -> None:
    driver = StoreDriver(store)
    store.put("name", "web1", {"network": {"addres": "10.0.0.5/24"}}, "row 1")
    (fault,) = faults_of(driver)
    assert fault.startswith("row 1: network.addres: found ")
    store.put("name", "web1", "metadata: {}\nuserdata: [secret\n", "row 1")
    assert faults_of(driver)[0].startswith("row 1:")
    assert "secret" not in str(faults_of(driver))


UNUSABLE = {
    "decimal": (
        {"metadata": {"region": decimal.Decimal(1)}},
        "metadata.region: found a Decimal, expected",
    ),
    "key": ({"metadata": {1: 2}}, "metadata: found a number as a key, expected a string"),
    "list": ([], "found a list, expected a mapping, or its text in YAML or JSON"),
    "large": ({"userdata": "x" * 5_000_000}, "found a larger record, expected at most 4,194,304"),
    "large-text": (b"x" * 5_000_000, "found a larger file, expected at most 4,194,304 bytes"),
    "file": ({"userdata-file": "x.txt"}, "userdata-file: found the name of a file, expected"),
    "surrogate": ("metadata: {x: \ud800}", "web1:1:"),
}


@pytest.mark.parametrize(("data", "text"), UNUSABLE.values(), ids=UNUSABLE)
def test_record_that_is_no_data_is_a_fault(store: MemoryStore, data: Any, text: str) -> None:
    store.put("name", "web1", data)
    (fault,) = faults_of(StoreDriver(store))
    assert fault.startswith("web1:")
    assert text in fault


def test_mapping_that_contains_itself_is_a_fault(store: MemoryStore) -> None:
    data: dict[str, Any] = {}
    data["metadata"] = data
    store.put("name", "web1", data)
    assert "too many levels of nesting" in faults_of(StoreDriver(store))[0]


def test_two_records_of_one_vm_are_a_fault_that_names_both() -> None:
    class Twice(Store):
        def fetch(self, keys: Collection[Key]) -> Iterable[Record]:
            rows = [f"row {number} of /a/b" for number in (1, 2)]
            return [Record(key, {}, row) for key in keys if key.kind == "name" for row in rows]

        def all(self) -> Iterable[Record]:
            return self.fetch([Key("name", "web1")])

    driver = StoreDriver(Twice({}))
    text = "found both row 1 of /a/b and row 2 of /a/b, expected one of them"
    assert text in faults_of(driver)[0]
    assert [text in str(fault) for fault in driver.validate()] == [True]


WRONG = {
    "no-record": ([1], "Wrong: found a int, expected a Record"),
    "other-key": (
        [Record(Key("name", "WEB1"), {})],
        "Wrong: fetch returned 'name WEB1', which was not asked for",
    ),
    "too-many": ([Record(Key("name", "web1"), {})] * 2000, "Wrong: fetch returned more than 1000"),
    "none": (None, "Wrong: TypeError: 'NoneType' object is not iterable"),
    "key-that-is-a-text": ([Record("web1", {})], "Wrong: found the key 'web1', expected LAYERS"),  # type: ignore[arg-type]
    "key-of-another-kind": (
        [Record(Key("nmae", "web1"), {})],
        r"Wrong: found the key Key\(kind='nmae', value='web1'\), expected LAYERS",
    ),
    "key-with-a-number": ([Record(("name", 5), {})], r"Wrong: found the key \('name', 5\)"),  # type: ignore[arg-type]
    "label-that-is-a-number": (
        [Record(Key("name", "web1"), {}, 17)],  # type: ignore[arg-type]
        "Wrong: found a record whose label is a number, expected a text",
    ),
    "version-that-is-a-number": (
        [Record(Key("name", "web1"), {}, version=17)],  # type: ignore[arg-type]
        "Wrong: found a record whose version is a number, expected a text",
    ),
}


@pytest.mark.parametrize(("records", "text"), WRONG.values(), ids=WRONG)
def test_fetch_that_returns_something_else_is_reported_in_one_line(records: Any, text: str) -> None:
    class Wrong(Store):
        def fetch(self, keys: Collection[Key]) -> Any:  # noqa: ARG002
            return records

    with pytest.raises(DriverError, match=text):
        StoreDriver(Wrong({})).get_instance(WEB1)


def test_last_good_answer_is_served_while_the_store_is_down(store: MemoryStore) -> None:
    driver = StoreDriver(store)
    store.put("name", "web1", {"metadata": {"a": "b"}})
    metadata_of(driver)
    store.is_down = True
    found = driver.get_instance(WEB1)
    assert found
    assert found.problem == (
        "the last good answer is served, because: memory: ConnectionError: the store is down"
    )
    with pytest.raises(DriverError):
        driver.check()
    with pytest.raises(DriverError):
        driver.get_instance(Machine(name="web2", vc_uuid=VC))
    store.is_down = False
    store.drop("name", "web1")
    assert driver.get_instance(WEB1) is None


def test_vm_without_a_record_is_explained(store: MemoryStore) -> None:
    driver = StoreDriver(store)
    assert driver.explain(WEB1) == f"no record named '{VC}' or 'web1' in memory"
    store.put("bios-uuid", BIOS, {}, "row 9")
    reason = driver.explain(Machine(name="web1", bios_uuid=BIOS))
    assert "; row 9 is named by the BIOS UUID of this VM, which counts only if the record" in reason
    store.layer("all", "serve: true\nmatch: {name: x}\n")
    assert ", and no layer with serve: true matches it" in driver.explain(WEB1)


def test_all_records_are_validated_and_compared(store: MemoryStore) -> None:
    driver = StoreDriver(store)
    assert list(driver.notes()) == ["0 records: memory has none"]
    for name in ("web1", "web2"):
        store.put("name", name, {"network": {"address": "10.0.0.5/24"}})
    store.put("name", VC, {}, "row 3")
    store.layer("unused", "match: {name: nobody}\n")
    faults = sorted(str(fault) for fault in driver.validate())
    assert driver.files_checked == 2
    assert [fault.partition(", expected")[0] for fault in faults] == [
        "row 3: warning: found a name that no VM is looked up by",
        "unused:1: warning: match: found a layer that counts for no VM",
        "web1: warning: network.address: found '10.0.0.5', which web2 has too",
    ]
    (only,) = (fault for fault in driver.validate_named(["web2"]) if "too" in str(fault))
    assert "which web1 has too" in str(only)
    with pytest.raises(DriverError, match="web9: no record named 'web9' in memory"):
        list(driver.validate_named(["web9"]))


class Unlisted(MemoryStore):
    def all(self) -> None:  # type: ignore[override]
        return None


def test_store_that_lists_nothing_validates_what_is_named() -> None:
    store = Unlisted()
    driver = StoreDriver(store)
    store.put("name", "web1", {"metadata": []})
    (fault,) = driver.validate_named(["web1"])
    assert "web1: metadata: found a list" in str(fault)
    with pytest.raises(DriverError, match="memory cannot list its records: name the VMs to check"):
        list(driver.validate())


def test_documents_that_any_record_has_are_known(store: MemoryStore) -> None:
    store.put("name", "web1", {"documents": {"securitydata": "x"}})
    store.layer("all", "documents: {role: x}\n")
    assert set(StoreDriver(store).document_names()) == {"SECURITYDATA", "ROLE"}


def test_vm_that_shares_a_value_with_another_is_reported(store: MemoryStore) -> None:
    driver = StoreDriver(store)
    for name in ("web1", "web2"):
        store.put("name", name, {"metadata": {"instance-id": "i-1"}})

    def duplicates(name: str) -> tuple[str, ...]:
        found = driver.get_instance(Machine(name=name))
        assert found
        return found.duplicates

    assert duplicates("web1") == ()
    assert duplicates("web2") == ("metadata.instance-id is 'i-1', which web1 has too",)
    store.put("name", "web1", {"metadata": {"instance-id": "i-2"}})
    assert duplicates("web2") == ()


# Freshness


def test_answer_holds_until_one_of_its_keys_changes(
    store: MemoryStore, driver: StoreDriver
) -> None:
    store.put("name", "web1", {"metadata": {}})

    def is_dropped_by(change: Callable[[], None]) -> bool:
        found = driver.get_instance(WEB1)
        assert found
        assert driver.held_at(found.token, time.monotonic())
        assert driver.still_holds(found.token)
        change()
        return not driver.held_at(found.token, time.monotonic())

    assert not is_dropped_by(lambda: store.put("name", "web2", {}))
    assert is_dropped_by(lambda: store.put("name", "web1", {}))
    assert is_dropped_by(lambda: store.layer("10", {"metadata": {}}))
    assert is_dropped_by(lambda: store.put("vc-uuid", VC, {}))  # of a higher rank, and missing
    assert not is_dropped_by(lambda: store.put("name", "web1", {}))  # of a lower rank now


def test_layers_are_fetched_once_while_no_change_is_told(
    store: MemoryStore, driver: StoreDriver
) -> None:
    asked: list[Collection[Key]] = []
    fetch = store.fetch

    def noted(keys: Collection[Key]) -> Iterable[Record]:
        asked.append(keys)
        return fetch(keys)

    store.fetch = noted  # type: ignore[method-assign]
    store.put("name", "web1", {})
    for _ in range(3):
        metadata_of(driver)
    assert [LAYERS in keys for keys in asked] == [True, False, False]
    store.layer("10", {})
    metadata_of(driver)
    assert LAYERS in asked[-1]


def test_nothing_is_cached_while_the_listener_is_away(
    store: MemoryStore, constants: Constants
) -> None:
    constants(drivers__records__listening__FIRST_PAUSE_S=0.01)
    reports: list[str] = []
    driver = StoreDriver(store)
    store.put("name", "web1", {})

    def token() -> Any:
        found = driver.get_instance(WEB1)
        assert found
        return found.token

    assert token() is None
    driver.watch(reports.append)
    until(lambda: token() is not None)
    before = token()
    store.disconnect()
    until(lambda: token() is None)
    assert not driver.held_at(before, time.monotonic())
    until(lambda: bool(reports))
    time.sleep(0.05)  # further failures are not reported
    store.connect()
    until(lambda: token() is not None)
    assert not driver.still_holds(before)
    until(lambda: len(reports) > 1)
    assert reports == [
        "memory does not tell changes, so each request asks it: ConnectionError: disconnected",
        "memory tells changes again",
    ]
    driver.close()


class Polled(MemoryStore):
    """Tells nothing, but its version can be polled."""

    poll_s = 0.01
    stored = 0
    can_tell = True

    def listen(self, changes: Changes) -> None:
        Store.listen(self, changes)

    def version(self) -> int | None:
        return self.stored if self.can_tell else None


def test_version_that_is_polled_tells_changes() -> None:
    store = Polled()
    driver = StoreDriver(store)
    store.put("name", "web1", {})
    driver.watch(lambda _: None)
    until(lambda: driver.get_instance(WEB1).token is not None)  # type: ignore[union-attr]
    found = driver.get_instance(WEB1)
    assert found
    store.stored += 1
    until(lambda: not driver.still_holds(found.token))
    driver.close()


def test_store_that_cannot_tell_changes_is_left_alone() -> None:
    reports: list[str] = []
    store = Polled()
    store.can_tell = False
    driver = StoreDriver(store)
    driver.watch(reports.append)
    until(lambda: all(thread.name != "store listener" for thread in threading.enumerate()))
    assert reports == []
    driver.close()


class Silent(MemoryStore):
    """Promises to say something every 0.05 s, and does not."""

    changes: Changes | None = None

    def listen(self, changes: Changes) -> None:
        changes.connected(silence_s=0.05)
        self.changes = changes
        changes.closed.wait()


def test_listener_that_falls_silent_holds_no_answer() -> None:
    reports: list[str] = []
    store = Silent()
    driver = StoreDriver(store)
    store.put("name", "web1", {})
    driver.watch(reports.append)
    until(lambda: store.changes is not None)
    found = driver.get_instance(WEB1)
    assert found
    until(lambda: not driver.still_holds(found.token))
    driver.check()
    driver.check()
    assert store.changes
    changes = store.changes

    def holds_again() -> bool:
        changes.alive()
        return driver.still_holds(found.token)

    until(holds_again)
    assert reports == [
        "memory does not tell changes, so each request asks it: "
        "its listener has said nothing for 0.05 s",
        "memory tells changes again",
    ]
    driver.close()


class Dying(MemoryStore):
    """Its first listener ends with what is no Exception, once it is connected."""

    calls = 0
    error: BaseException

    def listen(self, changes: Changes) -> None:
        self.calls += 1
        changes.connected()
        if self.calls == 1:
            raise self.error
        changes.closed.wait()


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), UnprintableError(), GeneratorExit(), KeyboardInterrupt()]
)
def test_listener_is_called_again_whatever_it_raises(
    constants: Constants, error: BaseException
) -> None:
    constants(drivers__records__listening__FIRST_PAUSE_S=0.01)
    reports: list[str] = []
    store = Dying()
    store.error = error
    driver = StoreDriver(store)
    driver.watch(reports.append)
    until(lambda: store.calls == 2)
    until(lambda: len(reports) == 2)
    assert reports[0].startswith(
        f"memory does not tell changes, so each request asks it: {type(error).__name__}"
    )
    driver.close()


class Mute(MemoryStore):
    """Tells nothing by itself."""

    def listen(self, changes: Changes) -> None:
        changes.connected()
        self.changes = changes
        changes.closed.wait()


NO_KEYS: dict[str, Any] = {
    "text": "name",
    "list-of-texts": ["web1"],
    "one-key": ("name", "web1"),
    "unknown-kind": [("nmae", "web1")],
    "number": [("name", 5)],
    "too-short": [("name",)],
    "nothing": [None],
    "huge": [("x" * 10**6, "")],
    "control": [("\x1b[2J\n", "")],
}


@pytest.mark.parametrize("keys", NO_KEYS.values(), ids=NO_KEYS)
def test_change_of_what_is_no_key_is_an_error_and_counts_for_every_key(keys: Any) -> None:
    store = Mute()
    store.put("name", "web1", {})
    driver = StoreDriver(store)
    driver.watch(lambda _: None)
    until(lambda: driver.revision() is not None)
    found = driver.get_instance(WEB1)
    assert found
    assert driver.still_holds(found.token)
    with pytest.raises(DriverError, match=r"^found the key [ -~]{1,220}, expected LAYERS or Key"):
        store.changes.changed(keys)
    assert not driver.still_holds(found.token)
    driver.close()


def test_keys_that_fail_half_way_count_for_every_key() -> None:
    def failing() -> Iterator[tuple[str, str]]:
        yield "name", "other"
        raise asyncio.CancelledError

    store = Mute()
    store.put("name", "web1", {})
    driver = StoreDriver(store)
    driver.watch(lambda _: None)
    until(lambda: driver.revision() is not None)
    found = driver.get_instance(WEB1)
    assert found
    with pytest.raises(asyncio.CancelledError):
        store.changes.changed(failing())
    assert not driver.still_holds(found.token)
    driver.close()


def test_loss_that_comes_and_goes_is_reported_at_most_once_a_minute(constants: Constants) -> None:
    reports: list[str] = []
    told = ToldChanges("memory", Revisions(), reports.append)
    for number in range(100):
        told.connected()
        told.lost(f"error {number}")
    assert [text.rpartition(": ")[2] for text in reports] == [
        "error 0",
        "memory tells changes again",
    ]
    constants(drivers__records__listening__QUIET_S=0.0)
    told = ToldChanges("memory", Revisions(), reports.append)
    told.lost("first")
    told.connected()
    told.lost("second")
    assert reports[-1].endswith("second")


def test_loss_is_reported_without_any_part_of_a_secret() -> None:
    reports: list[str] = []
    told = ToldChanges("memory", Revisions(), reports.append, KnownSecrets(["s3cret-word"]))
    told.connected()
    told.lost(f"{'x' * 995}s3cret-word")  # it would be cut in the middle
    assert reports[0].endswith("x(hidd...")


def test_loss_that_lasts_is_reported_in_the_end(constants: Constants) -> None:
    constants(drivers__records__listening__QUIET_S=0.02)
    reports: list[str] = []
    told = ToldChanges("memory", Revisions(), reports.append)
    for number in range(2):
        told.connected()
        told.lost(f"error {number}")

    def is_reported() -> bool:
        told.look()
        return reports[-1].endswith("error 1")

    until(is_reported)
    told.look()
    assert len(reports) == 3


# Bounds


class Masked(str):
    """A text as a library returns it: it looks the same whatever it says."""

    __slots__ = ("source",)

    def __repr__(self) -> str:
        return "(hidden)"

    def encode(self, *_arguments: Any, **_named: Any) -> bytes:
        return b"metadata: {}"


class Level(int):
    def __repr__(self) -> str:
        return "LEVEL"


@pytest.mark.parametrize(
    "made", [Masked, lambda text: Level(len(text)), lambda text: text.encode()]
)
def test_values_of_subclasses_are_copied_as_what_they_are(made: Callable[[str], Any]) -> None:
    records = [
        kept(Record(WEB, {"metadata": {Masked("a"): 1, "b": [made("x" * length)]}}), WEB)
        for length in (1, 2)
    ]
    assert records[0].digest != records[1].digest
    assert isinstance(records[0].data, dict)
    assert type(records[0].data["metadata"]["b"][0]) in (str, int, bytes)
    assert {type(key) for key in records[0].data["metadata"]} == {str}


def test_change_of_a_value_that_looks_the_same_is_served(store: MemoryStore) -> None:
    store.put("name", "web1", {"metadata": {"a": Masked("before")}})
    driver = StoreDriver(store)
    assert metadata_of(driver)["a"] == "before"
    store.put("name", "web1", {"metadata": {"a": Masked("after")}})
    assert metadata_of(driver)["a"] == "after"
    store.put("name", "web1", Masked("metadata: {a: text}"))
    assert metadata_of(driver)["a"] == "text"


@pytest.mark.parametrize("data", ["x" * 2**20, b"x" * 2**20, {"userdata": "x" * 2**20}])
def test_fetch_is_bounded_in_bytes(data: Any) -> None:
    yielded = []

    class Large(Store):
        def fetch(self, keys: Collection[Key]) -> Iterator[Record]:
            for number in range(1000):
                yielded.append(number)
                yield Record(next(iter(keys)), data)

    with pytest.raises(DriverError, match=r"^Large: fetch returned more than 33,554,432 bytes$"):
        StoreDriver(Large({})).get_instance(WEB1)
    assert len(yielded) < 40


def test_layers_count_against_the_memory_budget(store: MemoryStore) -> None:
    for number in range(3):
        name = f"*{number}*" if number else "*"
        store.layer(
            f"{number}", {"match": {"name": name}, "metadata": {f"k{number}": "x" * 10_000}}
        )
    store.put("name", "web1", {})
    driver = StoreDriver(store)
    table = driver.tables()["layers"]
    assert table.kept_bytes == 0
    before = metadata_of(driver)
    of_layers = 3 * 35 * 10_000
    with_bases = table.kept_bytes
    assert of_layers < with_bases - 30_000 < 1.2 * of_layers + 600_000
    assert (table.shed(), table.shed()) == (True, False)
    assert of_layers < table.kept_bytes < with_bases
    assert metadata_of(driver) == before


def test_one_large_merged_layer_counts_as_a_whole(store: MemoryStore, constants: Constants) -> None:
    constants(drivers__layers__bases__KEPT_BYTES=10_000)
    store.layer("all", {"metadata": {"k": "x" * 10_000}})
    store.put("name", "web1", {})
    driver = StoreDriver(store)
    metadata_of(driver)
    assert driver.tables()["layers"].kept_bytes > (35 + 20) * 10_000


def test_merged_layers_of_a_store_are_bounded_in_bytes(
    store: MemoryStore, constants: Constants
) -> None:
    constants(drivers__layers__bases__KEPT_BYTES=500_000)
    for number in range(8):
        match = {"name": f"*{number}*"}
        store.layer(f"{number}", {"match": match, "metadata": {f"k{number}": "x" * 1000}})
    driver = StoreDriver(store)
    for number in range(100):
        store.put("name", f"web{number}", {})
        metadata_of(driver, Machine(name=f"web{number}"))
    assert driver.tables()["layers"].kept_bytes < 35 * 10_000 + 500_000 + 20 * 10_000


class Endless(MemoryStore):
    def all(self) -> Iterator[Record]:
        number = 0
        while True:
            number += 1
            yield Record(Key("name", f"vm{number}"), {"documents": {"role": "x"}})


def test_records_without_an_end_are_not_listed_for_ever(constants: Constants) -> None:
    constants(
        drivers__records__recordsource__MAX_LISTED_BYTES=10**6,
        drivers__records__recordsource__MAX_LISTING_S=0.05,
    )
    driver = StoreDriver(Endless())
    assert driver.document_names() == frozenset()
    with pytest.raises(DriverError, match="need more than 1,000,000 bytes of memory"):
        list(driver.validate())


class Many(MemoryStore):
    def all(self) -> Iterator[Record]:
        for number in range(300):
            yield Record(Key("name", f"vm{number}"), {"userdata": f"{number}" + "x" * 10**5})


def test_names_of_documents_are_collected_without_holding_all_records() -> None:
    driver = StoreDriver(Many())
    driver.document_names()
    tracemalloc.start()
    try:
        StoreDriver(Many()).document_names()
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


# Stores as drivers


MODULE = """\
from vmw_cloudinit_metadata import DriverError
from vmw_cloudinit_metadata.drivers.memorystore import MemoryStore

class Mine(MemoryStore):
    def __init__(self, options):
        super().__init__(options)
        if options.keys() - {"url"}:
            raise DriverError("found 'urk', expected url")
"""


def test_store_is_loaded_as_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mystores.py").write_text(MODULE)
    driver = load("mystores:Mine", {"url": "x", "match": ["name"], "last_good_max_age_s": 5})
    assert isinstance(driver, StoreDriver)
    assert driver.options.match == ["name"]
    assert driver.stale_if_error == 5
    with pytest.raises(ConfigError, match="--driver-opts: found 'urk', expected url"):
        load("mystores:Mine", {"urk": "x"})
    with pytest.raises(ConfigError, match=r"--driver-opts: match\.0: found 'uuid', expected: "):
        load("mystores:Mine", {"match": ["uuid"]})


# The catalogue


def surveyed(driver: StoreDriver) -> dict[str, tuple[list[str], int]]:
    """The VMs that each fault affects."""
    findings = Findings()
    for observation in driver.survey():
        if observation:
            findings.add(observation)
    return {f"{one.fault.key[-1]}: {one.fault.found}": (one.vms, one.vm_count) for one in findings}


def test_survey_says_which_vms_a_fault_affects(store: MemoryStore, driver: StoreDriver) -> None:
    store.layer("web", {"match": {"name": "web*"}, "network": {"nameservers": ["nonsense"]}})
    store.layer("one", {"match": {"name": "solo"}, "serve": True, "metadata": {"role": "x"}})
    store.put("name", "web1", {"metadata": {"role": "a"}, "network": {"dhcp": True}})
    store.put("name", "db1", {"metadata": {"local-hostname": "same"}})
    store.put("name", "db2", {"metadata": {"local-hostname": "same"}})
    found = surveyed(driver)
    assert sorted(found.values()) == [(["db1", "db2"], 2), (["web1"], 1)]
    assert driver.census() == Census(files=5, vms=4, layers=2, noun="record")
    assert {one.fault for one in driver.survey() if one} == set(driver.validate())


def test_second_survey_checks_only_what_has_changed(
    store: MemoryStore, driver: StoreDriver
) -> None:
    checked: list[str] = []

    def judge(instance: InstanceData) -> Iterator[Fault]:
        checked.extend(instance.sources)
        return iter(())

    driver.judge = judge
    for name in ("a", "b", "c"):
        store.put("name", name, {"metadata": {"role": name}})
    surveyed(driver)
    assert sorted(checked) == ["a", "b", "c"]
    revision = driver.revision()
    checked.clear()
    surveyed(driver)
    assert checked == []
    store.put("name", "b", {"metadata": {"role": "other"}})
    assert driver.revision() != revision
    surveyed(driver)
    assert checked == ["b"]
    checked.clear()
    store.disconnect()
    until(lambda: driver.revision() is None)
    surveyed(driver)
    assert sorted(checked) == ["a", "b", "c"]


def test_store_that_lists_no_records_has_no_catalogue() -> None:
    class Unlisted(Store):
        def fetch(self, keys: Collection[Key]) -> Iterable[Record]:  # noqa: ARG002
            return ()

    assert not StoreDriver(Unlisted({})).can_validate
    assert StoreDriver(MemoryStore()).can_validate
