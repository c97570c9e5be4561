"""One VM's serial line over a connection: the shell around a protocol Session.

What happens on it ends in callbacks and never waits, so a VM is heard while its answer is on the
way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from vmw_cloudinit_metadata.monitoring import counters
from vmw_cloudinit_metadata.monitoring.facts import (
    Fact,
    IdentityChanged,
    IdentityMissing,
    PeerRejected,
    RivalConnected,
    VmIdentified,
    VmLeft,
    VmMoved,
    VmotionAborted,
    VmotionBegun,
    VmotionDeclined,
)
from vmw_cloudinit_metadata.monitoring.trace import Trace
from vmw_cloudinit_metadata.protocol import events
from vmw_cloudinit_metadata.protocol.printable import quoted
from vmw_cloudinit_metadata.protocol.session import Session
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.dialogue import Dialogue
from vmw_cloudinit_metadata.serving.journey import Journey
from vmw_cloudinit_metadata.serving.shared import Shared

if TYPE_CHECKING:
    from vmw_cloudinit_metadata.serving.connection import Connection

log = logging.getLogger(__name__)

IDENTITY_TIMEOUT_S = 2.0  # from our question to when it is asked once more
UNTOLD_S = 10.0  # the same, when its guest was told to ask again later
ASKED_AGAIN_TIMEOUT_S = 1.0  # of a VM that has told before: then that holds

# A peer that is not identified makes us say some hundred bytes, and reads them.
UNKNOWN_BYTES = 2 * 1024

# A target whose source is on another server: nobody here would hear that the move has failed.
MOVE_FROM_ELSEWHERE_S = 3600.0


class Line:
    """Serves one VM; `str` is its beginning of a log line."""

    def __init__(self, shared: Shared, connection: Connection, *, is_secure: bool) -> None:
        self._shared = shared
        self._connection = connection
        self.session = Session(
            shared.policy, connection.host, connection.since, is_secure=is_secure
        )
        self.dialogue = Dialogue(shared, self)
        self._known_as: Machine | None = None  # what the operator was told
        self._journey: Journey | None = None
        self._is_draining = False
        self._trace = Trace(connection) if log.isEnabledFor(logging.DEBUG) else None
        self.is_open = True

    def __str__(self) -> str:
        older = ", older connection" if self.is_older else ""
        return f"{self._connection}: {self.machine}{older}"

    @property
    def host(self) -> str:
        """The address of the ESXi host."""
        return self._connection.host

    @property
    def is_older(self) -> bool:
        """Whether a newer line has the same VC UUID and service URI."""
        known, machines = self._known_as, self._shared.machines
        return machines.rivals > 0 and known is not None and machines.is_older(self, known)

    @property
    def machine(self) -> Machine:
        """Who the VM counts as; until it is identified, what it has told so far."""
        return self._known_as or self.session.machine

    @property
    def is_known(self) -> bool:
        """Whether the VM is identified, and all is told that could make it another one."""
        return self._known_as is not None and not self.session.is_untold

    @property
    def is_mid_line(self) -> bool:
        """Whether the guest has begun a line, and has not ended it."""
        return self.session.is_mid_line

    @property
    def is_busy(self) -> bool:
        """Whether an answer is under way, or a vMotion whose target is connected.

        What is held for a target that is not is no reason to wait: it cannot connect any more.
        """
        if not self.is_open or self.session.is_mute:
            return False
        if self._journey and self._journey.is_under_way:
            return self._journey.has_target
        return self.dialogue.is_busy or self.session.has_waiting_requests

    def report(self, fact: Fact, *, level: int | None = None) -> None:
        """Report what happens to this VM."""
        remark = "older connection" if self.is_older else ""
        peer = self._connection.peer
        self._shared.happenings.report(fact, peer, self.machine, remark, level=level)

    def guarded(self, step: Callable[[], None]) -> None:
        self._connection.guarded(step)

    # What the connection tells it

    def receive(self, data: bytes) -> None:
        if self.session.is_mute:
            return
        if self._trace:
            self._trace.heard(data)
        told = self.session.receive_data(data, time.monotonic())
        if told:
            self._handle(told)
        else:
            self.flush()

    def peer_is_silent(self) -> None:
        self.session.peer_is_silent()
        self.flush()

    def drain(self) -> None:
        self._is_draining = True
        self._finish_if_idle()

    def close(self) -> None:
        """The connection is gone, or begins anew."""
        self.is_open = False
        self._shared.deadlines.cancel(self._identity_overdue)
        if self._journey:
            self._journey.end_is_gone()
            self._journey = None  # it refers to this line
        if not self.session.is_moving:
            self.end_dialogue()
        self._forget_machine()

    def end_dialogue(self) -> None:
        """The connection is gone, and the VM is not on its way to another one."""
        self.dialogue.close()
        del self.dialogue  # it refers to this line

    # What the dialogue says through it

    @property
    def can_speak(self) -> bool:
        """Whether the guest may be written to, now."""
        if not self.is_open or self.session.is_mute or self.session.is_moving:
            return False
        return self._connection.output.is_clear

    def await_sent(self) -> None:
        """Lets the dialogue proceed when all is sent that waits."""
        self._connection.output.is_awaited = True

    def say(self, packets: bytes) -> None:
        self.session.answer(packets)
        self.flush()

    def proceed(self) -> None:
        if self.is_open:
            self.dialogue.proceed()
        if self._is_draining:
            self._finish_if_idle()

    def flush(self) -> None:
        """Hands what the protocol has to say to the connection."""
        data = self.session.data_to_send()
        if not data:
            return
        if self._trace:
            self._trace.said(data)
        is_pushy = self._known_as is None and self._connection.output.waiting_bytes > UNKNOWN_BYTES
        if is_pushy or not self._connection.write(data):
            self._shared.counters[counters.DROPPED["output"]] += 1

    def _finish_if_idle(self) -> None:
        if not self.is_open or self.is_busy:
            return
        if self._connection.output.waiting_bytes:
            self.await_sent()
        else:
            self._connection.finish()

    def give_up(self) -> None:
        """The guest does not read, and the memory of its answers is needed."""
        if self.is_open:
            self._connection.give_up()

    # What the session tells it

    def _handle(self, told: list[events.Event]) -> None:
        for event in told:
            match event:
                case events.Requested(document):
                    self.dialogue.enqueue(document)
                case events.Fault(kind):
                    self._shared.counters[counters.VIOLATIONS[kind]] += 1
                case events.IdentityAsked(again):
                    seconds = ASKED_AGAIN_TIMEOUT_S if again else IDENTITY_TIMEOUT_S
                    self._await_identity(seconds)
                case events.Identified(machine):
                    self._identified(machine)
                case _:
                    self._handle_rare(event)
        self.flush()  # what the protocol says does not wait for a look-up
        self.proceed()

    def _handle_rare(self, event: events.Event) -> None:
        match event:
            case events.IdentityUntold(missing, is_news):
                self._untold(missing, is_news)
            case events.Refused(kind, reason, is_attack):
                self._refused(kind, reason)
                if is_attack:
                    self._connection.close()
            case events.Strange(reason):
                self.flush()
                self._connection.dismiss(reason)
            case events.TlsAccepted():
                self.flush()
                self._connection.start_tls()
            case events.MoveBegun(instead_of):
                if instead_of:
                    self._shared.journeys[instead_of].make_room()
                self._move_begun()
            case events.MoveDeclined(reason, is_of_rate):
                self._move_declined(reason, "declined by rate" if is_of_rate else "declined")
            case events.MoveAborted():
                self.report(VmotionAborted("vMotion aborted by its source"))
                self._shared.journeys[self.session].abort()
            case events.MoveArrived(source):
                self._move_arrived(source)
            case events.MoveCompleted(source):
                self._move_completed(source)

    def _await_identity(self, seconds: float) -> None:
        self._shared.deadlines.start(seconds, self._identity_overdue, self._connection.hear)

    def _identity_overdue(self) -> None:
        self.guarded(lambda: self._handle(self.session.identity_overdue()))

    # Who the VM is

    def _identified(self, machine: Machine) -> None:
        self._shared.deadlines.cancel(self._identity_overdue)
        self._connection.accept()
        was, self._known_as = self._known_as, machine
        if was is None:
            self._register(machine)
            uri = quoted(machine.service_uri)
            text = f"identified, service URI {uri}{self._other_ports(machine)}"
            self.report(VmIdentified(text))
        elif str(was) != str(machine):
            self._changed(was)
        if was and (was.vc_uuid, was.service_uri) != (machine.vc_uuid, machine.service_uri):
            self._shared.machines.remove(self, was)
            self._register(machine)

    def _untold(self, missing: str, is_news: bool) -> None:
        """It is a VM, and is kept; but which one it is, its host has not said."""
        self._await_identity(UNTOLD_S)
        self._connection.accept()
        if not is_news:
            return
        self._shared.counters[counters.CONFLICTS["untold"]] += 1
        untold = self._shared.throttle.passes("untold", self._connection.host)
        if untold is not None:
            text = (
                f"{self.machine}: not identified: its host has not told who it is ({missing}). "
                "Until it does, its guest is answered with timeout, and gets no file that a weaker "
                "identity names. If it does not, disconnect and connect the VM's serial port in "
                f"vSphere, or move the VM to another host{untold}"
            )
            self._connection.report(IdentityMissing(text))

    def _changed(self, was: Machine) -> None:
        self._shared.counters[counters.CONFLICTS["changed"]] += 1
        untold = self._shared.throttle.passes("changed", str(self._connection))
        level = logging.DEBUG if untold is None else logging.WARNING
        self.report(IdentityChanged(f"was {was} until now{untold or ''}"), level=level)

    def _other_ports(self, machine: Machine) -> str:
        count = self._shared.machines.port_count(machine)
        return f"; {count} serial ports of this VM are connected" if count > 1 else ""

    def _register(self, machine: Machine) -> None:
        older = self._shared.machines.newest(machine)
        self._shared.machines.add(self, machine)
        if older is None:
            return
        self._shared.counters[counters.CONFLICTS["rival"]] += 1
        untold = self._shared.throttle.passes("rival", machine.vc_uuid)
        if untold is not None:
            count = self._shared.machines.line_count(machine) - 1
            text = (
                "has the VC UUID and service URI of an older connection "
                f"({older}; there are {count}): "
                f"this newer one counts as the VM, all are answered{untold}"
            )
            self.report(RivalConnected(text))

    def _forget_machine(self) -> None:
        if self._known_as:
            self._shared.machines.remove(self, self._known_as)
            self._known_as = None
            self.report(VmLeft("left"))

    # Peers that are not served

    def _refused(self, kind: events.RefusalKind, reason: str) -> None:
        self._shared.counters[counters.VMS_REFUSED] += 1
        self._shared.counters[counters.REFUSED[kind]] += 1
        machine = None if self.machine.is_anonymous else self.machine
        text = f"refused: {reason}"
        self._connection.report(PeerRejected(text, counters.REFUSED[kind]), machine)
        self.depart()

    def depart(self) -> None:
        """Nothing is said or heard any more; the peer has some time to close the connection."""
        self.session.is_mute = True
        if not self.is_open:
            return
        self._shared.deadlines.cancel(self._identity_overdue)
        self._forget_machine()
        self._connection.keep_mute()

    # vMotion

    def _move_begun(self) -> None:
        self._replace_journey()
        self._journey = Journey(self._shared, self)
        self.report(VmotionBegun("vMotion begins"))

    def _move_declined(self, reason: str, outcome: counters.Move) -> None:
        self._replace_journey()
        self._shared.counters[counters.MOVES[outcome]] += 1
        untold = self._shared.throttle.passes("move declined", outcome, self.host)
        level = logging.DEBUG if untold is None else logging.WARNING
        text = f"vMotion declined (VMOTION-NOTNOW): {reason}{untold or ''}"
        self.report(VmotionDeclined(text), level=level)

    def _replace_journey(self) -> None:
        """Another VMOTION-BEGIN has come."""
        if self.session in self._shared.journeys:
            self._shared.journeys[self.session].replace()

    def _move_arrived(self, source: Session | None) -> None:
        if source:
            self._connection.accept()
            self._journey = self._shared.journeys[source]
            self._journey.arrive(self)
        else:
            self._connection.accept(within_s=MOVE_FROM_ELSEWHERE_S)
        log.debug("%s: target of a vMotion", self._connection)

    def _move_completed(self, source: Session | None) -> None:
        if source:
            assert self._journey
            self._journey.source.hear_the_rest()
        told = self.session.take_over()
        if self.session.is_proxying:  # even if it is refused for what it said behind that
            self._take_over(self._journey)
        self._handle(told)

    def _take_over(self, journey: Journey | None) -> None:
        """Goes on where the source stopped; without a journey, as a VM that has asked nothing."""
        if journey:
            source = journey.source
            self.dialogue, source.dialogue = source.dialogue, self.dialogue
            self.dialogue.line, source.dialogue.line = self, source
            if not source.is_open:
                source.end_dialogue()
            journey.complete()
        else:
            self._shared.counters[counters.MOVES["from elsewhere"]] += 1
        self.report(VmMoved("has moved here by vMotion"))

    def hear_the_rest(self) -> None:
        """Takes in what has arrived and was not read yet."""
        self._connection.receive_what_is_there()

    def hear(self) -> Iterator[None]:
        """The same, a turn at each step."""
        return self._connection.hear() if self.is_open else iter(())
