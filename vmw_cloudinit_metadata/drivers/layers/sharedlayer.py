"""What several VMs share: the layers of a source, each with the VMs that it is for. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from vmw_cloudinit_metadata.drivers.content import layer
from vmw_cloudinit_metadata.drivers.content.layer import MAX_FILE_BYTES, FileLayer
from vmw_cloudinit_metadata.drivers.content.owndata import BY_LAYER, OwnData
from vmw_cloudinit_metadata.drivers.filesystem.filename import stem_of
from vmw_cloudinit_metadata.instance.fault import Fault, describe
from vmw_cloudinit_metadata.instance.layering.condition import (
    Condition,
    condition_of,
    machine_named,
)

MAX_LAYERS = 100
MAX_BYTES = MAX_FILE_BYTES  # of all layers together

_OWN_KEYS = ("match", "serve")  # of a layer, not of the VMs that it is for


@dataclass(frozen=True)
class SharedLayer:
    """A file of `layers/`: what it says, for which VMs, and whether these need no own file."""

    file: FileLayer
    condition: Condition
    serves: bool = False
    match: object = None  # as written


@dataclass(frozen=True, slots=True)
class LayerSet:
    """All layers, the lowest first; `version` is another one after each change."""

    layers: tuple[SharedLayer, ...] = ()
    version: int = 0
    size_bytes: int = 0


NO_LAYERS = LayerSet()


def layer_of(file: FileLayer) -> SharedLayer:
    """The layer that a document makes, which was parsed with the keys LAYER_LEVEL."""
    match = file.mapping.get("match")
    condition, faults = condition_of(match)
    serve = file.mapping.get("serve", False)
    if not isinstance(serve, bool):
        faults.append(Fault(("serve",), describe(serve), "true or false"))
    shared = replace(
        file,
        mapping={key: value for key, value in file.mapping.items() if key not in _OWN_KEYS},
        faults=(*file.faults, *(file.seed.located(fault, file.path) for fault in faults)),
    )
    return SharedLayer(shared, condition, serve is True, match)


def faulty(fault: Fault) -> SharedLayer:
    """A layer of which nothing is known but its fault: it could be for any VM."""
    return SharedLayer(layer.unusable(fault), Condition({}))


def vms_served(layers: LayerSet, known: Collection[str]) -> Iterator[OwnData]:
    """The VMs that layers serve and name, but for those `known` by their stems."""
    for one in layers.layers:
        machine = machine_named(one.match) if one.serves else None
        if machine is None:
            continue
        stem = machine.vc_uuid or stem_of(machine.name or "")
        if stem and stem not in known:
            yield OwnData(BY_LAYER, one.file.path, stem)
