"""Responses of the admin port, and the headers that all of them have."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import ujson

_HEADERS = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes | Generator[bytes, None, None]
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def line(self) -> str:
        return f"{self.status} {HTTPStatus(self.status).phrase}"

    @property
    def all_headers(self) -> list[tuple[str, str]]:
        return [("Content-Type", self.kind), *_HEADERS, *self.headers]


def refusal(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """Return an error response of the API."""
    return Response(status, dumped({"error": text}), headers=headers)


def dumped(body: Any) -> bytes:
    return ujson.dumps(body, escape_forward_slashes=False).encode()


def json_response(status: int, body: Any) -> Response:
    return Response(status, dumped(body))


def text_response(status: int, text: str) -> Response:
    return Response(status, f"{text}\n".encode(), "text/plain; charset=utf-8")
