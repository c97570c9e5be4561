"""Telnet: decoding and encoding, as laws."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.coverage_fuzz.law import kept_bytes
from vmw_cloudinit_metadata.protocol.telnet import (
    Data,
    Decoder,
    Event,
    Malformed,
    Negotiation,
    NvtDecoder,
    Subnegotiation,
    Verb,
    encode_data,
    encode_negotiation,
    encode_subnegotiation,
    events_of,
)

# Any bytes, with those that mean something more often than chance has them.
HOSTILE = st.lists(
    st.one_of(
        st.sampled_from(
            [b"\xff", b"\xff\xfa", b"\xff\xf0", b"\xff\xff", b"\xff\xfb", b"\xe8", b"?"]
        ),
        st.binary(max_size=8),
    )
).map(b"".join)
BYTE = st.integers(0, 255)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(bounds)]


def joined(events: list[Event]) -> list[Event]:
    """Events with adjacent data put together, since chunks cut data."""
    result: list[Event] = []
    for event in events:
        if result and isinstance(event, Data) and isinstance(result[-1], Data):
            result[-1] = Data(result[-1].payload + event.payload)
        else:
            result.append(event)
    return result


def decode(*chunks: bytes, limit: int = 4096) -> list[Event]:
    decoder = Decoder(limit)
    return joined([event for chunk in chunks for event in decoder.receive_data(chunk)])


@given(HOSTILE, st.lists(st.integers(0, 1000)))
def test_decoding_does_not_depend_on_chunks(data: bytes, places: list[int]) -> None:
    assert decode(*cut(data, places), limit=8) == decode(data, limit=8)


@given(st.binary())
def test_data_comes_back_from_its_encoding(data: bytes) -> None:
    assert decode(encode_data(data, binary=True)) == ([Data(data)] if data else [])


@given(st.sampled_from(Verb), BYTE)
def test_negotiation_comes_back_from_its_encoding(verb: Verb, option: int) -> None:
    negotiation = Negotiation(verb, option)
    assert decode(encode_negotiation(negotiation)) == [negotiation]


@given(BYTE, st.binary(max_size=100))
def test_subnegotiation_comes_back_from_its_encoding(option: int, payload: bytes) -> None:
    subnegotiation = Subnegotiation(option, payload)
    assert decode(encode_subnegotiation(subnegotiation)) == [subnegotiation]


@given(st.binary(min_size=9, max_size=100), st.lists(st.integers(0, 1000)))
def test_overlong_subnegotiation_is_reported_once_and_the_next_is_read(
    payload: bytes, places: list[int]
) -> None:
    good = Subnegotiation(1, b"good")
    data = encode_subnegotiation(Subnegotiation(1, payload)) + encode_subnegotiation(good)
    assert decode(*cut(data, places), limit=8) == [Malformed("subnegotiation too long"), good]


def test_of_a_segment_with_a_query_only_the_beginning_is_kept() -> None:
    common = Subnegotiation(232, b"\0\1\2")
    events_of.cache_clear()
    for number in range(10):
        own = Subnegotiation(232, b"FCmy-metadata?t=%d" % number)
        assert decode(encode_subnegotiation(common) + encode_subnegotiation(own)) == [common, own]
    assert events_of.cache_info().currsize == 1


def test_endless_subnegotiation_is_not_kept() -> None:
    decoder = Decoder(100)
    decoder.receive_data(b"\xff\xfa")
    for _ in range(1000):
        decoder.receive_data(b"x" * 1000)
        assert kept_bytes(decoder) <= 102


def test_subnegotiation_byte_by_byte_is_not_read_again_and_again() -> None:
    def took_s(pairs: int) -> float:
        data = b"\xff\xfa" + b"\xff\xff" * pairs
        start_s = time.process_time()
        decode(*(data[i : i + 1] for i in range(len(data))), limit=5000)
        return time.process_time() - start_s

    assert min(took_s(4000) for _ in range(3)) < 0.3  # 16 ms; read again each time: 1.7 s


@pytest.mark.parametrize(
    ("data", "events"),
    [
        pytest.param(b"a\xff\xf1b", [Data(b"ab")], id="NOP"),
        pytest.param(b"\xff\x01a", [Malformed("unknown telnet command"), Data(b"a")], id="no code"),
        pytest.param(b"\xff\xf0", [Malformed("unknown telnet command")], id="SE alone"),
        pytest.param(
            b"\xff\xfa\xff\xf0", [Malformed("subnegotiation without an option")], id="nil"
        ),
        pytest.param(
            b"\xff\xfa\x01x\xff\xfd\x02",
            [Malformed("unterminated subnegotiation"), Negotiation(Verb.DO, 2)],
            id="never ended",
        ),
        pytest.param(
            b"\xff\xfa\x01x\xff\xfa\x02y\xff\xf0",
            [Malformed("unterminated subnegotiation"), Subnegotiation(2, b"y")],
            id="begun twice",
        ),
    ],
)
def test_odd_bytes_are_reported_and_skipped(data: bytes, events: list[Event]) -> None:
    assert decode(data) == events


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\0", b"\r\0"])).map(b"".join), st.data())
def test_nvt_drops_a_nul_behind_a_cr_for_any_chunks(data: bytes, draw: st.DataObject) -> None:
    chunks = cut(data, draw.draw(st.lists(st.integers(0, 100))))
    decoder = NvtDecoder()
    assert b"".join(map(decoder.receive_data, chunks)) == data.replace(b"\r\0", b"\r")


@pytest.mark.parametrize(
    ("data", "sent"),
    [(b"a\n", b"a\r\n"), (b"a\r\n", b"a\r\n"), (b"a\rb", b"a\r\0b"), (b"\xff", b"\xff\xff")],
)
def test_data_without_binary_has_the_newlines_of_the_nvt(data: bytes, sent: bytes) -> None:
    assert encode_data(data, binary=False) == sent
