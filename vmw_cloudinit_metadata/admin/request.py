"""Parses the head of an HTTP/1.1 request (RFC 9112), stricter than the RFC. Pure.

A proxy in front and this port must agree where a request ends. So whatever two parsers could read
in two ways is rejected: a name with a space behind it, a tab, a folded line, a lone CR or LF, a
second length. Only a webhook has a body, of `body_bytes`, which the caller reads; nothing is read
after an invalid request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from vmw_cloudinit_metadata.protocol.webhook import MAX_BODY_BYTES, PATH

MAX_HEAD_BYTES = 16 * 1024
MAX_HEADERS = 100


_END = b"\r\n\r\n"

# Whatever comes later, this cannot become a request.
_NEVER = re.compile(rb"(?<!\r)\n|\r[^\n]|[\x00-\x08\x09\x0b\x0c\x0e-\x1f\x7f]")

_REQUEST_LINE = re.compile(rb"([A-Z]{1,32}) (/[\x21\x22\x24-\x7e]*) HTTP/1\.([01])")  # no "#"
_LENGTH = re.compile("[0-9]{1,9}")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\x20-\x7e\x80-\xff]*)")

# Headers that decide where a request ends, or for which host it is, in all spellings.
_DECISIVE = ("host", "content-length", "transfer-encoding", "connection", "authorization")


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str  # as it was sent, with its escapes
    query: str
    headers: Mapping[str, str]  # by names in lower case
    is_last: bool  # close the connection after the answer
    is_1_0: bool = False  # knows no chunks
    body_bytes: int = 0  # that follow
    body: bytes = b""

    @property
    def is_head(self) -> bool:
        return self.method == "HEAD"


@dataclass(frozen=True, slots=True)
class BadRequest:
    """An invalid request: nothing that follows on the connection can be parsed."""

    reason: str
    is_head: bool = False
    status: int = 400


def read(data: bytes, known: int = 0) -> tuple[Request | BadRequest, bytes] | None:
    """Return the first request in the received bytes, and the rest; None if it is incomplete.

    Nothing follows an invalid request. The first `known` bytes were seen before, so that calls for
    single bytes take linear time.
    """
    end = data.find(_END, max(known - len(_END), 0))
    size = len(data) if end < 0 else end
    if _NEVER.search(data, max(known - 1, 0), size):
        return _bad(data, "a control character, or CR or LF by itself"), b""
    if size > MAX_HEAD_BYTES:
        return _bad(data, f"more than {MAX_HEAD_BYTES} bytes of header"), b""
    if end < 0:
        return None
    line, *lines = data[:end].split(b"\r\n")
    asked = _request(data, line, lines)
    return asked, b"" if isinstance(asked, BadRequest) else data[end + len(_END) :]


def _request(data: bytes, line: bytes, lines: list[bytes]) -> Request | BadRequest:
    found = _REQUEST_LINE.fullmatch(line)
    if not found:
        return _bad(data, "the first line is not METHOD /path HTTP/1.1")
    if len(lines) > MAX_HEADERS:
        return _bad(data, f"more than {MAX_HEADERS} headers")
    headers = _headers(lines)
    if isinstance(headers, str):
        return _bad(data, headers)
    is_1_0 = found[3] == b"0"
    if "host" not in headers and not is_1_0:
        return _bad(data, "no Host")
    path, _, query = found[2].decode("ascii").partition("?")
    is_hook = (found[1], path) == (b"POST", PATH)
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers or (length != "0" and not is_hook):
        return _bad(data, "a request with a body")
    if not _LENGTH.fullmatch(length):
        return _bad(data, "a Content-Length that is no number")
    if int(length) > MAX_BODY_BYTES:
        return BadRequest(f"a body of more than {MAX_BODY_BYTES} bytes", status=413)
    options = headers.get("connection", "").lower().replace(" ", "").split(",")
    is_last = is_1_0 or "close" in options
    return Request(found[1].decode("ascii"), path, query, headers, is_last, is_1_0, int(length))


def _headers(lines: list[bytes]) -> dict[str, str] | str:
    """Return all headers, or what is wrong with them. The last of two equal names counts, unless a
    name decides how the request is read."""
    headers: dict[str, str] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if not found:
            return "a header that is not Name: value"
        name = found[1].decode("ascii").lower()
        meant = name.replace("_", "-")
        if meant in _DECISIVE and (name != meant or name in headers):
            return f"{meant} twice, or with an underscore"
        headers[name] = found[2].decode("latin-1").strip(" ")
    return headers


def _bad(data: bytes, reason: str) -> BadRequest:
    return BadRequest(reason, data.startswith(b"HEAD "))
