"""Prepared answers: what the catalogue prepares is what a look-up gives, and never an older one."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

import gevent
import pytest
import ujson
from click import Context
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.laws import cases
from tests.process import ServerProcess
from tests.test_admin import Admin, wait_until
from tests.test_catalogue import finite as values
from tests.vm import Vm
from vmw_cloudinit_metadata.cli.run import run
from vmw_cloudinit_metadata.drivers import preparation, preparedrecords
from vmw_cloudinit_metadata.drivers.catalogue import records
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.fileoptions import FileOptions
from vmw_cloudinit_metadata.drivers.files.filesource import FileSource
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.drivers.preparedanswers import PreparedAnswers, PreparedKeeper
from vmw_cloudinit_metadata.drivers.sourcedriver import SourceDriver
from vmw_cloudinit_metadata.drivers.warming.preparedlog import PreparedLog, PreparedLogReader
from vmw_cloudinit_metadata.drivers.warming.preparedtable import PreparedTable
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.process.budget import Budget
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import Answer, look_up, prepared
from vmw_cloudinit_metadata.serving.lookup import Lookup
from vmw_cloudinit_metadata.serving.reporter import INTERVAL_S

LIMIT_S = 60.0
LIMIT_BYTES = 1024 * 1024
VC_UUID = "01234567-89ab-cdef-fedc-ba9876543210"
BIOS_UUID = "11234567-89ab-cdef-fedc-ba9876543210"
OTHER_UUID = "21234567-89ab-cdef-fedc-ba9876543210"


class ToldDriver(SourceDriver[Snapshot]):
    """The driver of files, whose changes a test tells instead of the system."""

    Options = FileOptions

    def __init__(self, options: dict[str, Any]) -> None:
        def source_of(checked: FileOptions) -> FileSource:
            source = FileSource(checked.directory, checked.defaults)
            self.changes = source.notified.changes
            return source

        super().__init__(options, source_of)
        found = os.stat(options["directory"])
        self.changes.source = (found.st_dev, found.st_ino)
        self.tell()

    def tell(self, *names: str) -> None:
        for name in names:
            self.changes.changed(name)
            if name.startswith("layers/"):
                self.changes.changed("layers")
        self.changes.complete_until(time.monotonic())

    @property
    def warmth(self) -> PreparedAnswers:
        assert self.prepared
        return self.prepared


class World:
    """A directory, the server's driver, and that of the process of the catalogue.

    The keeper is what takes the records: the driver's own, or what several workers share.
    """

    keeper: PreparedKeeper

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self._options = {"directory": str(directory), **options}
        self._ticks = itertools.count(1_000_000_000_000_000_000, 1_000_000_000)
        self.put("defaults.yaml", "metadata: {}\n")
        self.server = ToldDriver(self._options)
        self.sent: list[Any] = []
        self.keeper = self.server.warmth
        self.keeper.limit_bytes = LIMIT_BYTES
        self.start_process()

    def start_process(self) -> None:
        self._process = ToldDriver(self._options)
        self._process.warmth.prepare(self.hear, LIMIT_BYTES)

    def watch(self, is_told: bool) -> None:
        """Whether changes are told to the process of the catalogue."""
        found = self.directory.stat()
        self._process.changes.source = (found.st_dev, found.st_ino) if is_told else None

    def hear(self, line: bytes) -> None:
        record: Any = records.decode(line.removesuffix(b"\n"))
        self.sent.append(record)
        self.keeper.take(record)

    def put(self, name: str, text: str | bytes | None) -> str:
        """Write or remove a file, so that its time stamps and the directory's are new ones."""
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        if text is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
            os.utime(path, ns=(0, next(self._ticks)))
        for directory in (path.parent, self.directory):
            os.utime(directory, ns=(0, next(self._ticks)))
        return name

    def change(self, name: str, text: str | bytes | None) -> None:
        self.server.tell(self.put(name, text))

    def begin(self) -> None:
        self.keeper.begin()

    def follow(self) -> None:
        """A worker that lags reads what its parent has written."""

    def survey(
        self, at: int = -1, change: Callable[[], None] = lambda: None, ends_at: int = -1
    ) -> None:
        """Prepare everything; `change` something, or end, after so many observations."""
        self.begin()
        for number, _ in enumerate(self._process.survey()):
            if number == at:
                change()
            if number == ends_at:
                break

    def prepared(self, machine: Machine) -> Answer | None:
        now_s = time.monotonic()
        self.server.tell()
        return prepared(self.server, machine, now_s)

    def check(self, machine: Machine) -> bool:
        """Compare what was prepared with a look-up; return whether anything was."""
        found = self.prepared(machine)
        if found is None:
            return False
        looked_up = look_up(self.server, machine)
        assert isinstance(looked_up, Answer), looked_up
        assert list(found.packets.items()) == list(looked_up.packets.items())
        ours, theirs = found.origin, looked_up.origin
        assert (ours.matched_by, ours.sources, ours.digest, ours.problem) == (
            *(theirs.matched_by, theirs.sources, theirs.digest, theirs.problem),
        )
        return True


