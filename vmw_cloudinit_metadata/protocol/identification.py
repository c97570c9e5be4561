"""Decides when a VM counts as identified, and keeps the requests that wait for that. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from vmw_cloudinit_metadata.protocol import vmware
from vmw_cloudinit_metadata.protocol.events import Identified, IdentityAsked, IdentityMissing
from vmw_cloudinit_metadata.protocol.identity import PATIENCE, Identity
from vmw_cloudinit_metadata.protocol.identitytoken import Proof
from vmw_cloudinit_metadata.protocol.known import Known
from vmw_cloudinit_metadata.protocol.owed import MAX_ARGUMENTS_BYTES, MAX_UNIDENTIFIED
from vmw_cloudinit_metadata.protocol.packet import GuestRequest
from vmw_cloudinit_metadata.protocol.peer import TelnetPeer
from vmw_cloudinit_metadata.protocol.phases import (
    AWAITED,
    IDENTIFIED,
    MUTE,
    OVERDUE,
    PROXIED,
)
from vmw_cloudinit_metadata.protocol.state import SECONDS, State, Stateful, mapping
from vmw_cloudinit_metadata.protocol.vmware import Machine, Suboption


class Identification(Stateful):
    """Asks a VM who it is, judges its answers, and reports the result."""

    __slots__ = ("_identity", "_peer", "_waiting", "last_request_s")
    STATE: ClassVar = {"last_request_s": SECONDS}

    def __init__(self, peer: TelnetPeer, identity: Identity) -> None:
        self._peer = peer
        self._identity = identity
        self._waiting: list[GuestRequest] = []
        self.last_request_s = 0.0  # the guest's last request, or when the VM was identified

    def state(self) -> State:
        return super().state() | {"identity": self._identity.state()}

    def restore(self, state: object) -> None:
        written = mapping(state)
        self._identity.restore(written.pop("identity", None))
        super().restore(written)

    @property
    def machine(self) -> Machine:
        """The VM's identity, as far as its host has sent it."""
        return self._identity.machine

    @property
    def waiting_requests(self) -> tuple[GuestRequest, ...]:
        """What the guest has requested, in order."""
        return tuple(self._waiting)

    def resume(self, waiting_requests: Iterable[GuestRequest]) -> None:
        """Let these requests wait before those that wait already."""
        self._waiting[:0] = waiting_requests

    def announce(self, known: bytes) -> None:
        """Handle KNOWN-SUBOPTIONS-1: ask the VM what it can answer."""
        self._peer.ask(self._identity.ask(known))
        self._peer.report(IdentityAsked())
        self._judge()

    def withdraw(self, questions: bytes) -> None:
        """Handle UNKNOWN-SUBOPTION-RCVD-1: the VM cannot answer these."""
        self._identity.withdraw(questions)
        self._judge()

    def learn(self, code: Suboption, argument: bytes) -> None:
        """Handle an answer, or an identity that comes unrequested."""
        was = self.machine if self._peer.phase is IDENTIFIED else None
        if not self._identity.receive(code, argument):
            self._peer.violation(f"unusable {vmware.named(code)}")
        if was:
            self._report_change(was)
        self._judge()

    def proxied(self, service_uri: str, direction: str, token: str | None) -> None:
        """Handle an accepted DO-PROXY."""
        was = self.machine if self._peer.phase is IDENTIFIED else None
        self.expect()
        self._identity.proxied(service_uri, direction, token)
        if was:
            self._report_change(was)
        self._judge()

    def expect(self) -> None:
        """Start the time for sending the identity, unless it runs: it is needed from now on."""
        if not self._identity.is_asked or self._identity.times_overdue:
            self._wait_anew()

    def is_settled(self, code: Suboption) -> bool:
        return self._identity.is_settled(code)

    @property
    def is_overdue(self) -> bool:
        return self._identity.is_overdue

    def ask_for_missing(self) -> None:
        """Ask once more, after a timeout, for what determines the VM."""
        self._peer.ask(self._identity.overdue())
        self._judge()

    def wait_on(self) -> None:
        """Report, after `ask_for_missing`, what the session waits for."""
        if self._identity.is_complete or self._peer.phase is MUTE:
            return
        if self._peer.phase is OVERDUE:
            missing, is_first = self._identity.missing, self._identity.times_overdue == PATIENCE
            self._peer.report(IdentityMissing(missing, is_first))
            self._let_requests_pass()
        else:
            self._peer.report(IdentityAsked())

    def ask_again(self) -> None:
        """Ask an identified VM again. Its requests wait for the answer, or until it is overdue."""
        questions = self._identity.ask_again()
        if not questions:
            return
        self._peer.advance(AWAITED)
        self._peer.ask(questions)
        self._peer.report(IdentityAsked(again=True))

    def wait(self, request: GuestRequest) -> None:
        """Keep a request until the VM is identified."""
        waiting = self._waiting
        arguments = sum(len(argument) for _, argument in (*waiting, request))
        if len(waiting) < MAX_UNIDENTIFIED and arguments <= MAX_ARGUMENTS_BYTES:
            waiting.append(request)
        else:
            self._peer.violation("too many requests before the identity")

    @property
    def known(self) -> Known:
        """What the target of a move may take over."""
        return self._identity.known

    def taken_requests(self) -> tuple[GuestRequest, ...]:
        """Return, once, the requests that wait: they go on elsewhere."""
        taken, self._waiting = tuple(self._waiting), []
        return taken

    def inherit(self, known: Known, requests: Iterable[GuestRequest]) -> None:
        """Take over from the source of a move the VM's identity and the waiting requests."""
        self._identity.inherit(known)
        self._waiting = list(requests)

    def begin_at_target(self, service_uri: str | None, proof: Proof) -> None:
        """Judge a VM that has moved here; `service_uri` is given for another server's move, with
        what that has proved."""
        if service_uri is not None:
            self._identity.proxied(service_uri, "client", None)
        if proof.is_proved:
            self._identity.prove(proof)
        if not self._identity.is_complete:
            self._wait_anew()
        self._judge()

    def _judge(self) -> None:
        """Advance a VM that is served to the phase that its identity allows."""
        peer = self._peer
        before = peer.phase
        if before not in PROXIED:
            return
        peer.advance(self._identity.cue)
        if peer.phase is IDENTIFIED and before is not IDENTIFIED:
            self.last_request_s = peer.now_s
            peer.report(Identified(self.machine))
            self._let_requests_pass()

    def _report_change(self, was: Machine) -> None:
        if self.machine != was:
            self._peer.report(Identified(self.machine))
        if not self._identity.is_complete:  # the VM has a UUID, and it is unknown which
            self._wait_anew()

    def _wait_anew(self) -> None:
        self._identity.restart_time()
        self._peer.report(IdentityAsked())

    def _let_requests_pass(self) -> None:
        self._peer.events += self._waiting
        self._waiting.clear()
