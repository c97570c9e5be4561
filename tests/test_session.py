"""A session: transcripts, run whole and cut everywhere, and what no bytes can do to it."""

from __future__ import annotations

import gc
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_telnet import HOSTILE, cut
from tests.transcript import DIRECTORY, Step, read, tls_policy
from vmw_cloudinit_metadata.protocol import telnet, vmware
from vmw_cloudinit_metadata.protocol.events import (
    Event,
    Identified,
    IdentityAsked,
    IdentityMissing,
    MoveArrived,
    MoveBegun,
    MoveCompleted,
    NotHypervisor,
    Refused,
    Violation,
)
from vmw_cloudinit_metadata.protocol.owed import MAX_UNIDENTIFIED
from vmw_cloudinit_metadata.protocol.packet import GuestRequest
from vmw_cloudinit_metadata.protocol.phases import IDENTIFIED, OVERDUE
from vmw_cloudinit_metadata.protocol.session import (
    Policy,
    Session,
    TlsPolicy,
)
from vmw_cloudinit_metadata.protocol.vmotion import KeyedSecrets, Moves, RandomSecrets
from vmw_cloudinit_metadata.protocol.vmware import Suboption

TRANSCRIPTS = pytest.mark.parametrize(
    "path", sorted(DIRECTORY.glob("*.txt")), ids=lambda path: path.stem
)
PROMISED_BYTES = 32 * 1024  # docs/protocol.md
HELLO = b"\xff\xfb\xe8\xff\xfd\x00\xff\xfb\x00\xff\xfa\xe8\x00\x51\x53\xff\xf0"
PROXY = b"\xff\xfa\xe8\x46Cmy-metadata\xff\xf0"
NAME = b"\xff\xfa\xe8\x52web1\xff\xf0"
UUID = b"\xff\xfa\xe8\x50" + b"00" * 16 + b"\xff\xf0"


def new_session(policy: Policy | None = None) -> Session:
    return Session(policy or new_policy(), "10.0.0.1", datetime.now(UTC))


def new_policy(tls: TlsPolicy = TlsPolicy.OFF) -> Policy:
    secrets = RandomSecrets(lambda size: bytes(range(0xF8, 0xF8 + size)))
    return Policy(frozenset({"my-metadata"}), Moves(10, secrets), tls)


def describe(event: Event) -> str:
    match event:
        case Identified(m):
            uuids = f"{m.vc_uuid} {m.bios_uuid} {m.location_uuid}"
            return f"Identified {m.name} {uuids} {m.service_uri} {m.direction}"
        case IdentityMissing(missing):
            return f"IdentityMissing {missing}"
        case GuestRequest(document):
            return f"Requested {document}"
        case Refused(kind):
            return f"Refused {kind}"
        case NotHypervisor(what):
            return f"NotHypervisor {what}"
        case Violation(kind):
            return f"Violation {kind}"
        case _:
            return type(event).__name__


def take(session: Session, step: Step) -> list[str]:
    events = session.identity_overdue() if step.heard is None else session.receive_data(step.heard)
    return [describe(event) for event in events]


@TRANSCRIPTS
def test_transcript_step_by_step(path: Path) -> None:
    session = new_session(new_policy(tls_policy(path)))
    for number, step in enumerate(read(path)):
        events = take(session, step)
        assert (number, events) == (number, step.events)
        assert (number, session.data_to_send()) == (number, step.said)


def play(path: Path, size: int, offset: int) -> tuple[bytes, list[str]]:
    """All output and events, when the input comes in pieces of `size`, the first one shorter."""
    session, said, told = new_session(new_policy(tls_policy(path))), b"", []
    steps = read(path)
    heard = b""
    for step in [*steps, Step(None)]:
        if step.heard is not None:
            heard += step.heard
            continue
        pieces = [heard[:offset], *(heard[i : i + size] for i in range(offset, len(heard), size))]
        for piece in pieces:
            told += [describe(event) for event in session.receive_data(piece)]
            said += session.data_to_send()
        heard = b""
        if step is not steps[-1] and step in steps:
            told += take(session, step)
    return said, [event for event in told if not event.startswith("Violation")]