class WorkersWorld(World):
    """The same with two workers: the server reads at once what its parent writes, the other lags.

    Who has not noted its revision soon is too late.
    """

    soon_s = 0.002
    lags = True

    def __init__(self, directory: Path, limit_bytes: int = LIMIT_BYTES, **options: Any) -> None:
        super().__init__(directory, **options)
        self.keeper = self.log = PreparedLog(limit_bytes)
        self.late = ToldDriver(self._options)
        self.late.warmth.limit_bytes = LIMIT_BYTES
        self._reader, self._late_reader = (
            PreparedLogReader(self.log.file),
            PreparedLogReader(self.log.file),
        )

    def close(self) -> None:
        os.close(self.log.file)

    def hear(self, line: bytes) -> None:
        super().hear(line)
        self._reader.follow(self.server.warmth)

    def begin(self) -> None:
        self.log.wake()
        until_s = time.monotonic() + self.soon_s
        self.log.begin(until_s)
        self._reader.follow(self.server.warmth)
        if not self.lags:
            self.follow()
        while self.soon_s < LIMIT_S and time.monotonic() < until_s:
            pass

    def follow(self) -> None:
        self._late_reader.follow(self.late.warmth)

    def change(self, name: str, text: str | bytes | None) -> None:
        super().change(name, text)
        self.late.tell(name)

    def prepared_late(self, machine: Machine) -> Answer | None:
        now_s = time.monotonic()
        self.late.tell()
        return prepared(self.late, machine, now_s)

    def check(self, machine: Machine) -> bool:
        self._reader.follow(self.server.warmth)
        is_prepared = super().check(machine)
        self.server, self.late = self.late, self.server
        try:
            super().check(machine)
        finally:
            self.server, self.late = self.late, self.server
        return is_prepared


@contextmanager
def world(kind: type[World] = World, **options: Any) -> Iterator[Any]:
    directory = Path(tempfile.mkdtemp())
    try:
        made = kind(directory, **options)
        yield made
        if isinstance(made, WorkersWorld):
            made.close()
    finally:
        shutil.rmtree(directory)


