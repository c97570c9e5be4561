"""The unanswered requests of a guest. When its VM moves, they move to the new line.

The line that owns a dialogue calls `proceed`, and sends the result piece by piece.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Protocol
from weakref import ref

from vmw_cloudinit_metadata.instance.model import RESERVED_DOCUMENTS, STANDARD_DOCUMENTS
from vmw_cloudinit_metadata.monitoring import counters
from vmw_cloudinit_metadata.monitoring.facts import Fact
from vmw_cloudinit_metadata.protocol.identitytoken import REASONS
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import (
    Answer,
    Failure,
    Outcome,
    error_packet,
    response_packet,
)
from vmw_cloudinit_metadata.serving.receipt import GuestLine, Receipt
from vmw_cloudinit_metadata.serving.services import Services

MAX_WAITING_REQUESTS = 1024
_FEW_REQUESTS = 16  # do not count against the memory budget
_REQUEST_BYTES = 192  # a document's name, of at most 64 characters, and when it was requested
BUSY_BYTES = 64 * 1024  # with more than this unsent, the next request waits

# This many are answered in one go, also if hundreds waited for the same look-up.
TURN_REQUESTS = 3

# An answer goes out in pieces, so that most of a long one can still be held back for a vMotion.
PIECE_BYTES = 16 * 1024

_ALWAYS_KNOWN = frozenset({*STANDARD_DOCUMENTS, "DIGEST"})


class Owner(GuestLine, Protocol):
    """The part of its line that a dialogue uses."""

    def proceed(self) -> None:
        """Let the dialogue go on, and send its answers."""

    def give_up(self) -> None:
        """End the connection: its guest does not read, and the memory is needed."""


class _Nobody:
    """Owner of a dialogue whose guest is gone; avoids a reference cycle."""

    machine = Machine()
    is_older = False

    def report(self, fact: Fact, *, level: int | None = None) -> None: ...

    def guarded(self, step: Callable[[], None]) -> None: ...

    def proceed(self) -> None: ...

    def give_up(self) -> None: ...


_NOBODY = _Nobody()


class Dialogue:
    """The requests of one guest, in order, and the unsent parts of their answers."""

    __slots__ = (
        "_has_lost",
        "_held_bytes",
        "_is_looking_up",
        "_is_pausing",
        "_last_answer",
        "_last_machine",
        "_owes_line_feed",
        "_owner",
        "_receipt",
        "_requests",
        "_sent_bytes",
        "_services",
        "_unsent",
        "_unsent_bytes",
    )

    def __init__(self, services: Services, owner: Owner) -> None:
        self._services = services
        self._owner = owner
        self._receipt = Receipt(services, owner)
        # With the times of their arrival. As a deque each would take 600 bytes.
        self._requests: list[tuple[str, float]] = []
        self._is_looking_up = False
        self._is_pausing = False
        self._unsent: list[bytes] = []  # answers; of the first all but `_sent_bytes`
        self._sent_bytes = 0
        self._unsent_bytes = 0
        self._held_bytes = 0  # that count against the memory budget
        self._has_lost = False  # requests, since all were answered
        self._owes_line_feed = False
        # Weak: an answer is as large as its documents, and this line may live for months.
        self._last_answer: Callable[[], Answer | None] = _no_answer
        self._last_machine: Machine | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an answer is under way."""
        return bool(self._requests or self._is_looking_up or self._unsent)

    def move_to(self, owner: Owner) -> None:
        """Go on with another line."""
        self._owner = self._receipt.line = owner

    def close(self) -> None:
        """Drop everything: the guest has disconnected."""
        if self.is_busy:
            self._drop_all()
        self._receipt.close()
        self.move_to(_NOBODY)

    def give_up(self) -> None:
        """Drop what the guest has not read, and end its line: the memory is needed."""
        self._drop_all()
        self._owner.give_up()

    # Requests

    def enqueue(self, document: str) -> None:
        self._services.counters[counters.REQUESTS] += 1
        if len(self._requests) < MAX_WAITING_REQUESTS:
            self._requests.append((document, time.time()))
            if len(self._requests) > _FEW_REQUESTS:
                self.hold()
            return
        self._services.counters[counters.DROPPED["requests"]] += 1
        if not self._has_lost:
            self._has_lost = self._owes_line_feed = True

    def proceed(self, machine: Machine | None) -> bytes:
        """Answer requests in order until something must be waited for; return the next piece to
        send, or b"". `machine` is None while the VM is not identified."""
        for _ in range(TURN_REQUESTS):
            if not self._requests or self._is_hindered:
                return self._next_piece()
            self._answer_next(machine)
        if self._requests and not self._is_hindered:
            self._is_pausing = True
            self._services.deadlines.soon(self._guarded(self._end_pause))
        return self._next_piece()

    @property
    def _is_hindered(self) -> bool:
        return self._is_looking_up or self._is_pausing or self._unsent_bytes > BUSY_BYTES

    def _end_pause(self) -> None:
        self._is_pausing = False
        self._owner.proceed()

    def _take_request(self) -> tuple[str, float]:
        request = self._requests.pop(0)
        if len(self._requests) >= _FEW_REQUESTS:
            self.hold()
        self._has_lost = self._has_lost and bool(self._requests)
        return request

    # Finding the answer

    def _answer_next(self, machine: Machine | None) -> None:
        if machine is None:  # the log has reported this once, with the reason
            document, _ = self._take_request()
            self._receipt.count_failure(document, "timeout")
            self._put(error_packet(document, "timeout"))
            return
        if machine.proof.is_doubt and self._services.policy.requires_proof:
            self._fail(Failure("refused", REASONS[machine.proof]))
            return
        answer, lookup = self._cached(machine), self._services.lookup
        if answer and lookup.is_fresh(answer):
            self._services.counters[counters.CACHE_HITS] += 1
            self._answer(machine, answer)
            return
        if not answer and (failure := lookup.fresh_failure(machine)):
            self._services.counters[counters.CACHE_MISSES] += 1
            self._answer(machine, failure)
            return
        self._is_looking_up = True
        if answer:
            lookup.recheck(machine, answer, self._guarded(self._rechecked, machine))
        else:
            self._look_up(machine)

    def _cached(self, machine: Machine) -> Answer | None:
        """Return the answer to the last request, or the one in the cache of look-ups."""
        last = self._last_answer() if machine is self._last_machine else None
        if last and last.token is not None:
            return last
        return self._services.lookup.kept(machine)

    def _rechecked(self, machine: Machine, outcome: Outcome | None) -> None:
        if outcome is None:
            self._look_up(machine)
            return
        holds = isinstance(outcome, Answer) and outcome.token is not None
        self._services.counters[counters.CACHE_HITS if holds else counters.CACHE_UNCHECKED] += 1
        self._looked_up(machine, outcome)

    def _look_up(self, machine: Machine) -> None:
        self._services.counters[counters.CACHE_MISSES] += 1
        self._services.lookup.ask(machine, self._guarded(self._looked_up, machine))

    def _looked_up(self, machine: Machine, outcome: Outcome) -> None:
        self._is_looking_up = False
        if not self._requests:
            return
        now = self._owner.machine
        if machine is now or machine == now:  # else its identity has changed meanwhile
            self._answer(machine, outcome)
        self._owner.proceed()

    def _guarded(self, step: Callable[..., None], *arguments: Any) -> Callable[..., None]:
        """Return `step` as a callback whose errors end the line that then owns this dialogue."""
        return lambda *further: self._owner.guarded(partial(step, *arguments, *further))

    def _answer(self, machine: Machine, outcome: Outcome) -> None:
        """Answer the first request, or find out first whether any VM has such a document."""
        document, _ = self._requests[0]
        if isinstance(outcome, Answer) and document in outcome.packets:
            self._respond(machine, outcome, outcome.packets[document])
        elif isinstance(outcome, Failure) and document in _ALWAYS_KNOWN:
            self._fail(outcome)
        elif not document.isalpha() or document in RESERVED_DOCUMENTS:
            self._fail(Failure("unknown-request", "the protocol has no such request"))
        else:
            self._is_looking_up = True
            listed = self._guarded(self._names_listed, machine, outcome)
            self._services.lookup.ask_document_names(document, listed)

    def _names_listed(
        self, machine: Machine, outcome: Outcome, names: Collection[str] | Failure
    ) -> None:
        """Answer the first request, for a document beyond the standard ones."""
        self._is_looking_up = False
        if not self._requests:
            return
        document, _ = self._requests[0]
        if isinstance(names, Failure):
            self._fail(names)
        elif document not in names:
            self._fail(Failure("unknown-request", "no VM has such a document"))
        elif isinstance(outcome, Failure):
            self._fail(outcome)
        else:
            self._respond(machine, outcome, response_packet(document, b""))
        self._owner.proceed()

    def _respond(self, machine: Machine, answer: Answer, response: bytes) -> None:
        document, asked_s = self._take_request()
        if machine is not self._last_machine or answer is not self._last_answer():
            self._last_machine, self._last_answer = machine, ref(answer)
        self._receipt.answered(machine, document, answer.origin, len(response), asked_s)
        self._put(response)

    def _fail(self, failure: Failure) -> None:
        document, _ = self._take_request()
        self._receipt.failed(document, failure)
        self._put(error_packet(document, failure.error))

    # Sending

    def _put(self, packets: bytes) -> None:
        if self._owes_line_feed:
            # A guest that reads again after a long time starts at the beginning of a line.
            self._owes_line_feed = False
            packets = b"\n" + packets
        self._unsent.append(packets)
        self._unsent_bytes += len(packets)

    def _next_piece(self) -> bytes:
        if not self._unsent:
            return b""
        return self._unsent[0][self._sent_bytes : self._sent_bytes + PIECE_BYTES]

    def sent(self) -> bytes:
        """Note that the last piece is sent; return the next one, or b""."""
        answer, begin = self._unsent[0], self._sent_bytes
        end = min(begin + PIECE_BYTES, len(answer))
        self._unsent_bytes -= end - begin
        self._sent_bytes = end
        if end == len(answer):
            self._sent_bytes = 0
            del self._unsent[0]
        if self._held_bytes:
            self.hold()
        return self._next_piece()

    def hold(self) -> None:
        """Count everything that waits against the memory budget."""
        waiting = len(self._requests)
        of_requests = 0 if waiting <= _FEW_REQUESTS else waiting * _REQUEST_BYTES
        size = self._unsent_bytes + self._sent_bytes + of_requests
        if size != self._held_bytes:
            self._held_bytes = size
            self._services.unsent.hold(self, size)

    def _drop_all(self) -> None:
        self._requests.clear()
        self._unsent.clear()
        self._unsent_bytes = self._sent_bytes = 0
        self.hold()


def _no_answer() -> None:
    return None
