"""One VM's serial line over a connection: the shell around a protocol Session.

Everything that happens on it ends in callbacks and never waits, so the VM's bytes are handled while
its answer is on the way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Protocol

from vmw_cloudinit_metadata.monitoring import counters
from vmw_cloudinit_metadata.monitoring.facts import Fact
from vmw_cloudinit_metadata.monitoring.trace import Trace
from vmw_cloudinit_metadata.protocol import events
from vmw_cloudinit_metadata.protocol.identitytoken import Proof
from vmw_cloudinit_metadata.protocol.nearrequest import NearRequest
from vmw_cloudinit_metadata.protocol.packet import GuestRequest
from vmw_cloudinit_metadata.protocol.phases import MUTE, OVERDUE
from vmw_cloudinit_metadata.protocol.session import Session
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.dialogue import Dialogue
from vmw_cloudinit_metadata.serving.journey import Journey, Journeys
from vmw_cloudinit_metadata.serving.passage import Passage
from vmw_cloudinit_metadata.serving.registration import Registration
from vmw_cloudinit_metadata.serving.services import Services
from vmw_cloudinit_metadata.serving.standing import Standing
from vmw_cloudinit_metadata.serving.timeouts import (
    IDENTITY_ANSWER_S,
    IDENTITY_RETRY_S,
    IDENTITY_UPDATE_S,
)
from vmw_cloudinit_metadata.serving.transport import Outgoing

log = logging.getLogger(__name__)

# A peer that is not identified makes us send some hundred bytes, and reads them.
UNIDENTIFIED_BYTES = 2 * 1024


class Carrier(Protocol):
    """The part of its connection that a line uses."""

    standing: Standing

    def guarded(self, step: Callable[[], None]) -> None:
        """Run `step`; an error in it ends this connection and no other."""

    def hear(self) -> Iterator[None]:
        """Receive what has arrived, a turn at each step."""

    def hear_all(self) -> None:
        """Receive, at once, what has arrived."""

    def start_tls(self) -> None:
        """Go on with TLS; what was said before is forgotten."""

    def finish(self) -> None:
        """End the connection when all is sent."""

    def close(self) -> None:
        """End the connection now."""

    def give_up(self) -> None:
        """End the connection: its peer does not read, and the memory is needed."""


class Line:
    """Serves one VM, over `carrier`, writing to `wire`; `str` begins each of its log lines."""

    __slots__ = (
        "_carrier",
        "_is_draining",
        "_journeys",
        "_services",
        "_trace",
        "_wire",
        "dialogue",
        "host",
        "is_open",
        "journey",
        "refusal",
        "registration",
        "session",
        "standing",
    )

    has_more = False

    def __init__(
        self,
        services: Services,
        journeys: Journeys,
        carrier: Carrier,
        wire: Outgoing,
        connected_since: datetime,
        *,
        is_secure: bool,
    ) -> None:
        self._services = services
        self._journeys = journeys
        self._carrier = carrier
        self._wire = wire
        self.standing = carrier.standing
        self.host = self.standing.peer.host  # whose quota of the log the line uses
        self.session = Session(services.policy, self.host, connected_since, is_secure=is_secure)
        self.registration = Registration(services, self.standing, self.session)
        self.refusal = self.registration.refusal
        self.dialogue = Dialogue(services, self)
        self.journey: Journey | Passage | None = None
        self.is_open = True
        self._is_draining = False
        peer = self.standing.peer
        self._trace = Trace(peer) if log.isEnabledFor(logging.DEBUG) else None

    def __str__(self) -> str:
        return str(self.registration)

    # Called by the connection: a Layer

    def receive(self, data: bytes) -> None:
        if self._trace and self.session.phase is not MUTE:
            self._trace.received(data)
        happened = self.session.receive_data(data, time.monotonic())
        if happened:
            self.handle(happened)
        else:
            self.flush()

    def peer_is_silent(self) -> None:
        self.session.peer_is_silent()
        self.flush()

    @property
    def is_mid_line(self) -> bool:
        return self.session.is_mid_line

    @property
    def is_busy(self) -> bool:
        """Whether an answer is under way, or a vMotion whose target is connected.

        Answers held for a target that has not connected do not count: it cannot connect any more.
        """
        if not self.is_open or self.session.phase is MUTE:
            return False
        if self.journey and self.journey.is_under_way:
            return self.journey.has_target
        return self.dialogue.is_busy or bool(self.session.heard.requests)

    def drain(self) -> None:
        self._is_draining = True
        self._finish_if_idle()

    def goodbye(self) -> bytes:
        return b""

    def close(self) -> None:
        """Clean up: the connection has ended, or goes on with TLS."""
        self.is_open = False
        self._services.deadlines.cancel(self.identity_overdue)
        if self.journey:
            self.journey.end_is_gone()
            self.journey = None  # it refers to this line
        if not self.session.is_moving:
            self.dialogue.close()
        self.registration.forget()

    # Called by the dialogue and a journey

    @property
    def machine(self) -> Machine:
        """The VM that the line counts as; until it is identified, what its host has sent so far."""
        return self.registration.machine

    @property
    def is_older(self) -> bool:
        """Whether a newer line counts as this VM."""
        return self.registration.is_older

    def report(self, fact: Fact, *, level: int | None = None) -> None:
        """Report a happening of this VM."""
        self.registration.report(fact, level=level)

    def guarded(self, step: Callable[[], None]) -> None:
        """Run `step`; an error in it ends this line and no other."""
        self._carrier.guarded(step)

    def proceed(self) -> None:
        """Let the dialogue go on, and send its answers."""
        if self.is_open:
            self._answer()
        if self._is_draining:
            self._finish_if_idle()

    def hear(self) -> Iterator[None]:
        """Receive what has arrived, a turn at each step."""
        return self._carrier.hear() if self.is_open else iter(())

    def hear_all(self) -> None:
        """Receive, at once, what has arrived."""
        self._carrier.hear_all()

    def depart(self) -> None:
        """Go mute; the peer has some time to close the connection."""
        self.session.silence()
        if not self.is_open:
            return
        self._services.deadlines.cancel(self.identity_overdue)
        self.registration.forget()
        self.standing.keep_mute()

    def give_up(self) -> None:
        """End the connection: the guest does not read, and the memory is needed."""
        if self.is_open:
            self._carrier.give_up()

    # Sending

    def _answer(self) -> None:
        """Let the dialogue answer what it can, and send what the guest may get now."""
        session, wire, dialogue = self.session, self._wire, self.dialogue
        machine = None if session.phase is OVERDUE else self.registration.known_as
        if machine and machine.proof is Proof.UNASKED and self._services.policy.identity_keys:
            machine = self.registration.check_token()
        piece = dialogue.proceed(machine)
        while piece:
            data = session.answer(piece) if wire.is_clear else None
            if data is None:
                dialogue.hold()
                wire.await_empty()
                return
            self._write(data)
            piece = dialogue.sent()

    def flush(self) -> None:
        """Send the protocol's own messages."""
        if data := self.session.data_to_send():
            self._write(data)

    def _write(self, data: bytes) -> None:
        """Send `data`, or drop it if the peer does not read."""
        if self._trace:
            self._trace.sent(data)
        is_unidentified = self.registration.known_as is None
        is_flood = is_unidentified and self._wire.waiting_bytes > UNIDENTIFIED_BYTES
        if is_flood or not self._wire.write(data):
            self._services.counters[counters.DROPPED["output"]] += 1

    def _finish_if_idle(self) -> None:
        if not self.is_open or self.is_busy:
            return
        if self._wire.waiting_bytes:
            self._wire.await_empty()
        else:
            self._carrier.finish()

    # Events of the session

    def handle(self, happened: list[events.Event]) -> None:
        """Handle events of the session, and send what follows."""
        self.flush()  # what the protocol says does not wait for a look-up
        for event in happened:
            match event:
                case GuestRequest():
                    self.dialogue.enqueue(event)
                case events.Violation(kind):
                    self._services.counters[counters.VIOLATIONS[kind]] += 1
                case NearRequest():
                    self.registration.almost_requested(event)
                case events.IdentityAsked(again):
                    self.await_identity(IDENTITY_UPDATE_S if again else IDENTITY_ANSWER_S)
                case events.Identified(machine):
                    self._services.deadlines.cancel(self.identity_overdue)
                    self.standing.accept()
                    self.registration.identified(machine)
                case events.IdentityMissing(missing, is_first):
                    self.await_identity(IDENTITY_RETRY_S)
                    self.standing.accept()
                    if is_first:
                        self.registration.unidentified(missing)
                case events.Refused(kind, reason, is_attack):
                    self.registration.refused(kind, reason)
                    self.depart()
                    if is_attack:
                        self._carrier.close()
                case events.NotHypervisor():
                    self.standing.dismiss(str(event))
                case events.TlsAccepted():
                    self._carrier.start_tls()
                case (
                    events.MoveBegun()
                    | events.MoveDeclined()
                    | events.MoveAborted()
                    | events.MoveClaimed()
                    | events.MoveArrived()
                    | events.MoveCompleted()
                    | events.TakenOver()
                ):
                    # Nothing is answered before all of it is handled: who the VM is may follow.
                    if following := self._journeys.handle(self, event):
                        self.handle(following)
        self.proceed()

    def await_identity(self, seconds: float) -> None:
        self._services.deadlines.start(seconds, self.identity_overdue, self._carrier.hear)

    def identity_overdue(self) -> None:
        self.guarded(lambda: self.handle(self.session.identity_overdue()))