STEMS = ["web1", "web-7", "db", "Web 2", VC_UUID, BIOS_UUID, "vms", "a%2Fb", "a%2fb"]
OWN = [
    "metadata: {}\n",
    "metadata: {role: web, hostname: h1}\n",
    "metadata: {instance-id: i1, a: [1, 2.5, null, true, {b: x}]}\nuserdata: |\n  #!/bin/sh\n  é\n",
    "metadata: {}\nnetwork: {address: 10.0.0.5/24, gateway: 10.0.0.1}\n",
    "metadata: {}\nnetwork: {address: nonsense}\n",
    "metadata: {}\nnetwork: {version: 2, ethernets: {e0: {dhcp4: true, mtu: 1.5}}}\n",
    "metadata: {n: '${vm.name}'}\n",
    "metadata: {n: '${vm.vc-uuid}', q: x}\n",
    "metadata: {q: '${query.profile}'}\n",
    "metadata: {m: '${match.number}'}\n",
    "metadata: {at: 2020-01-02, big: 123456789012345678901234567890, f: 1.0e+300}\n",
    "metadata: {}\nmatch: {name: web1}\n",
    f"metadata: {{}}\nmatch: {{vc-uuid: {VC_UUID}}}\n",
    f"metadata: {{b: 1}}\nmatch: {{bios-uuid: {BIOS_UUID}}}\n",
    "metadata: {}\nuserdata-file: user.data\n",
    "metadata: {}\nuserdata: !!binary H4sI/w==\ndocuments: {securitydata: abc}\n",
    "metadata: {}\ndocuments: {securitydata: !!binary /w==, other: x}\nvendordata: {a: [1]}\n",
    "metadata: {tags+: [b]}\n",
    "#cloud-config\n{}\n",
    "metadata: {",
    "",
]
LAYERS = [
    "metadata: {region: eu}\n",
    "match: {name: 'web*'}\nmetadata: {role: layer, tags: [a]}\n",
    "match: {name: 'web-{number}'}\nmetadata: {region: 'r${match.number}'}\n",
    "match: {name: '{number}-7'}\nmetadata: {x: 1}\n",
    "match: {query.profile: web}\nmetadata: {profile: web}\n",
    f"match: {{vc-uuid: {VC_UUID}}}\nmetadata: {{uuid: 1}}\nserve: true\n",
    "match: {direction: server}\nmetadata: {direction: 1}\n",
    "serve: true\nmetadata: {tags+: [z]}\n",
    "match: {name: [1]}\n",
    "network: {nameservers: [10.0.0.53]}\n",
]
INVENTORIES = [
    "web1: {metadata: {from: inventory}}\n",
    "db: {role: x}\nweb-7: {metadata: {}}\ndb: {metadata: {n: 2}}\n",
    f"{VC_UUID}: {{metadata: {{from: inventory}}}}\n'Web 2': {{metadata: {{n: '${{vm.name}}'}}}}\n",
    "web1: [",
]
MACHINES = [
    Machine(name=name, vc_uuid=vc_uuid, bios_uuid=bios_uuid, service_uri=uri, direction=direction)
    for name, vc_uuid, bios_uuid, uri, direction in [
        *((name, OTHER_UUID, None, "x", "client") for name in ("web1", "web-7", "db", "vms")),
        *(
            (name, OTHER_UUID, None, "x", "client")
            for name in ("Web 2", "a/b", "a%2fb", "defaults")
        ),
        ("web1", None, None, "x?profile=web", "client"),
        ("web1", VC_UUID, BIOS_UUID, "x", "client"),
        ("web-7", VC_UUID, None, "x?profile=web", "server"),
        ("db", OTHER_UUID, BIOS_UUID, "x", "client"),
        (None, VC_UUID, None, "x", "client"),
        (None, None, BIOS_UUID, "x", "client"),
        ("db", None, VC_UUID, "x?profile=db", "server"),
    ]
]

own_files = st.tuples(
    st.builds(str.__add__, st.sampled_from(STEMS), st.sampled_from([".yaml", ".yml", ".json"])),
    st.none() | st.sampled_from(OWN),
)
layers = st.tuples(
    st.sampled_from(["layers/10-a.yaml", "layers/20-b.yaml", "layers/30-c.yml"]),
    st.none() | st.sampled_from(LAYERS),
)
others = st.sampled_from(
    [
        *(("vms.yaml", text) for text in (None, *INVENTORIES)),
        ("vms.csv", "name,metadata.a\nweb1,1\n"),
        ("vms.csv", None),
        ("user.data", "#!/bin/sh\n"),
        ("user.data", b"\xff\x00"),
        ("user.data", None),
        ("defaults.yaml", "metadata: {region: default, tags: [d]}\n"),
        ("defaults.yaml", "metadata: {}\n"),
    ]
)
edits = own_files | own_files | layers | others
# What happens: an edit, a survey, one with an edit after some observations, a new process.
steps = st.one_of(
    *[edits.map(lambda edit: ("edit", edit, -1))] * 3,
    st.just(("survey", None, -1)),
    st.tuples(st.just("survey"), edits, st.integers(0, 12)),
    st.sampled_from([(what, None, -1) for what in ("process", "reload", "follow", "follow")]),
)


LAW = (
    st.lists(edits, max_size=12),
    st.lists(steps, max_size=8),
    st.sampled_from([{}, {"defaults": "defaults.yaml"}, {"match": ["bios-uuid", "name"]}]),
)


