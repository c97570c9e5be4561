"""HookRelay: a webhook is accepted only if each worker that serves has taken it; and Hooks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from threading import Event

import gevent
import pytest

from tests.process import Constants
from vmw_cloudinit_metadata import Driver
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.process import channel
from vmw_cloudinit_metadata.process.hookrelay import NOT_CONFIRMED, HookRelay
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.protocol.webhook import ACCEPTED, FAILED, REFUSED, Taken, Webhook
from vmw_cloudinit_metadata.serving.hooks import BUSY, MAX_UNDER_WAY, Hooks

HOOK = Webhook({}, b"{}")
OK = Taken(ACCEPTED)


class PlayedWorker:
    """Answers at once, if it has an answer."""

    def __init__(self, pid: int, answer: Taken | None, *, is_ready: bool = True) -> None:
        self.pid = pid
        self.is_ready = is_ready
        self.has_room = True
        self.received: list[Webhook] = []
        self._answer = answer
        self.relay: HookRelay | None = None

    def send(self, message: bytes) -> bool:
        if not self.has_room:
            return False
        number, hook = channel.decode_hook(message)
        self.received.append(hook)
        if self._answer and self.relay:
            self.relay.take(self.pid, number, self._answer)
        return True


def given_to(*workers: PlayedWorker) -> Taken:
    relay = HookRelay(lambda: workers)
    for worker in workers:
        worker.relay = relay
    return relay.give(HOOK)


@pytest.fixture
def impatient(constants: Constants) -> None:
    constants(protocol__webhook__ANSWER_S=0.01)


def test_all_workers_that_are_ready_must_have_taken_it() -> None:
    workers = [PlayedWorker(pid, OK) for pid in (1, 2)]
    assert given_to(*workers) == OK
    assert [worker.received for worker in workers] == [[HOOK], [HOOK]]


def test_worker_that_starts_gets_it_too_and_is_not_waited_for() -> None:
    starting = PlayedWorker(2, None, is_ready=False)
    assert given_to(PlayedWorker(1, OK), starting) == OK
    assert starting.received == [HOOK]


def test_worst_outcome_counts() -> None:
    refused = Taken(REFUSED, "the signature is wrong")
    assert given_to(PlayedWorker(1, OK), PlayedWorker(2, refused), PlayedWorker(3, OK)) == refused
    failed = Taken(FAILED, "KeyError")
    assert given_to(PlayedWorker(1, refused), PlayedWorker(2, failed)) == failed


@pytest.mark.usefixtures("impatient")
def test_worker_that_ends_without_an_answer_has_not_confirmed_it() -> None:
    assert given_to(PlayedWorker(1, OK), PlayedWorker(2, None)) == NOT_CONFIRMED


def test_webhook_while_no_worker_is_ready_is_not_confirmed() -> None:
    assert given_to() == NOT_CONFIRMED
    assert given_to(PlayedWorker(1, None, is_ready=False)) == NOT_CONFIRMED


@pytest.mark.parametrize("is_ready", [True, False])
def test_worker_without_room_has_not_confirmed_it(is_ready: bool) -> None:
    full = PlayedWorker(2, OK, is_ready=is_ready)
    full.has_room = False
    assert given_to(PlayedWorker(1, OK), full) == NOT_CONFIRMED


class SlowToHear(Driver):
    """Takes no webhook before `may_go_on` is set."""

    def __init__(self) -> None:
        super().__init__({})
        self.may_go_on = Event()

    def get_instance(self, machine: Machine) -> InstanceData | None:  # noqa: ARG002
        return None

    def hook(self, webhook: Webhook) -> None:  # noqa: ARG002
        self.may_go_on.wait(60)


@pytest.fixture
def slow() -> Iterator[SlowToHear]:
    driver = SlowToHear()
    yield driver
    driver.may_go_on.set()


def test_webhooks_of_a_driver_that_hangs_take_a_bounded_number_of_threads(
    slow: SlowToHear,
) -> None:
    with closing(Hooks(slow)) as hooks:
        found: list[Taken] = []
        for _ in range(MAX_UNDER_WAY):
            hooks.ask(HOOK, found.append)
        assert not found
        refused: list[Taken] = []
        hooks.ask(HOOK, refused.append)
        assert refused == [BUSY]
        slow.may_go_on.set()
        end_s = time.monotonic() + 60
        while len(found) < MAX_UNDER_WAY and time.monotonic() < end_s:
            gevent.sleep(0.001)
        assert found == [OK] * MAX_UNDER_WAY
        assert hooks.give(HOOK) == OK
