"""Hooks: gives webhooks to the driver of this process, each in a thread, since it may block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gevent.event import AsyncResult

from vmw_cloudinit_metadata.drivers import contract
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.drivererror import (
    DriverError,
    NoWebhooksError,
    WebhookRefusedError,
)
from vmw_cloudinit_metadata.drivers.foreignerrors import hidden
from vmw_cloudinit_metadata.process.threads import Threads
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened
from vmw_cloudinit_metadata.protocol.webhook import (
    ACCEPTED,
    ANSWER_S,
    FAILED,
    INVALID,
    REFUSED,
    UNKNOWN,
    Taken,
    Webhook,
)

MAX_UNDER_WAY = 8  # further ones are told to come again

_MAX_TEXT = 500  # characters
BUSY = Taken(FAILED, "earlier webhooks are still being taken: send it again")


class Hooks:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._threads = Threads()
        self._under_way = 0

    def ask(self, hook: Webhook, callback: Callable[[Taken], None]) -> None:
        """Call `callback`, at once or later, in the hub, with what became of the webhook."""
        if self._under_way >= MAX_UNDER_WAY:
            callback(BUSY)
            return
        self._under_way += 1
        self._threads.run(partial(taken, self._driver, hook), partial(self._taken, callback))

    def give(self, hook: Webhook) -> Taken:
        """Give a webhook to the driver, and wait for it, in a greenlet of the caller."""
        found: AsyncResult[Taken] = AsyncResult()
        self.ask(hook, found.set)
        found.wait(ANSWER_S)
        return found.value or BUSY

    def close(self) -> None:
        self._threads.close()

    def _taken(
        self, callback: Callable[[Taken], None], found: Taken | None, error: BaseException | None
    ) -> None:
        self._under_way -= 1
        callback(found or Taken(FAILED, str(error)))


def taken(driver: Driver, webhook: Webhook) -> Taken:
    """Give the webhook to the driver, in this thread, and return what became of it."""
    try:
        contract.run(driver, "hook", webhook)
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


def _text_of(driver: Driver, error: BaseException) -> str:
    text = str(error) if isinstance(error, DriverError) else type(error).__name__
    return one_line(shortened(hidden(driver, text), _MAX_TEXT))
