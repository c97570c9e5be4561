"""HttpClient: requests to one server, within limits of time and bytes. Blocks; thread-safe.

All that a request takes has one deadline: to connect, to read, and one attempt more. No redirect is
followed, and nothing is decompressed. Errors name the server without path, query, user and
password, and quote nothing that it sent.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException

from urllib3 import HTTPConnectionPool, HTTPHeaderDict, HTTPSConnectionPool, Timeout
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
)
from urllib3.response import BaseHTTPResponse

from vmw_cloudinit_metadata.drivers.content.layer import MAX_FILE_BYTES
from vmw_cloudinit_metadata.drivers.stores import httpfiles
from vmw_cloudinit_metadata.drivers.stores.httperrors import (
    ServerError as ServerError,  # users of the client may take it from here
)
from vmw_cloudinit_metadata.drivers.stores.httperrors import SilenceError, TooLongError
from vmw_cloudinit_metadata.drivers.stores.httpoptions import REQUEST_S, HttpOptions, parsed
from vmw_cloudinit_metadata.drivers.stores.timedconnection import (
    TimedPlainConnection,
    TimedTlsConnection,
)
from vmw_cloudinit_metadata.process.timedsocket import TimedSocket, TimedTlsSocket

CONNECT_S = 1.0  # of it, for one attempt, with the handshake of TLS
RETRY_S = 0.1  # with less left, there is no other attempt
MAX_BODY_BYTES = MAX_FILE_BYTES
MAX_CONNECTIONS = 32  # requests at the same time

_PIECE_BYTES = 64 * 1024

# It would log addresses, and what a server sends.
logging.getLogger("urllib3.connection").addFilter(lambda _: False)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    status: int
    headers: HTTPHeaderDict  # names in any case
    body: bytes


@dataclass(frozen=True, slots=True)
class _Session:
    """What is made of the files that the options name, until one of them changes."""

    files: tuple[object, ...]
    pool: HTTPConnectionPool
    headers: Mapping[str, str]


class HttpClient:
    """Connections are made by the first request: after a fork, if that is.

    `scheme` is the word before a token in Authorization: `Bearer`, or "" for the token alone.
    """

    def __init__(self, options: HttpOptions, scheme: str = "Bearer") -> None:
        """Raise DriverError if the files of the options cannot be used."""
        self._options = options
        self._scheme = scheme
        self.origin, self.target = parsed(options.url)
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._streams: set[TimedSocket] = set()
        self._new_session()

    def get(self, target: str, headers: Mapping[str, str] | None = None) -> HttpAnswer:
        return self.request("GET", target, headers=headers)

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        max_bytes: int = MAX_BODY_BYTES,
        within_s: float = REQUEST_S,
    ) -> HttpAnswer:
        """Return the answer, of any status; raise ServerError.

        `target` is the path with the query, both percent-encoded. What is asked for is read alone:
        it may be asked for twice.
        """
        end_s = time.monotonic() + within_s
        if not self._free.acquire(timeout=within_s):
            raise self.error(
                f"{MAX_CONNECTIONS} other requests have not ended in {_told(within_s)}"
            )
        try:
            with self._errors(within_s):
                try:
                    return self._answer(method, target, headers, body, max_bytes, end_s)
                except ReadTimeoutError:
                    self._drop_connections()  # they may lead to a server that is gone
                    raise
                except (HTTPError, HTTPException, OSError):
                    if end_s - time.monotonic() < RETRY_S:
                        raise
                return self._answer(method, target, headers, body, max_bytes, end_s)
        finally:
            self._free.release()

    @contextmanager
    def stream(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        max_line_bytes: int,
        silence_s: float,
    ) -> Iterator[Iterator[bytes]]:
        """Ask, and give the lines of the answer as they come, without line feeds.

        Raise ServerError if a line is longer, if none is complete within `silence_s`, at the end of
        the answer, and for any status but 200. `close` ends it, too.
        """
        with self._errors(REQUEST_S):
            end_s = time.monotonic() + REQUEST_S
            response, line = self._opened(method, target, headers, body, end_s)
        with self._lock:
            self._streams.add(line)
        try:
            if response.status != 200:
                raise self.status_error(response.status)
            yield self._lines(response, line, max_line_bytes, silence_s)
        finally:
            with self._lock:
                self._streams.discard(line)
            response.close()

    def error(self, reason: str) -> ServerError:
        return ServerError(f"{self.origin}: {reason}")

    def status_error(self, status: int) -> ServerError:
        """Return what an answer of this status means where it is none of those expected."""
        hint = _HINTS.get(status, "")
        if 300 <= status < 400:
            hint = ": redirects are not followed, so write the address that they lead to in url"
        return self.error(f"found the HTTP status {status}{hint}")

    def close(self) -> None:
        """End all streams, and close the connections that are not in use."""
        with self._lock:
            for line in self._streams:
                with suppress(OSError):
                    socket.socket.shutdown(line, socket.SHUT_RDWR)  # TLS's own could not be read
        self._drop_connections()

    def _answer(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        max_bytes: int,
        end_s: float,
    ) -> HttpAnswer:
        response, _ = self._opened(method, target, headers, body, end_s)
        try:
            content = self._content(response, max_bytes)
        except BaseException:  # what is left of the answer is not read
            response.close()
            raise
        response.release_conn()
        return HttpAnswer(response.status, response.headers, content)

    def _opened(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        end_s: float,
    ) -> tuple[BaseHTTPResponse, TimedSocket]:
        """Return an answer of which nothing but the head was read, and its connection's socket."""
        session = self._present_session()
        left_s = max(end_s - time.monotonic(), RETRY_S)
        response = session.pool.urlopen(
            method,
            target,
            body=body,
            headers={**session.headers, **(headers or {})},
            retries=False,
            redirect=False,
            timeout=Timeout(total=left_s, connect=min(CONNECT_S, left_s)),
            preload_content=False,
            decode_content=False,
        )
        connection = response.connection
        assert isinstance(connection, TimedPlainConnection | TimedTlsConnection)
        return response, connection.line

    def _content(self, response: BaseHTTPResponse, max_bytes: int) -> bytes:
        framing = response.headers.get("transfer-encoding", "chunked").lower()
        length = getattr(response, "length_remaining", None)
        if framing != "chunked" or (length is None and not response.chunked):
            raise self.error(
                "its answer has no length, so nobody sees whether it is whole: it must send "
                "Content-Length, or Transfer-Encoding: chunked"
            )
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise self.error("its answer is compressed, which was not asked for")
        content = bytearray()
        if length is not None and length > max_bytes:
            raise self._too_long(max_bytes)
        while len(content) <= max_bytes and (piece := response.read(_PIECE_BYTES)):
            content += piece
        if len(content) > max_bytes:
            raise self._too_long(max_bytes)
        return bytes(content)

    def _lines(
        self, response: BaseHTTPResponse, line: TimedSocket, max_bytes: int, silence_s: float
    ) -> Iterator[bytes]:
        pending = bytearray()
        line.settimeout(silence_s)
        while True:
            with self._errors(silence_s):
                try:
                    piece = response.read1(_PIECE_BYTES)
                except ReadTimeoutError:
                    if pending:
                        raise
                    reason = f"no whole answer within {silence_s:g} s"
                    raise SilenceError(f"{self.origin}: {reason}") from None
            if not piece:
                raise self.error("the answer that tells changes has ended")
            pending += piece
            if b"\n" in piece:
                *whole, pending = pending.split(b"\n")
                for one in whole:
                    if len(one) > max_bytes:
                        raise self._too_long(max_bytes, "a line of its answer")
                    yield bytes(one)
                line.settimeout(silence_s)
            if len(pending) > max_bytes:
                raise self._too_long(max_bytes, "a line of its answer")

    def _too_long(self, max_bytes: int, what: str = "its answer") -> ServerError:
        return TooLongError(f"{self.origin}: {what} has more than {max_bytes:,} bytes")

    @contextmanager
    def _errors(self, within_s: float) -> Iterator[None]:
        """Say in our words what a library raises, which may quote anything."""
        try:
            yield
        except (HTTPError, HTTPException, OSError) as error:
            cause = next((one for one in _chain(error) if isinstance(one, OSError)), None)
            raise self.error(_reason(error, within_s)) from cause

    def _present_session(self) -> _Session:
        session = self._session
        if session is None or session.files != httpfiles.stats(self._options):
            session = self._new_session()
        return session

    def _new_session(self) -> _Session:
        with self._lock:
            files = httpfiles.stats(self._options)  # from before they are read
            if self._session is None or self._session.files != files:
                if self._session:
                    self._session.pool.close()
                given = self._options, self._scheme, self.origin.authorization
                self._session = _Session(files, self._pool(), httpfiles.headers(*given))
            return self._session

    def _drop_connections(self) -> None:
        with self._lock:
            if self._session:
                self._session.pool.close()
            self._session = None

    def _pool(self) -> HTTPConnectionPool:
        host, port = self.origin.host, self.origin.port
        if self.origin.scheme == "http":
            plain = HTTPConnectionPool(host, port, maxsize=MAX_CONNECTIONS)
            plain.ConnectionCls = TimedPlainConnection
            return plain
        context = httpfiles.tls_context(self._options)
        context.sslsocket_class = TimedTlsSocket
        pool = HTTPSConnectionPool(host, port, maxsize=MAX_CONNECTIONS, ssl_context=context)
        pool.ConnectionCls = TimedTlsConnection
        return pool


