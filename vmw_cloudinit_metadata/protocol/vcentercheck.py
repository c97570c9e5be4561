"""What vCenter says of a VM, compared with who it says it is. Pure.

A VM is confirmed if vCenter knows it, runs it on the host that dials, and has given it a serial
port with its service URI. Everything else is a doubt, and vCenter may only be late: it learns of a
power-on, a move or a new VM after the host does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Address, ip_address

from vmw_cloudinit_metadata.protocol.identitytoken import taken_from, without_token
from vmw_cloudinit_metadata.protocol.vmware import Machine

RUNNING = "poweredOn"
_DIGEST_BYTES = 12


@dataclass(frozen=True, slots=True)
class VcenterVm:
    """A VM as vCenter describes it."""

    name: str
    power: str  # poweredOn, poweredOff or suspended
    host: str = ""  # the name of its ESXi host
    addresses: tuple[str, ...] = ()  # of that host, from which it may dial, each canonical
    folder: str = ""  # where it is in the inventory: DC/vm/web
    ports: tuple[str, ...] = ()  # the digests of its serial ports' service URIs
    macs: tuple[str, ...] = ()  # of its network cards, in their order
    booted_s: float = 0.0  # since 1970: when it was powered on from off; 0: vCenter does not say


class VmVerdict(Enum):
    """What vCenter says of a VM that dials."""

    CONFIRMED = "confirmed"
    UNTOLD = "not told"
    NO_UUID = "no VC UUID"
    NO_VM = "no such VM"
    NOT_RUNNING = "not running"
    OTHER_HOST = "other host"
    OTHER_URI = "other service URI"


# For the operator: what is wrong, and what to do.
_LATE = "vCenter may only be late; if it stays so, "
REASONS: Mapping[VmVerdict, str] = {
    VmVerdict.UNTOLD: "vCenter does not tell now whether it is so: the log (`vCenter:`), the page "
    "and the status say since when and why",
    VmVerdict.NO_UUID: "the VM has sent no VC UUID, by which vCenter knows VMs: only VMs of a "
    "vCenter have one",
    VmVerdict.NO_VM: f"vCenter has no VM with this VC UUID: {_LATE}it is of another vCenter, the "
    "user of --vcenter-user may not see it, or somebody makes it up",
    VmVerdict.NOT_RUNNING: f"vCenter says that this VM is not running: {_LATE}somebody else dials "
    "as this VM",
    VmVerdict.OTHER_HOST: "vCenter says that this VM runs on another ESXi host than the one that "
    f"dials: {_LATE}the host dials from an address that vCenter does not have (by NAT, or a load "
    "balancer without --proxy-protocol), or somebody else dials as this VM",
    VmVerdict.OTHER_URI: "in vCenter, no serial port of this VM has this service URI: set it with "
    "`vm-port add`; else somebody else dials as this VM",
}


def check(
    machine: Machine, vm: VcenterVm | None, *, is_current: bool, was_confirmed: bool
) -> VmVerdict:
    """Return what vCenter says of a machine; `vm` is what it has told of its VC UUID.

    `is_current`: it has told of all VMs, and is heard now; else what is no longer so proves nothing
    against a VM. `was_confirmed`: on this line, or at the source of its move. That holds until the
    host reconnects: vCenter may name the host of the source for a while.
    """
    if not machine.vc_uuid:
        return VmVerdict.NO_UUID
    if was_confirmed:
        return VmVerdict.CONFIRMED
    doubt = _doubt(machine, vm)
    if doubt is None:
        return VmVerdict.CONFIRMED
    return doubt if is_current else VmVerdict.UNTOLD


def _doubt(machine: Machine, vm: VcenterVm | None) -> VmVerdict | None:
    if vm is None:
        return VmVerdict.NO_VM
    if vm.power != RUNNING:
        return VmVerdict.NOT_RUNNING
    if machine.peer_address not in vm.addresses:
        return VmVerdict.OTHER_HOST
    if uri_digest(machine.service_uri) not in vm.ports:
        return VmVerdict.OTHER_URI
    return None


def uri_digest(service_uri: str) -> str:
    """Return a digest of a service URI without its identity token, hidden or not."""
    plain = without_token(taken_from(service_uri)[0]).encode("utf-8", "surrogatepass")
    return hashlib.sha256(plain).hexdigest()[: 2 * _DIGEST_BYTES]


def canonical(address: str) -> str:
    """Return an IP address in the form that a machine's peer address has; other text as it is."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return str(mapped or found)
