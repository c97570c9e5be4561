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
from typing import Any, ClassVar

from vmw_cloudinit_metadata.protocol import identitytoken, vmware
from vmw_cloudinit_metadata.protocol.identitytoken import PROOF, Keys, Proof
from vmw_cloudinit_metadata.protocol.known import Known
from vmw_cloudinit_metadata.protocol.phases import AWAITED, KNOWN, LATE, Cue
from vmw_cloudinit_metadata.protocol.state import (
    COUNT,
    FLAG,
    Form,
    InvalidState,
    State,
    Stateful,
    listed,
    text,
)
from vmw_cloudinit_metadata.protocol.vmware import MACHINE, Machine, Suboption

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


def _read_code(value: object) -> Suboption:
    if isinstance(value, int) and value in _CODES:
        return Suboption(value)
    raise InvalidState("expected a suboption of the identity")


def _write_proved(proved: tuple[Proof, str | None]) -> list[Any]:
    return [PROOF.write(proved[0]), proved[1]]


def _read_proved(value: object) -> tuple[Proof, str | None]:
    match value:
        case [proof, str(vc_uuid) | (None as vc_uuid)]:
            return PROOF.read(proof), vc_uuid
    raise InvalidState("expected what is proved, and of which VM")


_UUID_CHARACTERS = 36
_CODES = frozenset({*vmware.IDENTITY, *vmware.IDENTITY.values()})
_LISTED_CODES = listed(Form(None, int, _read_code), len(_CODES))