def hold_to_law(
    kind: type[World],
    first: list[tuple[str, Any]],
    then: list[tuple[str, Any, int]],
    options: dict[str, Any],
) -> None:
    """Compare every prepared answer with the look-up, whatever changes."""
    with world(kind, **options) as one:
        for edit in first:
            one.put(*edit)
        one.survey()
        for machine in MACHINES:
            one.check(machine)
        for what, edit, at in then:
            if what == "edit":
                one.change(*edit)
            elif what == "follow":
                one.follow()
            elif what in ("process", "reload"):
                if what == "process":
                    one.keeper.forget()
                one.start_process()
            elif edit is None:
                one.survey()
            else:
                one.survey(at, lambda edit=edit: one.change(*edit))
            for machine in MACHINES:
                one.check(machine)


@example(
    [("web1.yaml", OWN[0])],
    [("edit", ("web1.yaml", None), -1), ("reload", None, -1), ("survey", None, -1)],
    {},
)
@example(
    [("layers/10-a.yaml", LAYERS[1]), ("web1.yaml", OWN[1])],
    [("edit", ("layers/10-a.yaml", LAYERS[0]), -1)],
    {},
)
@settings(max_examples=25)
@given(*LAW)
@pytest.mark.usefixtures("settled")
def test_prepared_answer_is_what_a_look_up_gives(
    first: list[tuple[str, Any]], then: list[tuple[str, Any, int]], options: dict[str, Any]
) -> None:
    hold_to_law(World, first, then, options)
    hold_to_law(WorkersWorld, first, then, options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [World, WorkersWorld])
@settings(max_examples=cases(1000))
@given(*LAW)
@pytest.mark.usefixtures("settled")
def test_prepared_answer_is_what_a_look_up_gives_whatever_changes(
    kind: type[World],
    first: list[tuple[str, Any]],
    then: list[tuple[str, Any, int]],
    options: dict[str, Any],
) -> None:
    hold_to_law(kind, first, then, options)


class PatientWorld(WorkersWorld):
    """A busy machine does not make the server late."""

    soon_s = LIMIT_S
    lags = False


@pytest.fixture(params=[World, PatientWorld])
def one(
    request: pytest.FixtureRequest,
    settled: None,  # noqa: ARG001 - a fixture
    constants: Callable[..., None],
) -> Iterator[World]:
    constants(drivers__warming__preparedlog__NOTED_S=LIMIT_S)
    with world(request.param) as made:
        yield made


@pytest.fixture
def workers(
    settled: None,  # noqa: ARG001 - a fixture
    constants: Callable[..., None],
) -> Iterator[PatientWorld]:
    constants(drivers__warming__preparedlog__NOTED_S=LIMIT_S)
    with world(PatientWorld) as made:
        yield made


WEB1 = Machine(name="web1", vc_uuid=OTHER_UUID, service_uri="x?profile=web")
WARM = {
    "plain": {"web1.yaml": OWN[1]},
    "json": {"web1.json": '{"metadata": {"a": 1}}'},
    "with what JSON changes easily": {"web1.yaml": OWN[2]},
    "network": {"web1.yaml": OWN[3]},
    "name of the VM": {"web1.yaml": OWN[6]},
    "user-data of a file": {"web1.yaml": OWN[14], "user.data": b"\xff\x00"},
    "binary documents": {"web1.yaml": OWN[16]},
    "layer": {"web1.yaml": OWN[0], "layers/a.yaml": LAYERS[1]},
    "layer that takes a word": {"web1.yaml": OWN[0], "layers/a.yaml": "match: {name: 'web{n}'}\n"},
    "layer for others": {"web1.yaml": OWN[0], "layers/a.yaml": "match: {query.profile: db}\n"},
    "inventory": {"vms.yaml": INVENTORIES[0]},
    "other VMs with faults": {"web1.yaml": OWN[0], "db.yaml": OWN[4], "web-7.yaml": "{"},
}
COLD = {
    "none": {},
    "fault": {"web1.yaml": OWN[4]},
    "query": {"web1.yaml": OWN[8]},
    "layer by the query": {"web1.yaml": OWN[0], "layers/a.yaml": LAYERS[4]},
    "two files": {"web1.yaml": OWN[0], "web1.yml": OWN[0]},
    "file and entry": {"web1.yaml": OWN[0], "vms.yaml": INVENTORIES[0]},
    "another VM": {"web1.yaml": "metadata: {}\nmatch: {name: web2}\n"},
    "file of the VC UUID with a fault": {"web1.yaml": OWN[0], f"{OTHER_UUID}.yaml": "{"},
    "value of another VM": {"web1.yaml": OWN[3], "db.yaml": OWN[3]},
    "large": {"web1.yaml": "metadata: {}\nuserdata: |\n  #!/bin/sh\n  " + 70_000 * "x" + "\n"},
    "subdirectory": {"web1.yaml": "metadata: {}\nuserdata-file: sub/x\n", "sub/x": "#!/bin/sh\n"},
}


