"""What vCenter says of a machine, for the API."""

from __future__ import annotations

from typing import Any

from vmw_cloudinit_metadata.admin.machinerecord import MachineRecord
from vmw_cloudinit_metadata.process.vcenter.vcenterlink import VcenterLink
from vmw_cloudinit_metadata.protocol.identitytoken import Proof
from vmw_cloudinit_metadata.protocol.vcentercheck import REASONS, VmVerdict, check


def vcenter_of(entry: MachineRecord, link: VcenterLink | None) -> dict[str, Any] | None:
    """Return what vCenter has of a machine, and what it says against it; None without a vCenter.

    Nothing is said against a machine that is not connected.
    """
    if link is None:
        return None
    machine = entry.machine
    vm = link.find(machine.vc_uuid)
    was_confirmed = machine.proof in (Proof.VCENTER, Proof.MOVE)
    verdict = check(machine, vm, is_current=link.is_current, was_confirmed=was_confirmed)
    is_fine = verdict is VmVerdict.CONFIRMED or not entry.is_connected
    return {
        "name": vm.name if vm else None,
        "folder": vm.folder if vm else None,
        "host": vm.host if vm else None,
        "power": vm.power if vm else None,
        "against": None if is_fine else REASONS[verdict],
    }
