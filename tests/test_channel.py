"""What a worker sends to its parent: its messages, and both ends of the socket pair."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gevent
import pytest
import ujson
from hypothesis import given
from hypothesis import strategies as st

from tests.facts import BY_KIND, fact_of
from tests.nonsense_driver import MESSAGES, NONSENSE
from vmw_cloudinit_metadata import MetadataServer
from vmw_cloudinit_metadata.admin import views
from vmw_cloudinit_metadata.admin.chronicle import Chronicle
from vmw_cloudinit_metadata.admin.metrics import Metrics, Scene
from vmw_cloudinit_metadata.admin.pulse import Pulse
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.monitoring.facts import (
    DocumentsServed,
    Fact,
    PeerRejected,
    RequestFailed,
    StaleServed,
    VmIdentified,
)
from vmw_cloudinit_metadata.monitoring.figures import BOUNDS_S, Figures, Timing
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.jsonobject import fields
from vmw_cloudinit_metadata.monitoring.sourcestate import SourceState
from vmw_cloudinit_metadata.process import channel
from vmw_cloudinit_metadata.process.hookrelay import HookRelay
from vmw_cloudinit_metadata.process.workers import Worker
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.reporter import MAX_WAITING_BYTES, Reporter

LONG_NAME = "\x01" * 1024
LONG_URI = "\x02" * 4095
UUID = "01234567-89ab-cdef-fedc-ba9800000001"
IDENTIFIED = VmIdentified("text")
FAILED = RequestFailed("text", "X", "failed", "")


def happening(fact: Fact = IDENTIFIED, name: str = "web1") -> Happening:
    machine = Machine(name, UUID, None, None, LONG_URI, "client", "127.0.0.1", datetime.now(UTC))
    peer = ("1-1", "127.0.0.1:1", "127.0.0.1")
    return Happening(fact, 20, time.time(), *peer, machine, "")


def served(name: str = "web1") -> Happening:
    answered = {"METADATA": time.time()}
    sources = ("/srv/web1.yaml",)
    return happening(DocumentsServed("text", answered, -0.1, "", sources, "vc-uuid", ""), name)


SOURCE = SourceState("https://cmdb", 1.5e9)
FIGURES = Figures(
    Counter({"boots": 3, "fault: x": 1}),
    {"boot": Timing([0, 1] * 10 + [2], 0.5)},
    {"connections": 2},
)

# Laws of decode

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=11) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=20,
)
WORTHY: tuple[Any, ...] = (
    json.loads(channel.of_figures(FIGURES, "", SOURCE)),
    json.loads(channel.of_failure("reason")),
    json.loads(channel.together([channel.of_happening(served())])),
    json.loads(
        channel.together(
            [channel.of_happening(happening(RequestFailed("text", "X", "failed", "")))]
        )
    ),
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a JSON text: its container, and its key or index there."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


@st.composite
def almost_worthy(draw: Callable[..., Any]) -> bytes:
    """What a worker says, with something else at one or two places."""
    told = json.loads(json.dumps(draw(st.sampled_from(WORTHY))))
    for _ in range(draw(st.integers(1, 2))):
        container, key = draw(st.sampled_from(list(places(told))))
        container[key] = draw(JSON | st.sampled_from((-1, 2**70, 1e300, "\ud800", "", [], {})))
    with suppress(OverflowError):
        return ujson.dumps(told).encode()
    return b"{}"


def takes_in_and_tells(report: channel.Report) -> None:
    """What the parent does with a message."""
    chronicle, pulse = Chronicle(), Pulse()
    for told in report.happenings:
        chronicle.hear(told)
        pulse.hear(told)
        ujson.dumps(fields(told))
    for entry in chronicle.entries():
        ujson.dumps(views.story(entry))
        views.matches(entry, "", ["x"])
    "\n".join(chronicle.expected()).encode("ascii")
    chronicle.process_is_gone(1, time.time())
    ujson.dumps(pulse.picture(time.time()))
    figures = sum([report.figures or Figures(), FIGURES], Figures())
    Metrics(lambda: Scene(figures, True, {}, {"failed": 0, "stale": 0}, 0.0, Counter())).text()


@given(st.binary(max_size=200) | almost_worthy())
def test_any_message_is_refused_as_a_whole_or_taken_in_without_an_error(message: bytes) -> None:
    try:
        report = channel.decode(message)
    except channel.InvalidMessage:
        return
    takes_in_and_tells(report)


@pytest.mark.parametrize("message", NONSENSE, ids=lambda message: repr(message[:30]))
def test_nonsense_is_refused_and_counted(message: bytes) -> None:
    try:
        report = channel.decode(message)
    except channel.InvalidMessage:
        return
    assert not report.happenings
    assert report.invalid


@given(st.text(), st.text(), st.sampled_from(sorted(BY_KIND)), st.integers(0, 9999))
def test_happening_comes_as_it_was_reported(name: str, reason: str, kind: str, count: int) -> None:
    told = happening(fact_of(kind, reason, name, count), name)
    report = channel.decode(channel.together([channel.of_happening(told)] * 2))
    assert report.happenings == [told, told]
    assert report.happenings[0].machine
    assert told.machine
    since = report.happenings[0].machine.connected_since
    assert since
    assert told.machine.connected_since
    assert abs((since - told.machine.connected_since).total_seconds()) < 0.001


def test_figures_arrive_as_they_were_sent() -> None:
    report = channel.decode(channel.of_figures(FIGURES, "no directory", SOURCE))
    assert report.figures
    assert (report.problem, report.source) == ("no directory", SOURCE)
    assert report.figures.pack() == FIGURES.pack()
    assert len(report.figures.timings["boot"].counts) == len(BOUNDS_S) + 1


def test_one_happening_that_is_none_costs_no_other() -> None:
    good = channel.of_happening(served())
    report = channel.decode(channel.together([good, b"[1]", good, b"null"]))
    assert (len(report.happenings), report.invalid) == (2, 2)


# The worker's end


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    parents, workers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parents.setblocking(False)
    yield parents, workers
    parents.close()
    workers.close()


@pytest.fixture
def server(own_instances: Path) -> MetadataServer:
    return MetadataServer(FileDriver({"directory": str(own_instances)}), ["my-metadata"])


def heard(parents: socket.socket) -> list[channel.Report]:
    """All that the parent finds, and nothing of it cut off."""
    found = []
    with suppress(BlockingIOError):
        while True:
            message, _, flags, _ = parents.recvmsg(channel.MESSAGE_BYTES)
            assert not flags & socket.MSG_TRUNC
            found.append(channel.decode(message))
    return found


def told_by(reporter: Reporter, parents: socket.socket) -> list[channel.Report]:
    """Everything that the worker sends when it ends, to a parent that reads."""
    found: list[channel.Report] = []
    stopping = gevent.spawn(reporter.stop)
    while not stopping.ready():
        found += heard(parents)
        gevent.sleep(0.001)
    stopping.get()
    return found + heard(parents)


def happenings_in(reports: list[channel.Report]) -> list[Happening]:
    return [one for report in reports for one in report.happenings]


def test_longest_names_and_uris_come_whole(
    pair: tuple[socket.socket, socket.socket], server: MetadataServer
) -> None:
    parents, workers = pair
    reporter = Reporter(workers, server, lambda: None)
    told = [happening(name=f"{LONG_NAME[:-3]}{number:03}") for number in range(100)]
    for one in told:
        reporter.hear(one)
    reports = told_by(reporter, parents)
    assert happenings_in(reports) == told
    assert reports[-1].figures
    assert "events dropped" not in reports[-1].figures.counters


@pytest.mark.parametrize(
    "fact",
    [
        PeerRejected("text", "x" * channel.MESSAGE_BYTES),
        StaleServed("text", [b"no text"]),
        StaleServed("text", (object(),)),
    ],
    ids=["too long", "bytes", "an object"],
)
def test_happening_that_cannot_be_sent_is_counted_and_harms_no_other(
    pair: tuple[socket.socket, socket.socket], server: MetadataServer, fact: Fact
) -> None:
    parents, workers = pair
    reporter = Reporter(workers, server, lambda: None)
    for one in (served("before"), happening(fact), served("after")):
        reporter.hear(one)
    reports = told_by(reporter, parents)
    assert [one.machine and one.machine.name for one in happenings_in(reports)] == [
        *("before", "after")
    ]
    assert reports[-1].figures
    assert reports[-1].figures.counters["events dropped"] == 1


def test_worker_of_a_parent_that_does_not_read_keeps_bounded_bytes_and_counts_the_rest(
    pair: tuple[socket.socket, socket.socket], server: MetadataServer
) -> None:
    parents, workers = pair
    reporter = Reporter(workers, server, lambda: None)
    one = happening(name=LONG_NAME)
    size = len(channel.of_happening(one)) + 1
    count = MAX_WAITING_BYTES // size + 1000
    for _ in range(count):
        reporter.hear(one)
    dropped = server.counters["events dropped"]
    assert 0 <= MAX_WAITING_BYTES - (count - dropped) * size < size
    reports = told_by(reporter, parents)
    assert len(happenings_in(reports)) == count - dropped


def test_figures_are_sent_before_happenings_that_wait(
    pair: tuple[socket.socket, socket.socket], server: MetadataServer
) -> None:
    parents, workers = pair
    reporter = Reporter(workers, server, lambda: None)
    reporter.start()
    for _ in range(2000):
        reporter.hear(happening(name=LONG_NAME))
    gevent.sleep(0.7)  # the pair is full now, and figures were due meanwhile
    server.count("boots")
    first = heard(parents)
    assert sum(report.figures is not None for report in first) == 1  # that the worker accepts
    gevent.sleep(0.15)
    second = heard(parents)
    assert second[0].figures
    assert second[0].figures.counters["boots"] == 1
    assert happenings_in(second)
    told_by(reporter, parents)


def test_worker_whose_parent_is_gone_waits_for_nobody(
    pair: tuple[socket.socket, socket.socket], server: MetadataServer
) -> None:
    parents, workers = pair
    reporter = Reporter(workers, server, lambda: None)
    for _ in range(100):
        reporter.hear(happening(name=LONG_NAME))
    parents.close()
    begun_s = time.monotonic()
    reporter.stop()
    assert time.monotonic() - begun_s < 5


# The parent's end


def say(workers: socket.socket, message: bytes) -> None:
    """Sends it as soon as there is room."""
    workers.setblocking(False)
    while True:
        with suppress(BlockingIOError):
            workers.send(message)
            return
        gevent.sleep(0.001)


def test_parent_hears_a_worker_on_whatever_that_has_said(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    parents, workers = pair
    learned: list[Happening] = []
    worker = Worker(0, 0, parents, [learned.append], HookRelay(list))
    worker.watch(lambda: None)
    good = (
        channel.together([channel.of_happening(served())]),
        channel.of_figures(FIGURES, "", SOURCE),
    )
    with gevent.Timeout(60):
        for message in (*NONSENSE, *good):
            say(workers, message)
        while not worker.is_ready:
            gevent.sleep(0.001)
    assert [one.kind for one in learned] == ["served"]
    assert worker.figures.counters == FIGURES.counters + Counter({"events dropped": MESSAGES})
    assert len(caplog.records) == 1  # not one for each
    worker.bury()


def test_parent_hears_a_worker_on_if_a_listener_fails(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    parents, workers = pair
    learned: list[str] = []

    def listener(told: Happening) -> None:
        assert told.machine
        learned.append(str(told.machine.name))
        assert told.machine.name != "bad"

    worker = Worker(0, 0, parents, [listener], HookRelay(list))
    worker.watch(lambda: None)
    for name in ("bad", "good"):
        workers.send(channel.together([channel.of_happening(served(name))]))
        gevent.sleep(0.05)
    assert learned == ["bad", "good"]
    assert "cannot process a happening" in caplog.text
    worker.bury()


def test_worker_that_has_ended_is_buried_with_all_that_it_has_said(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    parents, workers = pair
    learned: list[Happening] = []
    worker = Worker(0, 0, parents, [learned.append], HookRelay(list))
    for _ in range(2):
        workers.send(channel.together([channel.of_happening(served())] * 3))
    workers.send(b'{"happenings":[["serv')  # it died in the middle of a message
    workers.close()
    worker.bury()
    assert len(learned) == 6
