"""Does the same to many VMs in parallel; a VM that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from vmw_cloudinit_metadata.guest.vsphere.portplan import (
    Connect,
    Decide,
    NeedsPowerOffError,
    Step,
    VmError,
)

if TYPE_CHECKING:  # pyVmomi may not be installed
    from vmw_cloudinit_metadata.guest.vsphere.vcenter import VCenter, VirtualMachine


class Result(StrEnum):
    CHANGED = "changed"
    TO_CHANGE = "to be changed"  # in a dry run
    UNCHANGED = "unchanged"
    NEEDS_POWER_OFF = "needs power-off"
    FAILED = "failed"

    @property
    def is_failure(self) -> bool:
        return self in (Result.FAILED, Result.NEEDS_POWER_OFF)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one VM."""

    name: str
    result: Result
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


# What to do to a VM that was found; returns the result and its text.
Do = Callable[["VCenter", "VirtualMachine"], tuple[Result, str]]


def for_each(vcenter: VCenter, names: Sequence[str], jobs: int, do: Do) -> Iterator[Outcome]:
    """Yield the outcomes in the order of the names; `jobs` VMs at a time, no VM twice."""
    pool = ThreadPoolExecutor(jobs)
    try:
        yield from pool.map(lambda target: _outcome(vcenter, target, do), _targets(vcenter, names))
    finally:  # if interrupted: finish the running ones, start no other
        pool.shutdown(cancel_futures=True)


def change(
    vcenter: VCenter, vm: VirtualMachine, decide: Decide, *, is_dry_run: bool
) -> tuple[Result, str]:
    """Look, plan, and carry out the plan unless this is a dry run; raise VmError."""
    plan = decide(vcenter.look(vm))
    if not plan.steps:
        return Result.UNCHANGED, plan.text
    if is_dry_run:
        return Result.TO_CHANGE, f"would be {plan.text}"
    _carry_out(vcenter, vm, plan.steps)
    return Result.CHANGED, plan.text


def _carry_out(vcenter: VCenter, vm: VirtualMachine, steps: Sequence[Step]) -> None:
    for number, step in enumerate(steps):
        try:
            vcenter.carry_out(vm, step)
        except VmError as error:
            if any(isinstance(done, Connect) for done in steps[:number]):
                remedy = "the port is now disconnected: `vm-port reconnect` connects it"
                raise VmError(f"{error}; {remedy}") from error
            raise


def look(vcenter: VCenter, vm: VirtualMachine, uri: str | None) -> tuple[Result, str]:
    """Describe the network serial ports; fail if none has the service URI that is given."""
    state = vcenter.look(vm)
    ports = state.ports if uri is None else state.with_uri(uri)
    if ports:
        return Result.UNCHANGED, f"{state}: {'; '.join(map(str, ports))}"
    if uri is None:
        return Result.UNCHANGED, f"{state}: no serial port on the network"
    return Result.FAILED, f"{state}: no port with service URI {uri}"


@dataclass(frozen=True, slots=True)
class _Target:
    name: str
    vm: VirtualMachine


def _targets(vcenter: VCenter, names: Sequence[str]) -> Iterator[_Target | Outcome]:
    """Yield each VM once, and an outcome for a name without a VM."""
    seen: dict[VirtualMachine, str] = {}
    for name in names:
        try:
            vm = vcenter.find(name)
        except VmError as error:
            yield Outcome(name, Result.FAILED, f"failed: {error}")
            continue
        first = seen.setdefault(vm, name)
        if first == name:
            yield _Target(name, vm)
        else:
            yield Outcome(name, Result.UNCHANGED, f"is the same VM as {first}")


def _outcome(vcenter: VCenter, target: _Target | Outcome, do: Do) -> Outcome:
    if isinstance(target, Outcome):
        return target
    try:
        result, text = do(vcenter, target.vm)
    except NeedsPowerOffError as error:
        result, text = Result.NEEDS_POWER_OFF, str(error)
    except VmError as error:
        result, text = Result.FAILED, f"failed: {error}"
    return Outcome(target.name, result, text)
