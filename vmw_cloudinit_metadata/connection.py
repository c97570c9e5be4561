"""One connection of an ESXi host: the shell around a protocol Session.

A greenlet reads, and nothing it does with the bytes waits: a look-up ends in a callback, and what
the socket does not take is sent when it does. So a VM is heard while its answer is on the way. All
that happens on a connection happens inside `_guarded`.
"""

from __future__ import annotations

import logging
import socket as stdlib_socket
from collections import Counter, deque
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import gevent
from gevent.socket import socket

from vmw_cloudinit_metadata.claims import Claims
from vmw_cloudinit_metadata.instance.model import RESERVED_DOCUMENTS, STANDARD_DOCUMENTS
from vmw_cloudinit_metadata.lookup import (
    Answer,
    Failure,
    Lookup,
    Outcome,
    error_packet,
    response_packet,
)
from vmw_cloudinit_metadata.news import News
from vmw_cloudinit_metadata.output import Output
from vmw_cloudinit_metadata.printable import quoted
from vmw_cloudinit_metadata.protocol import session
from vmw_cloudinit_metadata.protocol.session import Session
from vmw_cloudinit_metadata.protocol.vmware import Machine

log = logging.getLogger(__name__)

IDENTITY_TIMEOUT_S = 2.0  # from our question to what then counts as absent
REFUSED_LINE_S = 60.0  # ESXi redials a closed line: a refused one is kept, mute, for this long
MAX_REFUSED_LINES = 4096
MAX_WAITING_REQUESTS = 1024
BUSY_BYTES = 64 * 1024  # with more than this unsent, the next request waits

_RECEIVE_BYTES = 16 * 1024
_READABLE = 1  # libev's EV_READ


@dataclass(slots=True)
class Shared:
    """What all connections of a server have in common."""

    uris: frozenset[str]
    lookup: Lookup
    claims: Claims = field(default_factory=Claims)
    news: News = field(default_factory=News)
    counters: Counter[str] = field(default_factory=Counter)
    refused: dict[Connection, None] = field(default_factory=dict)  # oldest first


