"""A session: transcripts, run whole and cut everywhere, and what no bytes can do to it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_telnet import HOSTILE, cut
from tests.transcript import DIRECTORY, Step, read
from vmw_cloudinit_metadata.protocol.session import (
    MAX_WAITING_REQUESTS,
    Event,
    Fault,
    Identified,
    Refused,
    Requested,
    Session,
)

TRANSCRIPTS = pytest.mark.parametrize(
    "path", sorted(DIRECTORY.glob("*.txt")), ids=lambda path: path.stem
)
HELLO = b"\xff\xfb\xe8\xff\xfd\x00\xff\xfb\x00\xff\xfa\xe8\x00\x51\x53\xff\xf0"
PROXY = b"\xff\xfa\xe8\x46Cmy-metadata\xff\xf0"
NAME = b"\xff\xfa\xe8\x52web1\xff\xf0"
UUID = b"\xff\xfa\xe8\x50" + b"00" * 16 + b"\xff\xf0"


def new_session() -> Session:
    return Session(frozenset({"my-metadata"}), "10.0.0.1", datetime.now(UTC))


def describe(event: Event) -> str:
    match event:
        case Identified(m):
            uuids = f"{m.vc_uuid} {m.bios_uuid} {m.location_uuid}"
            return f"Identified {m.name} {uuids} {m.service_uri} {m.direction}"
        case Requested(document):
            return f"Requested {document}"
        case Refused(uri):
            return f"Refused {uri}"
        case Fault(kind):
            return f"Fault {kind}"
        case _:
            return type(event).__name__


def take(session: Session, step: Step) -> list[str]:
    events = session.identity_overdue() if step.heard is None else session.receive_data(step.heard)
    return [describe(event) for event in events]


@TRANSCRIPTS
def test_transcript_step_by_step(path: Path) -> None:
    session = new_session()
    for number, step in enumerate(read(path)):
        events = take(session, step)
        assert (number, events) == (number, step.events)
        assert (number, session.data_to_send()) == (number, step.said)


def play(steps: list[Step], size: int, offset: int) -> tuple[bytes, list[str]]:
    """Everything said and told, when what is heard comes in pieces of `size`, the first shorter."""
    session, said, told = new_session(), b"", []
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
    return said, [event for event in told if not event.startswith("Fault")]


@TRANSCRIPTS
def test_transcript_does_not_depend_on_chunks(path: Path) -> None:
    steps = read(path)
    said = b"".join(step.said for step in steps)
    told = [event for step in steps for event in step.events if not event.startswith("Fault")]
    length = sum(len(step.heard or b"") for step in steps)
    assert play(steps, length, 0) == (said, told)
    assert play(steps, 1, 0) == (said, told)
    for offset in range(length):
        assert play(steps, length, offset) == (said, told), offset


@given(HOSTILE, st.lists(st.integers(0, 1000)), st.booleans())
def test_any_bytes_make_no_exception_and_little_state(
    data: bytes, places: list[int], is_identified: bool
) -> None:
    session = new_session()
    session.receive_data(HELLO + PROXY + NAME + UUID if is_identified else b"")
    for chunk in cut(data, places):
        session.receive_data(chunk)
    session.identity_overdue()
    assert len(session._waiting) <= MAX_WAITING_REQUESTS
    assert not session._events


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
    assert sum(isinstance(event, Requested) for event in events) == MAX_WAITING_REQUESTS


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
    assert session.identified
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
    session.answer(b"!!RESPONSE_METADATA#\n")
    assert session.data_to_send() == b"!!RESPONSE_METADATA#" + end
