"""LayerCheck: what is wrong with the layers and inventories themselves, for `validate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic
from uuid import UUID

from vmw_cloudinit_metadata.drivers.answers.source import Source, SourceChecks, V
from vmw_cloudinit_metadata.drivers.content import layer
from vmw_cloudinit_metadata.drivers.content.owndata import OwnData
from vmw_cloudinit_metadata.drivers.layers.sharedlayer import SharedLayer
from vmw_cloudinit_metadata.drivers.observation import NAMED_VMS, Observation
from vmw_cloudinit_metadata.drivers.vault.vault import Vault
from vmw_cloudinit_metadata.instance import distinct
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData, bounded, describe
from vmw_cloudinit_metadata.instance.keys import FILE_KEYS
from vmw_cloudinit_metadata.instance.layering import condition, patch
from vmw_cloudinit_metadata.instance.layering.secretreference import REFERENCE_BEGINS
from vmw_cloudinit_metadata.instance.layering.substitution import stand_in, substituted
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine, machine_called

_OWN_VALUE = "a value of its own for each VM, in its {0} or by a reference such as ${{vm.name}}"
_NO_VM = "a match that a VM with a {0} or an entry meets, or serve: true"


class LayerCheck(Generic[V]):
    def __init__(
        self, source: Source[V], checks: SourceChecks[V], vault: Vault | None = None
    ) -> None:
        self._source = source
        self._checks = checks
        self._vault = vault

    def observations(self, known: Sequence[OwnData]) -> Iterator[Observation]:
        """Every fault and warning that they have by themselves; `known` are all VMs' own data."""
        with self._checks.view() as view:
            for one in self._source.layers(view).layers:
                if faults := list(self._faults_of(one, known, view)):
                    names = [
                        own.stem
                        for own in known
                        if one.condition.may_hold(machine_called(own.stem))
                    ]
                    for fault in faults:
                        yield Observation(fault, names[:NAMED_VMS], len(names))
            yield from self._checks.of_shared(view)

    def _faults_of(self, one: SharedLayer, known: Sequence[OwnData], view: V) -> Iterator[Fault]:
        yield from self._checks.of_label(one.file.path, view)
        yield from bounded([*one.file.faults, *_data_faults(one, self._vault)])
        if not one.file.faults:
            yield from _match_warnings(one, known, self._source.noun)
            yield from _common_values(one, self._source.noun)


def _data_faults(one: SharedLayer, vault: Vault | None) -> Iterator[Fault]:
    """What is wrong with a layer whatever lies below and above it."""
    known = {fault.key for fault in one.file.faults}
    mapping, _ = patch.settled(one.file.patch)
    mapping = {key: value for key, value in mapping.items() if key not in FILE_KEYS}
    found = substituted(mapping, stand_in(Machine(), {}, vault.stand_in if vault else None))
    for fault in found.faults:
        if fault.found.startswith(REFERENCE_BEGINS):
            yield layer.located(fault, [one.file])
    try:
        InstanceData.from_mapping(found.mapping)
    except InvalidInstanceData as error:
        for fault in error.faults:
            if not fault.is_absence and fault.key not in known:
                yield layer.located(fault, [one.file])


def _match_warnings(one: SharedLayer, known: Sequence[OwnData], noun: str) -> Iterator[Fault]:
    for warning in condition.warnings_in(one.match):
        yield one.file.seed.located(warning, one.file.path)
    if one.serves or any(one.condition.may_hold(machine_called(own.stem)) for own in known):
        return
    fault = Fault(("match",), "a layer that counts for no VM", _NO_VM.format(noun), is_warning=True)
    yield one.file.seed.located(fault, one.file.path)


def _common_values(one: SharedLayer, noun: str) -> Iterator[Fault]:
    """A warning of each value that no two VMs should have, and all VMs of the layer get."""
    match = one.match if isinstance(one.match, dict) else {}
    name = str(match.get("name", "*"))
    if match.keys() & {"vc-uuid", "bios-uuid"} or not set("*?{") & set(name):
        return  # it is for one VM
    some, others = (set(_values(one, text)) for text in "12")
    for key, text in sorted(some & others):
        found = f"{describe(text, key)}, which each VM gets for which this layer counts"
        fault = Fault(key, found, _OWN_VALUE.format(noun), is_warning=True)
        yield layer.located(fault, [one.file])


def _values(one: SharedLayer, text: str) -> Sequence[distinct.Value]:
    """Those that a VM would get if all that is known of it were `text`."""
    mapping, _ = patch.settled(one.file.patch)
    mapping = {key: value for key, value in mapping.items() if key not in FILE_KEYS}
    sources = dict.fromkeys(("vm", "query", "match", "secret"), lambda _: text)
    mapping = substituted(mapping, sources).mapping
    try:
        instance = InstanceData.from_mapping({"metadata": {}, **mapping})
    except InvalidInstanceData:
        return ()
    return distinct.values_of(instance, str(UUID(int=int(text))))