@pytest.mark.parametrize("case", [*WARM, *COLD])
def test_what_is_prepared(one: World, case: str) -> None:
    for name, text in (WARM.get(case) or COLD[case]).items():
        one.put(name, text)
    one.survey()
    assert one.check(WEB1) is (case in WARM)


AWAY = {
    "its file": ("web1.yaml", OWN[0]),
    "no file": ("web1.yaml", None),
    "another spelling": ("web1.yml", OWN[0]),
    "a file of its UUID": (f"{OTHER_UUID}.yaml", OWN[0]),
    "a layer": ("layers/x.yaml", LAYERS[0]),
    "an inventory": ("vms.csv", "name,metadata.a\nweb1,1\n"),
    "its user-data": ("user.data", "#!/bin/sh\n"),
}


@pytest.mark.parametrize("case", AWAY)
def test_change_counts_at_once_and_is_prepared_by_the_next_survey(one: World, case: str) -> None:
    one.put("user.data", "#!/bin/bash\n")
    one.put("web1.yaml", OWN[14])
    one.put("db.yaml", OWN[1])
    one.survey()
    assert one.check(WEB1)
    name, text = AWAY[case]
    one.change(name, text)
    assert not one.check(WEB1)
    assert one.check(Machine(name="db", vc_uuid=VC_UUID)) is ("/" not in name and "vms" not in name)
    one.survey()
    assert one.check(WEB1) is (case not in ("no file", "another spelling", "an inventory"))


def test_secret_data_is_not_prepared() -> None:
    about = {"path": "x", "line": 0, "layers": (), "name": "", "keys": ()}
    made = [
        preparation.made_of(InstanceData({}, is_secret=is_secret), WEB1, **about)
        for is_secret in (False, True)
    ]
    assert [one is None for one in made] == [False, True]


def test_name_that_is_spelled_otherwise_is_not_put_in(one: World) -> None:
    one.put("webK.yaml", OWN[6])
    one.survey()
    assert one.check(Machine(name="webK", vc_uuid=OTHER_UUID))
    kelvin = Machine(name="web\u212a", vc_uuid=VC_UUID)
    assert not one.check(kelvin)
    assert not isinstance(look_up(one.server, kelvin), Answer)


def test_change_during_a_survey_is_a_change_of_what_it_read(one: World) -> None:
    one.put("web1.yaml", OWN[0])
    one.survey(1, lambda: one.change("web1.yaml", OWN[1]))
    assert not one.check(WEB1)


def test_what_was_not_notified_is_not_given(one: World) -> None:
    one.put("web1.yaml", OWN[0])
    one.survey()
    one.server.changes.all_changed()
    assert not one.check(WEB1)
    one.survey()
    assert one.check(WEB1)
    one.server.changes.complete_until(float("-inf"))
    assert prepared(one.server, WEB1, time.monotonic()) is None


def test_what_is_notified_only_later_is_prepared_then(one: World) -> None:
    one.put("web1.yaml", OWN[0])
    one.watch(False)
    one.survey()
    assert not one.check(WEB1)
    assert {type(record).__name__ for record in one.sent} == {"Warmed"}
    one.watch(True)
    one.survey()
    assert one.check(WEB1)


def test_survey_that_ended_early_takes_no_data_for_missing(one: World) -> None:
    one.put(f"{OTHER_UUID}.yaml", "metadata: {")
    one.put("web1.yaml", OWN[0])
    one.survey(ends_at=2)
    one.survey()
    assert one.check(Machine(name="web1", vc_uuid=VC_UUID))
    assert one.prepared(WEB1) is None


def test_unchanged_answers_are_not_sent_again(one: World) -> None:
    one.put("web1.yaml", OWN[0])
    one.put("db.yaml", OWN[1])
    one.survey()
    one.sent.clear()
    one.change("db.yaml", OWN[0])
    one.survey()
    assert [type(record).__name__ for record in one.sent] == ["Prepared", "Warmed"]
    assert one.check(WEB1)


