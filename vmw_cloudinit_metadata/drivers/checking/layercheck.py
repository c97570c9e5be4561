"""LayerCheck: what is wrong with the layers and inventories themselves, for `validate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vmw_cloudinit_metadata.drivers.content import layer
from vmw_cloudinit_metadata.drivers.content.owndata import OwnData
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.filemode import mode_faults
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.drivers.layers.inventories import Inventories, Inventory
from vmw_cloudinit_metadata.drivers.layers.layerfiles import LayerFiles, SharedLayer
from vmw_cloudinit_metadata.drivers.observation import NAMED_VMS, Observation
from vmw_cloudinit_metadata.instance import distinct
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData, bounded, describe
from vmw_cloudinit_metadata.instance.keys import FILE_KEYS
from vmw_cloudinit_metadata.instance.layering import condition, patch
from vmw_cloudinit_metadata.instance.layering.substitution import stand_in, substituted
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid

_OWN_VALUE = "a value of its own for each VM, in its file or by a reference such as ${vm.name}"
_NO_VM = "a match that a VM with a file or an entry meets, or serve: true"


class LayerCheck:
    def __init__(self, directory: Directory, layers: LayerFiles, inventories: Inventories) -> None:
        self._directory = directory
        self._layers = layers
        self._inventories = inventories

    def observations(self, known: Sequence[OwnData]) -> Iterator[Observation]:
        """Every fault and warning that they have by themselves; `known` are all VMs' own data."""
        with self._directory.snapshot() as snapshot:
            for one in self._layers.all(snapshot).layers:
                if faults := list(_faults_of(one, known, snapshot)):
                    names = [own.stem for own in known if one.condition.may_hold(_machine(own))]
                    for fault in faults:
                        yield Observation(fault, names[:NAMED_VMS], len(names))
            for inventory in self._inventories.all(snapshot):
                names = list(inventory.entries)
                for fault in _inventory_faults(inventory, snapshot):
                    yield Observation(fault, names[:NAMED_VMS], len(names))


def _faults_of(one: SharedLayer, known: Sequence[OwnData], snapshot: Snapshot) -> Iterator[Fault]:
    yield from mode_faults(one.file.path, snapshot)
    yield from bounded([*one.file.faults, *_data_faults(one)])
    if not one.file.faults:
        yield from _match_warnings(one, known)
        yield from _shared_values(one)


def _shared_values(one: SharedLayer) -> Iterator[Fault]:
    """Yield a warning for each value that several VMs get which no two should have."""
    if not one.serves or condition.machine_named(one.match):
        return
    values = _values_for(one, "1") & _values_for(one, "2")
    for key, text in sorted(values, key=str):
        fault = Fault(key, f"{describe(text, key)} for all VMs of this layer", _OWN_VALUE)
        yield layer.located(replace(fault, is_warning=True), [one.file])


def _values_for(one: SharedLayer, name: str) -> set[distinct.Value]:
    """What a VM of this name would have from the layer alone, with `name` for all it has."""
    mapping, _ = patch.settled(one.file.patch)
    mapping.setdefault("metadata", {})
    mapping, _ = substituted(mapping, dict.fromkeys(("vm", "query", "match"), lambda _: name))
    try:
        instance = InstanceData.from_mapping(mapping)
    except InvalidInstanceData:
        return set()  # only together with other data it is valid
    return set(distinct.values_of(instance, name))


def _data_faults(one: SharedLayer) -> Iterator[Fault]:
    """What is wrong with a layer whatever lies below and above it."""
    known = {fault.key for fault in one.file.faults}
    mapping, _ = patch.settled(one.file.patch)
    mapping = {key: value for key, value in mapping.items() if key not in FILE_KEYS}
    mapping, _ = substituted(mapping, stand_in(Machine(), {}))
    try:
        InstanceData.from_mapping(mapping)
    except InvalidInstanceData as error:
        for fault in error.faults:
            if not fault.is_absence and fault.key not in known:
                yield layer.located(fault, [one.file])


def _match_warnings(one: SharedLayer, known: Sequence[OwnData]) -> Iterator[Fault]:
    for warning in condition.warnings_in(one.match):
        yield one.file.seed.located(warning, one.file.path)
    if one.serves or any(one.condition.may_hold(_machine(own)) for own in known):
        return
    fault = Fault(("match",), "a layer that counts for no VM", _NO_VM, is_warning=True)
    yield one.file.seed.located(fault, one.file.path)


def _machine(own: OwnData) -> Machine:
    uuid = parse_uuid(own.stem)
    return Machine(vc_uuid=uuid) if uuid else Machine(name=own.stem)


def _inventory_faults(inventory: Inventory, snapshot: Snapshot) -> Iterator[Fault]:
    """The entries are checked one by one elsewhere."""
    yield from inventory.faults
    yield from mode_faults(inventory.path, snapshot)
    for entry in inventory.unusable:
        found, expected = "a name that no VM is looked up by", "the name of a VM, or its VC UUID"
        yield Fault((), found, expected, inventory.path, entry.line, is_warning=True)
