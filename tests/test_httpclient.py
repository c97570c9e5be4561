"""The HTTP client of stores: what it sends, its limits, and what its errors say."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import repeat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.certificates import Pair, make_pair
from tests.httppeer import Answer, Asked, HttpPeer, reply
from tests.laws import cases
from tests.process import Constants
from tests.waiting import wait_until
from vmw_cloudinit_metadata.drivers import driveroptions
from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.stores.httpclient import HttpClient, ServerError
from vmw_cloudinit_metadata.drivers.stores.httpoptions import HttpOptions, parsed

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def client_of(url: str, **options: object) -> HttpClient:
    return HttpClient(HttpOptions.model_validate({"url": url, **options}))


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


Serve = Callable[..., HttpPeer]
Program = Callable[[str, str], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    peers: list[HttpPeer] = []

    def start(answer: Answer, context: ssl.SSLContext | None = None) -> HttpPeer:
        peers.append(HttpPeer(answer, context).__enter__())
        return peers[-1]

    yield start
    for peer in peers:
        peer.stop()


def test_request_has_token_headers_and_path(serve: Serve, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    peer = serve(lambda _: reply("found", etag='"1"'))
    client = client_of(peer.url, **{"token-file": str(token)}, headers={"X-Team": "a"})
    answer = client.get("/vms/a%20b?x=1", {"if-none-match": '"0"'})
    assert (answer.status, answer.body, answer.headers["ETag"]) == (200, b"found", '"1"')
    (asked,) = peer.asked
    assert (asked.method, asked.target) == ("GET", "/vms/a%20b?x=1")
    expected = {"authorization": "Bearer first", "x-team": "a", "if-none-match": '"0"'}
    assert expected.items() <= asked.headers.items()
    assert asked.headers["accept-encoding"] == "identity"


def test_token_file_that_changed_is_read_again(serve: Serve, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    peer = serve(lambda _: reply(""))
    client = client_of(peer.url, token_file=str(token))
    client.get("/")
    (tmp_path / "new").write_text("second")
    (tmp_path / "new").rename(token)
    client.get("/")
    assert [asked.headers["authorization"] for asked in peer.asked] == [
        "Bearer first",
        "Bearer second",
    ]


def test_password_in_address_is_sent_as_basic_and_never_shown(serve: Serve) -> None:
    peer = serve(lambda _: reply("", "503 no"))
    client = client_of(peer.url.replace("://", "://us%40er:pass%3Aword@"))
    error = client.status_error(client.get("/x?key=hidden").status)
    assert peer.asked[0].headers["authorization"] == "Basic dXNAZXI6cGFzczp3b3Jk"
    assert str(error) == f"{peer.url}: found the HTTP status 503"


def test_connections_are_used_again_by_threads(serve: Serve) -> None:
    peer = serve(lambda _: reply("x" * 100_000))
    client = client_of(peer.url)
    for _ in range(20):
        client.get("/")
    assert peer.connections == 1
    threads = [threading.Thread(target=client.get, args=["/"]) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(peer.asked) == 40
    assert peer.connections <= 21


def test_kept_connection_that_was_closed_is_made_again(serve: Serve) -> None:
    def answer(asked: Asked) -> Iterator[bytes] | None:
        return iter(reply("found")) if asked.target == "/" else None

    peer = serve(answer)
    client = client_of(peer.url)
    client.get("/")
    peer.stop()
    peer.start()
    assert client.get("/").body == b"found"
    with pytest.raises(ServerError, match="closed the connection"):
        client.get("/cut")
    assert len([1 for asked in peer.asked if asked.target == "/cut"]) == 2


BROKEN = {
    "refused redirect": (reply("", "302 Found", location="http://h/s3cret"), 302),
    "not found": (reply("no", "404 Not Found"), 404),
    "not modified": ([b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n"], 304),
    "chunked": ([CHUNKED, chunk(b"ab"), chunk(b"c"), b"0\r\n\r\n"], 200),
}


@pytest.mark.parametrize("case", BROKEN)
def test_answer_of_any_status_is_returned(case: str, serve: Serve) -> None:
    pieces, status = BROKEN[case]
    client = client_of(serve(lambda _: pieces).url)
    assert client.get("/").status == status
    assert client.get("/").status == status  # its connection is in order


UNUSABLE = {
    "no length": ([b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nmetadata: {}"], "has no length"),
    "two lengths": ([b"HTTP/1.1 200 OK\r\ncontent-length: 3, 5\r\n\r\nabcde"], "not HTTP"),
    "unknown framing": (
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", chunk(b"a")],
        "has no length",
    ),
    "cut off": ([b"HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\nmetadata: {}"], "closed the conn"),
    "chunks cut off": ([CHUNKED, chunk(b"metadata: {}")], "closed the connection"),
    "compressed": (reply(gzip.compress(b"0" * 9999), content_encoding="gzip"), "is compressed"),
    "announced too large": ([b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n"], "more than"),
    "no HTTP": ([b"SSH-2.0-OpenSSH s3cret\r\n"], "not HTTP"),
    "endless status line": (repeat(b"HTTP/1.1 200 " + b"s3cret" * 10_000), "not HTTP"),
    "endless header fields": ([b"HTTP/1.1 200 OK\r\n", *[b"a: s3cret\r\n"] * 500], "not HTTP"),
    "endless body": ([CHUNKED, *[chunk(b"s" * 60_000)] * 200], "more than 4,194,304 bytes"),
    "wrong chunk": ([CHUNKED, b"s3cret\r\n"], "closed the connection"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_answer_that_cannot_be_used_is_an_error_without_what_was_sent(
    case: str, serve: Serve
) -> None:
    pieces, reason = UNUSABLE[case]

    def answer(_: Asked) -> Iterator[bytes]:
        yield from pieces
        raise ConnectionError  # close

    peer = serve(answer)
    with pytest.raises(ServerError, match=reason) as caught:
        client_of(peer.url).get("/?password=s3cret")
    assert "s3cret" not in repr(caught.value)
    assert peer.url in str(caught.value)


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=cases(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_an_answer_or_an_http_error(
    serve_once: HttpPeer, junk: bytes, head: bool
) -> None:
    client = client_of(serve_once.url)

    def answer(_: Asked) -> Iterator[bytes]:
        yield (b"HTTP/1.1 200 OK\r\n" if head else b"") + junk
        raise ConnectionError

    serve_once.answer = answer
    with suppress(ServerError):
        client.get("/")


@pytest.fixture
def serve_once(serve: Serve) -> HttpPeer:
    return serve(lambda _: None)


# Time


def slowly(pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        time.sleep(0.02)


SLOW = {
    "says nothing": lambda: slowly(repeat(b"")),
    "head byte by byte": lambda: slowly(repeat(b"H")),
    "header fields for ever": lambda: slowly(iter([b"HTTP/1.1 200 OK\r\n", *[b"a: b\r\n"] * 90])),
    "body byte by byte": lambda: slowly(
        iter([b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n", *[b"x"] * 200])
    ),
    "chunks byte by byte": lambda: slowly(iter([CHUNKED, *[chunk(b"x")] * 200])),
}


@pytest.mark.parametrize("case", SLOW)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_slow_answer_ends_at_the_deadline(
    case: str, scheme: str, serve: Serve, server_context: ssl.SSLContext, tls_pair: Pair
) -> None:
    peer = serve(lambda _: SLOW[case](), server_context if scheme == "https" else None)
    trust = {"ca_file": str(tls_pair.certificate)} if scheme == "https" else {}
    client = client_of(peer.url, **trust)
    begun_s = time.monotonic()
    with pytest.raises(ServerError, match=r"no whole answer within 0\.4 s"):
        client.request("GET", "/", within_s=0.4)
    assert time.monotonic() - begun_s < 3  # the whole answer takes 4 s


def test_server_that_does_not_accept_is_left_at_the_deadline(
    constants: Constants,
) -> None:
    constants(drivers__stores__httpclient__CONNECT_S=0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        filling = [socket.socket() for _ in range(4)]  # the backlog is full
        for one in filling:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        begun_s = time.monotonic()
        with pytest.raises(ServerError, match=r"no connection within 0\.2 s"):
            client_of(f"http://127.0.0.1:{port}").get("/")
        assert 0.35 < time.monotonic() - begun_s < 10  # two attempts
        for one in filling:
            one.close()


def test_refused_connection_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ServerError, match=f"http://127.0.0.1:{port}: connection refused"):
        client_of(f"http://127.0.0.1:{port}").get("/")


def test_after_a_timeout_kept_connections_are_not_used_again(serve: Serve) -> None:
    is_hung = threading.Event()

    def answer(_: Asked) -> Iterator[bytes]:
        if is_hung.is_set():
            return slowly(repeat(b""))
        return iter(reply("x"))

    peer = serve(answer)
    client = client_of(peer.url)
    client.get("/")
    is_hung.set()
    with pytest.raises(ServerError):
        client.request("GET", "/", within_s=0.2)
    is_hung.clear()
    assert client.get("/").body == b"x"
    assert peer.connections == 2


# TLS


@pytest.fixture(scope="module")
def server_context(tls_pair: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls_pair.certificate, tls_pair.key)
    return context


@pytest.fixture(scope="module")
def tls_pair(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(program("openssl", "openssl"), tmp_path_factory.mktemp("tls"), "localhost")


@pytest.fixture(scope="module")
def other_pair(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(program("openssl", "openssl"), tmp_path_factory.mktemp("tls"), "elsewhere")


def test_tls_server_of_the_ca_file_is_trusted(
    serve: Serve, server_context: ssl.SSLContext, tls_pair: Pair
) -> None:
    peer = serve(lambda _: reply("found" * 10_000), server_context)
    client = client_of(peer.url, **{"ca-file": str(tls_pair.certificate)})
    assert client.get("/").body == client.get("/").body == b"found" * 10_000
    assert peer.connections == 1


def test_tls_server_that_is_not_trusted_is_refused(
    serve: Serve, server_context: ssl.SSLContext, tls_pair: Pair, other_pair: Pair
) -> None:
    peer = serve(lambda _: reply(""), server_context)
    with pytest.raises(ServerError, match="certificate is not trusted: self-signed certificate"):
        client_of(peer.url).get("/")
    with pytest.raises(ServerError, match="certificate is not trusted"):
        client_of(peer.url, ca_file=str(other_pair.certificate)).get("/")
    by_address = peer.url.replace("localhost", "127.0.0.1")
    with pytest.raises(ServerError, match=r"not trusted: IP address mismatch"):
        client_of(by_address, ca_file=str(tls_pair.certificate)).get("/")
    assert peer.asked == []


def test_client_certificate_is_sent_and_missed(
    serve: Serve, tls_pair: Pair, other_pair: Pair
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=other_pair.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(tls_pair.certificate, tls_pair.key)
    peer = serve(lambda _: reply("found"), context)
    trust = {"ca-file": str(tls_pair.certificate)}
    own = {"client-certificate-file": str(other_pair.certificate)}
    own |= {"client-key-file": str(other_pair.key)}
    assert client_of(peer.url, **trust, **own).get("/").body == b"found"
    with pytest.raises(ServerError, match=r"TLS fails|closed the connection|reset"):
        client_of(peer.url, **trust).get("/")


def test_plain_server_under_https_is_an_error(serve: Serve, tls_pair: Pair) -> None:
    peer = serve(lambda _: reply(""))
    url = peer.url.replace("http://127.0.0.1", "https://localhost")
    # A ClientHello is random: a server may find the end of a line in it, or wait for one.
    with pytest.raises(ServerError, match=r"TLS fails|closed the connection|no whole answer"):
        client_of(url, ca_file=str(tls_pair.certificate)).get("/")


def test_ca_file_that_changed_is_read_again(
    serve: Serve, server_context: ssl.SSLContext, tls_pair: Pair, other_pair: Pair, tmp_path: Path
) -> None:
    peer = serve(lambda _: reply("found"), server_context)
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(other_pair.certificate.read_bytes())
    client = client_of(peer.url, ca_file=str(ca_file))
    with pytest.raises(ServerError, match="not trusted"):
        client.get("/")
    ca_file.write_bytes(other_pair.certificate.read_bytes() + tls_pair.certificate.read_bytes())
    assert client.get("/").body == b"found"


# Streams


def lines_of(client: HttpClient, silence_s: float = 60.0) -> Iterator[bytes]:
    with client.stream("POST", "/watch", body=b"{}", max_line_bytes=100, silence_s=silence_s) as it:
        yield from it


def test_stream_gives_lines_as_they_come(serve: Serve) -> None:
    more = threading.Event()

    def answer(_: Asked) -> Iterator[bytes]:
        yield CHUNKED
        yield chunk(b"on")
        yield chunk(b"e\ntwo\nth")
        more.wait(60)
        yield chunk(b"ree\n")
        yield b"0\r\n\r\n"

    lines = lines_of(client_of(serve(answer).url))
    assert [next(lines), next(lines)] == [b"one", b"two"]
    more.set()
    assert next(lines) == b"three"
    with pytest.raises(ServerError, match="has ended"):
        next(lines)


STREAMS = {
    "long line": ([chunk(b"x" * 150)], r"a line .* more than 100 bytes"),
    "long line with an end": ([chunk(b"x" * 150 + b"\n")], r"a line .* more than 100 bytes"),
    "silence": ([chunk(b"a\n")], r"no whole answer within 0\.2 s"),
    "line byte by byte": ([chunk(b"x")] * 90, r"no whole answer within 0\.2 s"),
}


@pytest.mark.parametrize("case", STREAMS)
def test_stream_is_bounded_in_bytes_and_time(case: str, serve: Serve) -> None:
    pieces, reason = STREAMS[case]
    ended = threading.Event()

    def answer(_: Asked) -> Iterator[bytes]:
        yield CHUNKED
        yield from slowly(iter(pieces))
        ended.wait(60)

    begun_s = time.monotonic()
    with pytest.raises(ServerError, match=reason):
        list(lines_of(client_of(serve(answer).url), silence_s=0.2))
    ended.set()
    assert time.monotonic() - begun_s < 5


def test_stream_of_another_status_is_an_error(serve: Serve) -> None:
    client = client_of(serve(lambda _: reply("", "403 Forbidden")).url)
    with pytest.raises(ServerError, match="status 403: check the token"):
        list(lines_of(client))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_close_ends_a_stream(
    scheme: str, serve: Serve, server_context: ssl.SSLContext, tls_pair: Pair
) -> None:
    answer = lambda _: iter([CHUNKED, chunk(b"one\n")])  # noqa: E731
    peer = serve(answer, server_context if scheme == "https" else None)
    client = client_of(
        peer.url, **({"ca_file": str(tls_pair.certificate)} if scheme == "https" else {})
    )
    heard: list[bytes | str] = []

    def hear() -> None:
        lines = lines_of(client)
        heard.append(next(lines))
        with pytest.raises(ServerError):
            next(lines)
        heard.append("ended")

    thread = threading.Thread(target=hear, daemon=True)
    thread.start()
    wait_until(lambda: heard)
    client.close()
    wait_until(lambda: len(heard) == 2)
    assert heard == [b"one", "ended"]


# Options

INVALID = {
    "scheme": ({"url": "ftp://host/"}, "url: found 'ftp://host/', expected: http://HOST/PATH or"),
    "no host": ({"url": "https:///vms"}, "url: found 'https:///vms', expected: the name or the IP"),
    "port": ({"url": "http://host:99999/"}, "expected: a valid host and port after ://"),
    "blank": ({"url": "http://host/a b"}, "in ASCII without blanks"),
    "not ASCII": ({"url": "http://hüst/"}, "in ASCII without blanks"),
    "fragment": ({"url": "http://host/a#b"}, "no # in the address"),
    "long": ({"url": "http://host/" + "a" * 3000}, "at most 2000 characters"),
    "unknown": ({"url": "http://h", "token-fil": "/t"}, "token-fil"),
    "twice": ({"url": "http://h", "token-file": "/t", "token_file": "/t"}, "is set twice"),
    "relative": ({"url": "http://h", "token-file": "token"}, "token_file: .*the absolute path"),
    "missing token": ({"url": "http://h", "token-file": "/nope"}, "token-file: /nope: No such"),
    "CA of http": ({"url": "http://h", "ca-file": "/nope"}, "https:// in url, since ca-file"),
    "no CA": ({"url": "https://h", "ca-file": "/nope"}, "ca-file: /nope: No such file"),
    "no PEM": ({"url": "https://h", "ca-file": __file__}, "ca-file: .* has no certificates in PEM"),
    "key alone": ({"url": "https://h", "client-key-file": "/k"}, "client-certificate-file with"),
    "no key": (
        {"url": "https://h", "client-certificate-file": __file__},
        "are not a certificate and its key",
    ),
    "two secrets": ({"url": "http://u:p@h", "token-file": "/t"}, "one of these only"),
    "header name": ({"url": "http://h", "headers": {"a b": "c"}}, "names of header fields"),
    "header value": ({"url": "http://h", "headers": {"X": "a\r\nb"}}, "printable ASCII"),
    "our header": ({"url": "http://h", "headers": {"Host": "b"}}, "which the client itself"),
    "same header": ({"url": "http://h", "headers": {"X": "b", "x": "c"}}, "each header field once"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_options_are_refused(case: str) -> None:
    options, reason = INVALID[case]
    with pytest.raises(DriverError, match=reason):
        HttpClient(driveroptions.checked(HttpOptions, options))


@pytest.mark.parametrize(
    ("options", "secret"),
    [
        ({"url": "http://h", "headers": {"X-Team": "s3cret\n"}}, "s3cret"),
        ({"url": "http://user:s3cret@h:x/"}, "s3cret"),
        ({"url": "http://user:s3cret@h", "token-file": "/t"}, "s3cret"),
    ],
)
def test_errors_of_options_show_no_secret(options: dict[str, object], secret: str) -> None:
    with pytest.raises(DriverError) as caught:
        driveroptions.checked(HttpOptions, options)
    assert secret not in str(caught.value)


def test_token_with_other_bytes_is_refused(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\r\nX-Other: a")
    with pytest.raises(DriverError, match="must have one line with the token") as caught:
        client_of("http://h", token_file=str(token))
    assert "s3cret" not in str(caught.value)


def test_encrypted_key_is_refused_without_a_question(program: Program, tmp_path: Path) -> None:
    pair = make_pair(program("openssl", "openssl"), tmp_path, "own", "password")
    options = {"client_certificate_file": str(pair.certificate), "client_key_file": str(pair.key)}
    with pytest.raises(DriverError, match="the key is encrypted"):
        client_of("https://h", **options)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://cmdb/vms?x", "https://cmdb"),
        ("https://u:p@cmdb:443", "https://cmdb"),
        ("http://[::1]:8080/x", "http://[::1]:8080"),
        ("http://10.0.0.1:443", "http://10.0.0.1:443"),
    ],
)
def test_origin_is_shown_without_the_rest(url: str, shown: str) -> None:
    origin, target = parsed(url)
    assert str(origin) == shown
    assert target.startswith("/")
