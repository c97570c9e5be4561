"""What a process believes of what comes out of the fleet's database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.playedlink import PlayedFleetLink
from tests.process import Constants
from tests.waiting import wait_in_hub_until
from vmw_cloudinit_metadata.process.deadlines import Deadlines
from vmw_cloudinit_metadata.process.fleet.frames import Reply
from vmw_cloudinit_metadata.protocol.handover import Handover
from vmw_cloudinit_metadata.protocol.known import Known
from vmw_cloudinit_metadata.protocol.owed import Owed, Unanswered
from vmw_cloudinit_metadata.protocol.packet import GuestRequest
from vmw_cloudinit_metadata.serving.exchange import Fetched, MoveOver
from vmw_cloudinit_metadata.serving.fleetmoves import ASKED_AT_MOST, FleetMoves
from vmw_cloudinit_metadata.serving.seal import BrokenSealError, Seal

KEY = b"k" * 16
TOKEN = b"seq1" + b"s" * 24
OTHER = b"seq1" + b"t" * 24
HANDOVER = Handover(
    Known("my-metadata?a=b", name="web1", token="1.SECRETTOKEN"),
    Owed(unanswered=Unanswered(((GuestRequest("METADATA"), 5),), b"c2VjcmV0\n")),
)
ASKED = {"is_asked": True, "is_ended": False, "is_over": False}

Fields = Mapping[str, Any]


class PlayedLink(PlayedFleetLink):
    """The edge of the process: keeps what is sent, and replies what the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, Fields, bytes]] = []
        self.replies: dict[str, Fields | None] = {}  # by kind; a kind without: no reply for now

    def tell(self, kind: str, fields: Fields, payload: bytes = b"") -> bool:
        self.told.append((kind, fields, payload))
        return True

    def asked_for(
        self, kind: str, fields: Fields, payload: bytes, then: Callable[[Reply | None], None]
    ) -> None:
        self.told.append((kind, fields, payload))
        if kind in self.replies:
            reply = self.replies[kind]
            then(None if reply is None else Reply(reply))

    def said(self, kind: str) -> list[tuple[Fields, bytes]]:
        return [(fields, payload) for told, fields, payload in self.told if told == kind]


class Process:
    """The moves of one process; as Sources it has one VM to hand over, once."""

    def __init__(self, key: bytes = KEY) -> None:
        self.link = PlayedLink()
        self.moves = FleetMoves(self.link, key, Deadlines())
        self.moves.attend(self)
        self.elsewhere: list[bool] = []
        self.handed: list[Handover | None] = [HANDOVER]
        self.fetched: list[Fetched] = []

    def target_elsewhere(self, number: int, *, is_there: bool) -> None:
        assert number == 1
        self.elsewhere.append(is_there)

    def hand_over(self, number: int) -> Handover | None:
        assert number == 1
        return self.handed.pop() if self.handed else None

    def fetch(self) -> None:
        self.link.replies["move_wanted"] = ASKED
        self.moves.fetch(TOKEN, self.fetched.append)

    def receive(self, kind: str, told: tuple[Fields, bytes]) -> None:
        self.link.handlers[kind](*told)


@pytest.fixture
def source() -> Process:
    process = Process()
    process.moves.announce(1, TOKEN)
    return process


@pytest.fixture
def target() -> Process:
    return Process()


def test_vm_is_handed_over_once(source: Process, target: Process) -> None:
    target.fetch()
    (wanted,) = target.link.said("move_wanted")
    source.receive("move_wanted", wanted)
    source.receive("move_wanted", wanted)
    handed, over = source.link.said("move_handed")
    target.receive("move_handed", handed)
    target.receive("move_handed", over)
    assert target.fetched == [HANDOVER]
    target.fetch()
    target.receive("move_handed", over)
    assert target.fetched[1:] == [MoveOver()]


def test_database_learns_neither_secret_nor_document(source: Process, target: Process) -> None:
    target.fetch()
    source.receive("move_wanted", target.link.said("move_wanted")[0])
    target.moves.claim(TOKEN, lambda _is_first: None)
    shown = repr(source.link.told + target.link.told)
    for secret in (TOKEN[4:], TOKEN[:8], TOKEN.hex(), b"c2Vj", b"SECRETTOKEN", b"web1", b"a=b"):
        assert (secret if isinstance(secret, str) else secret.decode()) not in shown


