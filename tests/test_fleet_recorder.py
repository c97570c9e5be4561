"""What a server tells the fleet of its machines and boots, and what becomes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import count
from operator import itemgetter
from typing import Any

import pytest
import ujson
from hypothesis import given
from hypothesis import strategies as st

from tests.playedlink import PlayedFleetLink
from tests.process import Constants
from tests.waiting import wait_in_hub_until
from vmw_cloudinit_metadata.admin.chronicle import Chronicle
from vmw_cloudinit_metadata.admin.fleetbatch import boot_of, told_machine
from vmw_cloudinit_metadata.admin.fleetrecorder import (
    MAX_BATCH_BYTES,
    MAX_TOGETHER,
    FleetRecorder,
)
from vmw_cloudinit_metadata.monitoring.counters import ADMIN_SHED
from vmw_cloudinit_metadata.monitoring.facts import (
    DocumentsServed,
    Fact,
    PeerRejected,
    RequestFailed,
    VmIdentified,
    VmLeft,
)
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.kept import kept
from vmw_cloudinit_metadata.process.fleet.frames import Fields, Reply
from vmw_cloudinit_metadata.process.fleet.machinerows import (
    MAX_KEY,
    boot_row,
    boot_row_of,
    boots_of,
    key_text,
    machine_row,
    rows_of,
)
from vmw_cloudinit_metadata.process.fleet.machinestory import ASKED, TOLD
from vmw_cloudinit_metadata.protocol.vmware import Machine

SINCE = datetime(2026, 3, 4, tzinfo=UTC)
AT_S = SINCE.timestamp()
SERVED = DocumentsServed("served", {"METADATA": AT_S + 2}, 1.5, "", ("/srv/a.yaml",), "name", "")
FAILED = RequestFailed("failed", "METADATA", "not-found", "no file")
WRITTEN = Reply({"invalid": 0})


class RecordingLink(PlayedFleetLink):
    """A fleet link whose database does what a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.reply: Reply | None = WRITTEN
        self.meanwhile: Callable[[], object] = lambda: None  # before it replies
        self.stories: list[tuple[Fields, bytes]] = []
        self.batches: list[dict[str, Any]] = []
        self.sizes: list[int] = []  # of their payloads

    def asked_for(
        self, kind: str, fields: Fields, payload: bytes, then: Callable[[Reply | None], None]
    ) -> None:
        if kind == TOLD:
            self.stories.append((fields, payload))
            return
        assert kind == "record"
        self.sizes.append(len(payload))
        self.batches.append({**fields, **json.loads(payload)})
        self.meanwhile()
        then(self.reply)

    def machines(self) -> list[Mapping[str, Any]]:
        """Return the rows of all machines that were told, in the order of time."""
        return [
            row
            for batch in self.batches
            for row in rows_of(batch["machines"], machine_row, AT_S)[0]
        ]

    def boots(self) -> list[Mapping[str, Any]]:
        """Return the rows of all boots that were told, in the order in which they ended."""
        found = [
            row
            for batch in self.batches
            for told, row_of in (
                (batch["boots"], boot_row),
                (boots_of(batch["machines"]), boot_row_of),
            )
            for row in rows_of(told, row_of, AT_S)[0]
        ]
        return sorted(found, key=itemgetter("number"))


class Scene:
    def __init__(self) -> None:
        self.chronicle = Chronicle()
        self.link = RecordingLink()
        self.recorder = FleetRecorder(self.chronicle, self.link)

    def happen(
        self, fact: Fact, number: int = 1, name: str | None = None, host: str = "10.0.0.1"
    ) -> None:
        machine = Machine(
            name=name or f"vm-{number}",
            vc_uuid=f"50120000-0000-0000-0000-{number:012x}",
            service_uri="my-metadata?profile=secret",
            connected_since=SINCE,
        )
        happening = Happening(*(fact, 20, AT_S, f"7-{number}", f"{host}:4", host), *(machine, ""))
        weighed = kept(happening)
        self.chronicle.take(*weighed)
        self.chronicle.settle()
        self.recorder.take([weighed])

    def wait_for(self, condition: Callable[[], object]) -> None:
        wait_in_hub_until(condition)


