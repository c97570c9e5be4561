"""InstanceCheck: every fault and warning of the own data of one VM, for the command `validate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Generic, Protocol

from vmw_cloudinit_metadata.drivers.answers.instances import Instances
from vmw_cloudinit_metadata.drivers.answers.source import Source, SourceChecks, V
from vmw_cloudinit_metadata.drivers.checking.keptchecks import Checked, KeptChecks
from vmw_cloudinit_metadata.drivers.content.layer import located
from vmw_cloudinit_metadata.drivers.content.owndata import OwnData
from vmw_cloudinit_metadata.drivers.content.rivals import ONE_OF_THEM
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.layers.stack import LayerStack
from vmw_cloudinit_metadata.instance import advice, distinct, nocloud
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData, describe
from vmw_cloudinit_metadata.instance.layering.substitution import Sources, stand_in
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.vmname import normal
from vmw_cloudinit_metadata.protocol.vmware import NIL_UUID, Machine, machine_called, parse_uuid

Judge = Callable[[InstanceData], Iterable[Fault]]


class Preparing(Protocol):
    """What prepares answers, while data is checked."""

    def wants(self, own: OwnData) -> bool: ...

    def still(self, own: OwnData) -> None: ...

    def put(
        self, own: OwnData, stack: LayerStack, instance: InstanceData | None, view: Any
    ) -> None: ...

    def end(self, duplicates: Iterable[str]) -> None: ...


class InstanceCheck(Generic[V]):
    """Checks the VMs of a source one by one, with the layers that surely count for them."""

    def __init__(
        self,
        source: Source[V],
        instances: Instances[V],
        checks: SourceChecks[V],
        kept: KeptChecks,
        preparing: Preparing | None,
    ) -> None:
        self._source = source
        self._instances = instances
        self._checks = checks
        self._kept = kept
        self._preparing = preparing

    def check(self, own: OwnData, judge: Judge | None) -> Checked:
        """Check a VM's own data; `judge` adds warnings of what is served.

        A file that is named as user-data and has a key of an instance file is checked too.
        """
        about_own: list[Fault] = []
        with self._checks.view() as view:
            try:
                about_own.extend(self._checks.of_own(own, view))
                content = self._kept_content(own) or self._content(own, judge)
            except DriverError as error:
                expected = f"a {self._source.noun} that can be read"
                content = Checked((Fault((), f"an error ({error})", expected, own.path, 1),))
            except InvalidInstanceData as error:  # its inventory has changed meanwhile
                content = Checked(tuple(error.faults))
        if content.is_no_vm:
            return content
        values = content.values
        if any(fault.expected == ONE_OF_THEM for fault in about_own):
            values = ()  # other data of the same VM has them too
        return Checked((*about_own, *content.faults), values)

    def _kept_content(self, own: OwnData) -> Checked | None:
        kept = self._kept.get(own)
        if kept and self._preparing:
            if self._preparing.wants(own):
                return None
            self._preparing.still(own)
        return kept

    def _content(self, own: OwnData, judge: Judge | None) -> Checked:
        """What is wrong with what it says."""
        with self._checks.view() as view:
            about_file = self._checks.of_label(own.path, view)
            stack, sources = self._stack(own, view)
            if self._checks.is_no_vm(own, stack):
                checked = Checked((), is_no_vm=True)
            else:
                faults, values = self._check(own, stack, sources, view, judge)
                checked = Checked((*about_file, *faults), values)
            self._kept.put(own, view.token(), checked)
        return checked

    def values_of(self, own: OwnData) -> Sequence[distinct.Value]:
        """The values that no other VM may have; none of data that has a fault."""
        with self._checks.view() as view:
            try:
                stack, sources = self._stack(own, view)
                instance, _ = self._instances.merged(stack, sources, view)
            except (DriverError, InvalidInstanceData):
                return ()
        return distinct.values_of(instance, own.stem) if instance else ()

    def located(self, fault: Fault, own: OwnData) -> Fault:
        """The fault with its place: in the VM's own data, or in a layer."""
        with self._checks.view() as view:
            try:
                return located(fault, self._stack(own, view)[0].files)
            except InvalidInstanceData:  # its inventory has changed meanwhile
                return fault

    def _stack(self, own: OwnData, view: V) -> tuple[LayerStack, Callable[[], Sources]]:
        """What surely counts for the VM, as far as its name or UUID says."""
        machine = machine_called(own.stem)
        stack = self._instances.stack(own, machine, view)
        probable = machine.name or self._source.vm_name(own, view) or None
        vault = self._instances.vault
        known = replace(machine, name=probable), stack.captures
        return stack, partial(stand_in, *known, vault.stand_in if vault else None)

    def _check(
        self,
        own: OwnData,
        stack: LayerStack,
        sources: Callable[[], Sources],
        view: V,
        judge: Judge | None,
    ) -> tuple[Sequence[Fault], Sequence[distinct.Value]]:
        path, stem, layers = own.path, own.stem, stack.files
        instance, faults = self._instances.merged(stack, sources, view)
        if instance is None:
            return faults, ()
        try:
            nocloud.render(instance, Machine(name=stem, vc_uuid=NIL_UUID))
        except InvalidInstanceData as error:
            return [replace(fault, file=path) for fault in error.faults], ()
        of_sources = (self._checks.of_label(source, view) for source in instance.sources[1:])
        warnings = [fault for faults in of_sources for fault in faults]
        if self._preparing:
            self._preparing.put(own, stack, instance, view)
        about_data = [*advice.warnings_of(instance), *(judge(instance) if judge else ())]
        name = instance.match.get("name") if parse_uuid(stem) else stem
        about_data += nocloud.hostname_warnings(instance, name or "")
        about_data += _match_faults(instance, stem, self._source.noun)
        warnings += (located(warning, layers) for warning in about_data)
        return warnings, distinct.values_of(instance, stem)


def _match_faults(instance: InstanceData, stem: str, noun: str) -> Iterator[Fault]:
    """Yield the fault of data that no VM gets: its own name and its `match` disagree."""
    wanted = instance.match.get("name")
    if wanted is not None and not parse_uuid(stem) and normal(wanted) != normal(stem):
        expected = f"the VM name by which the {noun} is named, or the {noun} named by this one"
        yield Fault(("match", "name"), describe(wanted), expected, is_warning=True)
