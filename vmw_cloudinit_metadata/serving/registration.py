"""The VM that a line counts as, and the reports about its identity."""

from __future__ import annotations

import logging
from dataclasses import replace

from vmw_cloudinit_metadata.instance.documents import STANDARD
from vmw_cloudinit_metadata.monitoring import counters
from vmw_cloudinit_metadata.monitoring.facts import (
    Fact,
    IdentityChanged,
    IdentityUnproved,
    PeerRejected,
    RequestMisspelled,
    RivalConnected,
    VmIdentified,
    VmLeft,
    VmUnidentified,
)
from vmw_cloudinit_metadata.monitoring.onceaminute import key_of
from vmw_cloudinit_metadata.protocol.events import RefusalKind
from vmw_cloudinit_metadata.protocol.identitytoken import REASONS, Proof
from vmw_cloudinit_metadata.protocol.nearrequest import NearRequest
from vmw_cloudinit_metadata.protocol.printable import quoted
from vmw_cloudinit_metadata.protocol.session import Session
from vmw_cloudinit_metadata.protocol.vcentercheck import REASONS as VCENTER_REASONS
from vmw_cloudinit_metadata.protocol.vcentercheck import VmVerdict
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import Failure
from vmw_cloudinit_metadata.serving.crosscheck import LineCheck, VcenterCheck
from vmw_cloudinit_metadata.serving.fleetuses import Others
from vmw_cloudinit_metadata.serving.services import Services
from vmw_cloudinit_metadata.serving.standing import Standing

# An Enum's value is found by Python code, at each boot.
_PROOFS = {proof: counters.PROOFS[proof.value] for proof in Proof if proof.value}

_DOCUMENTS = (*(document.code for document in STANDARD), "DIGEST")