_HINTS = {
    401: ": check the token or the password",
    403: ": check the token, the password, or the client certificate",
    429: ": it limits the rate of requests",
}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, and those that it was made of."""
    yield error
    inner = [*error.args, error.__cause__]
    for one in inner:
        if isinstance(one, BaseException):
            yield from _chain(one)


def _told(seconds: float) -> str:
    """Return a time as messages have it, which are equal for what happens again."""
    return f"{round(seconds, 1):g} s"


def _reason(error: BaseException, within_s: float) -> str:
    chain = list(_chain(error))
    for one in chain:
        match one:
            case NameResolutionError():
                return "the name of the host cannot be resolved"
            case NewConnectionError():
                break  # its cause has the reason
            case ConnectTimeoutError():
                return f"no connection within {_told(min(CONNECT_S, within_s))}"
            case ReadTimeoutError() | TimeoutError():
                return f"no whole answer within {_told(within_s)}"
            case ssl.SSLCertVerificationError():
                return f"its certificate is not trusted: {one.verify_message}"
            case ssl.SSLError():
                return f"TLS fails: {(one.reason or 'it ended').lower().replace('_', ' ')}"
    for one in chain:
        if isinstance(one, OSError) and one.errno:
            return os.strerror(one.errno).lower()
    return "it closed the connection, or sent what is not HTTP"
