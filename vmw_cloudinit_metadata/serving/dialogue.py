"""The unanswered requests of a guest. When its VM moves, they move to the new line.

The line that owns a dialogue calls `proceed`, and sends the result piece by piece.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, Protocol
from weakref import ref

from vmw_cloudinit_metadata.instance.model import RESERVED_DOCUMENTS, STANDARD_DOCUMENTS
from vmw_cloudinit_metadata.monitoring import counters
from vmw_cloudinit_metadata.monitoring.facts import Fact
from vmw_cloudinit_metadata.protocol.identitytoken import REASONS
from vmw_cloudinit_metadata.protocol.owed import (
    MAX_ARGUMENTS_BYTES,
    MAX_REQUESTS,
    Unanswered,
    aged,
)
from vmw_cloudinit_metadata.protocol.packet import GuestRequest
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import (
    Answer,
    Failure,
    Outcome,
    error_packet,
    response_packet,
)
from vmw_cloudinit_metadata.serving.identityanswer import identity_document
from vmw_cloudinit_metadata.serving.outcomeanswer import boot_outcome
from vmw_cloudinit_metadata.serving.ration import Ration, is_free
from vmw_cloudinit_metadata.serving.receipt import GuestLine, Receipt
from vmw_cloudinit_metadata.serving.services import Services

_FEW_REQUESTS = 16  # do not count against the memory budget
_REQUEST_BYTES = 256  # a document's name, of at most 64 characters, and when it was requested
BUSY_BYTES = 64 * 1024  # with more than this unsent, the next request waits

# This many are answered in one go, also if hundreds waited for the same look-up.
TURN_REQUESTS = 3

# An answer goes out in pieces, so that most of a long one can still be held back for a vMotion.
PIECE_BYTES = 16 * 1024

# What answers requests that have an argument.
_ANSWERERS: Mapping[str, Callable[[Services, Receipt, Machine, bytes], bytes | Failure]] = {
    "IDENTITY": identity_document,
    "STATUS": boot_outcome,
}

_ALWAYS_KNOWN = frozenset({*STANDARD_DOCUMENTS, "DIGEST"})


class Owner(GuestLine, Protocol):
    """The part of its line that a dialogue uses."""

    def proceed(self) -> None:
        """Let the dialogue go on, and send its answers."""

    @property
    def refusal(self) -> Callable[[], Failure | None]:
        """Returns why a request is not answered, by what vCenter says now."""

    def give_up(self) -> None:
        """End the connection: its guest does not read, and the memory is needed."""


class _Nobody:
    """Owner of a dialogue whose guest is gone; avoids a reference cycle."""

    machine = Machine()
    is_older = False

    def report(self, fact: Fact, *, level: int | None = None) -> None: ...

    def guarded(self, step: Callable[[], None]) -> None: ...

    def proceed(self) -> None: ...

    def refusal(self) -> None: ...

    def give_up(self) -> None: ...


_NOBODY = _Nobody()


class _Outbox:
    """Answers on their way to one guest, which leave in pieces."""

    __slots__ = ("_answers", "owes_line_feed", "sent_bytes", "unsent_bytes")

    def __init__(self) -> None:
        self._answers: list[bytes] = []  # of the first all but `sent_bytes` is unsent
        self.sent_bytes = 0
        self.unsent_bytes = 0
        self.owes_line_feed = False

    def __bool__(self) -> bool:
        return bool(self._answers)

    @property
    def unsent(self) -> bytes:
        return b"".join(self._answers)[self.sent_bytes :]

    def put(self, packets: bytes) -> None:
        if self.owes_line_feed:
            # A guest that reads again after a long time starts at the beginning of a line.
            self.owes_line_feed = False
            packets = b"\n" + packets
        self._answers.append(packets)
        self.unsent_bytes += len(packets)

    def next_piece(self) -> bytes:
        """Return the next piece, of what is unsent."""
        return self._answers[0][self.sent_bytes : self.sent_bytes + PIECE_BYTES]

    def piece_is_sent(self) -> None:
        rest = len(self._answers[0]) - self.sent_bytes
        if rest > PIECE_BYTES:
            self.unsent_bytes -= PIECE_BYTES
            self.sent_bytes += PIECE_BYTES
        else:
            self.unsent_bytes -= rest
            self.sent_bytes = 0
            del self._answers[0]

    def clear(self) -> None:
        self._answers.clear()
        self.unsent_bytes = self.sent_bytes = 0

    def resume(self, unsent: bytes, *, owes_line_feed: bool) -> None:
        """Go on with the rest of answers that another outbox has begun to send."""
        self._answers = [unsent] if unsent else []
        self.unsent_bytes = len(unsent)
        self.owes_line_feed = owes_line_feed


class _Inbox:
    """The requests of one guest that are not answered yet, in order."""

    __slots__ = ("_arguments_bytes", "has_lost", "requests")

    def __init__(self) -> None:
        # With the times of their arrival. As a deque each would take 600 bytes.
        self.requests: list[tuple[GuestRequest, float]] = []
        self._arguments_bytes = 0
        self.has_lost = False  # requests, since all were answered

    @property
    def first(self) -> GuestRequest:
        return self.requests[0][0]

    @property
    def ages(self) -> tuple[tuple[GuestRequest, int], ...]:
        """The requests with their ages in ms."""
        return aged(self.requests, time.time())

    @property
    def held_bytes(self) -> int:
        """What counts against the memory budget."""
        waiting = len(self.requests)
        return self._arguments_bytes + (waiting * _REQUEST_BYTES if waiting > _FEW_REQUESTS else 0)

    def put(self, request: GuestRequest) -> bool:
        """Return False, and drop it, if there is no room."""
        arguments_bytes = self._arguments_bytes + len(request.argument)
        if len(self.requests) >= MAX_REQUESTS or arguments_bytes > MAX_ARGUMENTS_BYTES:
            return False
        self.requests.append((request, time.time()))
        self._arguments_bytes = arguments_bytes
        return True

    def take(self) -> tuple[str, float]:
        """Remove the first; return its document and when it arrived."""
        (document, argument), asked_s = self.requests.pop(0)
        self._arguments_bytes -= len(argument)
        self.has_lost = self.has_lost and bool(self.requests)
        return document, asked_s

    def clear(self) -> None:
        self.requests.clear()
        self._arguments_bytes = 0

    def resume(self, ages: Iterable[tuple[GuestRequest, int]], *, has_lost: bool) -> None:
        """Go on with the requests of another inbox."""
        now_s = time.time()
        self.requests = [(request, now_s - age_ms / 1000) for request, age_ms in ages]
        self._arguments_bytes = sum(len(request.argument) for request, _ in self.requests)
        self.has_lost = has_lost


def _no_answer() -> None:
    """Return no answer, as a weak reference to one that is gone."""


class _PreviousAnswer:
    """The answer to the last request. Weak: an answer is as large as its documents, and a line may
    live for months."""

    __slots__ = ("_answer", "_machine")

    def __init__(self) -> None:
        self._machine: Machine | None = None
        self._answer: Callable[[], Answer | None] = _no_answer

    def of(self, machine: Machine) -> Answer | None:
        """Return it if it was for this machine and may still hold."""
        last = self._answer() if machine is self._machine else None
        return last if last and last.token is not None else None

    def note(self, machine: Machine, answer: Answer) -> None:
        if machine is not self._machine or answer is not self._answer():
            self._machine, self._answer = machine, ref(answer)


class Dialogue:
    """The requests of one guest, in order, and the unsent parts of their answers."""

    __slots__ = (
        "_held_bytes",
        "_inbox",
        "_is_looking_up",
        "_is_pausing",
        "_last",
        "_outbox",
        "_owner",
        "_ration",
        "_services",
        "receipt",
    )

    def __init__(self, services: Services, owner: Owner) -> None:
        self._services = services
        self._owner = owner
        self.receipt = Receipt(services, owner)
        self._inbox = _Inbox()
        self._is_looking_up = False
        self._is_pausing = False
        self._outbox = _Outbox()
        self._held_bytes = 0  # that count against the memory budget
        self._ration: Ration | None = None  # under way, for the first request
        self._last = _PreviousAnswer()

    @property
    def is_busy(self) -> bool:
        """Whether an answer is under way."""
        return bool(self._inbox.requests or self._is_looking_up or self._outbox)

    def move_to(self, owner: Owner) -> None:
        """Go on with another line."""
        self._owner = self.receipt.line = owner

    @property
    def unanswered(self) -> Unanswered:
        """What is owed to the guest, for a dialogue elsewhere."""
        inbox, outbox = self._inbox, self._outbox
        return Unanswered(inbox.ages, outbox.unsent, outbox.owes_line_feed, inbox.has_lost)

    def resume(self, unanswered: Unanswered) -> None:
        """Go on with what a dialogue elsewhere owes. Call it before anything is requested."""
        self._inbox.resume(unanswered.requests, has_lost=unanswered.has_lost)
        self._outbox.resume(unanswered.unsent, owes_line_feed=unanswered.owes_line_feed)
        self.hold()

    def close(self) -> None:
        """Drop everything: the guest has disconnected."""
        if self.is_busy:
            self._drop_all()
        self.receipt.close()
        self.move_to(_NOBODY)

    def give_up(self) -> None:
        """Drop what the guest has not read, and end its line: the memory is needed."""
        self._drop_all()
        self._owner.give_up()

    # Requests

    def enqueue(self, request: GuestRequest) -> None:
        self._services.counters[counters.REQUESTS] += 1
        if self._inbox.put(request):
            if request.argument or len(self._inbox.requests) > _FEW_REQUESTS:  # else it is free
                self.hold()
            return
        self._services.counters[counters.DROPPED["requests"]] += 1
        if not self._inbox.has_lost:
            self._inbox.has_lost = self._outbox.owes_line_feed = True

    def proceed(self, machine: Machine | None) -> bytes:
        """Answer requests in order until something must be waited for; return the next piece to
        send, or b"". `machine` is None while the VM is not identified."""
        turns, waiting = TURN_REQUESTS, self._inbox.requests
        while waiting and not (
            self._is_looking_up or self._is_pausing or self._outbox.unsent_bytes > BUSY_BYTES
        ):
            if not turns:
                self._is_pausing = True
                self._services.deadlines.soon(self._guarded(self._end_pause))
                break
            turns -= 1
            self._answer_next(machine)
        return self._outbox.next_piece() if self._outbox.unsent_bytes else b""

    def _end_pause(self) -> None:
        self._is_pausing = False
        self._owner.proceed()

    def _take_request(self) -> tuple[str, float]:
        taken = self._inbox.take()
        if self._held_bytes:
            self.hold()
        return taken

    # Finding the answer

    def _answer_next(self, machine: Machine | None) -> None:
        if machine is None:  # the log has reported this once, with the reason
            document, _ = self._take_request()
            self.receipt.count_failure(document, "timeout")
            self._outbox.put(error_packet(document, "timeout"))
            return
        if self._services.vcenter:
            if refusal := self._owner.refusal():
                self._fail(refusal)
                return
            machine = self._owner.machine  # vCenter may have told of it meanwhile
        if machine.proof.is_doubt and self._services.policy.requires_proof:
            self._fail(Failure("refused", REASONS[machine.proof]))
            return
        document, argument = self._inbox.first
        if answerer := _ANSWERERS.get(document):
            self._reply(answerer(self._services, self.receipt, machine, argument))
            return
        lookup = self._services.lookup
        answer = self._last.of(machine) or lookup.kept(machine)
        if answer and lookup.is_fresh(answer):
            self._services.counters[counters.CACHE_HITS] += 1
            self._answer(machine, document, answer)
            return
        if not answer and (failure := lookup.fresh_failure(machine)):
            self._services.counters[counters.CACHE_MISSES] += 1
            self._answer(machine, document, failure)
            return
        self._is_looking_up = True
        if answer:
            lookup.recheck(machine, answer, self._guarded(self._rechecked, machine))
        else:
            self._look_up(machine)

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
        if not self._inbox.requests:
            return
        now = self._owner.machine
        if machine is now or machine == now:  # else its identity has changed meanwhile
            self._answer(machine, self._inbox.first.document, outcome)
        self._owner.proceed()

    def _guarded(self, step: Callable[..., None], *arguments: Any) -> Callable[..., None]:
        """Return `step` as a callback whose errors end the line that then owns this dialogue."""
        return lambda *further: self._owner.guarded(partial(step, *arguments, *further))

    def _answer(self, machine: Machine, document: str, outcome: Outcome) -> None:
        """Answer the first request, or find out first whether any VM has such a document."""
        if isinstance(outcome, Answer) and document in outcome.packets:
            services = self._services
            if outcome.once or outcome.unread or services.window_s:
                wanted = services, machine, outcome, document, self.receipt.tell
                if not is_free(*wanted):
                    self._is_looking_up = True
                    decided = self._guarded(self._decided, machine)
                    self._ration = Ration(*wanted, decided)
                    return
            self._respond(machine, outcome, outcome.packets[document])
        elif isinstance(outcome, Failure) and document in _ALWAYS_KNOWN:
            self._fail(outcome)
        elif not document.isalpha() or document in RESERVED_DOCUMENTS:
            self._fail(Failure("unknown-request", "the protocol has no such request"))
        else:
            self._is_looking_up = True
            listed = self._guarded(self._names_listed, machine, outcome)
            self._services.lookup.ask_document_names(document, listed)

    def _decided(self, machine: Machine, outcome: Outcome) -> None:
        """Answer the first request with a document that its ration may have."""
        ration, self._ration, self._is_looking_up = self._ration, None, False
        assert ration
        if isinstance(outcome, Failure):
            self._fail(outcome)
        elif machine == self._owner.machine:
            self._respond(machine, outcome, outcome.packets[self._inbox.first.document])
        else:  # its identity has changed meanwhile
            ration.give_back()
        self._owner.proceed()

    def _names_listed(
        self, machine: Machine, outcome: Outcome, names: Collection[str] | Failure
    ) -> None:
        """Answer the first request, for a document beyond the standard ones."""
        self._is_looking_up = False
        if not self._inbox.requests:
            return
        document = self._inbox.first.document
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
        self._last.note(machine, answer)
        self.receipt.answered(machine, document, answer.origin, len(response), asked_s)
        self._outbox.put(response)

    def _reply(self, reply: bytes | Failure) -> None:
        """Answer the first request, which has an argument."""
        if isinstance(reply, Failure):
            self._fail(reply)
            return
        document, _ = self._take_request()
        response = response_packet(document, reply)
        self.receipt.count_answer(document, len(response))
        self._outbox.put(response)

    def _fail(self, failure: Failure) -> None:
        document, _ = self._take_request()
        self.receipt.failed(document, failure)
        self._outbox.put(error_packet(document, failure.error, failure.message))

    # Sending

    def sent(self) -> bytes:
        """Note that the last piece is sent; return the next one, or b""."""
        self._outbox.piece_is_sent()
        if self._held_bytes:
            self.hold()
        return self._outbox.next_piece() if self._outbox.unsent_bytes else b""

    def hold(self) -> None:
        """Count everything that waits against the memory budget."""
        size = self._outbox.unsent_bytes + self._outbox.sent_bytes + self._inbox.held_bytes
        if size != self._held_bytes:
            self._held_bytes = size
            self._services.unsent.hold(self, size)

    def _drop_all(self) -> None:
        if self._ration:
            self._ration.forsake()
            self._ration, self._is_looking_up = None, False
        self._inbox.clear()
        self._outbox.clear()
        self.hold()