class Identity(Stateful):
    """The identity of the VM of one connection, as far as its host has sent it."""

    __slots__ = (
        *("_announced", "_confirmed", "_is_presumed", "_keys", "_machine", "_news", "_proved"),
        *("_token", "_unanswered", "_unusable", "is_asked", "times_overdue"),
    )
    STATE: ClassVar = {
        "_machine": MACHINE,
        "_token": text(vmware.MAX_URI_BYTES, None),
        "_proved": Form((Proof.UNASKED, None), _write_proved, _read_proved),
        "_confirmed": text(_UUID_CHARACTERS, None),
        "is_asked": FLAG,
        "_is_presumed": FLAG,
        **dict.fromkeys(("_announced", "_unanswered", "_unusable"), _LISTED_CODES),
        "times_overdue": COUNT,
    }

    def __init__(self, peer_address: str, connected_since: datetime, keys: Keys) -> None:
        self._machine: Machine | None = None
        self._news: dict[str, Any] = {  # what is not in the machine yet
            "peer_address": peer_address,
            "connected_since": connected_since,
        }
        self._keys = keys
        self._token: str | None = None
        # What vCenter, or the source of a move, has proved of the VM with this VC UUID.
        self._proved: tuple[Proof, str | None] = Proof.UNASKED, None
        self._confirmed: str | None = None  # the VC UUID of which vCenter has confirmed the VM
        self.is_asked = False
        self._is_presumed = False  # no KNOWN-SUBOPTIONS-1 came, so the VM was asked for everything
        self._announced: Codes = ()  # questions
        self._unanswered: list[Suboption] = []  # few: a set would take 200 bytes
        self._unusable: Codes = ()  # of the unanswered: something came that cannot be used
        self.times_overdue = 0  # the timeouts since the time for answering began

    def state(self) -> State:
        assert self.machine  # with all news in it
        return super().state()

    def restore(self, state: object) -> None:
        super().restore(state)
        self._news = {}

    @property
    def machine(self) -> Machine:
        """The Machine, made on demand: a host sends four things, and a Machine is not cheap."""
        if self._machine is None or self._news:
            before, news = self._machine, self._news
            was_proved = before is not None and before.proof.is_proved
            is_provable = self._keys or was_proved or self._proved[0].is_proved
            if is_provable and ("vc_uuid" in news or "service_uri" in news):
                vc_uuid = news.get("vc_uuid") or (before.vc_uuid if before else None)
                news["proof"] = self._proof_of(vc_uuid)
            self._machine = replace(before, **news) if before else Machine(**news)
            self._news = {}
        return self._machine

    def _proof_of(self, vc_uuid: str | None) -> Proof:
        proved, of_uuid = self._proved
        if proved.is_proved and of_uuid == vc_uuid:
            return proved
        return identitytoken.proof(self._token, vc_uuid, self._keys)

    def proxied(self, service_uri: str, direction: str, token: str | None) -> None:
        """Note what an accepted DO-PROXY asks for; the token in its URI is hidden.

        What vCenter has confirmed was with the service URI before.
        """
        if self._confirmed and service_uri != self.machine.service_uri:
            self._confirmed = None
            if not self._keys:
                self._proved = Proof.UNASKED, None
        self._token = token
        self._news.update(service_uri=service_uri, direction=direction)

    def prove(self, proof: Proof) -> None:
        """Note that vCenter confirms this VM, or what the source of its move has proved.

        Where tokens are checked, the token is the proof: a move proves that, and vCenter nothing.
        """
        vc_uuid = self.machine.vc_uuid
        if proof is Proof.VCENTER or not self._keys:
            self._confirmed = vc_uuid
        if proof is not Proof.VCENTER or not self._keys:
            self._proved = proof, vc_uuid
            self._news["proof"] = self._proof_of(vc_uuid)

    def check_token(self, keys: Keys) -> None:
        """Prove what was not asked for: the line came before there were keys."""
        self._keys = keys
        self._news["proof"] = self._proof_of(self.machine.vc_uuid)

    @property
    def is_confirmed(self) -> bool:
        """Whether vCenter has confirmed this VM, on this line or at the source of its move."""
        return self._confirmed is not None and self._confirmed == self.machine.vc_uuid

    def ask(self, known: bytes) -> Codes:
        """Return the questions for a VM that announces these suboptions.

        An announced answer counts like its question: a VM that does not know the question says so.
        """
        if self._is_presumed:
            self._is_presumed, self._announced, self._unanswered = False, (), []
        return self._ask(
            [q for q, answer in vmware.IDENTITY.items() if q in known or answer in known]
        )

    def _ask(self, questions: Codes) -> Codes:
        if self.is_complete:
            self.restart_time()
        self.is_asked = True
        self._announced = _joined(self._announced, questions)
        missing = self._lacking([vmware.IDENTITY[question] for question in questions])
        self._unanswered = _joined(self._unanswered, missing)
        return questions

    def ask_again(self) -> Codes:
        """Return the questions for a VM that was identified; the old answers hold meanwhile."""
        questions = [question for question in ASKED_AGAIN if question in self._announced]
        self.restart_time()
        answers = [vmware.IDENTITY[question] for question in questions]
        self._unanswered = _joined(self._unanswered, answers)
        return questions

    def restart_time(self) -> None:
        """Restart the time for answering."""
        self.times_overdue = 0

    def receive(self, code: Suboption, argument: bytes) -> bool:
        """Store an answer; return whether it is usable. An unusable one replaces nothing."""
        value = vmware.PARSERS[code](argument)
        if value is not None:
            self._news[_FIELDS[code]] = value
        elif argument and code in _STRICT and not self.has(code):
            self._unusable = _joined(self._unusable, [code])
            self._unanswered = _joined(self._unanswered, [code])
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
        self.times_overdue += 1
        if not self.is_asked:
            self._is_presumed = True
            self._ask(list(vmware.IDENTITY))
        else:
            self._unanswered = self._owed(self._unanswered)
        return [q for q, answer in vmware.IDENTITY.items() if answer in self._unanswered]

    def _owed(self, answers: Iterable[Suboption]) -> list[Suboption]:
        """Return the deciding questions of whose answer nothing is known."""
        return [answer for answer in self._lacking(answers) if answer in DECISIVE]

    @property
    def is_overdue(self) -> bool:
        """Whether the server has waited long enough."""
        return self.times_overdue >= PATIENCE

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
        return not self._lacking((code,))

    def _lacking(self, answers: Iterable[Suboption]) -> list[Suboption]:
        """Return those of which no usable one has arrived."""
        machine, news = self._machine, self._news
        missing = [answer for answer in answers if _FIELDS[answer] not in news]
        if machine is None:
            return missing
        return [answer for answer in missing if getattr(machine, _FIELDS[answer]) is None]

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
        return LATE if self.times_overdue >= PATIENCE else AWAITED

    @property
    def known(self) -> Known:
        """What the target of a move may inherit."""
        machine = self.machine
        return Known(
            machine.service_uri,
            machine.direction,
            machine.name,
            machine.vc_uuid,
            machine.bios_uuid,
            machine.proof,
            self._token,
            self.is_asked,
            tuple(self._unanswered),
            tuple(self._unusable),
            self.is_confirmed,
        )

    def inherit(self, there: Known) -> None:
        """Take over, at the target of a move, what the source knows, except about its host.

        What was announced there and sent to neither side is still owed. Of this host's
        announcements, only stronger identities count: the VM gets the same file as at the source.
        """
        here = self.machine
        self._token, self._proved = there.token, (there.proof, there.vc_uuid)
        self._confirmed = there.vc_uuid if there.is_confirmed else None
        self._news.update(service_uri=there.service_uri, direction=there.direction)
        for field in ("name", "vc_uuid", "bios_uuid"):
            if value := getattr(here, field) or getattr(there, field):
                self._news[field] = value
        self.is_asked = self.is_asked or there.is_asked
        stronger = list(takewhile(lambda code: not self.has(code), DECISIVE))
        announced = [answer for answer in self._unanswered if answer in stronger]
        self._unanswered = self._owed(_joined(announced, there.unanswered))
        self._unusable = _joined(self._unusable, there.unusable)
        self.restart_time()


def _joined(codes: Codes, further: Codes) -> list[Suboption]:
    if not codes:
        return list(further)
    return [*codes, *(code for code in further if code not in codes)]
