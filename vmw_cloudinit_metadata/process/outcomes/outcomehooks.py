"""OutcomeHooks: tells another system by webhook how each boot has ended.

The hub keeps what is not delivered yet, and another process delivers it, a few at a time: what that
process has when it ends is given to the next one. So each outcome arrives at least once while the
server runs, and its `id` says which ones are the same.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import ujson

from vmw_cloudinit_metadata.monitoring.counters import OUTCOME_HOOKS, Key
from vmw_cloudinit_metadata.monitoring.facts import BootReported
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.jsonobject import fields, timestamp
from vmw_cloudinit_metadata.monitoring.onceaminute import OnceAMinute
from vmw_cloudinit_metadata.process.keptprogram import KeptProgram
from vmw_cloudinit_metadata.process.outcomes.hookwork import BEAT, HookWork
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened
from vmw_cloudinit_metadata.protocol.state import items, text

log = logging.getLogger(__name__)

PROGRAM = "vmw_cloudinit_metadata.process.outcomes.hookchild"

MAX_WAITING_BYTES = 8 * 1024 * 1024  # further outcomes are dropped
MAX_HOOK_BYTES = 14 * 1024  # of one; a report has less
WINDOW = 4  # at the process: all of them fit into its pipe
LAST_S = 2.0  # at the end, for what waits
_HOOK_BYTES = 200  # what one costs beside its text
_MAX_LINE_BYTES = 4096
_POLL_S = 0.02
_ID_BYTES = 16

_LINE = text(MAX_HOOK_BYTES)


@dataclass(frozen=True, slots=True)
class OutcomeHookSettings:
    url: str
    key_file: Path


class OutcomeHooks:
    """Belongs to the hub of the parent of workers, or of the only process."""

    def __init__(self, settings: OutcomeHookSettings) -> None:
        work = HookWork(settings.url, str(settings.key_file))
        self._program = KeptProgram(
            PROGRAM, work.line(), lambda: self._heard_s, self._has_ended, self._receive
        )
        self._heard_s = 0.0
        self._said = b""  # the incomplete line of the process
        self._is_ready = False
        self._waiting: deque[bytes] = deque()  # lines for the process; the first `_given` it has
        self._given = 0
        self.kept_bytes = 0
        self.counts: Counter[Key] = Counter()
        self._quiet = OnceAMinute()
        self._problem, self._failing_since_s = "", 0.0

    @property
    def waiting_count(self) -> int:
        return len(self._waiting)

    def oldest_s(self, now_s: float) -> float:
        """Return how long ago the boot ended whose hook waits longest; 0: none waits."""
        if not self._waiting:
            return 0.0
        _, at_s, _ = self._waiting[0].split(b" ", 2)
        return max(0.0, now_s - float(at_s))

    def start(self) -> None:
        self._program.start()

    def stop(self) -> None:
        """Deliver what waits, within LAST_S."""
        end_s = time.monotonic() + LAST_S
        while self._waiting and not self._problem and time.monotonic() < end_s:
            gevent.sleep(_POLL_S)
        if self._waiting:
            log.warning("%d outcomes of boots were not delivered by webhook", len(self._waiting))
        self._program.stop()

    def pause(self) -> None:
        """End the process; `start` starts another one."""
        self._program.pause()
        self._take_back()

    def let_go(self) -> None:
        """Close what is the parent's, in a forked child."""
        self._program.let_go()

    def hear(self, happening: Happening) -> None:
        if not isinstance(happening.fact, BootReported) or not happening.machine:
            return
        if happening.machine.is_test:
            return
        line = hook_of(happening, secrets.token_hex(_ID_BYTES))
        if len(line) > MAX_HOOK_BYTES or self.kept_bytes > MAX_WAITING_BYTES:
            self.counts[OUTCOME_HOOKS["dropped"]] += 1
            return
        self._wait(line)
        self._give()

    def summary(self) -> dict[str, Any]:
        """What the status shows."""
        since = timestamp(self._failing_since_s) if self._problem else None
        return {
            "state": "failing" if self._problem else "on",
            "waiting": len(self._waiting),
            "failing_since": since,
            "problem": self._problem,
        }

    # Upgrade

    def state(self) -> list[str]:
        """Return what waits, for the next program."""
        return [line.decode() for line in self._waiting]

    def restore(self, state: object) -> None:
        """Go on with what waited in the program before; raise InvalidState."""
        for line in items(state, MAX_WAITING_BYTES // _HOOK_BYTES):
            self._wait(_LINE.read(line).encode())

    # The process

    def _wait(self, line: bytes) -> None:
        self._waiting.append(line)
        self.kept_bytes += len(line) + _HOOK_BYTES

    def _give(self) -> None:
        while self._is_ready and self._given < min(WINDOW, len(self._waiting)):
            self._program.write(self._waiting[self._given])
            self._given += 1

    def _take_back(self) -> None:
        self._is_ready, self._given, self._said = False, 0, b""

    def _has_ended(self, reason: str) -> None:
        self._take_back()
        self._fail(f"the process that delivers them: {one_line(reason)}")

    def _receive(self, piece: bytes) -> None:
        self._heard_s = time.monotonic()
        *lines, self._said = (self._said + piece).split(b"\n")
        self._said = self._said[-_MAX_LINE_BYTES:]
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        """Take what the process says: a sign of life, or what became of the first hook."""
        if line == BEAT:
            self._is_ready = True
            self._give()
            return
        word, _, rest = line.decode(errors="replace").partition(" ")
        if word == "failed":
            self.counts[OUTCOME_HOOKS["retried"]] += 1
            self._fail(rest)
        elif word in ("delivered", "refused", "expired") and self._given:
            self._end_first(word, rest)

    def _end_first(self, outcome: str, text: str) -> None:
        first = self._waiting.popleft()
        self._given -= 1
        self.kept_bytes -= len(first) + _HOOK_BYTES
        if outcome == "delivered":
            self.counts[OUTCOME_HOOKS["delivered"]] += 1
            self._program.is_well()
            if self._problem:
                log.info("webhooks of boots' outcomes are delivered again")
            self._problem, self._failing_since_s = "", 0.0
        else:
            self.counts[OUTCOME_HOOKS["refused" if outcome == "refused" else "expired"]] += 1
            self._fail(text)
        self._give()

    def _fail(self, problem: str) -> None:
        self._problem = shortened(one_line(problem), 300)
        self._failing_since_s = self._failing_since_s or time.time()
        more = self._quiet.passes("outcome hook", self._problem)
        if more is not None:
            log.warning("a webhook of a boot's outcome: %s%s", self._problem, more)


def hook_of(happening: Happening, number: str) -> bytes:
    """Return the line with which the process gets a hook: its id, its time, its body."""
    assert happening.machine
    proof = happening.machine.proof.value
    about = {"id": number, "proof": proof} if proof else {"id": number}
    body = ujson.dumps(about | fields(happening), ensure_ascii=False, escape_forward_slashes=False)
    return f"{number} {happening.at_s:.3f} {body}\n".encode("utf-8", "replace")