def test_source_hands_nothing_to_whoever_has_no_key(source: Process) -> None:
    stranger = Process(b"x" * 16)
    stranger.fetch()
    (_, proof), (name, _) = stranger.link.said("move_wanted")[0], source.link.said("move")[0]
    for forged in (proof, b"", b"x" * 40, Seal(KEY).close(TOKEN, b"")):
        source.receive("move_wanted", ({"move": name["move"]}, forged))
    assert source.link.said("move_handed") == []
    assert source.handed == [HANDOVER]


ODD = st.dictionaries(
    st.sampled_from(["move", "is_first", "is_asked", "is_ended", "is_over", "x"]),
    st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers()),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ODD, st.binary(max_size=100), st.booleans())
def test_odd_rows_hand_nothing_over(fields: Fields, payload: bytes, is_named: bool) -> None:
    source, target = Process(), Process()
    source.moves.announce(1, TOKEN)
    target.fetch()
    named = {**fields, "move": source.link.said("move")[0][0]["move"]} if is_named else fields
    for process in (source, target):
        for kind in ("move_wanted", "move_handed"):
            process.receive(kind, (named, payload))
    assert source.handed == [HANDOVER]
    assert target.fetched in ([], [None])


@given(ODD)
def test_odd_replies_end_every_wait(fields: Fields) -> None:
    target = Process()
    target.link.replies = dict.fromkeys(["move_claim", "move_wanted"], fields)
    claimed: list[bool] = []
    target.moves.claim(TOKEN, claimed.append)
    assert claimed == [fields.get("is_first") is not False]
    target.moves.fetch(TOKEN, target.fetched.append)
    assert len(target.fetched) <= 1
    target.link.replies = {"move_wanted": None}
    target.moves.fetch(OTHER, target.fetched.append)
    assert target.fetched[-1] is None


def test_handover_that_is_damaged_or_of_another_move_is_not_taken(
    source: Process, target: Process
) -> None:
    target.fetch()
    source.receive("move_wanted", target.link.said("move_wanted")[0])
    (fields, sealed), seal = source.link.said("move_handed")[0], Seal(KEY)
    with pytest.raises(BrokenSealError):
        seal.open(OTHER, sealed)
    for place in range(len(sealed)):
        damaged = sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
        with pytest.raises(BrokenSealError):
            seal.open(TOKEN, damaged)
    target.receive("move_handed", (fields, sealed[:-1]))
    assert target.fetched == [None]


def test_without_a_hand_over_the_vm_goes_on_after_a_second(
    target: Process, constants: Constants
) -> None:
    constants(serving__timeouts__HAND_OVER_S=0.1)
    target.fetch()
    assert target.fetched == []
    wait_in_hub_until(lambda: target.fetched)
    assert target.fetched == [None]


def test_move_that_is_not_announced_yet_is_asked_for_again(
    target: Process, constants: Constants
) -> None:
    constants(serving__fleetmoves__ASKED_AGAIN_S=0.01)
    target.link.replies["move_wanted"] = {"is_asked": False, "is_ended": False, "is_over": False}
    target.moves.fetch(TOKEN, target.fetched.append)
    assert target.fetched == []
    wait_in_hub_until(lambda: target.fetched)
    assert target.fetched == [None]
    assert len(target.link.said("move_wanted")) == ASKED_AT_MOST


def test_end_of_a_move_is_told_once_and_then_it_is_unknown(source: Process) -> None:
    name = source.link.said("move")[0][0]["move"]
    source.receive("move_target", ({"move": name}, b""))
    source.receive("move_left", ({"move": name}, b""))
    source.moves.arrive(1)
    source.moves.end(1, is_over=True)
    source.moves.end(1, is_over=True)
    source.receive("move_target", ({"move": name}, b""))
    assert source.elsewhere == [True, False]
    assert [told["now"] for told, _ in source.link.said("move")] == ["begun", "used", "over"]


def test_moves_are_announced_again_when_the_database_is_back(source: Process) -> None:
    source.link.connected()
    source.moves.end(1, is_over=False)
    source.link.connected()
    assert [told["now"] for told, _ in source.link.said("move")] == ["begun", "begun", "gone"]