@pytest.fixture
def scene(constants: Constants) -> Iterator[Scene]:
    constants(admin__fleetrecorder__INTERVAL_S=0.001)
    scene = Scene()
    scene.recorder.start()
    yield scene
    scene.recorder.stop()


def test_machine_is_told_once_for_all_that_has_happened_to_it(scene: Scene) -> None:
    for fact in (VmIdentified("identified"), FAILED, SERVED, SERVED):
        scene.happen(fact)
    scene.wait_for(scene.link.boots)
    (machine,) = scene.link.machines()
    assert machine["state"] == "served"
    assert machine["files"] == ["/srv/a.yaml"]
    assert machine["error"] == "not-found"
    assert machine["problem"] is None
    assert machine["since_age"] == 0
    assert [boot["outcome"] for boot in scene.link.boots()] == ["not-found", "served", "served"]


def test_query_of_the_service_uri_is_not_told(scene: Scene) -> None:
    scene.happen(VmIdentified("identified"))
    scene.wait_for(scene.link.machines)
    assert scene.link.machines()[0]["service_uri"] == "my-metadata"


def test_boot_has_its_times_and_outcome(scene: Scene) -> None:
    scene.happen(VmIdentified("identified"))
    scene.happen(SERVED._replace(problem="file is invalid"))
    scene.happen(PeerRejected("refused", "refused: another service URI"), 2)
    scene.happen(RequestFailed("failed", "NONSENSE", "unknown-request", "no such document"))
    scene.happen(SERVED._replace(answered={"USERDATA": AT_S}))
    scene.wait_for(lambda: len(scene.link.boots()) == 2)
    stale, refused = scene.link.boots()
    assert (stale["outcome"], stale["reason"]) == ("stale", "file is invalid")
    assert (stale["first_age"], stale["age"]) == (0, 0)  # in the future of this clock
    assert (refused["outcome"], refused["reason"]) == ("refused: another service URI", "refused")
    assert stale["number"] < refused["number"]


def test_disconnected_machine_is_told_as_such(scene: Scene) -> None:
    scene.happen(VmIdentified("identified"))
    scene.happen(SERVED)
    scene.happen(VmLeft("left"))
    scene.wait_for(scene.link.machines)
    (machine,) = scene.link.machines()
    assert (machine["state"], machine["since_age"], machine["ports"]) == ("left", None, 0)


def test_machine_expected_after_a_restart_is_not_told(scene: Scene) -> None:
    scene.chronicle.expect(["50120000-0000-0000-0000-00000000000f"])
    scene.happen(VmIdentified("identified"))
    scene.wait_for(scene.link.machines)
    assert [machine["state"] for machine in scene.link.machines()] == ["waiting"]


def test_nothing_is_lost_while_the_database_is_out_of_reach(scene: Scene) -> None:
    scene.link.is_connected = False
    for number in range(3):
        scene.happen(VmIdentified("identified"), number)
        scene.happen(FAILED, number)
        scene.happen(SERVED, number)
    assert scene.link.batches == []
    scene.link.is_connected = True
    scene.link.connected()
    scene.wait_for(lambda: len(scene.link.boots()) == 6)
    assert [machine["state"] for machine in scene.link.machines()] == ["served"] * 3


def test_machines_that_are_forgotten_do_not_wait_to_be_told(
    scene: Scene, constants: Constants
) -> None:
    constants(admin__chronicle__MAX_GONE=3)
    scene.link.is_connected = False
    for number in range(10):
        scene.happen(FAILED, number)  # without a connection that stays
    assert len(scene.chronicle.changed or ()) == len(scene.chronicle) == 3


