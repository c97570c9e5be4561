"""A server of HTTP or HTTPS for tests, in threads: it answers as a test says, also wrongly."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True)
class Asked:
    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    connection: int  # its number


Answer = Callable[[Asked], Iterable[bytes] | None]


def reply(content: bytes | str, status: str = "200 OK", **headers: str) -> list[bytes]:
    """Return a whole answer; `etag='"1"'` is a header field, `_` in its name stands for `-`."""
    body = content.encode() if isinstance(content, str) else content
    fields = {"content-length": str(len(body))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return [f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body]


@dataclass
class HttpPeer:
    """`answer` returns pieces to send; None, or an exception, closes the connection."""

    answer: Answer
    context: ssl.SSLContext | None = None
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> Self:
        self._sockets: set[socket.socket] = set()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, after `stop` at the same port again."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def stop(self) -> None:
        """Close all connections, and refuse others."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in list(self._sockets):
            with suppress(OSError):
                socket.socket.shutdown(line, socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        scheme, host = ("https", "localhost") if self.context else ("http", "127.0.0.1")
        return f"{scheme}://{host}:{self.port}"

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                line, _ = listener.accept()
                self.connections += 1
                serve = threading.Thread(
                    target=self._serve, args=[line, self.connections], daemon=True
                )
                serve.start()

    def _serve(self, line: socket.socket, number: int) -> None:
        with suppress(OSError):
            if self.context:
                line = self.context.wrap_socket(line, server_side=True)
            self._sockets.add(line)
            with line, line.makefile("rb") as reader:
                while asked := _asked(reader, number):
                    self.asked.append(asked)
                    pieces = self.answer(asked)
                    if pieces is None:
                        break
                    for piece in pieces:
                        line.sendall(piece)
        self._sockets.discard(line)


def _asked(reader: socket.SocketIO, number: int) -> Asked | None:
    first = reader.readline().decode("latin-1").split()
    if len(first) != 3:
        return None
    headers = {}
    while line := reader.readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    length = int(headers.get("content-length", 0))
    body = reader.read(length) or b""
    if len(body) < length:  # who asked has gone away
        return None
    return Asked(first[0], first[1], headers, body, number)
