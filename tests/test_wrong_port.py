"""`client fetch` at a port where no metadata server is, and with wrong names of documents."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.certificates import make_pair
from tests.process import ServerProcess, run
from tests.waiting import LIMIT_S
from vmw_cloudinit_metadata.client.expectation import VmFailure

OPTIONS = ("--uri", "my-metadata")
Reply = Callable[[socket.socket], None]


@contextmanager
def listening(reply: Reply) -> Iterator[int]:
    """A server that handles each connection in a thread; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=handle, args=(sock,), daemon=True).start()

    def handle(sock: socket.socket) -> None:
        try:
            reply(sock)
        except OSError:
            pass
        finally:
            sock.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def fetched(port: int, *options: str) -> tuple[str, float]:
    begun_s = time.monotonic()
    ended = run("client", "fetch", "web1", "--server", f"127.0.0.1:{port}", *OPTIONS, *options)
    assert ended.returncode == 1
    assert not ended.stdout
    (line,) = ended.stderr.splitlines()
    return line, time.monotonic() - begun_s


def says_ssh(sock: socket.socket) -> None:
    sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    sock.recv(100)


def answers_http(sock: socket.socket) -> None:
    """Waits for a whole request, as web servers do."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = sock.recv(1000)
        if not piece:
            return
        received += piece
    sock.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")


def says_nothing(sock: socket.socket) -> None:
    while sock.recv(1000):
        pass


def test_ssh_server_is_recognised_at_once() -> None:
    with listening(says_ssh) as port:
        line, _ = fetched(port)
    assert line == f"'web1': wrong port: 127.0.0.1:{port} is an SSH server"


def test_http_server_that_waits_for_a_request_is_recognised() -> None:
    with listening(answers_http) as port:
        line, took_s = fetched(port)
    assert line.startswith(f"'web1': wrong port: 127.0.0.1:{port} is an HTTP server")
    assert took_s < LIMIT_S / 2  # the limit of fetch is 60 s


def test_admin_port_is_recognised(start: Callable[..., ServerProcess]) -> None:
    server = start("--admin-listen", "127.0.0.1:0")
    line, _ = fetched(int(server.wait_for(r"admin on http://127\.0\.0\.1:(\d+)")[1]))
    assert "is an HTTP server, such as the admin port" in line


@pytest.mark.parametrize("is_web", [True, False], ids=["https", "other"])
@pytest.mark.parametrize("mode", ["none", "telnets"])
def test_tls_server_is_recognised(
    program: Callable[[str, str], str],
    tmp_path_factory: pytest.TempPathFactory,
    is_web: bool,
    mode: str,
) -> None:
    pair = make_pair(program("openssl", "openssl"), tmp_path_factory.mktemp("tls"), "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)

    def reply(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secure:
            (answers_http if is_web else says_nothing)(secure)

    with listening(reply) as port:
        line, _ = fetched(port, "--tls", mode, "--limit", "4")
    if is_web or mode == "none":
        assert line.startswith(f"'web1': wrong port: 127.0.0.1:{port} is a")
        assert ("an HTTP server" in line) == (is_web and "use --tls telnets" not in line)
    else:
        assert "timeout: WILL-PROXY" in line


def test_silent_server_is_waited_for_until_the_limit() -> None:
    with listening(says_nothing) as port:
        line, took_s = fetched(port, "--limit", "3")
    assert line == "'web1': timeout: WILL-PROXY and identity: no response within 3 s"
    assert took_s >= 3


def test_server_without_tls_is_recognised(start: Callable[..., ServerProcess]) -> None:
    line, _ = fetched(start().port, "--tls", "telnets")
    assert line.endswith("is a telnet server without TLS: use --tls none")


def test_port_where_nothing_listens_is_said_once() -> None:
    line, _ = fetched(1)
    assert line == "'web1': connect: 127.0.0.1:1: Connection refused"


@pytest.mark.parametrize(
    ("kind", "message", "text"),
    [
        ("connect: refused", "connect: a: Connection refused", "connect: a: Connection refused"),
        ("TLS", "TLS: EOF", "TLS: EOF"),
        ("error: invalid", "METADATA: no", "error: invalid: METADATA: no"),
    ],
)
def test_text_of_a_failure_has_nothing_twice(kind: str, message: str, text: str) -> None:
    assert VmFailure(kind, message).text == text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("userdata", "'USERDATA'"),
        ("user-data", "'USERDATA'"),
        ("USER_DATA", "'USERDATA'"),
        ("network-config", "one of DIGEST, METADATA"),
        ("metdata", "'METADATA'"),
        ("", "one of"),
        ("META\nDATA", "'METADATA'"),
    ],
)
def test_wrong_name_of_a_document_is_refused_with_the_nearest(name: str, expected: str) -> None:
    ended = run("client", "fetch", "web1", *OPTIONS, "--document", name)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "--document" in line
    assert expected in line
