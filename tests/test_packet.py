"""Lines and packets of the serial line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.coverage_fuzz.law import kept_bytes
from tests.test_telnet import cut
from vmw_cloudinit_metadata.protocol.packet import LineSplitter, Packet, parse, serialize

ENDS = st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\r"])
LINES = st.lists(st.binary(max_size=12).map(lambda line: line.translate(None, b"\r\n")))


def split(*chunks: bytes, limit: int) -> tuple[list[bytes], int]:
    splitter = LineSplitter(limit)
    return [line for chunk in chunks for line in splitter.receive_data(chunk)], splitter.overlong


@given(LINES, ENDS, st.lists(st.integers(0, 1000)))
def test_lines_do_not_depend_on_chunks_nor_on_their_ends(
    lines: list[bytes], end: bytes, places: list[int]
) -> None:
    data = b"".join(line + end for line in lines)
    fitting = [line for line in lines if 0 < len(line) <= 8]
    overlong = sum(len(line) > 8 for line in lines)
    assert split(*cut(data, places), limit=8) == (fitting, overlong)


def test_endless_line_is_not_kept_and_the_next_one_is_read() -> None:
    splitter = LineSplitter(100)
    for _ in range(1000):
        splitter.receive_data(b"x" * 1000)
        assert kept_bytes(splitter) <= 100
    assert splitter.receive_data(b"x\nnext\n") == [b"next"]
    assert splitter.overlong == 1


@given(st.from_regex("[A-Z_]{1,64}", fullmatch=True), st.binary())
def test_packet_comes_back_from_its_line(code: str, body: bytes) -> None:
    packet = Packet(code, body)
    assert parse(serialize(packet).removesuffix(b"\n")) == packet


@given(st.binary())
def test_packet_in_a_noisy_line_begins_at_the_last_bangs(noise: bytes) -> None:
    assert parse(noise + b"!!REQUEST_METADATA#") == Packet("REQUEST_METADATA")


@given(st.binary())
def test_line_of_anything_never_raises(line: bytes) -> None:
    parse(line)


@pytest.mark.parametrize(
    "line",
    [
        *(b"!!REQUEST_METADATA", b"REQUEST_METADATA#", b"!REQUEST_METADATA#", b"!!#", b"!!a#"),
        *(b"!!REQUEST_METADATA#x", b"!!REQUEST_METADATA#YQ=", b"!!REQUEST_METADATA#YQ==x"),
        *(b"!!REQUEST_METADATA# login:", b"!!REQUEST_METADATA#=", b"!!REQUEST-METADATA#"),
    ],
)
def test_line_that_is_no_packet_is_none(line: bytes) -> None:
    assert parse(line) is None


@pytest.mark.parametrize("code", ["RESPONSE_METADATA", "RESPONSE_ERROR", "METADATA", "_REQUEST_A"])
def test_packet_that_is_no_request_asks_for_nothing(code: str) -> None:
    assert Packet(code).requests is None


def test_request_asks_for_its_document() -> None:
    assert Packet("REQUEST_METADATA").requests == "METADATA"