class Registration:
    """Registers one line among the connected machines; `str` begins each of its log lines."""

    __slots__ = ("_check", "_reported", "_services", "_session", "_standing", "known_as")

    def __init__(self, services: Services, standing: Standing, session: Session) -> None:
        self._services = services
        self._standing = standing
        self._session = session
        self.known_as: Machine | None = None  # once the VM is identified
        self._check = LineCheck(services.vcenter, session.identity) if services.vcenter else None
        self._reported: VmVerdict | None = None  # of vCenter, on a request

    def __str__(self) -> str:
        older = ", older connection" if self.is_older else ""
        return f"{self._standing.peer.name}: {self.machine}{older}"

    @property
    def machine(self) -> Machine:
        """The VM that the line counts as; until it is identified, what its host has sent so far."""
        return self.known_as or self._session.machine

    @property
    def is_older(self) -> bool:
        """Whether a newer line has the same VC UUID and service URI."""
        known, machines = self.known_as, self._services.machines
        return machines.rivals > 0 and known is not None and machines.is_older(self, known)

    @property
    def rank(self) -> int:
        """How many older lines have the same VC UUID and service URI."""
        return self._services.machines.rank(self, self.known_as) if self.known_as else 0

    def restore(self, machine: Machine) -> None:
        """Count as `machine`, as in the program before an upgrade; report nothing."""
        self.known_as = machine
        self._add(machine)

    def report(self, fact: Fact, *, level: int | None = None) -> None:
        """Report a happening of this VM."""
        has_rivals = self._services.machines.rivals  # as hardly ever
        remark = "older connection" if has_rivals and self.is_older else ""
        peer, happenings = self._standing.peer, self._services.happenings
        happenings.report(fact, peer, self.machine, remark, level=level)

    def identified(self, machine: Machine) -> None:
        """Count as `machine`, with what vCenter says of it, from now on."""
        self._count_as(self._check.completed(machine) if self._check else machine)

    def _count_as(self, machine: Machine) -> None:
        was, self.known_as = self.known_as, machine
        if was is None or was.proof is not machine.proof:
            self._proved(machine.proof)
        if was is None:
            self._register(machine)
            uri = quoted(machine.service_uri)
            text = f"identified, service URI {uri}{self._other_ports(machine)}"
            self.report(VmIdentified(text))
        elif str(was) != str(machine):
            self._changed(was)
        if was and (was.vc_uuid, was.service_uri) != (machine.vc_uuid, machine.service_uri):
            self._unregister(was)
            self._register(machine)

    def _proved(self, proof: Proof) -> None:
        """Count what proves the VM's identity, and report a VM that is served without."""
        if proof is Proof.UNASKED:
            return
        self._services.counters[_PROOFS[proof]] += 1
        if proof.is_doubt and not self._services.policy.requires_proof:
            unreported = self._services.throttle.passes("unproved", self._standing.peer.name)
            level = logging.DEBUG if unreported is None else logging.WARNING
            text = f"served without proof of its identity: {REASONS[proof]}{unreported or ''}"
            self.report(IdentityUnproved(text), level=level)

    def check_token(self) -> Machine | None:
        """Return what the line counts as, now that tokens are checked; it came before."""
        if self.known_as:
            self._session.identity.check_token(self._services.policy.identity_keys)
            self._count_as(replace(self._session.machine, macs=self.known_as.macs))
        return self.known_as

    def refusal(self) -> Failure | None:
        """Return why a request is not answered, by what vCenter says now."""
        check, known = self._check, self.known_as
        if not check or not known:
            return None
        if not check.is_settled:
            found = check.completed(replace(self._session.machine, macs=known.macs))
            if found != known:
                self._count_as(found)
        self._checked(check.verdict)
        return check.refusal()

    def _checked(self, verdict: VmVerdict) -> None:
        """Count what vCenter says, and report a VM that is served although it does not confirm
        it."""
        assert self._services.vcenter
        mode = self._services.vcenter.mode
        if mode is VcenterCheck.OFF or verdict is self._reported:
            return
        self._reported = verdict
        self._services.counters[counters.VCENTER_CHECKS[verdict.value]] += 1
        # The log says once for all VMs that vCenter tells nothing.
        is_doubt = verdict not in (VmVerdict.CONFIRMED, VmVerdict.UNTOLD)
        if mode is VcenterCheck.WARN and is_doubt:
            unreported = self._services.throttle.passes("unproved", self._standing.peer.name)
            level = logging.DEBUG if unreported is None else logging.WARNING
            text = f"served although vCenter does not confirm it: {VCENTER_REASONS[verdict]}"
            self.report(IdentityUnproved(f"{text}{unreported or ''}"), level=level)

    def unidentified(self, missing: str) -> None:
        """Report a VM whose host has not sent its identity."""
        self._services.counters[counters.CONFLICTS["untold"]] += 1
        unreported = self._services.throttle.passes("untold", self._standing.peer.host)
        if unreported is not None:
            text = (
                f"{self.machine}: not identified: its host has not sent its identity ({missing}). "
                "Until it does, its guest is answered with timeout, and gets no file that a weaker "
                "identity names. If it does not, disconnect and connect the VM's serial port in "
                f"vSphere, or move the VM to another host{unreported}"
            )
            self._standing.report(VmUnidentified(text))

    def almost_requested(self, near: NearRequest) -> None:
        """Report, once a minute, a line that is almost a request, and what was probably meant."""
        unreported = self._services.throttle.passes("misspelled", key_of(self.machine))
        if unreported is not None:
            expected = near.expected(_DOCUMENTS)
            text = f"ignored a line that is almost a request: found {near.found}"
            self.report(RequestMisspelled(f"{text}, expected {expected}{unreported}"))

    def refused(self, kind: RefusalKind, reason: str) -> None:
        """Report that the VM is not served."""
        self._services.counters[counters.VMS_REFUSED] += 1
        self._services.counters[counters.REFUSED[kind]] += 1
        machine = None if self.machine.is_anonymous else self.machine
        text = f"refused: {reason}"
        self._standing.report(PeerRejected(text, counters.REFUSED[kind]), machine)

    def forget(self) -> None:
        """Stop counting as a VM."""
        if self.known_as:
            self._unregister(self.known_as)
            self.known_as = None
            self.report(VmLeft("disconnected"))

    def _changed(self, was: Machine) -> None:
        self._services.counters[counters.CONFLICTS["changed"]] += 1
        unreported = self._services.throttle.passes("changed", self._standing.peer.name)
        level = logging.DEBUG if unreported is None else logging.WARNING
        self.report(IdentityChanged(f"was {was} until now{unreported or ''}"), level=level)

    def _other_ports(self, machine: Machine) -> str:
        count = self._services.machines.port_count(machine)
        return f"; {count} serial ports of this VM are connected" if count > 1 else ""

    def _register(self, machine: Machine) -> None:
        older = self._add(machine)
        if older is None:
            return
        self._services.counters[counters.CONFLICTS["rival"]] += 1
        unreported = self._services.throttle.passes("rival", machine.vc_uuid)
        if unreported is not None:
            count = self._services.machines.line_count(machine) - 1
            text = (
                "has the VC UUID and service URI of an older connection "
                f"({older}; {count} in all): "
                f"this newer one counts as the VM, all are answered{unreported}"
            )
            self.report(RivalConnected(text))

    def _add(self, machine: Machine) -> object | None:
        """Count as `machine`; return the newest of the older lines that do."""
        machines, uses = self._services.machines, self._services.uses
        older = machines.newest(machine)
        machines.add(self, machine)
        if older is None and uses and machine.vc_uuid:
            uses.begin(_port_of(machine), "", self._has_rivals_elsewhere)
        return older

    def _unregister(self, machine: Machine) -> None:
        was_last, uses = self._services.machines.remove(self, machine), self._services.uses
        if was_last and uses:
            uses.end(_port_of(machine), "")

    def _has_rivals_elsewhere(self, others: Others) -> None:
        """Report that older lines of other processes count as the same VM."""
        self._services.counters[counters.CONFLICTS["rival"]] += 1
        if self.known_as and others.held_back is not None:
            servers = ", ".join(sorted({quoted(server) for _, server in others.named}))
            text = (
                "has the VC UUID and service URI of an older connection to another process "
                f"({others.number} in all; server {servers}): "
                f"this newer one counts as the VM, all are answered{others.remark}"
            )
            self.report(RivalConnected(text))


def _port_of(machine: Machine) -> str:
    return f"port {machine.vc_uuid} {machine.service_uri}"
