"""Who a VM is: what it was asked, what it has told, and the Machine that comes of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from vmw_cloudinit_metadata.protocol import vmware
from vmw_cloudinit_metadata.protocol.vmware import Machine, Suboption

# What may change while a line is open. The UUIDs of host and BIOS do not matter to who it is.
ASKED_AGAIN = (Suboption.GET_VM_VC_UUID, Suboption.GET_VM_NAME)

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
        self._answerable: Sequence[Suboption] = ()
        self._unanswered: list[Suboption] = []  # few: a set would take 200 bytes

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

    def ask(self, known: bytes) -> Sequence[Suboption]:
        """Returns what to ask a VM that knows these suboptions."""
        self.is_asked = True
        self._answerable = [question for question in vmware.IDENTITY if question in known]
        answers = [vmware.IDENTITY[question] for question in self._answerable]
        self._await([answer for answer in answers if not self.has_told(answer)])
        return self._answerable

    def ask_again(self) -> Sequence[Suboption]:
        """Returns what to ask a VM that has told before; what it told holds until it answers."""
        questions = [question for question in ASKED_AGAIN if question in self._answerable]
        self._await([vmware.IDENTITY[question] for question in questions])
        return questions

    def _await(self, answers: Sequence[Suboption]) -> None:
        self._unanswered += [answer for answer in answers if answer not in self._unanswered]

    def hear(self, code: Suboption, argument: bytes) -> bool:
        """Whether this answer is usable; one that is not changes nothing."""
        if code in self._unanswered:
            self._unanswered.remove(code)
        told = vmware.parse_identity(code, argument)
        if told is not None:
            self._news[_FIELDS[code]] = told
        return told is not None

    def will_not_hear(self, questions: bytes) -> None:
        """The VM does not know these questions of ours."""
        answers = [vmware.IDENTITY[q] for q in vmware.IDENTITY if q in questions]
        self._unanswered = [answer for answer in self._unanswered if answer not in answers]

    def overdue(self) -> None:
        """What was not told in time counts as absent, or as it was told before."""
        self.is_asked = True
        self._unanswered.clear()

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

    def inherit(self, source: Machine) -> None:
        """Takes what was told at the source of a move, but for what depends on the host."""
        here = self.machine
        self._news.update(
            name=here.name or source.name,
            vc_uuid=here.vc_uuid or source.vc_uuid,
            bios_uuid=here.bios_uuid or source.bios_uuid,
            service_uri=source.service_uri,
            direction=source.direction,
        )
        self.overdue()  # what the VM still tells counts from then on
