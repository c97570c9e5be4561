"""Hooks: gives webhooks to the driver of this process, each in a thread, since it may block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vmw_cloudinit_metadata.drivers import webhook
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.webhook import Taken, Webhook
from vmw_cloudinit_metadata.process.threads import Threads

MAX_UNDER_WAY = 8  # further ones are told to come again

BUSY = Taken(webhook.FAILED, "earlier webhooks are still being taken: send it again")


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
        self._threads.run(
            partial(webhook.taken, self._driver, hook), partial(self._taken, callback)
        )

    def close(self) -> None:
        self._threads.close()

    def _taken(
        self, callback: Callable[[Taken], None], found: Taken | None, error: BaseException | None
    ) -> None:
        self._under_way -= 1
        callback(found or Taken(webhook.FAILED, str(error)))
