"""Webhook: what a source of data sends to the admin port to tell changes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PATH = "/hooks/changes"
MAX_BODY_BYTES = 96 * 1024
MAX_HEADERS = 20
MAX_HEADER_CHARACTERS = 512
ANSWER_S = 3.0  # for all workers

ACCEPTED, INVALID, REFUSED, UNKNOWN, FAILED = 200, 400, 403, 404, 503  # the status of the answer


@dataclass(frozen=True, slots=True)
class Webhook:
    """`headers` are those that begin with `x-`, by names in lower case."""

    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a webhook, as a status of HTTP, and why."""

    status: int
    text: str = ""


def signing_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return those headers of a request that a signature may be in, within limits."""
    found = {
        name: value
        for name, value in headers.items()
        if name.startswith("x-")
        and value.isascii()
        and len(name) + len(value) <= MAX_HEADER_CHARACTERS
    }
    return dict(list(found.items())[:MAX_HEADERS])
