"""Laws of stores: what is true of each, whatever changes, and when. The store is one in memory."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.laws import cases
from tests.test_store import until
from vmw_cloudinit_metadata import LAYERS, Changes, Key, Machine, Record, StoreDriver
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.drivers.memorystore import MemoryStore
from vmw_cloudinit_metadata.drivers.observation import Census, Observation
from vmw_cloudinit_metadata.instance import nocloud
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData

VC = "11111111-2222-3333-4444-555555555555"
BIOS = "99999999-2222-3333-4444-555555555555"

# Files and records with the same data


OWN = st.sampled_from(
    [
        "metadata: {role: db}\n",
        "metadata: {region: us1, tags+: [own]}\nnetwork: {address: 10.0.0.5/24}\n",
        f"metadata: {{role: bios}}\nmatch: {{bios-uuid: {BIOS}}}\n",
        "metadata: {role: other}\nmatch: {name: someone-else}\n",
        "metadata:\n  hostname: ${match.site}-${vm.name}\nuserdata: {packages+: [vim]}\n",
        "metadata: {role: '${query.profile}'}\ndocuments: {role: '${vm.vc-uuid}'}\n",
        "metadata: {role: a}\nnetwork: {adress: 10.0.0.5/24}\n",
        "metadata: {role: [}\n",
        '{"metadata": {"role": "json"}, "userdata": "#!/bin/sh\\n"}',
        "just a text\n",
        "metadata: {a: b}\nuserdata-file: web1.txt\nuserdata: {x: y}\n",
    ]
)
LAYER = st.sampled_from(
    [
        "metadata: {region: eu1, tags: [all]}\n",
        "serve: true\nmetadata: {role: base}\n",
        'match: {name: "web-{site}"}\nserve: true\nmetadata: {site: "${match.site}"}\n',
        'match: {name: "{site}-1"}\nmetadata: {second: "${match.site}"}\n',
        "match: {query.profile: web}\nuserdata: {packages: [nginx]}\n",
        "network: {nameservers: [10.0.0.53]}\n",
        "metadata: {region: }\n",
        "match: {peer: 10.0.0.0/24}\nmetadata: {tags+: [near]}\n",
        "metadata: {region: {}}\nserve: maybe\n",
        "match: {nam: x}\n",
    ]
)
STEM = st.sampled_from(["web1", "web-1", "db", VC, BIOS])
MACHINES = [
    Machine(name=name, vc_uuid=vc_uuid, bios_uuid=bios_uuid, service_uri=uri, peer_address=peer)
    for name in ("web1", "web-1", ".hidden", None)
    for vc_uuid in (VC, None)
    for bios_uuid in (BIOS, None)
    for uri, peer in (("my-metadata?profile=web", "10.0.0.7"), ("my-metadata", ""))
]


def outcome(driver: Driver, machine: Machine, here: str) -> object:
    """All that a guest or an operator gets, without the directory."""
    try:
        found = driver.get_instance(machine)
        documents = nocloud.render(found, machine) if found else None
    except InvalidInstanceData as error:
        return str(error).replace(here, "")
    if found is None:
        return in_words_of_files(driver.explain(machine)).replace(here, "").replace(here[:-1], "")
    sources = [source.replace(here, "") for source in found.sources]
    trace = [line.replace(here, "") for line in driver.trace(machine)]
    return documents, sources, found.matched_by, trace, found.duplicates


WORDS = {
    ".yaml": "",
    "if the record says": "if the file says",
    "no record named": "no file named",
    " in memory": " in ",
    "give the record the VM's": "name the file by the VM's",
}


def in_words_of_files(text: str) -> str:
    for of_records, of_files in WORDS.items():
        text = text.replace(of_records, of_files)
    return text


@given(
    st.dictionaries(STEM, OWN),
    st.lists(LAYER, max_size=4),
    st.lists(st.sampled_from(MACHINES), min_size=4, max_size=4, unique=True),
)
@settings(max_examples=cases(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("settled")
def test_records_give_what_files_with_the_same_data_give(
    own: dict[str, str], layers: list[str], machines: list[Machine]
) -> None:
    store = MemoryStore()
    with tempfile.TemporaryDirectory() as path:
        here = f"{path}/"
        for stem, text in own.items():
            file = Path(path, f"{stem}.yaml")
            file.write_text(text)
            for kind in ("vc-uuid", "bios-uuid") if stem in (VC, BIOS) else ("name",):
                store.put(kind, stem, text, str(file))
        if layers:
            Path(path, "layers").mkdir()
        for number, text in enumerate(layers):
            file = Path(path, "layers", f"{number}.yaml")
            file.write_text(text)
            store.layer(str(file), text)
        of_files, of_store = FileDriver({"directory": path}), StoreDriver(store)
        for machine in machines:
            assert outcome(of_store, machine, here) == outcome(of_files, machine, here)


# Freshness


class ToldStore(MemoryStore):
    """Its listener does what a test says, in the test's thread; changes are told when it says."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: Changes | None = None
        self.has_changes = threading.Event()
        self.untold: list[Key] = []
        self.is_slow = False
        self.before_read: Callable[[], None] = lambda: None
        self.after_read: Callable[[], None] = lambda: None

    def listen(self, changes: Changes) -> None:
        self.changes = changes
        self.has_changes.set()
        changes.connected()
        changes.closed.wait()

    def _tell(self, keys: Collection[Key]) -> None:
        self.untold += keys
        if not self.is_slow:
            self.tell()

    def tell(self) -> None:
        if self.changes:
            self.changes.changed(self.untold)
        self.untold.clear()

    def fetch(self, keys: Collection[Key]) -> Iterable[Record]:
        self.before_read()
        found = list(super().fetch(keys))
        self.after_read()
        return found


