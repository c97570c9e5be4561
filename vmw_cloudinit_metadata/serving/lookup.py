"""Lookup: finds a machine's answer, in the cache or by the driver.

Answers are cached as ready packets for as long as the driver confirms them (recheck.py), or for its
`cache_ttl`. If it fails, `stale_if_error` lets a VM have its last answer. Callbacks run in the hub
and must not block.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Hashable
from dataclasses import replace
from functools import partial
from typing import Any

import gevent
from cachetools import TTLCache
from gevent.event import Event

from vmw_cloudinit_metadata.drivers import contract
from vmw_cloudinit_metadata.drivers.answers.lastgood import served_because
from vmw_cloudinit_metadata.drivers.driver import Driver, Work
from vmw_cloudinit_metadata.drivers.driveroptions import seconds
from vmw_cloudinit_metadata.process.budget import Budget, Fixed
from vmw_cloudinit_metadata.process.threads import Threads
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import (
    BY_TIME,
    Answer,
    Failure,
    Outcome,
    document_names,
    failure_behind,
    look_up,
    outdated,
)
from vmw_cloudinit_metadata.serving.answerregister import ALONE, WorkerRegister
from vmw_cloudinit_metadata.serving.cachedanswers import KEPT_BYTES, CachedAnswers
from vmw_cloudinit_metadata.serving.driverlog import log_error, log_sentence
from vmw_cloudinit_metadata.serving.lookuppool import LookupPool
from vmw_cloudinit_metadata.serving.ondisk.answersondisk import AnswersOnDisk
from vmw_cloudinit_metadata.serving.preparedlookup import PreparedLookup
from vmw_cloudinit_metadata.serving.recheck import FRESH_S, NEVER_S, OVERDUE_S, Recheck

log = logging.getLogger(__name__)

# Within this time a failure is repeated without asking the driver. For a VM that asks without a
# pause the time doubles up to the longest: look-ups in threads would slow the answers of others.
_REPEATED_S = 0.005
_LONGEST_S = 0.1
_MAX_FAILURES = 64  # names and reasons are cut: 2 MiB at most
# Within this time the last good answer is given again without asking the driver, which failed: a
# guest's further documents wait for nothing.
_UNREACHABLE_S = 1.0
_CLOSE_S = 2.0  # for the driver's `close`

_SILENT = "the driver does not answer: its files or other data source may be out of reach"


class Lookup:
    """Looks up answers for machines. Belongs to the thread of its hub; only the driver runs
    elsewhere."""

    def __init__(
        self,
        driver: Driver,
        pool_size: int,
        run_timeout_s: float,
        budget: Budget,
        on_disk: AnswersOnDisk | None = None,
        register: WorkerRegister = ALONE,
    ) -> None:
        self._driver = driver
        self._threads = Threads()
        self._pool = LookupPool(self._threads, pool_size, run_timeout_s, budget)
        budget.add("look-ups waiting", self._pool)
        budget.add("look-ups running", Fixed(lambda: self._pool.running_bytes))
        self._recheck = Recheck(driver, min(OVERDUE_S, run_timeout_s))
        self._names: frozenset[str] = frozenset()  # of documents, as the driver returned them
        self._cached = CachedAnswers()
        self.prepared = PreparedLookup(driver, budget)
        budget.add("kept answers", self._cached)
        self._cache_ttl_s = seconds("cache_ttl", driver.cache_ttl)
        self._stale_s = seconds("stale_if_error", driver.stale_if_error or 0)
        self._on_disk = on_disk
        self._register = register
        self._has_others = register is not ALONE
        if self._has_others:
            budget.add("answer register", Fixed(lambda: register.kept_bytes))
        # A pool of its own: a driver that hangs may hold all places of the other one.
        self._reads = LookupPool(self._threads, pool_size, run_timeout_s, budget, "the disk")
        if on_disk:
            budget.add("answers to be written", on_disk.waiting)
            budget.add("answers to be read", self._reads)
        self._unreachable: TTLCache[Machine, Failure] = TTLCache(_MAX_FAILURES, _UNREACHABLE_S)
        # With the time of the look-up, and for how long it is repeated.
        self._failures: TTLCache[Hashable, tuple[Failure, float, float]]
        self._failures = TTLCache(_MAX_FAILURES, 2 * _LONGEST_S)
        self.queued, self.ran = self._pool.queued, self._pool.ran

    def watch(self) -> None:
        """Have the driver notified of changes from now on, if it can be."""
        watch = partial(contract.run, self._driver, "watch", partial(log_sentence, self._driver))
        self._threads.run(watch, self._watching)
        if self._on_disk:
            self._on_disk.start()

    @property
    def run_timeout_s(self) -> float:
        return self._pool.run_timeout_s

    @run_timeout_s.setter
    def run_timeout_s(self, seconds: float) -> None:
        self._pool.run_timeout_s = self._reads.run_timeout_s = seconds
        self._recheck.overdue_s = min(OVERDUE_S, seconds)

    @property
    def running(self) -> int:
        return self._pool.running

    @property
    def waiting(self) -> int:
        """Look-ups that have no place in the pool yet."""
        return self._pool.waiting

    def kept(self, machine: Machine) -> Answer | None:
        """Return the machine's cached answer: give it if it `is_fresh`, otherwise `recheck` it.

        None if another worker has had a newer one, of which this driver may not have heard yet.
        """
        try:
            answer = self._cached[machine]
        except KeyError:
            return self._prepared(machine)
        if answer.token is None:
            return None
        is_older = self._has_others and not self._register.is_newest(machine, answer)
        return None if is_older else answer

    def _prepared(self, machine: Machine) -> Answer | None:
        """Return the machine's answer if it was prepared, and cache it."""
        answer = self.prepared.of(machine)
        if answer and not self._register.is_newest(machine, answer):
            return None
        if answer:
            if self._on_disk:
                self._on_disk.keep(machine, answer)
            self._register.note(machine, answer, answer.seen_s)
            self._cached[machine] = answer
            self.prepared.weigh()
        return answer

    def is_fresh(self, answer: Answer) -> bool:
        """Return whether the answer was found unchanged a moment ago."""
        moment_s = time.monotonic() - FRESH_S
        if answer.seen_s >= moment_s:
            return True
        if answer.token is BY_TIME:
            return False
        try:
            held = self._driver.held_at(answer.token, moment_s)
            if held is True:
                answer.seen_s = moment_s
                return True
            return contract.truth(self._driver, "held_at", held)
        except Exception as error:  # a driver is foreign code, and this call of it runs in the hub
            log_error(self._driver, "held_at", error)
        return False

    def recheck(
        self, machine: Machine, answer: Answer, callback: Callable[[Outcome | None], None]
    ) -> None:
        """Ask the driver whether the answer still holds; call back, later and once.

        The callback gets the answer if it holds, and None if not. If the driver does not respond,
        it gets a failure, or the answer as the last good one.
        """
        rechecked = partial(self._rechecked, machine, answer, callback)
        if answer.token is BY_TIME:  # its time is over
            gevent.get_hub().loop.run_callback(rechecked, False)
        else:
            self._recheck.ask(answer, rechecked)

    def _rechecked(
        self,
        machine: Machine,
        answer: Answer,
        callback: Callable[[Outcome | None], None],
        holds: bool | None,
    ) -> None:
        if holds:
            callback(answer)
        elif holds is None:
            callback(self._or_last_good(machine, answer, Failure("failed", _SILENT)))
        else:
            if self._cached.get(machine) is answer:
                answer.token = None
                if not self._is_last_good(machine, answer):
                    self._cached.forget(machine)
            callback(None)

    def _is_last_good(self, machine: Machine, answer: Answer) -> bool:
        """Return whether the answer may be given while the driver fails.

        Only to a VM with a VC UUID: names may change owners. Never one with secrets.
        """
        if answer.origin.secrets:
            return False
        return bool(machine.vc_uuid) and time.monotonic() - answer.seen_s < self._stale_s

    def _or_last_good(self, machine: Machine, answer: Answer | None, failure: Failure) -> Outcome:
        """Return the VM's last answer instead of the failure, if the driver allows it."""
        if answer is None or not self._is_last_good(machine, answer):
            return failure
        if not self._register.is_newest(machine, answer):
            return outdated(failure)
        origin = replace(answer.origin, problem=served_because(failure.reason))
        return replace(answer, token=None, origin=origin, seen_s=NEVER_S)

    def ask(self, machine: Machine, callback: Callable[[Outcome], None]) -> None:
        """Call `callback`, later and once, with the machine's answer or the failure."""
        call = partial(_look_up, self._driver, self._register, machine)
        answered = partial(self._answered, machine, callback) if self._stale_s else callback
        self._pool.ask(machine, call, answered, partial(self._keep, machine))

    def ask_secrets(self, machine: Machine, callback: Callable[[Outcome], None]) -> None:
        """Likewise, for an answer in which nothing is unread; it is not kept."""
        call = partial(_look_up, self._driver, self._register, machine, with_secrets=True)
        self._pool.ask((machine, "secrets"), call, callback)

    def _answered(
        self, machine: Machine, callback: Callable[[Outcome], None], outcome: Outcome
    ) -> None:
        if isinstance(outcome, Failure) and outcome.error in ("failed", "timeout"):
            failure = outcome
            outcome = self._or_last_good(machine, self._cached.last_good(machine), failure)
            if isinstance(outcome, Answer):
                self._unreachable[machine] = failure
            elif self._on_disk and machine.vc_uuid:
                self._recall(self._on_disk, machine, failure, callback)
                return
        callback(outcome)

    def _recall(
        self,
        on_disk: AnswersOnDisk,
        machine: Machine,
        failure: Failure,
        callback: Callable[[Outcome], None],
    ) -> None:
        """Read the VM's last answer from the disk, and keep it as its last good one."""
        on_disk.source_failed()

        def recalled(found: Outcome | None) -> None:
            last = self._cached.last_good(machine)
            if isinstance(found, Failure):
                on_disk.reading_failed(found.reason)
            elif found and not (last and self._register.is_newest(machine, last)):
                self._cached[machine] = found
            outcome = self._or_last_good(machine, self._cached.last_good(machine), failure)
            if isinstance(outcome, Answer):
                self._unreachable[machine] = failure
            callback(outcome)

        self._reads.ask(machine, partial(on_disk.recall, machine), recalled)

    def _keep(self, machine: Machine, outcome: Any, began_s: float) -> None:
        self.prepared.looked_up(machine)
        if isinstance(outcome, Answer):
            if self._on_disk:
                self._on_disk.keep(machine, outcome)
            self._register.note(machine, outcome, began_s)
            outcome.seen_s = began_s
            if outcome.token is None and self._cache_ttl_s:
                outcome.token = BY_TIME
                outcome.seen_s += self._cache_ttl_s - FRESH_S  # `is_fresh` adds FRESH_S
            is_kept = outcome.token is not None or self._is_last_good(machine, outcome)
            if is_kept and outcome.size <= KEPT_BYTES:
                self._cached[machine] = outcome
            elif outcome.origin.secrets:
                self._cached.forget(machine)
        elif outcome.error in ("not-found", "invalid"):
            self._cached.forget(machine)
            if outcome.error == "not-found":
                self._register.note_absent(machine, began_s)
            if self._on_disk:
                self._on_disk.forget(machine, is_invalid=outcome.error == "invalid")
            *_, before_s = self._failures.get(machine, (0.0,))
            repeated_s = min(max(_REPEATED_S, 2 * before_s), _LONGEST_S)
            self._failures[machine] = outcome, began_s, repeated_s

    def fresh_failure(self, machine: Machine) -> Outcome | None:
        """Return the machine's failure, if the driver reported it a moment ago.

        Where the last good answer replaces it, return that.
        """
        unreachable = self._unreachable.get(machine)
        if not unreachable and self._stale_s and self._pool.is_overdue(machine):
            unreachable = Failure("timeout", _SILENT)
        if unreachable:
            outcome = self._or_last_good(machine, self._cached.last_good(machine), unreachable)
            return outcome if isinstance(outcome, Answer) else None
        failure, began_s, repeated_s = self._failures.get(machine, (None, NEVER_S, 0.0))
        return failure if time.monotonic() - began_s < repeated_s else None

    def ask_document_names(
        self, document: str, callback: Callable[[Collection[str] | Failure], None]
    ) -> None:
        """Call `callback`, later and once, with the documents beyond the standard ones.

        The last result is enough if it has the document. The driver is asked all the same, for the
        next one: with many files it may take longer than a guest waits.
        """
        if document in self._names:
            gevent.get_hub().loop.run_callback(callback, self._names)
            callback = _ignore
        call = partial(document_names, self._driver, self._names)
        self._pool.ask("document names", call, callback, self._names_listed)

    def _names_listed(self, names: frozenset[str] | Failure, _began_s: float) -> None:
        if isinstance(names, frozenset):
            self._names = names

    def _watching(self, _nothing: None, error: BaseException | None) -> None:
        if error:
            log_error(self._driver, "watch", error)

    def close(self) -> None:
        """Close the look-ups and the driver."""
        self._pool.close()
        self._reads.close()
        self._recheck.close()
        self._write_the_rest()
        closed = Event()
        self._threads.run(
            partial(contract.run, self._driver, "close"), partial(self._closed, closed)
        )
        if not closed.wait(_CLOSE_S):
            log.warning("%s: close does not return", type(self._driver).__name__)
        self._threads.close()

    def _write_the_rest(self) -> None:
        if self._on_disk:
            self._on_disk.waiting.close()
            end_s = time.monotonic() + _CLOSE_S
            while self._on_disk.waiting.is_busy and time.monotonic() < end_s:
                gevent.sleep(0.02)

    def _closed(self, closed: Event, _nothing: None, error: BaseException | None) -> None:
        if error:
            log_error(self._driver, "close", error)
        closed.set()


def _look_up(
    driver: Driver, register: WorkerRegister, machine: Machine, *, with_secrets: bool = False
) -> Outcome | Work:
    """Call the driver, in this thread; an older answer that it gives must be the newest of all."""
    outcome = look_up(driver, machine, with_secrets=with_secrets)
    if not isinstance(outcome, Answer) or not outcome.origin.problem:
        return outcome
    if register.is_newest(machine, outcome):
        return outcome
    return outdated(failure_behind(outcome))


def _ignore(_names: Collection[str] | Failure) -> None:
    pass
