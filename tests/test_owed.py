"""What a line owes its guest, as a value: it comes back from its bytes, and the guest notices no
move."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress

import gevent
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.process import Constants
from tests.test_session import new_session
from vmw_cloudinit_metadata import Driver, InstanceData, Machine
from vmw_cloudinit_metadata.instance.model import MAX_DOCUMENT_BYTES
from vmw_cloudinit_metadata.monitoring.facts import Fact
from vmw_cloudinit_metadata.process.budget import Budget
from vmw_cloudinit_metadata.protocol.handover import Handover
from vmw_cloudinit_metadata.protocol.identitytoken import Proof
from vmw_cloudinit_metadata.protocol.known import Known
from vmw_cloudinit_metadata.protocol.owed import (
    MAX_AGE_MS,
    MAX_REQUESTS,
    MAX_UNIDENTIFIED,
    MAX_UNSENT_BYTES,
    Heard,
    InvalidOwedError,
    Owed,
    Unanswered,
    aged,
)
from vmw_cloudinit_metadata.protocol.packet import (
    MAX_LINE_BYTES,
    WITH_ARGUMENT,
    GuestRequest,
    HalfLine,
    LineSplitter,
)
from vmw_cloudinit_metadata.protocol.servedboot import MAX_HOSTS, ServedBoot, ServedIdentity
from vmw_cloudinit_metadata.protocol.session import Policy
from vmw_cloudinit_metadata.protocol.vmotion import Moves, RandomSecrets
from vmw_cloudinit_metadata.protocol.vmware import IDENTITY, MAX_URI_BYTES
from vmw_cloudinit_metadata.serving.admission import Admission
from vmw_cloudinit_metadata.serving.answer import response_packet
from vmw_cloudinit_metadata.serving.dialogue import BUSY_BYTES, Dialogue
from vmw_cloudinit_metadata.serving.lookup import Lookup
from vmw_cloudinit_metadata.serving.services import Services
from vmw_cloudinit_metadata.serving.unsent import Unsent

REQUESTED = st.from_regex(r"[A-Z_]{0,56}", fullmatch=True).map(GuestRequest) | st.tuples(
    st.sampled_from(sorted(WITH_ARGUMENT)), st.binary(max_size=40)
).map(lambda asked: GuestRequest(*asked))
HALF_LINES = st.binary(max_size=40).map(
    lambda begun: HalfLine(begun.translate(None, b"\r\n"))
) | st.just(HalfLine(is_overlong=True))
HEARD = st.builds(Heard, HALF_LINES, st.lists(REQUESTED, max_size=4).map(tuple))
REQUESTS = st.lists(st.tuples(REQUESTED, st.integers(0, MAX_AGE_MS)), max_size=5).map(tuple)
ANSWERS = st.from_regex(rb"([A-Za-z0-9+/=!#_\n]{0,99}\n)?", fullmatch=True)
OWED = st.builds(
    Owed, HEARD, st.builds(Unanswered, REQUESTS, ANSWERS, st.booleans(), st.booleans())
)
LARGEST = Owed(
    Heard(HalfLine(b"x" * MAX_LINE_BYTES), (GuestRequest("A" * 56),) * MAX_UNIDENTIFIED),
    Unanswered(
        ((GuestRequest("_" * 56), MAX_AGE_MS),) * MAX_REQUESTS,
        b"!" * (MAX_UNSENT_BYTES - 1) + b"\n",
    ),
)


# The bytes


@given(OWED)
@example(LARGEST)
def test_owed_comes_back_from_its_bytes(owed: Owed) -> None:
    assert Owed.from_bytes(owed.to_bytes()) == owed


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda rest: b"\x02" + rest))
def test_any_bytes_give_an_owed_with_the_same_bytes_or_the_error(data: bytes) -> None:
    try:
        owed = Owed.from_bytes(data)
    except InvalidOwedError:
        return
    assert owed.to_bytes() == data


@given(OWED, st.data())
def test_damaged_bytes_give_another_owed_or_the_error(owed: Owed, data: st.DataObject) -> None:
    damaged = bytearray(owed.to_bytes())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(InvalidOwedError):
        assert Owed.from_bytes(bytes(damaged)).to_bytes() == damaged


@given(OWED, st.data())
def test_cut_or_longer_bytes_are_refused(owed: Owed, data: st.DataObject) -> None:
    whole = owed.to_bytes()
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    for wrong in (cut, whole + b"\n"):
        with pytest.raises(InvalidOwedError):
            Owed.from_bytes(wrong)


LONG_STATUS = GuestRequest("STATUS", b"x" * 3000)
BEYOND = {
    "half line": Owed(Heard(HalfLine(b"x" * (MAX_LINE_BYTES + 1)))),
    "line end in the half line": Owed(Heard(HalfLine(b"a\nb"))),
    "half line that is dropped": Owed(Heard(HalfLine(b"a", is_overlong=True))),
    "requests before the identity": Owed(
        Heard(requests=(GuestRequest("A"),) * (MAX_UNIDENTIFIED + 1))
    ),
    "requests": Owed(unanswered=Unanswered(((GuestRequest("A"), 0),) * (MAX_REQUESTS + 1))),
    "small letters": Owed(unanswered=Unanswered(((GuestRequest("metadata"), 0),))),
    "arguments before the identity": Owed(Heard(requests=(LONG_STATUS,) * 3)),
    "arguments": Owed(unanswered=Unanswered(((LONG_STATUS, 0),) * 3)),
    "argument of a document without": Owed(Heard(requests=(GuestRequest("METADATA", b"x"),))),
    "name": Owed(Heard(requests=(GuestRequest("A" * 65),))),
    "unsent bytes": Owed(unanswered=Unanswered(unsent=b"\n" * (MAX_UNSENT_BYTES + 1))),
    "telnet command": Owed(unanswered=Unanswered(unsent=b"\xff\xf4\n")),
    "answer without its end": Owed(unanswered=Unanswered(unsent=b"!!RESPONSE_METADATA#AA")),
}


@pytest.mark.parametrize("what", BEYOND)
def test_more_than_a_line_can_owe_is_refused(what: str) -> None:
    with pytest.raises(InvalidOwedError):
        Owed.from_bytes(BEYOND[what].to_bytes())


def test_error_shows_nothing_of_the_bytes() -> None:
    owed = Owed(unanswered=Unanswered(unsent=b"c2VjcmV0\xff\n"))
    with pytest.raises(InvalidOwedError) as caught:
        Owed.from_bytes(owed.to_bytes())
    assert "c2Vj" not in str(caught.value)


def test_longest_answer_behind_a_full_dialogue_has_room() -> None:
    longest = response_packet("A" * 55, bytes(MAX_DOCUMENT_BYTES))
    assert BUSY_BYTES + len(b"\n") + len(longest) <= MAX_UNSENT_BYTES


def test_age_is_bounded_also_if_the_clock_was_set() -> None:
    asked = [(GuestRequest("A"), asked_s) for asked_s in (1000.0, 999.75, 1e12, -1e12)]
    assert [age_ms for _, age_ms in aged(asked, 1000.0)] == [0, 250, 0, MAX_AGE_MS]


# What has been heard

WORDS = st.sampled_from(
    [b"!!REQUEST_METADATA#", b"\n", b"\r\n", b"noise", b"x" * 3000, b"!!REQUEST_", b"USERDATA#\n"]
)


@given(st.lists(WORDS, max_size=12), st.integers(0, 12))
def test_lines_are_the_same_if_the_guest_moves_within_one(words: list[bytes], place: int) -> None:
    staying, source, target = LineSplitter(), LineSplitter(), LineSplitter()
    expected = [found for word in words for found in staying.requests(word)]
    heard = [found for word in words[:place] for found in source.requests(word)]
    owed = Owed(Heard(source.half_line))
    target.resume(Owed.from_bytes(owed.to_bytes()).heard.half_line)
    heard += [found for word in words[place:] for found in target.requests(word)]
    assert heard == expected
    assert source.overlong + target.overlong == staying.overlong


def test_session_goes_on_with_what_another_one_has_heard() -> None:
    source, target = new_session(), new_session()
    source.receive_data(b"\xff\xfb\x00!!REQUEST_METADATA#\n!!REQUEST_DIGEST#\n!!REQ")
    assert source.heard == Heard(
        HalfLine(b"!!REQ"), (GuestRequest("METADATA"), GuestRequest("DIGEST"))
    )
    target.resume(source.heard)
    target.receive_data(b"\xff\xfb\x00UEST_USERDATA#\n")
    assert target.heard == Heard(
        HalfLine(), (GuestRequest("METADATA"), GuestRequest("DIGEST"), GuestRequest("USERDATA"))
    )


# What is unanswered


class NoData(Driver):
    def get_instance(self, machine: Machine) -> InstanceData | None:
        raise AssertionError(f"{machine} is not identified, so nothing is looked up")


class PlayedOwner:
    """Owns a dialogue, and keeps what its guest gets."""

    machine = Machine()
    is_older = False

    def __init__(self, services: Services) -> None:
        self.dialogue = Dialogue(services, self)
        self.received = b""
        self.pieces_left = 0  # that the guest reads

    def report(self, fact: Fact, *, level: int | None = None) -> None: ...

    def guarded(self, step: Callable[[], None]) -> None:
        step()

    def give_up(self) -> None:
        raise AssertionError("the memory budget is large")

    def proceed(self) -> None:
        piece = self.dialogue.proceed(None)
        while piece and self.pieces_left:
            self.pieces_left -= 1
            self.received += piece
            piece = self.dialogue.sent()

    def read(self, pieces: int) -> None:
        self.pieces_left += pieces
        self.proceed()


class MovingOwner(PlayedOwner):
    """The same guest, which moves to another dialogue."""

    def move(self, services: Services) -> None:
        owed = Owed(unanswered=self.dialogue.unanswered).to_bytes()
        self.dialogue.close()
        self.dialogue = Dialogue(services, self)
        self.dialogue.resume(Owed.from_bytes(owed).unanswered)


@pytest.fixture
def services() -> Services:
    budget = Budget(1 << 40)
    policy = Policy(frozenset(), Moves(1, RandomSecrets(os.urandom)))
    lookup = Lookup(NoData({}), 1, 1.0, budget)
    return Services(policy, lookup, Admission((), (), 1, 1), Unsent(budget))


ACTIONS = st.lists(
    st.sampled_from(["METADATA", "USERDATA", "move"]) | st.integers(0, 5), max_size=40
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTIONS)
@example(["METADATA"] * 7 + [1, "move", 1, "METADATA", 2, "move", 2])
@example(["METADATA"] * 4 + [3, "METADATA", 3, "METADATA", "move", 5, 5, 5, 5, 0, "METADATA"])
def test_guest_gets_the_same_bytes_whether_it_moves_or_not(
    constants: Constants, services: Services, actions: list[str | int]
) -> None:
    constants(
        serving__dialogue__PIECE_BYTES=1,  # else a move joins pieces
        serving__dialogue__MAX_REQUESTS=4,
        serving__dialogue__BUSY_BYTES=150,
    )
    staying, moving = PlayedOwner(services), MovingOwner(services)
    for action in actions:
        if action == "move":
            moving.move(services)
        for guest in (staying, moving):
            if isinstance(action, int):
                guest.read(7 * action)
            elif action != "move":
                guest.dialogue.enqueue(GuestRequest(action))
        gevent.sleep(0)  # the end of a pause between many requests
    for guest in (staying, moving):
        while guest.dialogue.is_busy:
            guest.read(10_000)
            gevent.sleep(0)
    assert moving.received == staying.received


# What is handed over

UUIDS = st.uuids().map(str)
CODES = st.lists(st.sampled_from(list(IDENTITY.values())), unique=True).map(tuple)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)
KNOWN = st.builds(
    Known,
    TEXTS,
    st.sampled_from(["client", "server"]),
    st.none() | TEXTS.filter(bool),
    st.none() | UUIDS,
    st.none() | UUIDS,
    st.sampled_from(Proof),
    st.none() | TEXTS,
    st.booleans(),
    CODES,
    CODES,
    st.booleans(),
)


NOW_S = 0.0  # so times are exactly as many milliseconds before as they say
AGO_S = st.integers(0, MAX_AGE_MS).map(lambda ms: -ms / 1000)
SERVED = st.builds(ServedIdentity, TEXTS, st.lists(TEXTS, max_size=MAX_HOSTS).map(tuple))
DIGESTS = st.just(b"") | st.binary(min_size=32, max_size=32)
BOOT = st.none() | st.builds(ServedBoot, TEXTS, SERVED, AGO_S, DIGESTS, AGO_S)


@given(KNOWN, OWED, BOOT)
def test_handover_comes_back_from_its_bytes(
    known: Known, owed: Owed, boot: ServedBoot | None
) -> None:
    handover = Handover(known, owed, boot)
    assert Handover.from_bytes(handover.to_bytes(NOW_S), NOW_S) == handover


@given(KNOWN, OWED, BOOT, st.data())
def test_damaged_handover_is_another_one_or_the_error(
    known: Known, owed: Owed, boot: ServedBoot | None, data: st.DataObject
) -> None:
    damaged = bytearray(Handover(known, owed, boot).to_bytes(NOW_S))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    for given_bytes in (bytes(damaged), bytes(damaged[: data.draw(st.integers(0, len(damaged)))])):
        with suppress(InvalidOwedError):
            assert Handover.from_bytes(given_bytes, NOW_S).to_bytes(NOW_S) == given_bytes


@given(st.binary(max_size=200))
def test_any_bytes_are_a_handover_or_the_error(data: bytes) -> None:
    with suppress(InvalidOwedError):
        Handover.from_bytes(data, NOW_S)


def test_longest_service_uri_can_be_handed_over() -> None:
    session = new_session()
    uri = b"my-metadata?" + b"\xfe" * (MAX_URI_BYTES - 12)
    session.receive_data(
        b"\xff\xfb\xe8\xff\xfa\xe8\x00\x52\xff\xf0\xff\xfa\xe8\x46C" + uri + b"\xff\xf0"
    )
    handover = Handover(session.known, Owed(session.heard))
    assert Handover.from_bytes(handover.to_bytes(NOW_S), NOW_S).known.service_uri.startswith(
        "my-metadata?"
    )


@given(BOOT)
def test_what_was_served_comes_back_from_its_state(boot: ServedBoot | None) -> None:
    if boot:
        assert ServedBoot.of_state(json.loads(json.dumps(boot.state()))) == boot
