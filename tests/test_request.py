"""The head of a request: what is read as one, and that nothing else is."""

from __future__ import annotations

import email.parser
import http.client
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.admin.request import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    BadRequest,
    Request,
    read,
)

GOOD = (
    b"GET /api/machines?q=web1&page=2 HTTP/1.1\r\n"
    b"Host: localhost:13371\r\n"
    b"User-Agent: test/1.0 (x; y)\r\n"
    b"Accept: */*\r\n"
    b"Content-Length: 0\r\n"
    b"Connection: keep-alive\r\n\r\n"
)
NEXT = b"GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n"


def with_header(line: bytes, first: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"%b\r\nHost: localhost\r\n%b\r\nAccept: */*\r\n\r\n" % (first, line)


BAD = {
    "space before colon": with_header(b"Content-Length : 5"),
    "tab before colon": with_header(b"Content-Length\t: 5"),
    "tab in value": with_header(b"Content-Length:\t5"),
    "space before name": with_header(b" Content-Length: 5"),
    "folded": with_header(b"X-Folded: a\r\n b"),
    "folded with tab": with_header(b"X-Folded: a\r\n\tContent-Length: 5"),
    "two lengths": with_header(b"Content-Length: 0\r\nContent-Length: 0"),
    "two different lengths": with_header(b"Content-Length: 0\r\nContent-Length: 5"),
    "signed length": with_header(b"Content-Length: +0"),
    "negative length": with_header(b"Content-Length: -1"),
    "list of lengths": with_header(b"Content-Length: 0, 0"),
    "hexadecimal length": with_header(b"Content-Length: 0x0"),
    "zeros": with_header(b"Content-Length: 00"),
    "empty length": with_header(b"Content-Length:"),
    "underscore length": with_header(b"Content_Length: 5"),
    "a body": with_header(b"Content-Length: 5"),
    "chunked": with_header(b"Transfer-Encoding: chunked"),
    "chunked, capitals": with_header(b"TRANSFER-ENCODING: Chunked"),
    "identity": with_header(b"Transfer-Encoding: identity"),
    "empty transfer encoding": with_header(b"Transfer-Encoding:"),
    "transfer encoding, space": with_header(b"Transfer-Encoding : chunked"),
    "transfer encoding, underscore": with_header(b"transfer_encoding: chunked"),
    "two hosts": with_header(b"Host: localhost"),
    "two authorizations": with_header(b"Authorization: a\r\nAuthorization: b"),
    "no colon": with_header(b"Nonsense"),
    "no name": with_header(b": x"),
    "NUL": with_header(b"X: a\x00b"),
    "lone CR": with_header(b"X: a\rb"),
    "lone LF": with_header(b"X: a\nY: b"),
    "CR before CR LF": with_header(b"X: a\r"),
    "delete character": with_header(b"X: a\x7fb"),
    "LF only": b"GET / HTTP/1.1\nHost: localhost\n\n",
    "empty line first": b"\r\n" + NEXT,
    "space first": b" " + NEXT,
    "two spaces": with_header(b"X: y", b"GET  / HTTP/1.1"),
    "space at the end": with_header(b"X: y", b"GET / HTTP/1.1 "),
    "tab between": with_header(b"X: y", b"GET\t/ HTTP/1.1"),
    "space in target": with_header(b"X: y", b"GET /a b HTTP/1.1"),
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2.0": with_header(b"X: y", b"GET / HTTP/2.0"),
    "HTTP/1.10": with_header(b"X: y", b"GET / HTTP/1.10"),
    "lower case": with_header(b"X: y", b"get / http/1.1"),
    "absolute form": with_header(b"X: y", b"GET http://localhost/ HTTP/1.1"),
    "asterisk form": with_header(b"X: y", b"OPTIONS * HTTP/1.1"),
    "authority form": with_header(b"X: y", b"CONNECT localhost:80 HTTP/1.1"),
    "fragment": with_header(b"X: y", b"GET /#a HTTP/1.1"),
    "no ASCII": with_header(b"X: y", "GET /ä HTTP/1.1".encode()),
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "too many headers": with_header(b"X: y\r\n" * MAX_HEADERS + b"X: y"),
    "too long": with_header(b"X: " + b"y" * MAX_HEAD_BYTES),
    "TLS": bytes.fromhex("16030100c8010000c40303") + b"\0" * 40,
}


def answers(data: bytes) -> list[Request | BadRequest]:
    """What one connection asks for: up to the first that is no request."""
    told: list[Request | BadRequest] = []
    while data and (found := read(data)):
        asked, data = found
        told.append(asked)
    return told


def test_good_request_is_read() -> None:
    (asked,) = answers(GOOD)
    assert isinstance(asked, Request)
    assert (asked.method, asked.path, asked.query) == ("GET", "/api/machines", "q=web1&page=2")
    assert asked.headers["user-agent"] == "test/1.0 (x; y)"
    assert not asked.is_last
    assert [one.is_last for one in answers(GOOD.replace(b"keep-alive", b"Close")) if one] == [True]


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_request_that_two_readers_could_take_in_two_ways_is_none(data: bytes) -> None:
    told = answers(NEXT + data + NEXT)
    assert isinstance(told[0], Request)
    assert isinstance(told[1], BadRequest), told
    assert len(told) == 2, "something behind a bad request was read"


@pytest.mark.parametrize("data", [GOOD, NEXT, *BAD.values()])
def test_reading_byte_by_byte_makes_no_difference(data: bytes) -> None:
    seen = b""
    known = 0
    for byte in data:
        seen += bytes([byte])
        if found := read(seen, known):
            break
        known = len(seen)
    else:
        found = None
    whole = read(data)
    assert (found is None) == (whole is None)
    if found and whole:
        assert type(found[0]) is type(whole[0])
        if isinstance(found[0], Request):
            assert found[0] == whole[0]


INSERTED = st.sampled_from(
    [
        *(b"\r", b"\n", b"\r\n", b"\t", b" ", b"\0", b":", b",", b"\x80", b"#", b"\r\n\r\n"),
        *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: evil\r\n"),
        *(b"HTTP/1.1", b"GET ", b"_", b"+", b"-", b"0", b"chunked"),
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(GOOD if draw(st.booleans()) else NEXT)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(data)))
        if draw(st.booleans()):
            data[place:place] = draw(st.one_of(INSERTED, st.binary(max_size=2)))
        else:
            del data[place : place + draw(st.integers(1, 4))]
    return bytes(data)


def as_python_reads_it(head: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    """The first line and the headers, by the reader of the standard library, which is lenient."""
    line, _, rest = head.partition(b"\r\n")
    message = http.client.parse_headers(io.BytesIO(rest + b"\r\n\r\n"))
    assert isinstance(message, email.message.Message)
    return line, [(name.lower(), value.strip(" ")) for name, value in message.items()]


@given(mutated())
def test_what_is_read_as_a_request_is_read_alike_by_others(data: bytes) -> None:
    """One answer for each request, in order; or an end: there is no third."""
    stream = data + NEXT
    found = read(stream)
    if found is None or isinstance(found[0], BadRequest):
        assert found is None or found[1] == b""
        return
    asked, rest = found
    head = stream[: len(stream) - len(rest)]
    assert head.count(b"\r\n\r\n") == 1
    assert head.endswith(b"\r\n\r\n")
    line, headers = as_python_reads_it(head[:-4])
    assert line.split(b" ") == [
        asked.method.encode(),
        asked.path.encode() + (b"?" + asked.query.encode() if b"?" in line else b""),
        b"HTTP/1.0" if asked.is_1_0 else b"HTTP/1.1",
    ]
    assert dict(headers) == dict(asked.headers)
    names = [name for name, _ in headers]
    assert "transfer-encoding" not in names
    assert [value for name, value in headers if name == "content-length"] in ([], ["0"])
    assert names.count("host") == 1 or asked.is_1_0


@given(st.binary(max_size=300))
def test_reading_never_raises(data: bytes) -> None:
    for one in answers(data + b"\r\n\r\n"):
        assert isinstance(one, Request | BadRequest)