@TRANSCRIPTS
def test_transcript_does_not_depend_on_chunks(path: Path) -> None:
    steps = read(path)
    said = b"".join(step.said for step in steps)
    told = [event for step in steps for event in step.events if not event.startswith("Violation")]
    length = sum(len(step.heard or b"") for step in steps)
    assert play(path, length, 0) == (said, told)
    assert play(path, 1, 0) == (said, told)
    for offset in range(length):
        assert play(path, length, offset) == (said, told), offset


BEGIN = b"\xff\xfa\xe8\x28seq1\xff\xf0"
COMPLETE = b"\xff\xfa\xe8\x2eseq1\xff\xf0"


def test_what_was_postponed_behind_a_completed_move_waits_for_the_take_over() -> None:
    policy = new_policy(TlsPolicy.ALLOW)
    source, target = new_session(policy), new_session(policy)
    source.receive_data(HELLO + PROXY + NAME + UUID + BEGIN)
    secret = bytes(range(0xF8, 0x100)).replace(b"\xff", b"\xff\xff")
    peer = b"\xff\xfb\x25\xff\xfb\xe8\xff\xfa\xe8\x2cseq1" + secret + b"\xff\xf0"
    refuses_tls = b"\xff\xfa\x25\0\0\0\xff\xf0"
    told = target.receive_data(peer + COMPLETE + BEGIN.replace(b"seq1", b"seq2") + refuses_tls)
    assert [type(event) for event in told] == [MoveArrived, MoveCompleted]
    assert MoveBegun in [type(event) for event in target.take_over()]


def states(policy: Policy) -> dict[str, Session]:
    """A session in each state that bytes can meet it in."""
    secret = bytes(range(0xF8, 0x100)).replace(b"\xff", b"\xff\xff")
    peer = b"\xff\xfb\xe8\xff\xfa\xe8\x2cseq1" + secret + b"\xff\xf0"
    said = {
        "new": b"",
        "offering tls": b"\xff\xfb\x25",
        "identified": HELLO + PROXY + NAME + UUID,
        "refused": b"\xff\xfa\xe8\x46Cother\xff\xf0",
        "moving": HELLO + PROXY + NAME + UUID + BEGIN,
        "arriving": peer,
        "arrived": peer.replace(b"seq1", b"seq2") + COMPLETE.replace(b"seq1", b"seq2"),
    }
    sessions = {}
    for name, data in said.items():
        sessions[name] = session = new_session(policy)
        session.receive_data(data)
        session.data_to_send()
    return sessions


def held_bytes(session: Session, policy: Policy) -> int:
    """The bytes and texts that a session refers to, but for what all sessions have in common."""
    seen, held, todo = {id(policy)}, 0, [session]
    while todo:
        for found in gc.get_referents(todo.pop()):
            if id(found) in seen or isinstance(found, type | ModuleType | FunctionType | Enum):
                continue
            seen.add(id(found))
            todo.append(found)
            held += len(found) if isinstance(found, bytes | str) else 0
    return held


@given(
    st.lists(st.tuples(st.integers(0, 6), HOSTILE), max_size=4),
    st.lists(st.integers(0, 1000)),
    st.sampled_from(TlsPolicy),
)
def test_any_bytes_make_no_exception_and_little_state(
    said: list[tuple[int, bytes]], places: list[int], tls: TlsPolicy
) -> None:
    policy = new_policy(tls)
    sessions = list(states(policy).values())
    for number, data in said:
        session = sessions[number]
        for chunk in cut(data, places):
            for event in session.receive_data(chunk, now_s=float(number)):
                if isinstance(event, MoveCompleted):
                    session.take_over()
        session.identity_overdue()
        assert held_bytes(session, policy) <= 2 * PROMISED_BYTES  # a target refers to its source
        assert session.receive_data(b"") == []
    assert len(policy.moves) <= 10


@given(HOSTILE)
def test_peer_that_echoes_everything_makes_no_loop(noise: bytes) -> None:
    session = new_session()
    session.receive_data(noise)
    for _ in range(20):
        echo = session.data_to_send()
        if not echo:
            return
        session.receive_data(echo)
    raise AssertionError("it goes on talking to its own echo")


