"""A server of HTTPS for tests, a process of its own: the documents of a directory, with ETags.

python -m tests.servers.documentserver DIRECTORY PORT CERTIFICATE KEY TOKEN CACHE_CONTROL
"""

from __future__ import annotations

import hashlib
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote


class DocumentServer(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def __init__(self, directory: Path, port: int, token: str, cache_control: str) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.directory = directory
        self.authorization = f"Bearer {token}"
        self.cache_control = cache_control

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that has gone


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body together
    server: DocumentServer

    def do_GET(self) -> None:
        if self.headers["Authorization"] != self.server.authorization:
            self._answer(401)
            return
        try:
            content = (self.server.directory / unquote(self.path).removeprefix("/")).read_bytes()
        except OSError:
            self._answer(404)
            return
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        if self.headers["If-None-Match"] == etag:
            self._answer(304, etag=etag)
        else:
            self._answer(200, content, etag)

    def _answer(self, status: int, content: bytes = b"", etag: str = "") -> None:
        self.send_response(status)
        if etag:
            self.send_header("ETag", etag)
        if self.server.cache_control:
            self.send_header("Cache-Control", self.server.cache_control)
        if status != 304:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    directory, port, certificate, key, token, cache_control = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = DocumentServer(Path(directory), int(port), token, cache_control)
    # The handshake is made in the thread of the connection.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    server.serve_forever()


if __name__ == "__main__":
    main()
