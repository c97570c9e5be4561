"""When a VM counts as identified, and the requests that wait for that. Pure."""

from __future__ import annotations

from vmw_cloudinit_metadata.protocol import vmware
from vmw_cloudinit_metadata.protocol.events import (
    Identified,
    IdentityAsked,
    IdentityMissing,
    Requested,
)
from vmw_cloudinit_metadata.protocol.identity import Identity
from vmw_cloudinit_metadata.protocol.link import Link
from vmw_cloudinit_metadata.protocol.phase import IDENTIFIED, MUTE, OVERDUE, PROXIED, Cue
from vmw_cloudinit_metadata.protocol.vmware import Machine, Suboption

# A guest asks for one document after the other; this is room for one that asks for all of them,
# again and again, while its VM is still being identified.
MAX_WAITING_REQUESTS = 64


class Identification:
    """Asks a VM who it is, judges what it answers, and reports."""

    __slots__ = ("_identity", "_link", "_waiting", "last_request_s")

    def __init__(self, link: Link, identity: Identity) -> None:
        self._link = link
        self._identity = identity
        self._waiting: list[str] = []
        self.last_request_s = 0.0  # or when the VM was identified

    @property
    def machine(self) -> Machine:
        """Who the VM is, as far as its host has said."""
        return self._identity.machine

    @property
    def has_waiting_requests(self) -> bool:
        return bool(self._waiting)

    def announce(self, known: bytes) -> None:
        """Handles KNOWN-SUBOPTIONS-1: asks what the VM can answer."""
        for question in self._identity.ask(known):
            self._link.say(question)
        self._link.report(IdentityAsked())
        self._judge()

    def withdraw(self, questions: bytes) -> None:
        """Handles UNKNOWN-SUBOPTION-RCVD-1: the VM cannot answer these."""
        self._identity.will_not_hear(questions)
        self._judge()

    def learn(self, code: Suboption, argument: bytes) -> None:
        """Handles an answer, or an identity that comes unasked."""
        was = self._identified_as()
        if not self._identity.hear(code, argument):
            self._link.violation(f"unusable {vmware.named(code)}")
        is_lost = was is not None and not self._identity.is_complete
        if is_lost:  # the VM has a UUID, and it is unknown which
            self._identity.wait_anew()
        self._report_change(was)
        self._judge()
        if is_lost:
            self._link.report(IdentityAsked())

    def proxied(self, service_uri: str, direction: str) -> None:
        """Handles a DO-PROXY that is accepted."""
        was = self._identified_as()
        self.expect()
        self._identity.proxied(service_uri, direction)
        self._report_change(was)
        self._judge()

    def expect(self) -> None:
        """From now on the identity matters: the time to send it begins, unless it runs."""
        if not self._identity.is_asked or self._identity.is_late:
            self._wait_anew()

    def is_settled(self, code: Suboption) -> bool:
        return self._identity.is_settled(code)

    @property
    def is_overdue(self) -> bool:
        return self._identity.is_overdue

    def ask_for_missing(self) -> None:
        """The time is over: asks once more for what decides which VM this is."""
        for question in self._identity.overdue():
            self._link.say(question)
        self._judge()

    def wait_on(self) -> None:
        """Reports, after `ask_for_missing`, what is to be waited for."""
        if self._identity.is_complete or self._link.phase is MUTE:
            return
        if self._link.phase is OVERDUE:
            missing, is_first = self._identity.missing, self._identity.is_news
            self._link.report(IdentityMissing(missing, is_first))
            self._let_requests_pass()
        else:
            self._link.report(IdentityAsked())

    def ask_again(self) -> None:
        """Asks an identified VM again; until it answers, or is late, its requests wait."""
        questions = self._identity.ask_again()
        if not questions:
            return
        self._link.advance(Cue.AWAITED)
        for question in questions:
            self._link.say(question)
        self._link.report(IdentityAsked(again=True))

    def wait(self, document: str) -> None:
        """Keeps a request until the VM is identified."""
        if len(self._waiting) < MAX_WAITING_REQUESTS:
            self._waiting.append(document)
        else:
            self._link.violation("too many requests before the identity")

    def inherit(self, source: Identification) -> None:
        """Takes over what the source of a move knows of the VM, and the requests that wait."""
        self._identity.inherit(source._identity)
        self._waiting, source._waiting = source._waiting, []

    def begin_at_target(self, service_uri: str | None) -> None:
        """Judges the VM that has moved here; of another server's move only the URI is known."""
        if service_uri is not None:
            self._identity.proxied(service_uri, "client")
        if not self._identity.is_complete:
            self._wait_anew()
        self._judge()

    def _judge(self) -> None:
        """Goes to the phase that the identity gives a VM that is served."""
        before = self._link.phase
        if before not in PROXIED:
            return
        if self._identity.is_complete:
            self._link.advance(Cue.KNOWN)
        else:
            self._link.advance(Cue.LATE if self._identity.is_overdue else Cue.AWAITED)
        if self._link.phase is IDENTIFIED and before is not IDENTIFIED:
            self.last_request_s = self._link.now_s
            self._link.report(Identified(self.machine))
            self._let_requests_pass()

    def _identified_as(self) -> Machine | None:
        return self.machine if self._link.phase is IDENTIFIED else None

    def _report_change(self, was: Machine | None) -> None:
        if was is not None and self.machine != was:
            self._link.report(Identified(self.machine))

    def _wait_anew(self) -> None:
        self._identity.wait_anew()
        self._link.report(IdentityAsked())

    def _let_requests_pass(self) -> None:
        for document in self._waiting:
            self._link.report(Requested(document))
        self._waiting.clear()
