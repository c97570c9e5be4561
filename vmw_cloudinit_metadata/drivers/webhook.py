"""Webhook: what a source of data sends to the admin port to tell changes. Pure.

A driver's `hook` checks who sent it, and takes what it tells; `taken` says what became of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened
from vmw_cloudinit_metadata.settings.knownsecrets import KnownSecrets

MAX_BODY_BYTES = 96 * 1024
MAX_HEADERS = 20
MAX_HEADER_CHARACTERS = 512
ANSWER_S = 3.0  # for all workers

ACCEPTED, INVALID, REFUSED, UNKNOWN, FAILED = 200, 400, 403, 404, 503  # the status of the answer

_MAX_TEXT = 500


class WebhookRefusedError(DriverError):
    """The webhook is not signed with the key: nothing of it is taken."""


class NoWebhooksError(DriverError):
    """The driver takes no webhooks."""


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


class TakesWebhooks(Protocol):
    known_secrets: KnownSecrets

    def hook(self, webhook: Webhook) -> None: ...


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


def taken(driver: TakesWebhooks, webhook: Webhook) -> Taken:
    """Give the webhook to the driver, in this thread, and return what became of it."""
    try:
        driver.hook(webhook)
    except BaseException as error:  # a driver is foreign code, and asyncio's are no Exception
        return Taken(_status_of(error), _text_of(driver, error))
    return Taken(ACCEPTED)


def _status_of(error: BaseException) -> int:
    match error:
        case WebhookRefusedError():
            return REFUSED
        case NoWebhooksError():
            return UNKNOWN
        case DriverError():
            return INVALID
        case _:
            return FAILED


def _text_of(driver: TakesWebhooks, error: BaseException) -> str:
    text = str(error) if isinstance(error, DriverError) else type(error).__name__
    return one_line(shortened(driver.known_secrets.hide(text), _MAX_TEXT))