def test_prepared_boot_leaves_a_last_good_answer(one: World) -> None:
    one.put("web1.yaml", OWN[3])
    one.survey()
    found = one.prepared(WEB1)
    one.change("web1.yaml", "metadata: {")
    later = look_up(one.server, WEB1)
    assert isinstance(found, Answer)
    assert isinstance(later, Answer)
    assert later.origin.problem.startswith("the last good answer is served, because:")
    assert list(later.packets.items()) == list(found.packets.items())


def test_token_ends_after_a_minute_and_asks_for_a_look_up(one: World) -> None:
    one.put("web1.yaml", OWN[0])
    one.survey()
    found = one.prepared(WEB1)
    assert found
    now_s = time.monotonic()
    one.server.changes.complete_until(now_s + 100)
    assert one.server.held_at(found.token, now_s + 50)
    assert not one.server.held_at(found.token, now_s + 70)
    assert not one.server.still_holds(found.token)


@settings(max_examples=cases(50))
@given(st.lists(st.tuples(st.integers(0, 30), st.none() | st.binary(max_size=900)), max_size=90))
def test_table_stays_within_its_limit_and_never_takes_a_known_stem_for_an_unknown(
    puts: list[tuple[int, bytes | None]],
) -> None:
    table = PreparedTable()
    table.limit_bytes = 5000
    known: dict[str, bytes | None] = {}
    for number, line in puts:
        stem = f"vm{number}"
        if number % 7 == 6:
            table.drop(stem)
            known.pop(stem, None)
        else:
            table.put(stem, line)
            known[stem] = line
        assert table.kept_bytes <= 5000
        if table.is_complete:
            assert all(one in table for one in known)
            assert all(table.get(one) in (None, known[one]) for one in known)


def test_default_memory_holds_20_000_files_of_1_kb() -> None:
    option = next(one for one in run.params if one.name == "prepared_bytes")
    table = PreparedTable()
    table.limit_bytes = option.type_cast_value(Context(run), option.default)
    tracemalloc.start()
    try:
        for number in range(20_000):
            table.put(f"web-server-{number}", bytes(1250))  # with paths, and keys of JSON
        used_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(table) == 20_000
    assert 0.7 * table.kept_bytes < used_bytes < table.kept_bytes <= table.limit_bytes


def test_default_memory_holds_20_000_files_of_1_kb_for_several_workers(
    workers: PatientWorld,
) -> None:
    option = next(one for one in run.params if one.name == "prepared_bytes")
    log = workers.log
    log.limit_bytes = workers.server.warmth.limit_bytes = option.type_cast_value(
        Context(run), option.default
    )
    reader = PreparedLogReader(log.file)
    for number in range(20_000):
        log.take(preparedrecords.Prepared(f"web-server-{number}", bytes(1250)))
        if number % 100 == 0:
            reader.follow(workers.server.warmth)
    reader.follow(workers.server.warmth)
    assert (log.count, workers.server.warmth.count) == (20_000, 20_000)
    assert log.kept_bytes <= log.line_bytes


def test_table_without_room_for_the_stems_knows_nothing_until_cleared() -> None:
    table = PreparedTable()
    table.limit_bytes = 1000
    for number in range(6):
        table.put(str(number), b"x")
    assert (table.is_complete, table.kept_bytes) == (False, 0)
    table.clear()
    table.put("a", b"x")
    assert (table.is_complete, table.get("a")) == (True, b"x")


@settings(max_examples=cases(50))
@given(st.lists(values, max_size=12))
def test_prepared_record_of_any_fields_is_usable_or_invalid(fields: list[object]) -> None:
    line = ujson.dumps({"kind": "prepared", "stem": "a", "data": fields}).encode()
    try:
        records.decode(line)
    except preparedrecords.InvalidRecord:
        return
    preparation.of_line(line).instance()


# Several workers