def test_requests_before_the_identity_are_bounded() -> None:
    session = new_session()
    session.receive_data(HELLO + b"!!REQUEST_METADATA#\n" * 1000)
    events = session.receive_data(PROXY + NAME + UUID)
    assert sum(isinstance(event, GuestRequest) for event in events) == MAX_UNIDENTIFIED


@pytest.mark.parametrize(
    "identity",
    [
        pytest.param(b"\x52\xc3\x28", id="name is no utf-8"),
        pytest.param(b"\x52", id="name is empty"),
        pytest.param(b"\x52" + b"x" * 1025, id="name is too long"),
    ],
)
def test_unusable_name_counts_as_absent(identity: bytes) -> None:
    session = new_session()
    session.receive_data(HELLO + PROXY + UUID)
    session.receive_data(b"\xff\xfa\xe8" + identity + b"\xff\xf0")
    assert session.phase is IDENTIFIED
    assert session.machine.name is None
    assert session.machine.vc_uuid == "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize("uri", [b"\xff\xff\xfe", b"my-metadata\0", b"x" * 4000])
def test_odd_uri_is_refused(uri: bytes) -> None:
    session = new_session()
    (event,) = session.receive_data(b"\xff\xfa\xe8\x46C" + uri + b"\xff\xf0")
    assert isinstance(event, Refused)


@pytest.mark.parametrize("direction", [b"", b"X", b"c"])
def test_odd_direction_is_refused(direction: bytes) -> None:
    session = new_session()
    (event,) = session.receive_data(b"\xff\xfa\xe8\x46" + direction + b"my-metadata\xff\xf0")
    assert isinstance(event, Refused)


@pytest.mark.parametrize(
    ("binary", "end"), [(b"\xff\xfd\x00", b"\n"), (b"", b"\r\n")], ids=["binary", "nvt"]
)
def test_answer_ends_its_line_as_negotiated(binary: bytes, end: bytes) -> None:
    session = new_session()
    session.receive_data(binary)
    session.data_to_send()
    assert session.answer(b"!!RESPONSE_METADATA#\n") == b"!!RESPONSE_METADATA#" + end
    assert session.data_to_send() == b""


# No order and no timing of what a host says gives a VM a weaker identity than it has


TEXTS = {
    Suboption.VM_VC_UUID: b"01" * 16,
    Suboption.VM_BIOS_UUID: b"42" * 16,
    Suboption.VM_NAME: b"web1",
    Suboption.VM_LOCATION_UUID: b"56" * 16,
}
DECIDES = {Suboption.VM_VC_UUID: "vc_uuid", Suboption.VM_BIOS_UUID: "bios_uuid"} | {
    Suboption.VM_NAME: "name"
}
ANSWERS = ("told", "empty", "never", "unknown", "garbage")
TIME_IS_OVER, REQUEST = b"overdue", b"!!REQUEST_METADATA#\n"


def said(code: int, argument: bytes = b"") -> bytes:
    return telnet.encode_subnegotiation(vmware.suboption(code, argument))


def answer_of(code: Suboption, manner: str) -> bytes | None:
    match manner:
        case "told":
            return said(code, TEXTS[code])
        case "empty":
            return said(code)
        case "unknown":
            return said(Suboption.UNKNOWN_SUBOPTION_RCVD_1, bytes([code + 1]))
        case "garbage":
            return said(code, b"01 23" if code != Suboption.VM_NAME else b"\xc3\x28")
    return None