def test_machine_that_is_forgotten_while_it_is_told_does_not_wait_again(scene: Scene) -> None:
    scene.link.reply = None
    scene.link.meanwhile = scene.chronicle.shed
    scene.happen(FAILED)
    scene.wait_for(lambda: scene.link.batches)
    assert not scene.chronicle.changed


def test_all_machines_are_told_again_in_a_new_epoch(scene: Scene) -> None:
    for number in range(3):
        scene.happen(VmIdentified("identified"), number)
    scene.wait_for(lambda: len(scene.link.machines()) == 3)
    scene.link.connected()
    scene.wait_for(lambda: len(scene.link.machines()) == 6)


def test_announcement_ends_with_the_last_of_the_machines(scene: Scene) -> None:
    for number in range(500):
        scene.happen(VmIdentified("identified"), number)
    scene.wait_for(lambda: len(scene.link.machines()) == 500)
    told = len(scene.link.batches)
    scene.link.connected()
    scene.wait_for(lambda: len(scene.link.machines()) == 1000)
    first, last = scene.link.batches[told:]
    assert first["announced"] == 0
    assert scene.link.batches[told - 1]["number"] < last["announced"] < first["number"]
    scene.happen(SERVED)
    scene.wait_for(scene.link.boots)
    assert scene.link.batches[-1]["announced"] == 0


def test_batch_that_is_not_written_is_told_again(scene: Scene) -> None:
    scene.link.reply = None
    scene.happen(VmIdentified("identified"))
    scene.wait_for(lambda: len(scene.link.batches) > 2)
    scene.link.reply = WRITTEN
    scene.wait_for(lambda: scene.link.batches[-1]["machines"] and not scene.chronicle.changed)
    numbers = [batch["number"] for batch in scene.link.batches]
    assert numbers == sorted(set(numbers))


def test_query_in_a_text_is_not_told(scene: Scene) -> None:
    text = "refused: the VM asks for service URI 'other?profile=secret', this server serves x"
    scene.happen(PeerRejected(text, "refused: another service URI"))
    scene.wait_for(scene.link.boots)
    (boot,), (machine,) = scene.link.boots(), scene.link.machines()
    assert boot["reason"] == machine["error_reason"]
    assert boot["reason"] == "refused: the VM asks for service URI 'other?..."


def test_what_waits_is_told_at_the_end(constants: Constants) -> None:
    constants(admin__fleetrecorder__INTERVAL_S=60.0)
    scene = Scene()
    scene.recorder.start()
    scene.happen(SERVED)
    scene.recorder.stop()
    assert (len(scene.link.machines()), len(scene.link.boots())) == (1, 1)


def test_story_is_told_to_a_server_that_asks(scene: Scene) -> None:
    scene.happen(VmIdentified("identified, service URI 'my-metadata?profile=secret'"))
    scene.wait_for(scene.link.machines)
    key = scene.link.machines()[0]["key"]
    scene.link.handlers[ASKED]({"question": 5, "id": key}, b"")
    scene.link.handlers[ASKED]({"question": 6, "id": "nobody"}, b"")
    ((fields, story),) = scene.link.stories
    assert fields == {"question": 5}
    assert [one["kind"] for one in json.loads(story)["story"]] == ["identified"]
    assert b"secret" not in story


def test_boots_that_the_database_does_not_take_are_counted(scene: Scene) -> None:
    scene.link.reply = None
    scene.happen(SERVED)
    scene.wait_for(lambda: scene.recorder.shed_counts[ADMIN_SHED["boots"]] == 1)
    assert scene.recorder.kept_bytes == 0