def test_worker_that_notes_its_revision_too_late_gives_nothing_until_the_next_survey(
    workers: PatientWorld,
) -> None:
    workers.put("web1.yaml", OWN[0])
    workers.lags, workers.soon_s = True, 0.0
    workers.survey()
    workers.change("web1.yaml", OWN[1])
    workers.follow()
    assert workers.prepared_late(WEB1) is None
    workers.lags, workers.soon_s = False, LIMIT_S
    workers.survey()
    workers.follow()
    assert workers.prepared_late(WEB1)
    workers.check(WEB1)


def test_worker_that_is_too_late_once_keeps_its_earlier_revision(workers: PatientWorld) -> None:
    workers.put("web1.yaml", OWN[0])
    workers.put("db.yaml", OWN[1])
    workers.survey()
    workers.change("db.yaml", OWN[0])
    workers.soon_s = 0.0
    workers.survey()
    workers.follow()
    assert workers.prepared_late(WEB1)
    assert workers.prepared_late(Machine(name="db", vc_uuid=VC_UUID)) is None


def test_time_limit_reaches_workers(workers: PatientWorld) -> None:
    workers.put("web1.yaml", OWN[0])
    workers.survey()
    workers.follow()
    assert workers.prepared_late(WEB1)
    workers.log.take(preparedrecords.Lasting(time.monotonic()))
    workers.follow()
    assert workers.prepared_late(WEB1) is None
    workers.log.take(preparedrecords.Lasting(inf))
    workers.follow()
    assert workers.prepared_late(WEB1)


def test_worker_finds_nothing_that_the_log_has_forgotten_meanwhile(workers: PatientWorld) -> None:
    workers.put("web1.yaml", OWN[0])
    workers.survey()
    workers.follow()
    assert workers.prepared_late(WEB1)
    workers.log.forget()
    assert workers.prepared_late(WEB1) is None
    workers.log.take(preparedrecords.Prepared("db", bytes(5000)))  # in the same place
    assert workers.prepared_late(WEB1) is None


class Overtaken(PreparedLogReader):
    """The log begins another generation after the reader has looked at its head."""

    def __init__(self, log: PreparedLog) -> None:
        super().__init__(log.file)
        self._log = log
        self.is_overtaken = False

    def head(self) -> tuple[int, int]:
        found = super().head()
        if self.is_overtaken:
            self.is_overtaken = False
            self._log.forget()
            self._log.take(preparedrecords.Prepared("unknown", bytes(9)))
        return found


def test_what_is_read_while_another_generation_begins_is_no_entry(workers: PatientWorld) -> None:
    reader, keeper = Overtaken(workers.log), workers.late.warmth
    workers.put("web1.yaml", OWN[0])
    workers.survey()
    reader.is_overtaken = True
    reader.follow(keeper)
    assert (keeper.count, reader.is_overtaken) == (0, False)
    reader.follow(keeper)
    assert keeper.count == 1


def test_full_log_asks_for_everything_once_and_workers_know_nothing_meanwhile(
    workers: PatientWorld,
) -> None:
    workers.log.limit_bytes = 3000
    for number in range(100):
        workers.change("web1.yaml", f"metadata: {{n: {number}}}\n")
        workers.survey()
        if workers.log.wants_everything():
            break
        assert workers.check(WEB1)
    assert 3 < number < 30
    assert (workers.log.wants_everything(), workers.log.count) == (False, 0)
    assert workers.log.kept_bytes < 100
    workers.follow()
    assert workers.late.warmth.kept_bytes == 0
    workers.start_process()
    workers.survey()
    workers.follow()
    assert workers.prepared_late(WEB1)
    assert workers.check(WEB1)


def test_log_that_is_too_small_for_all_data_does_not_ask_for_it_again(
    workers: PatientWorld,
) -> None:
    workers.log.limit_bytes = 1000
    for number in range(10):
        workers.put(f"web{number}.yaml", OWN[0])
    workers.survey()
    assert not workers.log.wants_everything()
    assert not workers.check(WEB1)
    assert not workers.log.shed()


def test_log_sheds_everything_and_takes_it_again_when_it_is_sent_anew(
    workers: PatientWorld,
) -> None:
    workers.put("web1.yaml", OWN[0])
    workers.survey()
    assert workers.log.shed()
    assert not workers.check(WEB1)
    workers.survey()
    assert not workers.check(WEB1)
    workers.start_process()
    workers.survey()
    assert workers.check(WEB1)


