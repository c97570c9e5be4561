"""Lookup: finds a machine's answer, in the cache or by the driver.

Answers are cached as ready packets for as long as the driver confirms them (recheck.py). Callbacks
run in the hub and must not block.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Hashable
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

from cachetools import LRUCache, TTLCache
from gevent.event import Event

from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.process.budget import Budget
from vmw_cloudinit_metadata.process.threads import Threads
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import (
    Answer,
    Failure,
    Outcome,
    document_names,
    look_up,
)
from vmw_cloudinit_metadata.serving.lookuppool import LookupPool
from vmw_cloudinit_metadata.serving.recheck import FRESH_S, NEVER_S, OVERDUE_S, Recheck

log = logging.getLogger(__name__)

KEPT_BYTES = 256 * 1024 * 1024
# Within this time a failure is repeated without asking the driver. For a VM that asks without a
# pause the time doubles up to the longest: look-ups in threads would slow the answers of others.
_REPEATED_S = 0.005
_LONGEST_S = 0.1
_MAX_FAILURES = 64  # names and reasons are cut: 2 MiB at most
_CLOSE_S = 2.0  # for the driver's `close`

_SILENT = "the driver does not answer: its files or other data source may be out of reach"


class Lookup:
    """Looks up answers for machines. Belongs to the thread of its hub; only the driver runs
    elsewhere."""

    def __init__(
        self, driver: Driver, pool_size: int, run_timeout_s: float, budget: Budget
    ) -> None:
        self._driver = driver
        self._recheck = Recheck(driver, min(OVERDUE_S, run_timeout_s))
        self._threads = Threads()
        self._pool = LookupPool(self._threads, pool_size, run_timeout_s, budget)
        self._cached = CachedAnswers()
        budget.add("kept answers", self._cached)
        # With the time of the look-up, and for how long it is repeated.
        self._failures: TTLCache[Hashable, tuple[Failure, float, float]]
        self._failures = TTLCache(_MAX_FAILURES, 2 * _LONGEST_S)
        self.queued, self.ran = self._pool.queued, self._pool.ran

    def watch(self) -> None:
        """Have the driver notified of changes from now on, if it can be."""
        self._threads.run(partial(self._driver.watch, log.info), self._watching)

    @property
    def run_timeout_s(self) -> float:
        return self._pool.run_timeout_s

    @run_timeout_s.setter
    def run_timeout_s(self, seconds: float) -> None:
        self._pool.run_timeout_s = seconds
        self._recheck.overdue_s = min(OVERDUE_S, seconds)

    @property
    def running(self) -> int:
        return self._pool.running

    @property
    def waiting(self) -> int:
        """Look-ups that have no place in the pool yet."""
        return self._pool.waiting

    def kept(self, machine: Machine) -> Answer | None:
        """Return the machine's cached answer: give it if it `is_fresh`, otherwise `recheck` it."""
        try:
            return self._cached[machine]
        except KeyError:
            return None

    def is_fresh(self, answer: Answer) -> bool:
        """Return whether the answer was found unchanged a moment ago."""
        moment_s = time.monotonic() - FRESH_S
        if answer.seen_s >= moment_s:
            return True
        try:
            held = self._driver.held_at(answer.token, moment_s)
        except Exception:  # a driver is foreign code, and this call of it runs in the hub
            log.exception("%s: held_at failed", type(self._driver).__name__)
            return False
        if held:
            answer.seen_s = moment_s
        return held

    def recheck(
        self, machine: Machine, answer: Answer, callback: Callable[[Outcome | None], None]
    ) -> None:
        """Ask the driver whether the answer still holds; call back, later and once.

        The callback gets the answer if it holds, and None if not. If the driver does not respond,
        it gets a failure, or the answer as the last good one.
        """
        self._recheck.ask(answer, partial(self._rechecked, machine, answer, callback))

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
            callback(self._unchecked(machine, answer))
        else:
            if self._cached.get(machine) is answer:
                del self._cached[machine]
            callback(None)

    def _unchecked(self, machine: Machine, answer: Answer) -> Outcome:
        """Return the answer as the last good one if the VM has a VC UUID: names may change
        owners."""
        age_s = time.monotonic() - answer.seen_s
        if not machine.vc_uuid or age_s > self._driver.stale_if_error_s:
            return Failure("failed", _SILENT)
        problem = f"the last good answer is served, because: {_SILENT}"
        origin = replace(answer.origin, problem=problem)
        return replace(answer, token=None, origin=origin, seen_s=NEVER_S)

    def ask(self, machine: Machine, callback: Callable[[Outcome], None]) -> None:
        """Call `callback`, later and once, with the machine's answer or the failure."""
        call = partial(look_up, self._driver, machine)
        self._pool.ask(machine, call, callback, partial(self._keep, machine))

    def _keep(self, machine: Machine, outcome: Any, began_s: float) -> None:
        if isinstance(outcome, Answer):
            if outcome.token is not None and outcome.size <= KEPT_BYTES:
                outcome.seen_s = began_s
                self._cached[machine] = outcome
        elif outcome.error in ("not-found", "invalid"):
            *_, before_s = self._failures.get(machine, (0.0,))
            repeated_s = min(max(_REPEATED_S, 2 * before_s), _LONGEST_S)
            self._failures[machine] = outcome, began_s, repeated_s

    def fresh_failure(self, machine: Machine) -> Failure | None:
        """Return the machine's failure, if the driver reported it a moment ago."""
        failure, began_s, repeated_s = self._failures.get(machine, (None, NEVER_S, 0.0))
        return failure if time.monotonic() - began_s < repeated_s else None

    def ask_document_names(self, callback: Callable[[Collection[str] | Failure], None]) -> None:
        """Call `callback`, later and once, with the documents beyond the standard ones."""
        self._pool.ask("document names", partial(document_names, self._driver), callback)

    def _watching(self, _nothing: None, error: BaseException | None) -> None:
        if error:
            log.error("%s: watch failed", type(self._driver).__name__, exc_info=error)

    def close(self) -> None:
        """Close the look-ups and the driver."""
        self._pool.close()
        self._recheck.close()
        closed = Event()
        self._threads.run(self._driver.close, partial(self._closed, closed))
        if not closed.wait(_CLOSE_S):
            log.warning("%s: close does not return", type(self._driver).__name__)
        self._threads.close()

    def _closed(self, closed: Event, _nothing: None, error: BaseException | None) -> None:
        if error:
            log.error("%s: close failed", type(self._driver).__name__, exc_info=error)
        closed.set()


class CachedAnswers(LRUCache[Machine, Answer]):
    """Answers that can be given again, within KEPT_BYTES."""

    def __init__(self) -> None:
        super().__init__(KEPT_BYTES, getsizeof=attrgetter("size"))

    @property
    def kept_bytes(self) -> int:
        return int(self.currsize)

    def shed(self) -> bool:
        """Drop the answer that was used longest ago; return False if there is none."""
        if not self:
            return False
        self.popitem()
        return True