VMS = [Machine(name="web1", vc_uuid=VC), Machine(name="web1")]
KEYS = [("vc-uuid", VC), ("name", "web1")]
EACH_KEY = st.sampled_from(KEYS)
EACH_CHANGE = st.sampled_from([*KEYS, LAYERS])
EACH_VM = st.sampled_from(range(len(VMS)))


class Freshness(RuleBasedStateMachine):
    """A server that keeps each VM's answer for as long as the driver says that it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.store = ToldStore()
        self.driver = StoreDriver(self.store, last_good_max_age_s=0)
        self.kept: dict[int, tuple[Any, Any]] = {}
        self.is_told = False
        self.count = 0
        self.history: list[dict[Any, int]] = [{LAYERS: 0}]
        self.given = [0] * len(VMS)  # the moment of each VM's last answer, at least
        self.layer_given = 0  # the newest layer that any VM has had

    @initialize()
    def connect_first(self) -> None:
        self.driver.watch(lambda _: None)
        assert self.store.has_changes.wait(60)
        deadline_s = time.monotonic() + 60
        while not self.driver.held_at(self.token_of_now(), time.monotonic()):
            assert time.monotonic() < deadline_s
            time.sleep(0.001)
        self.is_told = True

    def token_of_now(self) -> Any:
        """A token of no use but to know whether the listener is connected."""
        self.store.put("name", "probe", {"metadata": {}})
        found = self.driver.get_instance(Machine(name="probe"))
        assert found
        return found.token or _Lost()

    def teardown(self) -> None:
        self.driver.close()

    def change(self, key: tuple[str, str]) -> None:
        self.count += 1
        self.history.append({**self.history[-1], key: self.count})
        if key == LAYERS:
            self.store.layer("10", {"serve": True, "metadata": {"layer": self.count}})
        else:
            self.store.put(*key, {"metadata": {"version": self.count}})

    @rule(key=EACH_CHANGE)
    def put(self, key: tuple[str, str]) -> None:
        self.change(key)

    @rule(key=EACH_KEY)
    def drop(self, key: tuple[str, str]) -> None:
        after = dict(self.history[-1])
        after.pop(key, None)
        self.history.append(after)
        self.store.drop(*key)

    @rule(is_slow=st.booleans())
    def tell(self, is_slow: bool) -> None:
        self.store.is_slow = is_slow
        if self.is_told and not is_slow:
            self.store.tell()

    @precondition(lambda self: self.is_told)
    @rule()
    def disconnect(self) -> None:
        assert self.store.changes
        self.store.changes.lost("the connection is lost")
        self.is_told = False

    @precondition(lambda self: not self.is_told)
    @rule()
    def reconnect(self) -> None:
        assert self.store.changes
        self.store.untold.clear()  # told to nobody
        self.store.changes.connected()
        self.is_told = True

    @precondition(lambda self: self.is_told)
    @rule(key=EACH_CHANGE)
    def change_unseen(self, key: tuple[str, str]) -> None:
        self.disconnect()
        self.change(key)
        self.reconnect()

    @rule(vm=EACH_VM)
    def ask(self, vm: int) -> None:
        self.served(vm)

    @rule(change=EACH_CHANGE, is_after=st.booleans())
    def change_before_the_next_read_and_in_it(self, change: Any, is_after: bool) -> None:
        def again() -> None:
            self.store.before_read = self.store.after_read = lambda: None
            self.change(change)

        self.change(change)
        if is_after:
            self.store.after_read = again
        else:
            self.store.before_read = again

    @rule(vm=EACH_VM)
    def ask_while_another_asks(self, vm: int) -> None:
        def others() -> None:
            self.store.before_read = self.store.after_read = lambda: None
            for other in range(len(VMS)):
                if other != vm:
                    self.served(other)

        layer_before = self.layer_given
        self.store.after_read = others
        self.served(vm, layer_before)
        self.store.before_read = self.store.after_read = lambda: None

    def served(self, vm: int, layer_before: int | None = None) -> None:
        """Serve a VM as the server does, and hold the law."""
        began = len(self.history) - 1
        answer, token = self.kept.get(vm, (None, None))
        is_kept = token is not None and self.driver.held_at(token, time.monotonic())
        if not is_kept:
            found = self.driver.get_instance(VMS[vm])
            answer = dict(found.metadata) if found else None
            token = found.token if found else None
            self.kept[vm] = answer, token
        layer_before = self.layer_given if layer_before is None else layer_before
        layer = (answer or {}).get("layer", 0)
        assert layer >= layer_before or answer is None
        self.layer_given = max(self.layer_given, layer)
        moments = [
            moment
            for moment in range(self.given[vm], len(self.history))
            if own_version(self.history[moment], vm) == (answer or {}).get("version")
        ]
        assert moments, "the answer is older than the one before"
        self.given[vm] = moments[0] if is_kept else max(moments[0], min(began, moments[-1]))
        if not is_kept:
            assert moments[-1] >= began, "a new answer is older than its look-up"
        elif self.is_told and not self.store.untold:
            assert moments[-1] == began, "a kept answer is older than what was told"
            assert layer == self.history[began][LAYERS]

    @invariant()
    def first_vm_asks_all_the_time(self) -> None:
        if self.store.changes:
            self.served(0)

    @invariant()
    def nothing_holds_while_changes_are_not_told(self) -> None:
        if not self.is_told:
            for _, token in self.kept.values():
                assert token is None or not self.driver.held_at(token, time.monotonic())
                assert token is None or not self.driver.still_holds(token)


class _Lost:
    def held_at(self, *_: object) -> bool:
        return False


def own_version(state: dict[Any, int], vm: int) -> int | None:
    machine = VMS[vm]
    keys = [("vc-uuid", machine.vc_uuid), ("name", machine.name)]
    return next((state[key] for key in keys if key in state), None)


TestFreshness = Freshness.TestCase
TestFreshness.settings = settings(max_examples=cases(60), stateful_step_count=30)


@pytest.mark.slow
def test_no_vm_gets_an_older_answer_in_a_storm() -> None:
    """Writers and readers in threads of their own, and a listener that is lost now and then."""
    store = MemoryStore()
    driver = StoreDriver(store, last_good_max_age_s=0)
    driver.watch(lambda _: None)
    is_over = threading.Event()
    wrong: list[tuple[int, int]] = []
    answers = [0, 0]

    def write(vm: int) -> None:
        version = 0
        while not is_over.wait(0.0005):
            version += 1
            store.put("name", f"web{vm}", {"metadata": {"version": version}})

    def read(vm: int) -> None:
        newest, kept, token = 0, 0, None
        while not is_over.is_set():
            is_kept = token is not None and driver.held_at(token, time.monotonic())
            if not is_kept:
                found = driver.get_instance(Machine(name=f"web{vm}"))
                kept, token = (found.metadata["version"], found.token) if found else (0, None)
            answers[is_kept] += 1
            if kept < newest:
                wrong.append((kept, newest))
            newest = max(newest, kept)

    with ThreadPoolExecutor(6) as pool:
        working = [pool.submit(work, vm) for vm in range(3) for work in (write, read)]
        try:
            for _ in range(5):
                time.sleep(0.5)
                store.disconnect()
                time.sleep(0.1)
                store.connect()
        finally:
            is_over.set()
        for each in working:
            each.result(60)
    driver.close()
    assert wrong == []
    assert min(answers) > 100


# The catalogue: a survey after changes finds what a first one does


EDIT = st.tuples(
    *(st.sampled_from(["put", "put", "layer"]), st.sampled_from(["web1", "db"])),
    *(OWN | st.none(), LAYER | st.none()),
)


def surveyed(driver: StoreDriver) -> tuple[set[Observation], Census]:
    return {replace(one, vms=tuple(one.vms)) for one in driver.survey() if one}, driver.census()


@settings(max_examples=cases(100))
@given(
    st.lists(st.lists(EDIT, min_size=1, max_size=3), min_size=3, max_size=6),
    st.sets(st.integers(0, 5), max_size=1),
)
def test_survey_after_changes_finds_what_a_first_one_does(
    rounds: list[list[tuple[str, str, str | None, str | None]]], cuts: set[int]
) -> None:
    store = MemoryStore()
    driver = StoreDriver(store)
    driver.watch(lambda _: None)
    until(lambda: store.is_listening)
    try:
        for number, edits in enumerate(rounds):
            if number in cuts:
                store.disconnect()
                until(lambda: driver.revision() is None)
            for kind, stem, own, layer in edits:
                if kind == "layer":
                    store.layer(stem, layer)
                elif own is None:
                    store.drop("name", stem)
                else:
                    store.put("name", stem, own)
            store.connect()
            assert surveyed(driver) == surveyed(StoreDriver(store))
    finally:
        driver.close()
