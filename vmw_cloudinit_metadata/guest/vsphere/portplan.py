"""Plans for a VM's serial ports: the steps from its present ports to the wanted ones. Pure.

Rules of vSphere: a port is added and removed while the VM is off; its backing is changed while the
VM is off or the port is not connected; it is connected and disconnected while the VM runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from vmw_cloudinit_metadata.protocol import identitytoken
from vmw_cloudinit_metadata.protocol.identitytoken import without_token
from vmw_cloudinit_metadata.protocol.vmware import MAX_URI_BYTES, parse_uuid


class Power(StrEnum):
    ON = "poweredOn"
    OFF = "poweredOff"
    SUSPENDED = "suspended"


_STATES = {Power.ON: "running", Power.OFF: "off", Power.SUSPENDED: "suspended"}


@dataclass(frozen=True, slots=True)
class Backing:
    """Where a port on the network leads."""

    service_uri: str
    proxy_uri: str | None
    direction: str = "client"

    def __str__(self) -> str:
        proxy = f" by {self.proxy_uri}" if self.proxy_uri else ", no proxy URI"
        shown, _ = identitytoken.taken_from(self.service_uri)
        return f"{self.direction}, service URI {shown}{proxy}"


@dataclass(frozen=True, slots=True)
class Port:
    """A serial port on the network, as a VM has it."""

    key: int
    label: str
    backing: Backing
    yield_on_poll: bool
    is_connected: bool

    def __str__(self) -> str:
        state = "connected" if self.is_connected else "not connected"
        polled = "" if self.yield_on_poll else ", no yield on poll"
        return f"{self.label}: {self.backing}{polled}, {state}"


@dataclass(frozen=True, slots=True)
class VmState:
    """A VM's power state and ports."""

    power: Power
    is_template: bool
    ports: Sequence[Port]
    vc_uuid: str = ""

    def __str__(self) -> str:
        return "a template" if self.is_template else _STATES[self.power]

    def with_uri(self, uri: str) -> list[Port]:
        """Return the ports with this service URI; an identity token makes no difference."""
        plain = without_token(uri)
        return [port for port in self.ports if without_token(port.backing.service_uri) == plain]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The port that a VM should have."""

    backing: Backing
    yield_on_poll: bool = True

    def with_uri(self, service_uri: str) -> Wanted:
        return replace(self, backing=replace(self.backing, service_uri=service_uri))


@dataclass(frozen=True, slots=True)
class Add:
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class Edit:
    key: int
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class Remove:
    key: int


@dataclass(frozen=True, slots=True)
class Connect:
    key: int
    is_connected: bool


Step = Add | Edit | Remove | Connect


@dataclass(frozen=True, slots=True)
class PortPlan:
    """The steps, in order; none if the VM needs no change."""

    text: str
    steps: Sequence[Step] = ()


class VmError(Exception):
    """The change is not possible on this VM now; the text says why and what to do."""


class NeedsPowerOffError(VmError):
    """The change needs the VM to be off."""


# The identity token of a VM, by its VC UUID.
Tokens = Callable[[str], str]

Decide = Callable[[VmState], PortPlan]


def add(vm: VmState, wanted: Wanted, token: Tokens | None = None) -> PortPlan:
    """Plan a port with the service URI; raise VmError.

    Without `token`, a port keeps the identity token that it has.
    """
    _refuse_template(vm)
    port = _only_port(vm, wanted.backing.service_uri)
    if token:
        wanted = wanted.with_uri(_with_token(vm, wanted.backing.service_uri, token))
    elif port and without_token(port.backing.service_uri) == wanted.backing.service_uri:
        wanted = wanted.with_uri(port.backing.service_uri)
    if port is None:
        _refuse_unless_off(vm, "a serial port can be added only while it is off")
        return PortPlan(f"added: {wanted.backing}", [Add(wanted)])
    if (port.backing, port.yield_on_poll) == (wanted.backing, wanted.yield_on_poll):
        return PortPlan(f"no change needed: {port.label}")
    return PortPlan(f"changed: {port.label}: {wanted.backing}", _edited(vm, port, wanted))


def remove(vm: VmState, uri: str) -> PortPlan:
    """Plan the removal of every port with the service URI; raise VmError."""
    _refuse_template(vm)
    ports = vm.with_uri(uri)
    if not ports:
        return PortPlan(f"no change needed: no port with service URI {uri}")
    _refuse_unless_off(vm, "a serial port can be removed only while it is off")
    return PortPlan(f"removed: {_labels(ports)}", [Remove(port.key) for port in ports])


def reconnect(vm: VmState, uri: str) -> PortPlan:
    """Plan to make the ESXi host reconnect the port to the server; raise VmError."""
    port = _only_port(vm, uri)
    if port is None:
        raise VmError(f"no port with service URI {uri}: `vm-port add` adds one")
    if vm.power is not Power.ON:
        return PortPlan(f"no change needed: {port.label} connects when the VM is powered on")
    hang_up = [Connect(port.key, False)] if port.is_connected else []
    return PortPlan(f"reconnected: {port.label}", [*hang_up, Connect(port.key, True)])


def _with_token(vm: VmState, uri: str, token: Tokens) -> str:
    vc_uuid = parse_uuid(vm.vc_uuid)
    if vc_uuid is None:
        raise VmError("vCenter tells no VC UUID of it, which an identity token proves")
    with_token = identitytoken.with_token(uri, token(vc_uuid))
    if len(with_token.encode()) > MAX_URI_BYTES:
        raise VmError(f"with a token, its service URI has more than {MAX_URI_BYTES:,} bytes")
    return with_token


def _only_port(vm: VmState, uri: str) -> Port | None:
    ports = vm.with_uri(uri)
    if len(ports) > 1:
        raise VmError(f"{_labels(ports)} have the same service URI {uri}: remove all but one")
    return ports[0] if ports else None


def _edited(vm: VmState, port: Port, wanted: Wanted) -> list[Step]:
    if vm.power is not Power.ON:
        return [Edit(port.key, wanted)]
    hang_up = [Connect(port.key, False)] if port.is_connected else []
    return [*hang_up, Edit(port.key, wanted), Connect(port.key, True)]


def _refuse_template(vm: VmState) -> None:
    if vm.is_template:
        raise VmError("it is a template: convert it to a virtual machine first")


def _refuse_unless_off(vm: VmState, reason: str) -> None:
    if vm.power is not Power.OFF:
        raise NeedsPowerOffError(f"needs power-off: it is {vm}, and {reason}")


def _labels(ports: Sequence[Port]) -> str:
    return ", ".join(port.label for port in ports)