@st.composite
def hosts(draw: st.DrawFn) -> tuple[dict[Suboption, str], list[bytes]]:
    """How a host answers for each identity that it announces, and all that happens, in some order.

    It answers a question after it has announced that it knows it; what it tells, at any time.
    """
    manners = draw(st.dictionaries(st.sampled_from(list(TEXTS)), st.sampled_from(ANSWERS)))
    both = draw(st.booleans())
    known = bytes(c for code in manners for c in ((code, code + 1) if both else (code + 1,)))
    listed = said(Suboption.KNOWN_SUBOPTIONS_1, known)
    told = [data for code, manner in manners.items() if (data := answer_of(code, manner))]
    happens = [listed, said(Suboption.DO_PROXY, b"Cmy-metadata"), *told]
    happens += [TIME_IS_OVER] * draw(st.integers(0, 6)) + [REQUEST] * draw(st.integers(1, 4))
    happens = draw(st.permutations(happens))
    answers = [answer_of(code, manner) for code, manner in manners.items() if manner != "told"]
    early = [data for data in happens[: happens.index(listed)] if data in answers]
    others = [data for data in happens if data not in early]
    place = others.index(listed) + 1
    return manners, [*others[:place], *early, *others[place:]]


@given(hosts())
def test_first_document_is_that_of_all_that_is_announced_or_none(
    host: tuple[dict[Suboption, str], list[bytes]],
) -> None:
    manners, happens = host
    session = new_session()
    session.receive_data(b"\xff\xfb\xe8\xff\xfd\x00\xff\xfb\x00")
    expected = {
        field: TEXTS[code] if manners.get(code) == "told" else None
        for code, field in DECIDES.items()
    }
    owes = any(
        manner == "never" or (manner == "garbage" and code != Suboption.VM_NAME)
        for code, manner in manners.items()
        if code in DECIDES
    )
    asked = 0
    for data in [*happens, REQUEST, TIME_IS_OVER, TIME_IS_OVER, TIME_IS_OVER]:
        events = session.identity_overdue() if data == TIME_IS_OVER else session.receive_data(data)
        asked += data == REQUEST
        requested = [event for event in events if isinstance(event, GuestRequest)]
        asked -= len(requested)
        if requested and session.phase is IDENTIFIED:
            assert not owes
            machine = session.machine
            texts = {
                "vc_uuid": machine.vc_uuid and machine.vc_uuid.replace("-", "").encode(),
                "bios_uuid": machine.bios_uuid and machine.bios_uuid.replace("-", "").encode(),
                "name": machine.name and machine.name.encode(),
            }
            assert texts == expected
        elif requested:
            assert session.phase is OVERDUE
    assert (session.phase is IDENTIFIED) is not owes
    assert asked == 0


def test_announced_uuid_that_comes_first_at_the_target_of_a_move_is_waited_for() -> None:
    policy = new_policy()
    source, target = new_session(policy), new_session(policy)
    source.receive_data(b"\xff\xfb\xe8" + said(0, b"\x52\x53") + PROXY + NAME + BEGIN)
    assert source.phase is IDENTIFIED
    secret = bytes(range(0xF8, 0x100))
    target.receive_data(b"\xff\xfb\xe8" + said(0, b"\x50\x51") + said(44, b"seq1" + secret))
    told = target.receive_data(COMPLETE)
    assert [type(event) for event in told] == [MoveCompleted]
    target.take_over()
    target.receive_data(REQUEST)
    assert target.phase is not IDENTIFIED
    told = target.receive_data(UUID)
    assert [type(event) for event in told] == [Identified, GuestRequest]


def test_claim_of_a_move_with_an_announced_uuid_is_refused_when_it_does_not_come() -> None:
    secrets = KeyedSecrets(b"k" * 16, lambda size: bytes(size), lambda: 1_800_000_000.0)
    policy = Policy(frozenset({"my-metadata"}), Moves(10, secrets))
    secret = secrets.make(b"seq1", None)  # of a VM without VC UUID
    target = new_session(policy)
    target.receive_data(b"\xff\xfb\xe8" + said(0, b"\x50\x51") + said(44, b"seq1" + secret))
    assert [type(event) for event in target.identity_overdue()] == [IdentityAsked]
    assert [type(event) for event in target.identity_overdue()] == [Refused]
    assert target.data_to_send().endswith(said(3, b"\x2c"))
    other = new_session(policy)
    other.receive_data(b"\xff\xfb\xe8" + said(0, b"\x50\x51") + said(44, b"seq1" + secret))
    assert [type(event) for event in other.receive_data(said(80))] == [Violation, MoveArrived]
