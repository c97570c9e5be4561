"""The identity of a VM: what its host announces, what the server asks, what the host sends, and the
Machine that results.

An identity that the host has announced and not sent is never taken for absent: the file of a weaker
identity would be served, which can be another VM's. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import takewhile
from typing import Any

from vmw_cloudinit_metadata.protocol import identitytoken, vmware
from vmw_cloudinit_metadata.protocol.identitytoken import Keys, Proof
from vmw_cloudinit_metadata.protocol.phases import AWAITED, KNOWN, LATE, Cue
from vmw_cloudinit_metadata.protocol.vmware import Machine, Suboption

# These can change while a line is open. Location and BIOS UUID do not change which VM it is.
ASKED_AGAIN = (Suboption.GET_VM_VC_UUID, Suboption.GET_VM_NAME)

# These decide which file a VM gets, the strongest first. The location only informs.
DECISIVE = (Suboption.VM_VC_UUID, Suboption.VM_BIOS_UUID, Suboption.VM_NAME)

# Of these, a text that is neither empty nor a UUID does not mean that there is none. (Nothing
# weaker than a name finds a file, so an unusable name counts as none.)
_STRICT = (Suboption.VM_VC_UUID, Suboption.VM_BIOS_UUID)

# After this many timeouts the guest gets the error `timeout`.
PATIENCE = 2

Codes = Sequence[Suboption]

_FIELDS = {
    Suboption.VM_VC_UUID: "vc_uuid",
    Suboption.VM_NAME: "name",
    Suboption.VM_BIOS_UUID: "bios_uuid",
    Suboption.VM_LOCATION_UUID: "location_uuid",
}


class Identity:
    """The identity of the VM of one connection, as far as its host has sent it."""

    __slots__ = (
        *("_announced", "_is_presumed", "_keys", "_machine", "_moved", "_news", "_times_overdue"),
        *("_token", "_unanswered", "_unusable", "is_asked"),
    )

    def __init__(self, peer_address: str, connected_since: datetime, keys: Keys) -> None:
        self._machine: Machine | None = None
        self._news: dict[str, Any] = {  # what is not in the machine yet
            "peer_address": peer_address,
            "connected_since": connected_since,
        }
        self._keys = keys
        self._token: str | None = None
        # What the source of a move has proved, of the VM with this VC UUID.
        self._moved: tuple[Proof, str | None] = Proof.UNASKED, None
        self.is_asked = False
        self._is_presumed = False  # no KNOWN-SUBOPTIONS-1 came, so the VM was asked for everything
        self._announced: Codes = ()  # questions
        self._unanswered: list[Suboption] = []  # few: a set would take 200 bytes
        self._unusable: Codes = ()  # of the unanswered: something came that cannot be used
        self._times_overdue = 0

    @property
    def machine(self) -> Machine:
        """The Machine, made on demand: a host sends four things, and a Machine is not cheap."""
        if self._machine is None or self._news:
            before, news = self._machine, self._news
            if self._keys and ("vc_uuid" in news or "service_uri" in news):
                vc_uuid = news.get("vc_uuid") or (before.vc_uuid if before else None)
                news["proof"] = self._proof_of(vc_uuid)
            self._machine = replace(before, **news) if before else Machine(**news)
            self._news = {}
        return self._machine

    def _proof_of(self, vc_uuid: str | None) -> Proof:
        moved, of_uuid = self._moved
        if moved.is_proved and of_uuid == vc_uuid:
            return moved
        return identitytoken.proof(self._token, vc_uuid, self._keys)

    def proxied(self, service_uri: str, direction: str, token: str | None) -> None:
        """Note what an accepted DO-PROXY asks for; the token in its URI is hidden."""
        self._token = token
        self._news.update(service_uri=service_uri, direction=direction)

    def moved(self, proof: Proof) -> None:
        """Note what the source of a move has proved of this VM."""
        vc_uuid = self.machine.vc_uuid
        self._moved = proof, vc_uuid
        if self._keys:
            self._news["proof"] = self._proof_of(vc_uuid)

    def ask(self, known: bytes) -> Codes:
        """Return the questions for a VM that announces these suboptions.

        An announced answer counts like its question: a VM that does not know the question says so.
        """
        if self._is_presumed:
            self._is_presumed, self._announced, self._unanswered = False, (), []
        pairs = {
            q: answer for q, answer in vmware.IDENTITY.items() if q in known or answer in known
        }
        return self._ask(list(pairs), list(pairs.values()))

    def _ask(self, questions: Codes, answers: Codes) -> Codes:
        if self.is_complete:
            self.restart_time()
        self.is_asked = True
        self._announced = _joined(self._announced, questions)
        self._await([answer for answer in answers if not self.has(answer)])
        return questions

    def ask_again(self) -> Codes:
        """Return the questions for a VM that was identified; the old answers hold meanwhile."""
        questions = [question for question in ASKED_AGAIN if question in self._announced]
        self.restart_time()
        self._await([vmware.IDENTITY[question] for question in questions])
        return questions

    def restart_time(self) -> None:
        """Restart the time for answering."""
        self._times_overdue = 0

    def _await(self, answers: Codes) -> None:
        self._unanswered = _joined(self._unanswered, answers)

    def receive(self, code: Suboption, argument: bytes) -> bool:
        """Store an answer; return whether it is usable. An unusable one replaces nothing."""
        value = vmware.parse_identity(code, argument)
        if value is not None:
            self._news[_FIELDS[code]] = value
        elif argument and code in _STRICT and not self.has(code):
            self._unusable = _joined(self._unusable, [code])
            self._await([code])
            return False
        if code in self._unanswered:
            self._unanswered.remove(code)
        return value is not None

    def withdraw(self, questions: bytes) -> None:
        """Drop questions that the VM does not know, although it has announced them."""
        answers = [vmware.IDENTITY[q] for q in vmware.IDENTITY if q in questions]
        self._announced = [question for question in self._announced if question not in questions]
        self._unanswered = [answer for answer in self._unanswered if answer not in answers]

    def overdue(self) -> Codes:
        """Return, after a timeout, the questions to repeat and wait for.

        The rest counts as absent, or as it was before.
        """
        self._times_overdue += 1
        if not self.is_asked:
            self._is_presumed = True
            self._ask(list(vmware.IDENTITY), list(vmware.IDENTITY.values()))
        else:
            self._unanswered = self._owed(self._unanswered)
        return [q for q, answer in vmware.IDENTITY.items() if answer in self._unanswered]

    def _owed(self, answers: Iterable[Suboption]) -> list[Suboption]:
        """Return the deciding questions of whose answer nothing is known."""
        return [answer for answer in answers if answer in DECISIVE and not self.has(answer)]

    @property
    def is_overdue(self) -> bool:
        """Whether the server has waited long enough."""
        return self._times_overdue >= PATIENCE

    @property
    def is_late(self) -> bool:
        return self._times_overdue > 0

    @property
    def is_overdue_now(self) -> bool:
        """Whether the last timeout has made it overdue."""
        return self._times_overdue == PATIENCE

    @property
    def missing(self) -> str:
        """What the host has not sent, for the operator."""
        owed = self._owed(self._unanswered)
        unsent = " and ".join(vmware.named(code) for code in owed if code not in self._unusable)
        unusable = " and ".join(vmware.named(code) for code in owed if code in self._unusable)
        how = "sent neither KNOWN-SUBOPTIONS-1 nor" if self._is_presumed else "announced, not sent:"
        texts = [f"{how} {unsent}"] if unsent else []
        texts += [f"sent, but not a UUID: {unusable}"] if unusable else []
        return "; ".join(texts)

    def has(self, code: Suboption) -> bool:
        """Return whether a usable answer has arrived."""
        field = _FIELDS[code]
        return field in self._news or getattr(self._machine, field, None) is not None

    def is_settled(self, code: Suboption) -> bool:
        """Return whether this is known, or known to be absent."""
        return self.has(code) or (self.is_asked and code not in self._unanswered)

    @property
    def is_complete(self) -> bool:
        """Whether no more answers are expected."""
        return self.is_asked and not self._unanswered

    @property
    def cue(self) -> Cue:
        """The cue that the identity gives a served VM's phase."""
        if self.is_asked and not self._unanswered:
            return KNOWN
        return LATE if self._times_overdue >= PATIENCE else AWAITED

    def inherit(self, source: Identity) -> None:
        """Take over, at the target of a move, what the source knows, except about its host.

        What was announced there and sent to neither side is still owed. Of this host's
        announcements, only stronger identities count: the VM gets the same file as at the source.
        """
        here, there = self.machine, source.machine
        self._token, self._moved = source._token, (there.proof, there.vc_uuid)
        self._news.update(service_uri=there.service_uri, direction=there.direction)
        for field in ("name", "vc_uuid", "bios_uuid"):
            if value := getattr(here, field) or getattr(there, field):
                self._news[field] = value
        self.is_asked = self.is_asked or source.is_asked
        stronger = list(takewhile(lambda code: not self.has(code), DECISIVE))
        announced = [answer for answer in self._unanswered if answer in stronger]
        self._unanswered = self._owed(_joined(announced, source._unanswered))
        self._unusable = _joined(self._unusable, source._unusable)
        self.restart_time()


def _joined(codes: Codes, further: Codes) -> list[Suboption]:
    if not codes:
        return list(further)
    return [*codes, *(code for code in further if code not in codes)]
