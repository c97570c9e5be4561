"""The chronicle: what it shows does not depend on how it learns what happened."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from functools import cache

import gevent
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from vmw_cloudinit_metadata.admin import changes, views
from vmw_cloudinit_metadata.admin import chronicle as module
from vmw_cloudinit_metadata.admin.adminport import HEARD_S, TOGETHER, AdminPort, AdminSettings
from vmw_cloudinit_metadata.admin.awaited import LATE_S
from vmw_cloudinit_metadata.admin.chronicle import Chronicle
from vmw_cloudinit_metadata.admin.eventstream import KEPT_BYTES, PIECE_BYTES, Events
from vmw_cloudinit_metadata.admin.machinerecord import MISSING, TROUBLE
from vmw_cloudinit_metadata.admin.shortening import MAX_STORY
from vmw_cloudinit_metadata.monitoring.facts import (
    BootReported,
    DocumentsServed,
    Fact,
    IdentityChanged,
    PeerRejected,
    RequestFailed,
    StaleServed,
    VmIdentified,
    VmLeft,
    VmMoved,
    VmotionAborted,
    VmotionBegun,
)
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.kept import kept
from vmw_cloudinit_metadata.protocol import packet
from vmw_cloudinit_metadata.protocol.identitytoken import Proof
from vmw_cloudinit_metadata.protocol.packet import Packet
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.settings.values import Address

ANSWERED = {"METADATA": 1.0, "USERDATA": 2.0}
REFUSED = "refused: another service URI"
FACTS: tuple[Fact, ...] = (
    VmIdentified("identified"),
    IdentityChanged("changed"),
    VmMoved("moved"),
    VmotionBegun("move begun"),
    VmotionAborted("move aborted"),
    VmLeft("left"),
    DocumentsServed("served", ANSWERED, 1.0, "", (), "", ""),
    RequestFailed("failed", "METADATA", "not-found", ""),
    RequestFailed("refused", "STATUS", "refused", ""),
    BootReported("done", "done", (), {}, 1.0, "i-1", "", (), ()),
    BootReported("broken", "error", ("x",), {"init": 1.0}, 1.0, "i-1", "", ("web1",), ("k",)),
    PeerRejected("refused", REFUSED),
    StaleServed("stale", ()),
)


@st.composite
def happenings(draw: st.DrawFn, most: int = 40) -> list[Happening]:
    told = draw(
        st.lists(
            st.tuples(st.sampled_from(FACTS), st.integers(0, 3), st.integers(0, 4)), max_size=most
        )
    )
    return [
        Happening(
            *(fact, 20, float(at_s), f"7-{connection}", "10.0.0.1:4", "10.0.0.1"),
            *(Machine(vc_uuid=f"uuid-{number}"), ""),
        )
        for at_s, (fact, number, connection) in enumerate(told)
    ]


@given(happenings())
def test_counts_are_those_of_the_entries(all_of_them: list[Happening]) -> None:
    chronicle = Chronicle()
    for happening in all_of_them:
        chronicle.hear(happening)
    entries = list(chronicle.entries())
    assert +chronicle.states == Counter(entry.state for entry in entries)
    assert +chronicle.problems == Counter(e.problem for e in entries if e.state in TROUBLE)


@given(happenings(most=5))  # of fewer bytes than a record may hold
def test_happenings_that_come_together_are_recorded_as_one_by_one(told: list[Happening]) -> None:
    one_by_one, together = Chronicle(), Chronicle()
    for happening in told:
        one_by_one.hear(happening)
        together.take(*kept(happening))
    together.settle()
    assert list(together.entries()) == list(one_by_one.entries())
    assert +together.states == +one_by_one.states
    assert together.awaited.count_late(LATE) == one_by_one.awaited.count_late(LATE)


def test_story_of_happenings_that_come_together_is_as_short_as_ever() -> None:
    chronicle = Chronicle()
    for number in range(3 * MAX_STORY):
        fact = FACTS[0]._replace(text=f"identified {number}")
        chronicle.take(*kept(LEFT._replace(fact=fact)))
    chronicle.settle()
    (entry,) = chronicle.entries()
    assert len(entry.story) == MAX_STORY
    assert entry.story[-1][0].text == f"identified {3 * MAX_STORY - 1}"


def test_port_shows_the_proof_that_came_after_its_line() -> None:
    chronicle = Chronicle()
    unproved = Machine(vc_uuid="uuid-1", service_uri="a")
    proved = dataclasses.replace(unproved, proof=Proof.VCENTER)
    about = (20, 1000.0, "7-1", "10.0.0.1:4", "10.0.0.1")
    chronicle.hear(Happening(VmIdentified("identified"), *about, unproved, ""))
    other = (*about[:2], "7-2", *about[3:])
    chronicle.hear(Happening(VmIdentified("identified"), *other, unproved, ""))
    chronicle.hear(Happening(METADATA, *about, proved, ""))
    (record,) = chronicle.entries()
    machines = [came.machine for came in record.ports.values()]
    assert [machine.proof for machine in machines if machine] == [Proof.VCENTER, Proof.UNASKED]


# Outcomes of boots

DONE = BootReported("done", "done", (), {}, 1.0, "i-1", "", (), ())
BROKEN = DONE._replace(text="broken", status="error", errors=("x",))
METADATA = DocumentsServed("served", {"METADATA": 1000.0}, 1.0, "", (), "", "")
USERDATA = DocumentsServed("served", {"USERDATA": 1001.0}, 1.0, "", (), "", "")
LATE = 1000.0 + LATE_S


def told(chronicle: Chronicle, *facts: Fact, number: int = 1, at_s: float = 1000.0) -> None:
    machine = Machine(vc_uuid=f"uuid-{number}")
    for fact in facts:
        about = (20, at_s, f"7-{number}", "10.0.0.1:4", "10.0.0.1", machine, "")
        chronicle.hear(Happening(fact, *about))


def test_machine_that_does_not_report_is_late_if_it_is_expected_to() -> None:
    chronicle = Chronicle()
    told(chronicle, VmIdentified("identified"), METADATA)
    told(chronicle, VmIdentified("identified"), METADATA, DONE, METADATA, number=2)
    reported_later = METADATA._replace(answered={"METADATA": 1100.0})
    told(chronicle, VmIdentified("identified"), METADATA, DONE, reported_later, number=3)
    awaited = chronicle.awaited
    assert awaited.count_late(LATE - 1) == 0
    assert awaited.count_late(LATE) == 0
    assert awaited.count_late(LATE + 100) == 1  # the third, and not the first: it never reported
    awaited.expects_all = True
    assert awaited.count_late(LATE + 100) == 2
    told(chronicle, DONE, number=3, at_s=3000.0)
    assert awaited.count_late(LATE + 3000) == 1
    told(chronicle, VmLeft("left"))
    assert awaited.count_late(LATE + 3000) == 0


def test_outcome_stays_until_the_next_boot() -> None:
    chronicle = Chronicle()
    told(chronicle, VmIdentified("identified"), METADATA, DONE)
    states = []
    for fact in (USERDATA, METADATA, DONE, BROKEN, METADATA):
        told(chronicle, fact)
        states.append(next(chronicle.entries()).state)
    assert states == ["booted", "served", "booted", "broken", "served"]


@pytest.mark.parametrize(
    "fact",
    [RequestFailed("failed", "METADATA", "not-found", ""), StaleServed("stale", ())],
    ids=["failed", "stale"],
)
def test_boot_that_succeeds_hides_no_trouble(fact: Fact) -> None:
    chronicle = Chronicle()
    told(chronicle, VmIdentified("identified"), fact, DONE)
    assert next(chronicle.entries()).state in ("failed", "stale")


LEFT = Happening(VmLeft("left"), 10, 0.0, "7-1", "peer", "host", Machine(vc_uuid="one"), "")


def test_admin_port_learns_of_many_at_once_and_keeps_few(monkeypatch: pytest.MonkeyPatch) -> None:
    port = AdminPort(AdminSettings(Address("127.0.0.1", 0)))
    learned: list[int] = []
    taken: list[Happening] = []

    def settle() -> None:
        learned.append(len(taken))
        taken.clear()

    monkeypatch.setattr(port.chronicle, "take", lambda happening, _: taken.append(happening))
    monkeypatch.setattr(port.chronicle, "settle", settle)
    for _ in range(2 * TOGETHER + 7):
        port.hear(LEFT)
    assert learned == [TOGETHER, TOGETHER]
    gevent.sleep(2 * HEARD_S)
    assert learned == [TOGETHER, TOGETHER, 7]
    for _ in range(3):  # as ever: one that comes does not make it look at once
        learned.clear()
        for _ in range(5):
            port.hear(LEFT)
            gevent.sleep(0)
        assert learned == []
        gevent.sleep(2 * HEARD_S)
        assert learned == [5]
    port.stop()


def test_expected_ones_keep_their_order() -> None:
    chronicle, expected = Chronicle(), [f"uuid-{number}" for number in range(6)]
    chronicle.expect(expected)
    assert chronicle.expected() == expected
    assert chronicle.states[MISSING] == 6


def test_last_answers_stay() -> None:
    chronicle = Chronicle()
    chronicle.hear(LEFT._replace(fact=FACTS[0]))
    for at_s in range(changes.MAX_ASKED + 5):
        chronicle.hear(
            Happening(
                RequestFailed("failed", f"DOCUMENT{at_s}", "unknown-request", ""),
                *(30, float(at_s), "7-1", "peer", "host", Machine(vc_uuid="one"), ""),
            )
        )
    entry = next(chronicle.entries())
    assert [document for document, *_ in entry.answers()] == [
        f"DOCUMENT{at_s}" for at_s in range(5, changes.MAX_ASKED + 5)
    ]


# What it holds


@cache
def digest_of(count: int) -> str:
    told = {f"DOCUMENT{number}": {"length": number, "sha256": "a" * 64} for number in range(count)}
    return packet.serialize(Packet("RESPONSE_DIGEST", json.dumps(told).encode())).decode()


WIDE = "\U0001f600"
TEXTS = st.sampled_from(["", "x", "x" * 1000, WIDE * 1000, "\x00" * 1000, "é" * 5000])
NAMES = st.sampled_from([None, "web1", "n" * 1024, WIDE * 256, f"{WIDE}{'n' * 1020}"])


@st.composite
def worst_happenings(draw: st.DrawFn) -> list[Happening]:
    told = []
    for at_s in range(draw(st.integers(1, 60))):
        machine = Machine(
            name=draw(NAMES),
            vc_uuid=draw(st.sampled_from([None, "uuid-1", "uuid-2"])),
            service_uri=draw(st.sampled_from(["my-metadata", "u" * 4000, WIDE * 1000])),
            peer_address="10.0.0.1",
        )
        count = draw(st.sampled_from([1, 5, 70, 1000]))
        text = f"{draw(TEXTS)}{at_s}"
        sources = (draw(TEXTS),) * draw(st.integers(1, 20))
        answered = {f"DOCUMENT{number}": float(number) for number in range(count)}
        error = draw(st.sampled_from(["not-found", "unknown-request"]))
        worst: tuple[Fact, ...] = (
            *(fact._replace(text=text) for fact in FACTS[:6]),
            DocumentsServed(text, answered, 1.0, digest_of(count), sources, "", draw(TEXTS)),
            RequestFailed(text, draw(TEXTS), error, draw(TEXTS)),
            PeerRejected(text, REFUSED),
            StaleServed(text, sources),
            BootReported(
                *(text, "error", (f"{WIDE}{'x' * 199}",) * draw(st.integers(0, 8)), {}, 1.0, "i"),
                *("", ("h" * 250,) * 12, ("k" * draw(st.sampled_from([90, 2700])),)),
            ),
        )
        connection = f"7-{draw(st.integers(0, 30))}"
        peer = ("10.0.0.1:4", "10.0.0.1", machine, "")
        told.append(Happening(draw(st.sampled_from(worst)), 20, float(at_s), connection, *peer))
    return told


# Its cases are large: to shrink one takes longer than to read it.
LAW = settings(suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])


def held(value: object, seen: set[int]) -> int:
    """All that an object holds, each part once; names of details and enumerations are constants."""
    if value is None or id(value) in seen or isinstance(value, int | bool):
        return 0
    seen.add(id(value))
    size = sys.getsizeof(value)
    if isinstance(value, Mapping):
        return size + sum(held(part, seen) for part in (*value.keys(), *value.values()))
    if isinstance(value, tuple | list):
        return size + sum(held(part, seen) for part in value)
    if dataclasses.is_dataclass(value):
        names = [one.name for one in dataclasses.fields(value)]
        return size + sum(held(getattr(value, name), seen) for name in names)
    return size


@settings(LAW, max_examples=20)
@given(worst_happenings())
def test_entry_holds_no_more_than_it_may_whatever_happens(told: list[Happening]) -> None:
    chronicle = Chronicle()
    for happening in told:
        chronicle.hear(happening)
        for entry in chronicle.entries():
            connected, left = module.MAX_CONNECTED_BYTES, module.MAX_LEFT_BYTES
            assert entry.bytes <= (connected if entry.is_connected else left)
        assert chronicle.kept_bytes == sum(entry.bytes for entry in chronicle.entries())
    for entry in chronicle.entries():
        most = module.MAX_CONNECTED_BYTES if entry.is_connected else module.MAX_LEFT_BYTES
        assert held(entry, set()) <= most + 1024  # constants are counted here
        assert entry.key == entry.story[-1][0].key
    json.dumps([views.story(entry) for entry in chronicle.entries()])
    json.dumps([views.row(entry) for entry in chronicle.entries()])


def boot_of(number: int, documents: int = 4, text: str = "served") -> list[Happening]:
    machine = Machine(name=f"web{number}", vc_uuid=f"uuid-{number}", service_uri="my-metadata")
    sources = (f"/var/lib/metadata/web{number}.yaml",)
    served = DocumentsServed(text, dict(ANSWERED), 1.0, digest_of(documents), sources, "", "")
    about = (f"7-{number}", "10.0.0.1:4", "10.0.0.1", machine, "")
    return [
        Happening(VmIdentified("identified, service URI 'my-metadata'"), 20, 0.0, *about),
        Happening(served, 20, 1.0, *about),
        Happening(VmLeft("left"), 10, 2.0, *about),
    ]


def test_documents_that_are_cut_are_counted() -> None:
    chronicle = Chronicle()
    chronicle.hear(boot_of(1, 1000)[0])
    chronicle.hear(boot_of(1, 1000)[1])
    told = views.story(next(chronicle.entries()))
    assert len(told["documents"]) > 8
    assert len(told["documents"]) + told["more_documents"] == 1000
    chronicle.hear(boot_of(1, 1000)[2])
    told = views.story(next(chronicle.entries()))
    assert len(told["documents"]) >= 1
    assert len(told["documents"]) + told["more_documents"] == 1000


@pytest.mark.parametrize("error", ["x" * 199, f"{WIDE}{'x' * 198}"], ids=["plain", "wide"])
def test_errors_of_a_boot_that_failed_stay_when_its_machine_has_left(error: str) -> None:
    chronicle = Chronicle()
    errors = tuple(f"{number}{error}" for number in range(8))
    identified, served, left = boot_of(1, 1000, "s" * 1000)
    hosts = ("h" * 250,) * 12
    broken = BootReported(
        "boot failed", "error", errors, {"init": 1.0}, 1.0, "i-1", "", hosts, ("k" * 700,)
    )
    for happening in (identified, served, served._replace(fact=broken)):
        chronicle.hear(happening)
    assert views.story(next(chronicle.entries()))["outcome"]["errors"] == list(errors)
    chronicle.hear(left)
    entry = next(chronicle.entries())
    assert (entry.state, entry.is_connected) == ("broken", False)
    assert entry.bytes <= module.MAX_LEFT_BYTES
    assert held(entry, set()) <= module.MAX_LEFT_BYTES + 1024
    outcome = views.story(entry)["outcome"]
    assert (len(outcome["errors"]), outcome["more_errors"]) == (8, 0)
    if error.isascii():
        assert outcome["errors"] == list(errors)
    for number, shown in enumerate(outcome["errors"]):
        assert shown.startswith(f"{number}{error[:30]}")


def test_machines_that_left_hold_what_they_are_said_to() -> None:
    """By what Python has allocated, not by what we count."""
    chronicle = Chronicle()
    digest_of(1000)  # kept for all tests, and so not counted
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(100):
        for happening in boot_of(number, 1000, WIDE * 1000):
            chronicle.hear(happening)
    each = (tracemalloc.get_traced_memory()[0] - before) / 100
    tracemalloc.stop()
    assert each < 5 * 1024
    assert chronicle.kept_bytes >= 100 * each * 0.8


def test_usual_boots_again_and_again_keep_their_whole_story_cheaply() -> None:
    chronicle = Chronicle()
    for _ in range(20):
        for happening in boot_of(1):
            chronicle.hear(happening)
    entry = next(chronicle.entries())
    assert [one.kind for one, *_ in entry.story][-3:] == ["identified", "served", "left"]
    assert entry.asked.keys() == {"METADATA", "USERDATA"}


def test_shedding_drops_who_left_the_longest_ago_and_then_the_stories() -> None:
    chronicle = Chronicle()
    for number in (1, 2):
        for happening in boot_of(number):
            chronicle.hear(happening)
    for turn in range(20):
        chronicle.hear(boot_of(3)[0])
        chronicle.hear(boot_of(3, text=f"served {turn}")[1])
    for key in ("uuid-1", "uuid-2"):
        before = chronicle.kept_bytes
        assert chronicle.get(key)
        assert chronicle.shed() == before - chronicle.kept_bytes > 0
        assert chronicle.get(key) is None
    before, order = chronicle.kept_bytes, list(chronicle.entries())
    assert chronicle.shed() == before - chronicle.kept_bytes > 4096
    assert list(chronicle.entries()) == order
    assert chronicle.shed() == 0
    assert chronicle.states["served"] == 1
    assert views.story(order[0])["documents"]


def test_connections_of_one_machine_are_counted_and_few_are_reported() -> None:
    chronicle = Chronicle()
    machine = Machine(name="web1", vc_uuid="one")
    came = [
        Happening(VmIdentified("came"), 20, 0.0, f"7-{n}", f"h:{n}", "h", machine, "")
        for n in range(500)
    ]
    for happening in came:
        chronicle.hear(happening)
    entry = next(chronicle.entries())
    assert views.row(entry)["ports"] == 500
    assert len(views.story(entry)["ports"]) <= changes.MAX_PORTS
    for happening in came:
        assert entry.is_connected
        chronicle.hear(happening._replace(fact=VmLeft("left")))
    assert not entry.is_connected
    assert chronicle.states["left"] == 1


def test_name_that_is_cut_is_still_a_name_of_its_own() -> None:
    chronicle = Chronicle()
    for end in "ab":
        machine = Machine(name="n" * 1000 + end, peer_address="h")
        chronicle.hear(LEFT._replace(fact=FACTS[0], connection=end, machine=machine))
    assert len(chronicle) == 2


def test_happening_in_time_costs_little() -> None:
    """A bound of kind, far from a measurement: 20 times what it takes on a machine of 2020."""
    chronicle = Chronicle()
    told = [happening for number in range(2000) for happening in boot_of(number)]
    began_s = time.process_time()
    for happening in told:
        chronicle.hear(happening)
    assert (time.process_time() - began_s) / len(told) < 100e-6


@given(worst_happenings())
@settings(LAW, max_examples=15)
def test_events_hold_no_more_than_they_may(told: list[Happening]) -> None:
    events = Events()
    follower = events.follow(None, 0)
    for _ in range(12):
        events.hear(told)
        assert 0 < events.kept_bytes <= KEPT_BYTES
        assert len(events.next_piece(follower)) <= 2 * PIECE_BYTES
        assert events.kept_bytes <= KEPT_BYTES
    while events.next_piece(follower):
        pass
    before = events.kept_bytes
    assert events.shed() == before - events.kept_bytes
    while events.shed():
        pass
    assert events.kept_bytes == 0


def test_event_is_written_once_for_all_who_follow() -> None:
    events = Events()
    followers = [events.follow(None, 0) for _ in range(3)]
    events.hear(boot_of(1))
    unwritten_bytes = events.kept_bytes
    first = events.next_piece(followers[0])
    written_bytes = events.kept_bytes
    assert written_bytes >= unwritten_bytes + len(first)
    assert [events.next_piece(follower) for follower in followers[1:]] == [first, first]
    assert events.kept_bytes == written_bytes
