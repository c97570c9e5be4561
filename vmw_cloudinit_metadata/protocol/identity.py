"""Who a VM is: what its host announces, what it is asked, what it tells, and the Machine that comes
of it.

An identity that the host announces and has not told yet is never taken for absent, or the file of
a weaker one would be served: another VM's. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import takewhile
from typing import Any

from vmw_cloudinit_metadata.protocol import vmware
from vmw_cloudinit_metadata.protocol.phases import AWAITED, KNOWN, LATE, Cue
from vmw_cloudinit_metadata.protocol.vmware import Machine, Suboption

# What may change while a line is open. The UUIDs of host and BIOS do not matter to who it is.
ASKED_AGAIN = (Suboption.GET_VM_VC_UUID, Suboption.GET_VM_NAME)

# What decides which file a VM gets, the strongest first. Its location only informs.
DECISIVE = (Suboption.VM_VC_UUID, Suboption.VM_BIOS_UUID, Suboption.VM_NAME)

# A text that is neither empty nor a UUID does not say that there is none. (No file is found by
# something weaker than a name, so an unusable name is none.)
_STRICT = (Suboption.VM_VC_UUID, Suboption.VM_BIOS_UUID)

# So often the time has to be over until the guest is told to ask again later.
PATIENCE = 2

Codes = Sequence[Suboption]

_FIELDS = {
    Suboption.VM_VC_UUID: "vc_uuid",
    Suboption.VM_NAME: "name",
    Suboption.VM_BIOS_UUID: "bios_uuid",
    Suboption.VM_LOCATION_UUID: "location_uuid",
}


class Identity:
    """The identity of the VM of one connection, as far as it is told."""

    def __init__(self, peer_address: str, connected_since: datetime) -> None:
        self._machine: Machine | None = None
        self._news: dict[str, Any] = {  # what is not in the machine yet
            "peer_address": peer_address,
            "connected_since": connected_since,
        }
        self.is_asked = False
        self._is_presumed = False  # the VM has sent no KNOWN-SUBOPTIONS-1, and was asked for all
        self._announced: Codes = ()  # questions
        self._unanswered: list[Suboption] = []  # few: a set would take 200 bytes
        self._unusable: Codes = ()  # of these something came
        self._times_overdue = 0

    @property
    def machine(self) -> Machine:
        """Made when it is wanted: a VM tells four things, and a machine is not cheap to make."""
        if self._machine is None or self._news:
            before = self._machine
            self._machine = replace(before, **self._news) if before else Machine(**self._news)
            self._news = {}
        return self._machine

    def proxied(self, service_uri: str, direction: str) -> None:
        self._news.update(service_uri=service_uri, direction=direction)

    def ask(self, known: bytes) -> Codes:
        """Returns what to ask a VM that announces these suboptions: an answer counts as well as its
        question, since a VM that does not know the question says so."""
        if self._is_presumed:
            self._is_presumed, self._announced, self._unanswered = False, (), []
        return self._ask(*_announced_by(known))

    def _ask(self, questions: Codes, answers: Codes) -> Codes:
        if self.is_complete:
            self.wait_anew()
        self.is_asked = True
        self._announced = _joined(self._announced, questions)
        self._await([answer for answer in answers if not self.has_told(answer)])
        return questions

    def ask_again(self) -> Codes:
        """Returns what to ask a VM that has told before; what it told holds until it answers."""
        questions = [question for question in ASKED_AGAIN if question in self._announced]
        self.wait_anew()
        self._await([vmware.IDENTITY[question] for question in questions])
        return questions

    def wait_anew(self) -> None:
        """From now on its time runs."""
        self._times_overdue = 0

    def _await(self, answers: Codes) -> None:
        self._unanswered = _joined(self._unanswered, answers)

    def hear(self, code: Suboption, argument: bytes) -> bool:
        """Whether this answer is usable; one that is not changes nothing that was told."""
        told = vmware.parse_identity(code, argument)
        if told is not None:
            self._news[_FIELDS[code]] = told
        elif argument and code in _STRICT and not self.has_told(code):
            self._unusable = _joined(self._unusable, [code])
            self._await([code])
            return False
        if code in self._unanswered:
            self._unanswered.remove(code)
        return told is not None

    def will_not_hear(self, questions: bytes) -> None:
        """The VM does not know these questions of ours: it has announced them in vain."""
        answers = [vmware.IDENTITY[q] for q in vmware.IDENTITY if q in questions]
        self._announced = [question for question in self._announced if question not in questions]
        self._unanswered = [answer for answer in self._unanswered if answer not in answers]

    def overdue(self) -> Codes:
        """The time to tell is over; returns what to ask once more, and to wait for. The rest counts
        as absent, or as it was told before."""
        self._times_overdue += 1
        if not self.is_asked:
            self._is_presumed = True
            self._ask(list(vmware.IDENTITY), list(vmware.IDENTITY.values()))
        else:
            self._unanswered = self._owed(self._unanswered)
        return [q for q, answer in vmware.IDENTITY.items() if answer in self._unanswered]

    def _owed(self, answers: Iterable[Suboption]) -> list[Suboption]:
        """Those that decide which VM this is, and of which nothing is known."""
        return [answer for answer in answers if answer in DECISIVE and not self.has_told(answer)]

    @property
    def is_overdue(self) -> bool:
        """Whether what is not told has been waited for long enough."""
        return self._times_overdue >= PATIENCE

    @property
    def is_late(self) -> bool:
        return self._times_overdue > 0

    @property
    def is_news(self) -> bool:
        """Whether it has become overdue just now."""
        return self._times_overdue == PATIENCE

    @property
    def missing(self) -> str:
        """What the host owes, for the operator."""
        owed = self._owed(self._unanswered)
        unsent = " and ".join(vmware.named(code) for code in owed if code not in self._unusable)
        unusable = " and ".join(vmware.named(code) for code in owed if code in self._unusable)
        how = "sent neither KNOWN-SUBOPTIONS-1 nor" if self._is_presumed else "announced, not sent:"
        told = [f"{how} {unsent}"] if unsent else []
        told += [f"sent, but no UUID: {unusable}"] if unusable else []
        return "; ".join(told)

    def has_told(self, code: Suboption) -> bool:
        field = _FIELDS[code]
        return field in self._news or getattr(self._machine, field, None) is not None

    def is_settled(self, code: Suboption) -> bool:
        """Whether this is told, or will not be."""
        return self.has_told(code) or (self.is_asked and code not in self._unanswered)

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is to be waited for."""
        return self.is_asked and not self._unanswered

    @property
    def cue(self) -> Cue:
        """What it is to the phase of a VM that is served."""
        if self.is_asked and not self._unanswered:
            return KNOWN
        return LATE if self._times_overdue >= PATIENCE else AWAITED

    def inherit(self, source: Identity) -> None:
        """Takes what was told at the source of a move, but for what depends on the host.

        What was announced there and told nowhere is still owed. Of what this host announces too,
        only what is stronger: the VM gets the same file as at the source.
        """
        here, there = self.machine, source.machine
        self.proxied(there.service_uri, there.direction)
        for field in ("name", "vc_uuid", "bios_uuid"):
            if told := getattr(here, field) or getattr(there, field):
                self._news[field] = told
        self.is_asked = self.is_asked or source.is_asked
        stronger = list(takewhile(lambda code: not self.has_told(code), DECISIVE))
        announced = [answer for answer in self._unanswered if answer in stronger]
        self._unanswered = self._owed(_joined(announced, source._unanswered))
        self._unusable = _joined(self._unusable, source._unusable)
        self.wait_anew()


def _announced_by(known: bytes) -> tuple[Codes, Codes]:
    """The questions that a VM with this list can answer, and their answers."""
    pairs = {q: answer for q, answer in vmware.IDENTITY.items() if q in known or answer in known}
    return list(pairs), list(pairs.values())


def _joined(codes: Codes, further: Codes) -> list[Suboption]:
    if not codes:
        return list(further)
    return [*codes, *(code for code in further if code not in codes)]
