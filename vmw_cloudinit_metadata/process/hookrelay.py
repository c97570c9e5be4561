"""HookRelay: gives a webhook to all workers, and waits for what each says of it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from gevent.event import Event

from vmw_cloudinit_metadata.process import channel
from vmw_cloudinit_metadata.protocol import webhook
from vmw_cloudinit_metadata.protocol.webhook import Taken, Webhook

# It must not count as taken unless it was taken everywhere.
NOT_CONFIRMED = Taken(webhook.FAILED, "not all workers have confirmed it: send it again")


class Recipient(Protocol):
    """A worker."""

    pid: int
    is_ready: bool

    def send(self, message: bytes) -> bool: ...


@dataclass(slots=True)
class _Asked:
    """A webhook, and the workers that have not answered."""

    missing: set[int]  # process ids
    found: list[Taken] = field(default_factory=list)
    is_over: Event = field(default_factory=Event)


class HookRelay:
    """Belongs to the parent. A worker that is not ready gets webhooks too, and is not waited for:
    it reads them before it serves a VM."""

    def __init__(self, workers: Callable[[], Collection[Recipient]]) -> None:
        self._workers = workers
        self._number = 0
        self._asked: dict[int, _Asked] = {}

    def give(self, hook: Webhook) -> Taken:
        """Send a webhook to all workers; wait, in a greenlet of the caller, for the ready ones."""
        workers = self._workers()
        self._number += 1
        number, message = self._number, channel.of_hook(self._number, hook)
        asked = self._asked[number] = _Asked({one.pid for one in workers if one.is_ready})
        try:
            are_sent = [one.send(message) for one in workers]
            if asked.missing and all(are_sent):
                asked.is_over.wait(webhook.ANSWER_S)
            if asked.missing or not asked.found or not all(are_sent):
                return NOT_CONFIRMED
            return max(asked.found, key=lambda one: one.status)
        finally:
            del self._asked[number]

    def take(self, pid: int, number: int, taken: Taken) -> None:
        """Take a worker's answer; one that came too late is of no interest."""
        asked = self._asked.get(number)
        if asked and pid in asked.missing:
            asked.missing.discard(pid)
            asked.found.append(taken)
            if not asked.missing:
                asked.is_over.set()
