"""What a guest asks and is answered. When its VM moves, this goes along to the new line."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from vmw_cloudinit_metadata.instance.model import RESERVED_DOCUMENTS, STANDARD_DOCUMENTS
from vmw_cloudinit_metadata.monitoring.news import QUIET_S, key_of
from vmw_cloudinit_metadata.protocol.printable import shortened
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import (
    Answer,
    Failure,
    Origin,
    Outcome,
    error_packet,
    response_packet,
)
from vmw_cloudinit_metadata.serving.shared import Shared

if TYPE_CHECKING:
    from vmw_cloudinit_metadata.serving.line import Line

log = logging.getLogger(__name__)

MAX_WAITING_REQUESTS = 1024
_FEW_REQUESTS = 16  # do not count against the memory budget
_REQUEST_BYTES = 128  # a document's name, of at most 64 characters
MAX_DOCUMENTS_TOLD = 64  # of one boot, to the operator
BUSY_BYTES = 64 * 1024  # with more than this unsent, the next request waits

# A guest is told to have had its documents when it has asked for none for this long, or is gone.
SETTLED_S = 1.0
UNSETTLED_S = 10.0  # a guest that never stops is told at this interval

# So many are answered in one go, also if hundreds waited for the same look-up.
TURN_REQUESTS = 6

# An answer goes out in pieces, so that most of a long one can still be held back for a vMotion.
PIECE_BYTES = 16 * 1024


_ALWAYS_KNOWN = frozenset({*STANDARD_DOCUMENTS, "DIGEST"})
_ANSWERED = {document: f"{document} answered" for document in _ALWAYS_KNOWN}  # counters


class Dialogue:
    """The requests of one guest, in order, and what of their answers is not sent yet."""

    def __init__(self, shared: Shared, line: Line) -> None:
        self._shared = shared
        self.line = line
        self._requests: list[str] = []  # as a deque each would take 600 bytes
        self._is_looking_up = False
        self._is_pausing = False
        self._unsent: list[bytes] = []  # answers; of the first all but `_sent_bytes`
        self._sent_bytes = 0
        self._unsent_bytes = 0
        self._has_lost = False  # requests, since all were answered
        self._owes_line_feed = False
        self._claim: tuple[str, str] | None = None  # the source that it is served from
        self._asked_s = 0.0  # the first of what is not told yet
        self._had: dict[str, float] = {}  # document: when
        self._had_from: Origin | None = None
        self._had_as: Machine | None = None
        # Weak: an answer is as large as its documents, and this line may live for months.
        self._had_answer: Callable[[], Answer | None] = _no_answer
        self._told: tuple[str, float] = ("", 0.0)  # the last line of the log, and when

    @property
    def is_busy(self) -> bool:
        """Whether an answer is under way."""
        return bool(self._requests or self._is_looking_up or self._unsent)

    def enqueue(self, document: str) -> None:
        self._shared.counters["requests"] += 1
        if not self._asked_s:
            self._asked_s = time.time()
        if len(self._requests) < MAX_WAITING_REQUESTS:
            self._requests.append(document)
            if len(self._requests) > _FEW_REQUESTS:
                self._hold()
            return
        self._shared.counters["requests dropped"] += 1
        if not self._has_lost:
            self._has_lost = self._owes_line_feed = True

    def proceed(self) -> None:
        """Answers the requests in their order, for as long as nothing has to be waited for."""
        if self._unsent:
            self._send()
        for _ in range(TURN_REQUESTS):
            if not self._requests or self._is_hindered:
                return
            self._answer_next()
        if self._requests and not self._is_hindered:
            self._is_pausing = True
            self._shared.deadlines.soon(self._guarded(self._end_pause))

    @property
    def _is_hindered(self) -> bool:
        return self._is_looking_up or self._is_pausing or self._unsent_bytes > BUSY_BYTES

    def _answer_next(self) -> None:
        if not self.line.is_known:
            self._put_off()
            return
        machine = self.line.machine
        answer, lookup = self._kept(machine), self._shared.lookup
        if answer and lookup.is_fresh(answer):
            self._shared.counters["answers kept"] += 1
            self._answer(machine, answer)
            return
        if not answer and (failure := lookup.fresh_failure(machine)):
            self._shared.counters["answers looked up"] += 1
            self._answer(machine, failure)
            return
        self._is_looking_up = True
        if answer:
            lookup.recheck(machine, answer, self._guarded(self._rechecked, machine))
        else:
            self._look_up(machine)

    def _kept(self, machine: Machine) -> Answer | None:
        """The answer of a moment ago, or the one that the look-up has kept."""
        before = self._had_answer() if machine is self._had_as else None
        if before and before.token is not None:
            return before
        return self._shared.lookup.kept(machine)

    def _rechecked(self, machine: Machine, outcome: Outcome | None) -> None:
        if outcome is None:
            self._look_up(machine)
            return
        holds = isinstance(outcome, Answer) and outcome.token is not None
        self._shared.counters["answers kept" if holds else "answers unchecked"] += 1
        self._looked_up(machine, outcome)

    def _look_up(self, machine: Machine) -> None:
        self._shared.counters["answers looked up"] += 1
        self._shared.lookup.ask(machine, self._guarded(self._looked_up, machine))

    def _end_pause(self) -> None:
        self._is_pausing = False
        self.line.proceed()

    def close(self) -> None:
        """The guest is gone."""
        if self.is_busy:
            self._drop_all()
        self._tell_served()
        self._claim_nothing()

    def give_up(self) -> None:
        """Drop what the guest has not read, and its line: the memory is needed."""
        self._drop_all()
        self.line.give_up()

    def _drop_all(self) -> None:
        self._requests.clear()
        self._unsent.clear()
        self._unsent_bytes = self._sent_bytes = 0
        self._hold()

    def _hold(self) -> None:
        """Count what waits against the memory budget."""
        waiting = len(self._requests)
        is_little = waiting <= _FEW_REQUESTS
        size = (
            self._unsent_bytes + self._sent_bytes + (0 if is_little else waiting * _REQUEST_BYTES)
        )
        self._shared.unsent.hold(self, size)

    def _guarded(self, step: Callable[..., None], *arguments: Any) -> Callable[..., None]:
        """`step`, whose errors will cost the line that there is by then."""
        return lambda *further: self.line.guarded(partial(step, *arguments, *further))

    # Finding the answer

    def _looked_up(self, machine: Machine, outcome: Outcome) -> None:
        self._is_looking_up = False
        if not self._requests:
            return
        now = self.line.machine
        if machine is now or machine == now:  # else it has told more about itself meanwhile
            self._answer(machine, outcome)
        self.line.proceed()

    def _answer(self, machine: Machine, outcome: Outcome) -> None:
        """Answers the first request, or finds out first whether any VM has what it asks for."""
        document = self._requests[0]
        if isinstance(outcome, Answer) and document in outcome.packets:
            self._respond(machine, outcome, outcome.packets[document])
        elif isinstance(outcome, Failure) and document in _ALWAYS_KNOWN:
            self._fail(outcome)
        elif not document.isalpha() or document in RESERVED_DOCUMENTS:
            self._fail(Failure("unknown-request", "the request is none of the protocol"))
        else:
            self._is_looking_up = True
            named = self._guarded(self._names_told, machine, outcome)
            self._shared.lookup.ask_document_names(named)

    def _names_told(
        self, machine: Machine, outcome: Outcome, names: Collection[str] | Failure
    ) -> None:
        self._is_looking_up = False
        if self._requests:
            self._answer_further(machine, outcome, names)
            self.line.proceed()

    def _answer_further(
        self, machine: Machine, outcome: Outcome, names: Collection[str] | Failure
    ) -> None:
        """Answers the request for a document beyond the standard ones."""
        document = self._requests[0]
        if isinstance(names, Failure):
            self._fail(names)
        elif document not in names:
            self._fail(Failure("unknown-request", "no VM has such a document"))
        elif isinstance(outcome, Failure):
            self._fail(outcome)
        else:
            self._respond(machine, outcome, response_packet(document, b""))

    def _respond(self, machine: Machine, answer: Answer, response: bytes) -> None:
        self._log_answer(machine, self._take_request(), answer, len(response))
        self._say(response)

    def _fail(self, failure: Failure) -> None:
        document = self._take_request()
        self._log_failure(document, failure)
        self._say(error_packet(document, failure.error))

    def _put_off(self) -> None:
        """The VM is not identified: the log has said so, once, and why."""
        document = self._take_request()
        self._count_failure(document, "timeout")
        self._say(error_packet(document, "timeout"))

    def _take_request(self) -> str:
        document = self._requests.pop(0)
        if len(self._requests) >= _FEW_REQUESTS:
            self._hold()
        self._has_lost = self._has_lost and bool(self._requests)
        return document

    # Sending it

    def _say(self, packets: bytes) -> None:
        if self._owes_line_feed:
            # A guest that reads again after a long time finds itself at the beginning of a line.
            self._owes_line_feed = False
            packets = b"\n" + packets
        if not self._unsent and len(packets) <= PIECE_BYTES and self.line.can_speak:
            self.line.say(packets)
            return
        self._unsent.append(packets)
        self._unsent_bytes += len(packets)
        self._send()

    def _send(self) -> None:
        while self._unsent and self.line.can_speak:
            answer, begin = self._unsent[0], self._sent_bytes
            piece = answer[begin : begin + PIECE_BYTES]
            self._sent_bytes += len(piece)
            self._unsent_bytes -= len(piece)
            if self._sent_bytes == len(answer):
                self._sent_bytes = 0
                del self._unsent[0]
            self.line.say(piece)
        if self._unsent:
            self.line.await_sent()
        self._hold()

    # Telling the operator

    def _count_failure(self, document: str, error: str) -> None:
        self._shared.counters[f"answered {error}"] += 1
        self._shared.counters[f"{_kind(document)} {error}"] += 1
        if not self._had:
            self._asked_s = 0.0

    def _log_failure(self, document: str, failure: Failure) -> None:
        self._count_failure(document, failure.error)
        trouble = f"{failure.error}: {failure.reason}"
        untold = self._shared.throttle.passes("failed", key_of(self.line.machine), trouble)
        # Whatever a guest asks for that there is not says nothing of its VM.
        is_of_vm = failure.error != "unknown-request"
        is_new = is_of_vm and self._shared.news.is_new(self.line.machine, trouble)
        if is_new:
            self._tell_served()
        if is_new or untold is not None:
            self.line.tell(
                "failed",
                f"REQUEST_{document} answered with {trouble}{untold or ''}",
                level=logging.DEBUG if untold is None else logging.WARNING,
                document=document,
                error=failure.error,
                reason=shortened(failure.reason),
            )

    def _log_answer(self, machine: Machine, document: str, answer: Answer, size: int) -> None:
        counters = self._shared.counters
        counters["answered"] += 1
        counters[_ANSWERED.get(document, "other answered")] += 1
        if self.line.is_older:
            counters["answered on an older connection"] += 1
        if self._shared.news.is_new(machine, answer.origin.problem):
            self._tell_stale(answer.origin)
        if document == "METADATA":
            self._claim_source(answer.origin, machine)
            if answer.origin.duplicates:
                self._tell_duplicates(answer.origin)
        now_s = time.time()
        if not self._had:
            self._shared.deadlines.start(SETTLED_S, self._settled)
            self._asked_s = self._asked_s or now_s
        if document in self._had or len(self._had) < MAX_DOCUMENTS_TOLD:
            self._had[document] = now_s
        self._had_as = machine
        if answer.origin is not self._had_from:
            self._had_from, self._had_answer = answer.origin, ref(answer)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s: > RESPONSE_%s, %d bytes", self.line, document, size)

    def _tell_stale(self, origin: Origin) -> None:
        key = key_of(self.line.machine)
        untold = self._shared.throttle.passes("stale", key, origin.problem)
        self.line.tell(
            "stale",
            f"{origin.problem}{untold or ''}",
            level=logging.DEBUG if untold is None else logging.WARNING,
            sources=origin.sources,
        )

    def _tell_duplicates(self, origin: Origin) -> None:
        """Each once a minute: all VMs of one default value have the same text."""
        self._shared.counters["duplicates"] += 1
        for duplicate in origin.duplicates:
            untold = self._shared.throttle.passes("duplicate", duplicate)
            if untold is not None:
                self.line.tell("duplicate", f"{duplicate}{untold}", sources=origin.sources)

    def _settled(self) -> None:
        now_s = time.time()
        if now_s - max(self._had.values()) < SETTLED_S and now_s - self._asked_s < UNSETTLED_S:
            self._shared.deadlines.start(SETTLED_S, self._settled)
        else:
            self.line.guarded(self._tell_served)

    def _tell_served(self) -> None:
        """The same line at most once a minute, whatever the guest does."""
        if not self._had or not self._had_from:
            return
        self._shared.deadlines.cancel(self._settled)
        had, origin, asked_s = self._had, self._had_from, self._asked_s
        self._had, self._had_from, self._asked_s = {}, None, 0.0
        seconds = max(had.values()) - asked_s
        if "METADATA" in had:
            self._shared.counters["boots"] += 1
            self._shared.boots.observe(seconds)
        text = f"answered {', '.join(had)} from {_named(origin)}"
        self.line.tell(
            "served",
            text,
            level=self._loudness_of(text, had),
            answered=had,
            seconds=seconds,
            digest=origin.digest,
            sources=origin.sources,
            matched_by=origin.matched_by,
            problem=shortened(origin.problem),
        )

    def _loudness_of(self, text: str, had: Collection[str]) -> int:
        told, when_s = self._told
        now_s = time.monotonic()
        if "METADATA" not in had or (told == text and now_s - when_s < QUIET_S):
            return logging.DEBUG
        self._told = text, now_s
        return logging.INFO

    def _claim_source(self, origin: Origin, machine: Machine) -> None:
        """Tells when machines with different VC UUIDs get the same file."""
        vc_uuid = machine.vc_uuid
        claim = (origin.sources[0], vc_uuid) if vc_uuid and origin.sources else None
        if claim == self._claim:
            return
        self._claim_nothing()
        self._claim = claim
        others = self._shared.claims.add(*claim) if claim else None
        if not claim or not others:
            return
        self._shared.counters["shared sources"] += 1
        untold = self._shared.throttle.passes("shared source", claim[0])
        if untold is not None:
            log.warning(
                "%s: gets %s, which other connected VMs get too: VC UUID %s%s",
                *(self.line, claim[0], others, untold),
            )

    def _claim_nothing(self) -> None:
        if self._claim:
            self._shared.claims.remove(*self._claim)
            self._claim = None


def _kind(document: str) -> str:
    return document if document in _ALWAYS_KNOWN else "other"


def _named(origin: Origin) -> str:
    return ", ".join(origin.sources) or "the driver"


def _no_answer() -> None:
    return None