def test_boots_that_wait_are_bounded_in_bytes(scene: Scene, constants: Constants) -> None:
    constants(admin__fleetrecorder__MAX_BOOT_BYTES=2000)
    scene.link.is_connected = False
    for number in range(100):
        scene.happen(SERVED, number)
    assert scene.recorder.kept_bytes <= 2000
    shed = scene.recorder.shed_counts[ADMIN_SHED["boots"]]
    scene.link.is_connected = True
    scene.wait_for(lambda: len(scene.link.boots()) == 100 - shed)
    assert scene.recorder.kept_bytes == 0
    assert scene.link.boots()[-1]["key"].endswith("63")  # the newest ones are there


def test_storm_is_told_in_batches_of_bounded_size(scene: Scene) -> None:
    for number in range(1000):
        scene.happen(VmIdentified("identified"), number)
        scene.happen(SERVED, number)
    scene.wait_for(lambda: len(scene.link.boots()) == 1000)
    assert max(len(batch["machines"]) for batch in scene.link.batches) <= 400
    assert {machine["key"] for machine in scene.link.machines()} == {
        f"50120000-0000-0000-0000-{number:012x}" for number in range(1000)
    }


def test_boot_is_told_with_its_machine(scene: Scene) -> None:
    scene.happen(SERVED)
    scene.happen(VmLeft("left"))
    scene.wait_for(scene.link.boots)
    (batch,) = scene.link.batches
    assert (len(batch["machines"]), batch["boots"]) == (1, [])


@pytest.mark.parametrize(
    "later",
    [
        {"fact": SERVED._replace(seconds=2.5)},
        {"fact": VmIdentified("identified"), "name": "renamed"},
        {"fact": VmIdentified("identified"), "host": "10.0.0.2"},
    ],
    ids=["another boot", "another name", "another host"],
)
def test_boot_that_its_machine_does_not_tell_of_is_told_for_itself(
    constants: Constants, later: dict[str, Any]
) -> None:
    constants(admin__fleetrecorder__INTERVAL_S=60.0)
    scene = Scene()
    scene.recorder.start()
    scene.happen(SERVED)
    scene.happen(**later)
    scene.recorder.stop()
    (batch,) = scene.link.batches
    assert (len(batch["machines"]), len(batch["boots"])) == (1, 1)
    first = scene.link.boots()[0]
    assert (first["name"], first["esxi_host"]) == ("vm-1", "10.0.0.1")
    assert first["first_age"] == 0


def test_batches_are_bounded_in_bytes_and_lose_nothing(scene: Scene) -> None:
    sources = tuple(f"/srv/{number}/{'x' * 300}.yaml" for number in range(20))
    for number in range(MAX_TOGETHER):
        scene.happen(FAILED._replace(reason="no" * 90), number)
        scene.happen(SERVED._replace(sources=sources), number)
    scene.wait_for(lambda: len(scene.link.boots()) == 2 * MAX_TOGETHER)
    scene.wait_for(lambda: not scene.chronicle.changed)
    assert max(scene.link.sizes) < 1.2 * MAX_BATCH_BYTES
    assert len({machine["key"] for machine in scene.link.machines()}) == MAX_TOGETHER
    assert scene.recorder.kept_bytes == 0


def test_what_json_cannot_represent_is_left_out(scene: Scene) -> None:
    for number in range(4):
        scene.happen(SERVED._replace(matched_by=b"by" if number == 2 else "name"), number)  # type: ignore[arg-type]
    scene.wait_for(lambda: len(scene.link.boots()) == 3)
    assert sorted(machine["name"] for machine in scene.link.machines()) == ["vm-0", "vm-1", "vm-3"]
    assert scene.recorder.kept_bytes == 0


def test_boots_that_wait_are_told_by_the_next_program() -> None:
    before, after = Scene(), Scene()
    for number in range(2):
        before.link.is_connected = number == 0  # one is packed already
        before.happen(SERVED, number)
    after.recorder.restore(before.recorder.state())
    after.recorder.start()
    after.recorder.stop()
    assert [boot["name"] for boot in after.link.boots()] == ["vm-0", "vm-1"]


# Rows


