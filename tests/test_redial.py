"""`--redial`: played hosts dial again; against a server that cuts and refuses as the test says."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import gevent
import pytest
from click.testing import CliRunner
from gevent.server import StreamServer
from hypothesis import given
from hypothesis import strategies as st

from tests.waiting import wait_in_hub_until
from vmw_cloudinit_metadata.cli.client import client
from vmw_cloudinit_metadata.client import summary
from vmw_cloudinit_metadata.client.loadplan import LoadPlan, Share
from vmw_cloudinit_metadata.client.redial import redialled
from vmw_cloudinit_metadata.client.report.page import render
from vmw_cloudinit_metadata.client.scenarios import Play
from vmw_cloudinit_metadata.client.tally import Tally

GREETING = bytes.fromhex("fffb00 fffb03 fffb01 fffd00 fffd03 fffde8".replace(" ", ""))
TO_ASK = bytes.fromhex("fffae851fff0 fffae853fff0 fffae847fff0".replace(" ", ""))
NAME = re.compile(rb"\xfa\xe8\x52([^\xff]*)")  # VM-NAME
REQUEST = re.compile(rb"!!REQUEST_([A-Z]+)#\n")
REDIAL_S = 0.02
LIMIT_S = 30.0


class CuttingServer:
    """Answers requests; closes connections as long as there are `cuts`, each at its place.

    A place is "accept" or a document, whose answer is then sent only half.
    """

    def __init__(self, *cuts: str) -> None:
        self._cuts = list(cuts)
        self.asked: Counter[str] = Counter()
        self.dialling = self.most_dialling = 0
        self.greets_after_s = 0.0
        self._sockets: set[Any] = set()
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.address = f"127.0.0.1:{self._server.server_port}"

    @property
    def connected(self) -> int:
        return len(self._sockets)

    def _serve(self, sock: Any, _peer: object) -> None:
        self._sockets.add(sock)
        with suppress(OSError):
            self._greet(sock)
            self._answer(sock)
        self._sockets.discard(sock)

    def _greet(self, sock: Any) -> None:
        self.dialling += 1
        self.most_dialling = max(self.most_dialling, self.dialling)
        gevent.sleep(self.greets_after_s)
        self.dialling -= 1
        if self._is_cut("accept"):
            sock.shutdown(socket.SHUT_RDWR)
        sock.sendall(GREETING + TO_ASK)

    def _answer(self, sock: Any) -> None:
        name = ""
        while data := sock.recv(4096):
            if found := NAME.search(data):
                name = found[1].decode()
            for request in REQUEST.findall(data):
                document = request.decode()
                self.asked[document] += 1
                packet = f"!!RESPONSE_{document}#{_body(document, name)}\n".encode()
                if self._is_cut(document):
                    sock.sendall(packet[: len(packet) // 2])
                    return
                sock.sendall(packet)

    def _is_cut(self, place: str) -> bool:
        if self._cuts[:1] == [place]:
            del self._cuts[0]
            return True
        return False

    def cut_all(self) -> None:
        for sock in list(self._sockets):
            with suppress(OSError):  # the client was first
                sock.shutdown(socket.SHUT_RDWR)

    def send_all(self, data: bytes) -> None:
        for sock in self._sockets:
            sock.sendall(data)

    def stop(self) -> None:
        self._server.stop()


def _body(document: str, name: str) -> str:
    text = json.dumps({"instance-id": name}) if document == "METADATA" else document
    return base64.b64encode(text.encode()).decode()


@contextmanager
def cutting(*cuts: str) -> Iterator[CuttingServer]:
    server = CuttingServer(*cuts)
    try:
        yield server
    finally:
        server.cut_all()
        server.stop()


def plan(scenario: str, server: CuttingServer, **options: Any) -> LoadPlan:
    wanted = {"pattern": "vm-{}", "vms": 1, "boots": 1, "redial_s": REDIAL_S, "limit_s": LIMIT_S}
    return LoadPlan(scenario, server.address, "my-metadata", **(wanted | options))


def played(test: LoadPlan, gather: Any = lambda: None) -> Tally:
    play = Play(Share(test, 0), gather)
    with gevent.Timeout(LIMIT_S + 30):
        play.run()
    return play.tally


@pytest.mark.parametrize(
    ("cuts", "asked"),
    [
        ((), {"METADATA": 1, "NETWORKDATA": 1, "USERDATA": 1}),
        (("accept",), {"METADATA": 1, "NETWORKDATA": 1, "USERDATA": 1}),
        (("METADATA",), {"METADATA": 2, "NETWORKDATA": 1, "USERDATA": 1}),
        (("USERDATA",), {"METADATA": 1, "NETWORKDATA": 1, "USERDATA": 2}),
        (
            ("accept", "NETWORKDATA", "accept", "accept", "NETWORKDATA"),
            {"METADATA": 1, "NETWORKDATA": 3, "USERDATA": 1},
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_guest_of_a_cut_line_asks_for_what_it_has_not(
    cuts: tuple[str, ...], asked: dict[str, int]
) -> None:
    with cutting(*cuts) as server:
        tally = played(plan("storm", server))
        assert (tally.completed, tally.failed, server.asked) == (1, 0, asked)
    count = len(cuts)
    assert redialled(tally) == {
        "lines_cut": count,
        "dials_refused": 0,
        "redials": count,
        "served": min(count, 1),
        "never_served": 0,
    }
    if count:
        waited = tally.phases["cut to served"].max_ms
        assert waited >= 900 * REDIAL_S * count
        assert tally.phases["boot"].max_ms >= waited


def test_cut_line_without_redial_is_a_failure() -> None:
    with cutting("USERDATA") as server:
        tally = played(plan("storm", server, redial_s=None))
        assert (tally.completed, tally.failures) == (0, {"closed": 1})
    assert tally.redial.total() == 0


def test_handshake_that_is_cut_is_redialled_and_one_that_fails_is_not() -> None:
    with cutting("accept") as server:  # and then it greets without TLS
        tally = played(plan("storm", server, tls="telnets"))
    assert tally.failures == {"TLS": 1}
    assert (redialled(tally)["lines_cut"], redialled(tally)["redials"]) == (1, 1)


def test_vm_that_is_never_served_is_told_apart() -> None:
    server = CuttingServer()
    server.stop()
    tally = played(plan("storm", server, limit_s=0.3))
    assert (tally.completed, tally.failed) == (0, 1)
    assert "; last cut: connect: 127.0.0.1:" in "".join(tally.examples.values())
    found = redialled(tally)
    assert (found["lines_cut"], found["served"], found["never_served"]) == (0, 0, 1)
    assert 2 <= found["redials"] <= 0.3 / (0.9 * REDIAL_S)
    assert found["dials_refused"] in (found["redials"], found["redials"] + 1)


def test_soak_without_a_server_fails_its_vms_and_does_not_crash() -> None:
    server = CuttingServer()
    server.stop()
    tally = played(plan("soak", server, seconds=1.0, redial_s=None))
    assert tally.completed == 0
    assert set(tally.failures) == {"connect: refused"}


def test_herd_redials_idle_lines_without_asking() -> None:
    with cutting("accept") as server:

        def gather() -> None:
            wait_in_hub_until(lambda: server.connected == 20)
            server.most_dialling, server.greets_after_s = 0, 0.005
            server.cut_all()
            wait_in_hub_until(lambda: server.connected == 0)
            wait_in_hub_until(lambda: server.connected == 20)
            assert server.asked.total() == 0
            assert server.most_dialling == 3

        tally = played(plan("herd", server, vms=20, at_once=3), gather)
        assert tally.failed == 0
    assert (tally.completed, redialled(tally)["served"], redialled(tally)["redials"]) == (
        20,
        20,
        21,
    )
    assert "cut to served" not in tally.phases  # no guest has waited
    assert tally.phases["redial"].count == 21
    assert server.asked == dict.fromkeys(("METADATA", "NETWORKDATA", "USERDATA"), 20)


def test_herd_whose_idle_lines_are_cut_as_it_asks_is_served() -> None:
    with cutting() as server:

        def gather() -> None:
            wait_in_hub_until(lambda: server.connected == 20)
            server.cut_all()
            gevent.sleep(REDIAL_S / 2)

        tally = played(plan("herd", server, vms=20), gather)
        assert (tally.completed, tally.failed) == (20, 0)
    assert redialled(tally)["served"] == 20


def test_idle_line_that_cannot_be_dialled_again_fails_its_vm() -> None:
    server = CuttingServer()

    def gather() -> None:
        wait_in_hub_until(lambda: server.connected == 1)
        server.stop()
        server.cut_all()
        gevent.sleep(REDIAL_S)

    tally = played(plan("herd", server, limit_s=0.3), gather)
    assert (tally.completed, redialled(tally)["never_served"]) == (0, 1)


def test_data_for_an_idle_guest_fails_its_vm() -> None:
    with cutting() as server:

        def gather() -> None:
            wait_in_hub_until(lambda: server.connected == 1)
            server.send_all(b"boot: ")
            gevent.sleep(REDIAL_S)

        tally = played(plan("herd", server), gather)
        assert tally.failures == {"no packet": 1}


def test_steady_vm_goes_on_after_a_cut() -> None:
    with cutting("USERDATA", "METADATA") as server:
        tally = played(plan("steady", server, seconds=0.5))
        assert tally.failed == 0
    assert tally.completed >= 2
    assert redialled(tally)["served"] in (1, 2)


# Options and reports


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ("--redial 60", "--redial 60 has no effect: a VM fails after --limit 60"),
        ("--redial 2 --limit 1", "--redial 2 has no effect: a VM fails after --limit 1"),
        ("--redial 0.01", "Invalid value for '--redial': found '0.01', expected a number"),
    ],
)
@pytest.mark.parametrize("scenario", ["storm", "herd", "steady", "soak"])
def test_redial_without_effect_is_an_error(scenario: str, options: str, fault: str) -> None:
    arguments = f"{scenario} --uri x --pattern vm-{{}} -n 2 {options}".split()
    ended = CliRunner().invoke(client, arguments)
    assert ended.exit_code == 2
    assert fault in ended.output


RESULT = {
    "scenario": "storm",
    "seconds": 1.0,
    "boots": 5,
    "rate": 5.0,
    "phases": {},
    "failures": {},
    "examples": {},
    "server": None,
    "client": {"processes": 1, "cpu_share": 0.1, "is_bottleneck": False},
}
REDIAL = {"lines_cut": 3, "dials_refused": 71, "redials": 74, "served": 2, "never_served": 1}


def test_reports_tell_cut_and_never_served_apart() -> None:
    text = "\n".join(summary.lines(RESULT | {"redial": REDIAL}))
    assert "redial  3 lines cut, 71 dials refused, 74 redials\n" in text
    assert text.endswith("redial  2 boots served after a cut or refusal, 1 never served")
    page = render(RESULT | {"redial": REDIAL})
    for name, count in (("lines cut", 3), ("dials refused", 71), ("boots never served", 1)):
        assert re.search(rf"{name}[^<]*</th><td>{count}</td>", page)


def test_reports_without_redial_say_nothing_of_it() -> None:
    assert "redial" not in "\n".join(summary.lines(RESULT | {"redial": None}))
    assert "use --redial" in render(RESULT)


COUNTS = st.dictionaries(st.sampled_from(tuple(REDIAL)), st.integers(0, 10**6))


@given(st.lists(COUNTS))
def test_merged_redials_are_those_of_all(each: list[dict[str, int]]) -> None:
    merged = Tally()
    for counts in each:
        one = Tally()
        one.redial.update(counts)
        merged.merge(json.loads(json.dumps(one.take())))
        assert one.redial.total() == 0
    assert redialled(merged) == {name: sum(one.get(name, 0) for one in each) for name in REDIAL}