class Connection:
    """Serves one socket, which the caller closes when `serve` returns."""

    def __init__(self, shared: Shared, sock: socket, address: tuple[Any, ...]) -> None:
        sock.setblocking(False)
        host = str(address[0]).removeprefix("::ffff:")
        self._peer = f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"
        self._shared = shared
        self._sock = sock
        self._session = Session(shared.uris, host, datetime.now(UTC))
        self._output = Output(sock, on_empty=self._sent)
        self._timer: Any = None
        self._requests: deque[str] = deque()
        self._is_looking_up = False
        self._is_draining = False
        self._is_over = False
        self._claims: set[tuple[str, str]] = set()

    # The life of a connection

    def serve(self) -> None:
        log.debug("%s: connected", self._peer)
        try:
            self._guarded(self._receive_all)
        finally:
            self._end()

    def drain(self) -> None:
        """Finishes the answers under way, then tells the peer that no more will come."""
        self._is_draining = True
        self._guarded(self._finish_if_idle)

    @property
    def is_busy(self) -> bool:
        """Whether an answer is under way."""
        waits = self._requests or self._is_looking_up or self._session.has_waiting_requests
        return not self._is_over and bool(waits or self._output.waiting_bytes)

    def close(self) -> None:
        """Ends the connection: its reader sees the end of the stream."""
        self._is_over = True
        with suppress(OSError):  # the peer was faster
            self._sock.shutdown(stdlib_socket.SHUT_RDWR)

    def _guarded(self, step: Callable[..., None], *arguments: Any) -> None:
        """Runs one step; whatever goes wrong in it ends this connection and no other."""
        try:
            step(*arguments)
        except OSError as error:
            log.debug("%s: connection lost: %s", self._peer, error)
            self.close()
        except Exception:
            self._shared.counters["internal errors"] += 1
            log.exception("%s: an error of the server; the connection is closed", self._peer)
            self.close()

    def _end(self) -> None:
        self._is_over = True
        self._output.close()
        self._stop_timer()
        for claim in self._claims:
            self._shared.claims.remove(*claim)
        self._shared.refused.pop(self, None)
        log.debug("%s: disconnected", self._peer)

    def _receive_all(self) -> None:
        hub = gevent.get_hub()
        readable = hub.loop.io(self._sock.fileno(), _READABLE)
        try:
            self._flush()
            while True:
                hub.wait(readable)  # before the try: cheaper, and every connection gives way
                try:
                    data = self._sock.recv(_RECEIVE_BYTES)
                except BlockingIOError:
                    continue
                if not data:
                    return
                if not self._session.refused and not self._is_over:
                    self._handle(self._session.receive_data(data))
        finally:
            readable.stop()
            readable.close()

    def _flush(self) -> None:
        data = self._session.data_to_send()
        if data and not self._output.write(data):
            self._shared.counters["output dropped"] += 1

    def _start_timer(self, seconds: float, callback: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = gevent.get_hub().loop.timer(seconds)
        self._timer.start(self._guarded, callback)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    # What the session tells

    def _handle(self, events: list[session.Event]) -> None:
        for event in events:
            match event:
                case session.Requested(document):
                    self._enqueue(document)
                case session.Fault(kind):
                    self._shared.counters[kind] += 1
                case session.IdentityAsked():
                    self._start_timer(IDENTITY_TIMEOUT_S, self._identity_overdue)
                case session.Identified(machine):
                    self._identified(machine)
                case session.Refused(service_uri):
                    self._refused(service_uri)
                case session.MoveDeclined():
                    self._shared.counters["moves declined"] += 1
                    log.warning("%s: %s: vMotion declined", self._peer, self._session.machine)
        self._flush()  # what the protocol says does not wait for a look-up
        self._proceed()

    def _identity_overdue(self) -> None:
        self._handle(self._session.identity_overdue())

    def _identified(self, machine: Machine) -> None:
        self._stop_timer()
        uri = quoted(machine.service_uri)
        log.info("%s: %s: identified, service URI %s", self._peer, machine, uri)

    def _refused(self, service_uri: str) -> None:
        ours = " or ".join(sorted(map(repr, self._shared.uris)))
        log.warning(
            "%s: refused: the VM asks for service URI %s, this server serves %s",
            *(self._peer, quoted(service_uri), ours),
        )
        self._shared.counters["refused"] += 1
        self._requests.clear()
        refused = self._shared.refused
        refused[self] = None
        if len(refused) > MAX_REFUSED_LINES:
            next(iter(refused)).close()
        self._start_timer(REFUSED_LINE_S, self.close)

    # Requests and answers

    def _enqueue(self, document: str) -> None:
        self._shared.counters["requests"] += 1
        if len(self._requests) < MAX_WAITING_REQUESTS:
            self._requests.append(document)
        else:
            self._shared.counters["requests dropped"] += 1

    def _proceed(self) -> None:
        """Answers the requests in their order, for as long as nothing has to be waited for."""
        while self._requests and not self._is_looking_up and not self._is_full():
            machine = self._session.machine
            answer = self._shared.lookup.kept(machine)
            if answer is None:
                self._is_looking_up = True
                self._shared.lookup.ask(machine, partial(self._guarded, self._looked_up, machine))
            else:
                self._answer(answer)
        if self._is_draining:
            self._finish_if_idle()

    def _is_full(self) -> bool:
        return self._output.waiting_bytes > BUSY_BYTES

    def _looked_up(self, machine: Machine, outcome: Outcome) -> None:
        self._is_looking_up = False
        if self._is_over:
            return
        if machine == self._session.machine:  # else it has told more about itself meanwhile
            self._answer(outcome)
        self._proceed()

    def _answer(self, outcome: Outcome) -> None:
        """Answers the first request, or finds out first whether any VM has what it asks for."""
        document = self._requests[0]
        packets = outcome.packets if isinstance(outcome, Answer) else {}
        if document in packets or document in STANDARD_DOCUMENTS or document == "DIGEST":
            self._respond(outcome, packets.get(document))
        elif not document.isalpha() or document in RESERVED_DOCUMENTS:
            self._respond(Failure("unknown-request", "the request is none of the protocol"))
        else:
            self._is_looking_up = True
            named = partial(self._guarded, self._names_told, outcome)
            self._shared.lookup.ask_document_names(named)

    def _names_told(self, outcome: Outcome, names: Collection[str] | Failure) -> None:
        self._is_looking_up = False
        if self._is_over:
            return
        document = self._requests[0]
        if isinstance(names, Failure):
            self._respond(names)
        elif document not in names:
            self._respond(Failure("unknown-request", "no VM has such a document"))
        else:
            self._respond(outcome, response_packet(document, b""))
        self._proceed()

    def _respond(self, outcome: Outcome, response: bytes | None = None) -> None:
        document = self._requests.popleft()
        if isinstance(outcome, Failure) or response is None:
            assert isinstance(outcome, Failure)
            self._log_failure(document, outcome)
            response = error_packet(document, outcome.error)
        else:
            self._log_answer(document, outcome, len(response))
        self._session.answer(response)
        self._flush()

    def _log_failure(self, document: str, failure: Failure) -> None:
        self._shared.counters[f"answered {failure.error}"] += 1
        machine = self._session.machine
        if self._shared.news.is_new(machine, f"{failure.error}: {failure.reason}"):
            log.warning(
                "%s: %s: REQUEST_%s answered with %s: %s",
                *(self._peer, machine, document, failure.error, failure.reason),
            )

    def _log_answer(self, document: str, answer: Answer, size: int) -> None:
        self._shared.counters["answered"] += 1
        machine = self._session.machine
        if self._shared.news.is_new(machine, answer.problem):
            log.warning("%s: %s: %s", self._peer, machine, answer.problem)
        if document == "METADATA":
            log.info(
                "%s: %s: answered METADATA from %s",
                *(self._peer, machine, ", ".join(answer.sources) or "the driver"),
            )
            self._claim(answer)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s: > RESPONSE_%s, %d bytes", self._peer, document, size)

    def _claim(self, answer: Answer) -> None:
        """Tells when machines with different VC UUIDs get the same file."""
        vc_uuid = self._session.machine.vc_uuid
        if not vc_uuid or not answer.sources or (answer.sources[0], vc_uuid) in self._claims:
            return
        claim = answer.sources[0], vc_uuid
        self._claims.add(claim)
        others = self._shared.claims.add(*claim)
        if others:
            self._shared.counters["shared sources"] += 1
            log.warning(
                "%s: %s: gets %s, which other connected VMs get too: VC UUID %s",
                *(self._peer, self._session.machine, claim[0], ", ".join(others)),
            )

    # What is left to be sent

    def _sent(self) -> None:
        self._guarded(self._proceed)

    def _finish_if_idle(self) -> None:
        if not self.is_busy and not self._is_over:
            self._is_over = True
            self._sock.shutdown(stdlib_socket.SHUT_WR)