@given(
    problem=st.text(max_size=400),
    digest=st.sampled_from(
        ["", '{"METADATA":{"size":5,"sha256":"ab"},"USERDATA":{"size":7,"sha256":"cd"}}']
    ),
    sources=st.lists(st.text(), max_size=3).map(tuple),
    seconds=st.floats(-1.0, 100.0),
    since=st.none() | st.just(SINCE),
)
def test_boot_told_with_its_machine_is_the_row_that_it_is_alone(
    problem: str, digest: str, sources: tuple[str, ...], seconds: float, since: datetime | None
) -> None:
    answered = {"METADATA": AT_S, "USERDATA": AT_S + 2}
    fact = DocumentsServed("served", answered, seconds, digest, sources, "name", problem)
    machine = Machine(name="vm", vc_uuid="5" * 8, connected_since=since)
    happening = Happening(fact, 20, AT_S + 3, "7-1", "10.0.0.1:4", "10.0.0.1", machine, "")
    boot = boot_of(happening, count(7))
    assert boot
    chronicle = Chronicle()
    chronicle.hear(happening)
    (record,) = chronicle.entries()
    (together,) = json.loads(ujson.dumps([told_machine(record, {record.key: boot})]))
    alone = json.loads(ujson.dumps(boot.told))
    assert boots_of([together]) == [together]
    assert boot_row_of(together, AT_S + 9) == boot_row(alone, AT_S + 9)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
SHORT_LISTS = st.lists(VALUES, max_size=6)  # as trouble and answers have
FIELDS = VALUES | SHORT_LISTS
LISTS = st.sampled_from([12, 16, 17]).flatmap(
    lambda size: st.lists(FIELDS, min_size=size, max_size=size)
)
ANYTHING = VALUES | st.lists(VALUES | SHORT_LISTS | LISTS, max_size=4)


@given(ANYTHING, st.sampled_from([machine_row, boot_row, boot_row_of]))
def test_rows_of_anything_are_rows_or_counted(told: Any, row: Any) -> None:
    told = boots_of(told) if row is boot_row_of else told
    rows, invalid = rows_of(told, row, AT_S)
    assert len(rows) + invalid == (len(told) if isinstance(told, list) else 0)


@given(
    name=st.text(st.characters()),
    times=st.lists(st.floats(), min_size=5, max_size=5),
    counts=st.lists(st.integers(), min_size=3, max_size=3),
)
def test_every_value_of_a_row_can_be_stored(
    name: str, times: list[float], counts: list[int]
) -> None:
    trouble = [times[0], name, name, name]
    served = [times[1], times[2], name, [name], name, counts[0]]
    machine = [name, name, name, None, None, *[name] * 6, counts[1], *times[3:], trouble, served]
    end = [counts[2], *times[:2], name]
    boot = [counts[2], name, name, name, name, *times[:3], name, name, name, served]
    rows = [
        machine_row(machine, AT_S),
        boot_row(boot, AT_S),
        boot_row_of([*machine, end], AT_S),
    ]
    text = ujson.dumps(rows)
    assert "\\u0000" not in text
    assert json.loads(text) == rows
    for row in rows:
        for value in row.values():
            if isinstance(value, str):
                value.encode()
                assert len(value) < 2600  # what an index of PostgreSQL takes
            if isinstance(value, float):
                assert 0 <= value < math.inf


@given(st.text(st.characters()), st.text(st.characters()))
def test_keys_that_differ_are_stored_as_keys_that_differ(first: str, second: str) -> None:
    stored = key_text(first)
    assert (stored == key_text(second)) == (first == second)
    assert len(stored) <= MAX_KEY
    assert key_text(stored) == stored


@pytest.mark.parametrize("key", ["a\0b", "a\udc80", "n" * 500], ids=["NUL", "half", "long"])
def test_key_that_cannot_be_stored_gets_a_hash(key: str) -> None:
    assert key_text(key) != key
    assert key_text(key) != key_text(key + "x")