class Unhurried(Driver):
    """Returns newer data than what it has prepared, and lets no answer be cached."""

    def get_instance(self, machine: Machine) -> InstanceData:  # noqa: ARG002
        return InstanceData({"n": "new"})


def test_after_a_look_up_nothing_older_is_given(one: World) -> None:
    one.put("web1.yaml", "metadata: {n: old}\n")
    one.survey()
    one.server.changes.complete_until(time.monotonic() + LIMIT_S)
    driver = Unhurried({})
    driver.prepared = one.server.prepared
    lookup = Lookup(driver, 1, LIMIT_S, Budget(2**30))
    other = Machine(name="web1", vc_uuid=VC_UUID)
    try:
        assert lookup.kept(other)
        assert list(lookup.prepared.counted().values()) == [1]
        outcomes: list[object] = []
        lookup.ask(WEB1, outcomes.append)
        wait_until(lambda: gevent.sleep(0.01) or outcomes)
        assert isinstance(outcomes[0], Answer)
        assert lookup.kept(WEB1) is None
    finally:
        lookup.close()


# Real servers


def filled(directory: Path, count: int) -> None:
    for number in range(count):
        address = f"10.1.{number // 250}.{number % 250 + 1}"
        text = f"metadata: {{n: {number}}}\nnetwork: {{address: {address}/16}}\n"
        (directory / f"vm{number}.yaml").write_text(text)


def are_prepared(admin: Admin, count: int) -> None:
    wait_until(lambda: admin.metric("vmw_metadata_answers_prepared") == count)


def booted_prepared(server: ServerProcess, admin: Admin) -> float:
    """Boot VMs until one gets what was prepared; return how many did."""
    given_before = admin.metric("vmw_metadata_cache_prepared_total")
    numbers = itertools.count(100)

    def boots() -> bool:
        number = next(numbers)
        assert Vm(server.port, name=f"vm{number}").metadata()["n"] == number
        return admin.metric("vmw_metadata_cache_prepared_total") > given_before

    wait_until(boots)
    time.sleep(3 * INTERVAL_S)  # until workers have reported all
    return admin.metric("vmw_metadata_cache_prepared_total")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_first_boot_is_prepared_and_a_change_is_served_at_once(
    own_instances: Path, start: Callable[..., ServerProcess], workers: str
) -> None:
    filled(own_instances, 300)
    server = start("--catalogue", "--workers", workers)
    admin = Admin(server)
    are_prepared(admin, 301)
    given_before = booted_prepared(server, admin)
    numbers = itertools.count(10)

    def counts_one() -> bool:  # none on a machine that is too busy to be sure of what it watches
        number = next(numbers)
        assert Vm(server.port, name=f"vm{number}").metadata()["n"] == number
        time.sleep(3 * INTERVAL_S)
        return admin.metric("vmw_metadata_cache_prepared_total") == given_before + 1

    wait_until(counts_one)
    assert admin.metric("vmw_metadata_memory_bytes", table="prepared answers") > 300 * 400

    for number in range(20):  # an older value never follows a newer one
        path = own_instances / "vm8.yaml"
        path.with_suffix(".new").write_text(f"metadata: {{n: new{number}}}\n")
        path.with_suffix(".new").rename(path)
        time.sleep(0.2)
        assert Vm(server.port, name="vm8").metadata()["n"] == f"new{number}"
    (own_instances / "vm9.yaml").unlink()
    time.sleep(0.2)
    assert Vm(server.port, name="vm9").error("METADATA") == "not-found"

    are_prepared(admin, 300)
    server.signal(signal.SIGHUP)
    revision = admin.json("/api/status")["instance_files"]["revision"]
    wait_until(lambda: admin.json("/api/status")["instance_files"]["revision"] > revision)
    are_prepared(admin, 300)
    booted_prepared(server, admin)
    assert Vm(server.port, name="vm9").error("METADATA") == "not-found"
    assert Vm(server.port, name="vm8").metadata()["n"] == "new19"


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_without_memory_nothing_is_prepared(
    start: Callable[..., ServerProcess], workers: str
) -> None:
    server = start("--catalogue", "--prepared-memory", "0", "--workers", workers)
    admin = Admin(server)
    wait_until(lambda: admin.json("/api/faults")["state"] == "complete")
    assert Vm(server.port).metadata()
    assert admin.metric("vmw_metadata_answers_prepared") == 0
