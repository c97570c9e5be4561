"""Frames of the links of a fleet: whatever the cuts, and whatever the bytes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.process.fleet import frames
from vmw_cloudinit_metadata.process.fleet.fleetpart import notice_of, parse_notice, storable
from vmw_cloudinit_metadata.process.fleet.fleetstate import FleetState
from vmw_cloudinit_metadata.process.fleet.frames import FrameReader, InvalidFrame

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FIELDS = st.dictionaries(TEXT, TEXT | st.integers(-(2**50), 2**50) | st.lists(TEXT), max_size=4)
TOLD = st.tuples(TEXT, FIELDS, st.binary(max_size=200), st.none() | st.integers(0, 2**50))


@given(st.lists(TOLD, max_size=5), st.lists(st.integers(0, 2000)))
def test_frames_do_not_depend_on_the_cuts(told: list[Any], cuts: list[int]) -> None:
    stream = b"".join(frames.encode_told(*one, until_s=0.5) for one in told)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    reader, found = FrameReader(), []
    for start, end in pairwise(places):
        found += map(frames.decode_told, reader.receive(stream[start:end]))
    assert [(one.kind, one.fields, one.payload, one.ask) for one in found] == told


@given(st.binary(max_size=300))
def test_reader_raises_nothing_else(data: bytes) -> None:
    try:
        for frame in FrameReader().receive(data):
            frames.decode_told(frame)
    except InvalidFrame:
        pass


@pytest.mark.parametrize(
    "head",
    [b"[]", b"{", b'{"kind":1,"fields":{}}', b'{"kind":"x","fields":[]}', b"{}", b'"\xff"'],
)
def test_head_of_another_shape_is_invalid(head: bytes) -> None:
    frame = (4 + len(head)).to_bytes(4) + len(head).to_bytes(4) + head
    with pytest.raises(InvalidFrame):
        list(map(frames.decode_told, FrameReader().receive(frame)))


@pytest.mark.parametrize("length", [0, 3, frames.MAX_FRAME_BYTES + 1, 2**32 - 1])
def test_length_out_of_bounds_is_invalid_before_the_bytes_come(length: int) -> None:
    with pytest.raises(InvalidFrame):
        list(FrameReader().receive(length.to_bytes(4)))


def test_frame_that_is_too_long_is_not_made() -> None:
    with pytest.raises(InvalidFrame):
        frames.encode({}, bytes(frames.MAX_FRAME_BYTES))
    with pytest.raises(InvalidFrame):
        frames.encode({"text": "x" * frames.MAX_HEAD_BYTES})


@given(TEXT, st.integers(0, 2**50), st.integers(0, 2**22))
def test_notice_is_parsed_as_it_was_made(kind: str, row: int, process: int) -> None:
    found = parse_notice(notice_of(kind, row, process))
    assert found == (process, kind, row) or " " in kind


@given(st.text())
def test_any_text_is_a_notice_or_none(text: str) -> None:
    found = parse_notice(text)
    assert found is None or found[0] >= 0


@given(st.text(), st.integers(0, 30))
def test_storable_text_has_what_postgresql_takes(text: str, most: int) -> None:
    found = storable(text, most)
    assert len(found) <= most
    assert "\0" not in found
    assert found.encode().decode() == found


@pytest.mark.parametrize(
    "change", [{"connected": 1}, {"since": -1}, {"counts": {"a": -1}}, {"counts": []}, {"place": 1}]
)
def test_state_of_another_shape_is_invalid(change: dict[str, Any]) -> None:
    state = FleetState(True, 1.5, "why", "id", "db:5432/x", 1, "fault", 7, {"statements": 3})
    assert FleetState.unpack(state.pack()) == state
    with pytest.raises(ValueError, match="not the state"):
        FleetState.unpack({**state.pack(), **change})
