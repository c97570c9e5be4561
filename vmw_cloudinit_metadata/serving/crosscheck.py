"""CrossCheck: what vCenter says of the VM of each line, and whether it is served."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from vmw_cloudinit_metadata.process.vcenter.vcenterlink import VcenterLink
from vmw_cloudinit_metadata.protocol import vcentercheck
from vmw_cloudinit_metadata.protocol.identity import Identity
from vmw_cloudinit_metadata.protocol.identitytoken import Proof
from vmw_cloudinit_metadata.protocol.vcentercheck import REASONS, VcenterVm, VmVerdict
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import Failure

_DEFAULT_WAIT_S = 30.0


class VcenterCheck(Enum):
    OFF = "off"  # vCenter is only shown
    WARN = "warn"
    REQUIRE = "require"


@dataclass(slots=True)
class CrossCheck:
    """What all lines share."""

    link: VcenterLink
    mode: VcenterCheck = VcenterCheck.WARN
    wait_s: float = _DEFAULT_WAIT_S  # for vCenter to confirm a VM, where that is required

    def change(self, setting: str, value: Any) -> None:
        if setting == "vcenter_check":
            self.mode = value
        else:
            self.wait_s = value

    def verdict(self, machine: Machine, vm: VcenterVm | None, *, was_confirmed: bool) -> VmVerdict:
        is_current = self.link.is_current
        return vcentercheck.check(machine, vm, is_current=is_current, was_confirmed=was_confirmed)


class LineCheck:
    """The check of one line's VM."""

    __slots__ = ("_doubted_s", "_identity", "_seen", "_shared", "verdict")

    def __init__(self, shared: CrossCheck, identity: Identity) -> None:
        self._shared = shared
        self._identity = identity
        self._seen = -1  # the revision of what vCenter has told, when it was last looked at
        self._doubted_s: float | None = None  # the first request that vCenter did not confirm
        self.verdict = VmVerdict.UNTOLD

    def completed(self, machine: Machine) -> Machine:
        """Return the machine with what vCenter says: its proof, and its network cards."""
        shared, identity = self._shared, self._identity
        vm = shared.link.find(machine.vc_uuid)
        if shared.mode is VcenterCheck.OFF:
            self.verdict = VmVerdict.UNTOLD
        else:
            was_confirmed = identity.is_confirmed
            self.verdict = shared.verdict(machine, vm, was_confirmed=was_confirmed)
            if self.verdict is VmVerdict.CONFIRMED and not was_confirmed:
                identity.prove(Proof.VCENTER)
                machine = identity.machine
        self._seen = shared.link.revision
        macs = vm.macs if vm else machine.macs
        return machine if macs == machine.macs else replace(machine, macs=macs)

    @property
    def is_settled(self) -> bool:
        """Whether looking again would change nothing."""
        is_decided = self._shared.mode is VcenterCheck.OFF or self._identity.is_confirmed
        return is_decided and self._seen == self._shared.link.revision

    def refusal(self) -> Failure | None:
        """Return why a request is not answered now, or at all."""
        shared = self._shared
        if shared.mode is not VcenterCheck.REQUIRE or self.verdict is VmVerdict.CONFIRMED:
            self._doubted_s = None
            return None
        now_s = shared.link.now_s()
        if self._doubted_s is None:
            self._doubted_s = now_s
        reason = REASONS[self.verdict]
        if now_s - self._doubted_s < shared.wait_s:
            return Failure("timeout", f"not confirmed yet, so its guest is to ask again: {reason}")
        return Failure("refused", reason)
