"""LayerStack: the layers that count for one VM, the VM's own data on top, and what they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from vmw_cloudinit_metadata.drivers.content.layer import FileLayer, located
from vmw_cloudinit_metadata.drivers.layers.bases import Base
from vmw_cloudinit_metadata.drivers.layers.sharedlayer import NO_LAYERS, LayerSet, SharedLayer
from vmw_cloudinit_metadata.instance.fault import Fault, Key, kind_of
from vmw_cloudinit_metadata.instance.layering import patch
from vmw_cloudinit_metadata.instance.layering.substitution import Sources, substituted
from vmw_cloudinit_metadata.instance.network import native
from vmw_cloudinit_metadata.protocol.vmware import Machine

_NO_NETWORK = Fault(
    ("network",),
    "no address and no dhcp: true in any layer, so that there is no network",
    "one of them, or no network at all",
    is_warning=True,
)


@dataclass(frozen=True)
class Selection:
    """The layers whose conditions a machine meets, the lowest first."""

    layers: Sequence[SharedLayer] = ()
    indices: tuple[int, ...] = ()  # theirs, among all layers
    captures: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    of: LayerSet = NO_LAYERS

    @property
    def serves(self) -> bool:
        """Whether a VM without data of its own gets some."""
        return any(layer.serves for layer in self.layers)

    @property
    def serving_path(self) -> str:
        """The highest layer that serves such VMs."""
        return next(layer.file.path for layer in reversed(self.layers) if layer.serves)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for machines for which the layers say the same."""
        return self.of.version, self.indices, tuple(self.captures.items())


def selection_of(layers: LayerSet, machine: Machine) -> Selection:
    query = machine.query
    indices: list[int] = []
    taken: dict[str, tuple[str, SharedLayer]] = {}
    faults: list[Fault] = []
    for index, one in enumerate(layers.layers):
        captures = one.condition.captures(machine, query)
        if captures is None:
            continue
        indices.append(index)
        for word, text in captures.items():
            first, by = taken.setdefault(word, (text, one))
            if first != text:
                found = f"a {{word}} that takes something else than in {by.file.path}"
                fault = Fault(("match", "name"), found, "another word")
                faults.append(one.file.seed.located(fault, one.file.path))
    words = {word: text for word, (text, _) in taken.items()}
    chosen = [layers.layers[index] for index in indices]
    return Selection(chosen, tuple(indices), words, tuple(faults), layers)


class Merged(NamedTuple):
    """The mapping that all layers make, with the faults that it has, and its warnings."""

    mapping: dict[str, Any]
    faults: list[Fault]
    warnings: list[Fault]
    secrets: tuple[str, ...]  # to which it refers


@dataclass(frozen=True)
class LayerStack:
    """A VM's own data, if it has any, and what lies below it."""

    own: FileLayer | None
    base: Base
    captures: Mapping[str, str]

    @property
    def files(self) -> list[FileLayer]:
        """All of which the answer is made, the highest first."""
        return [self.own, *self.base.files] if self.own else list(self.base.files)

    @property
    def paths(self) -> list[str]:
        return [self.own.path, *self.base.paths] if self.own else list(self.base.paths)

    @property
    def faults(self) -> list[Fault]:
        """Those that the files have by themselves."""
        return [*self.own.faults, *self.base.faults] if self.own else list(self.base.faults)

    @property
    def has_silent(self) -> bool:
        """Whether one of them says nothing, because of its faults."""
        return any(file.faults and not file.mapping for file in self.files)

    @cached_property
    def patches(self) -> list[patch.Patch]:
        """What each says, the lowest first."""
        return [file.patch for file in reversed(self.files)]

    def at(self, index: int) -> FileLayer:
        """The file of one of `patches`."""
        return self.files[-1 - index]

    @property
    def is_secret(self) -> bool:
        return self.base.is_secret or (self.own is not None and self.own.is_secret)

    @property
    def has_references(self) -> bool:
        return self.base.has_references or (self.own is not None and self.own.has_references)

    def mapping(self, sources: Callable[[], Sources]) -> Merged:
        merged, conflicts = self._merged()
        faults = [self._conflict(key) for key in conflicts]
        secrets: tuple[str, ...] = ()
        if self.has_references:
            merged, without_value, secrets = substituted(merged, sources())
            faults += (located(fault, self.files) for fault in without_value)
        if not self.base.files or not self._lacks_address(merged):
            return Merged(merged, faults, [], secrets)
        del merged["network"]
        return Merged(merged, faults, [_NO_NETWORK], secrets)

    def _merged(self) -> tuple[dict[str, Any], list[Key]]:
        own = self.own
        if own is None:
            return patch.settled(self.base.patch)
        if not self.base.files and not own.has_appended:
            return dict(own.mapping), []
        return patch.settled(patch.over(self.base.patch, own.patch))

    def _conflict(self, key: tuple[str | int, ...]) -> Fault:
        upper, under = patch.conflict_between(self.patches, key)
        place = self._place(under, key)
        what = kind_of(patch.value_at(self.patches[under], key))
        value = patch.value_at(self.patches[upper], key)
        file = self.at(upper)
        if isinstance(value, patch.Appended):
            key = (*key[:-1], f"{key[-1]}{patch.APPENDS}")
            found, expected = f"a list to append to {what} in {place}", "a list there"
        else:
            found, expected = f"{kind_of(value)} over {what} in {place}", "two of one kind"
        return file.seed.located(Fault(key, found, expected), file.path)

    def _place(self, index: int, key: tuple[str | int, ...]) -> str:
        file = self.at(index)
        appended = (*key[:-1], f"{key[-1]}{patch.APPENDS}")
        line = file.seed.line(appended if file.seed.has(appended) else key)
        return f"{file.path}:{line}" if line else file.path

    def _lacks_address(self, merged: Mapping[str, Any]) -> bool:
        """Whether layers alone say something of a network, but not where in it the VM is."""
        if self.own and self.own.mapping.get("network") is not None:
            return False  # who writes one for a VM means one: it lacks an address
        network = merged.get("network")
        if not isinstance(network, dict) or native.is_native(network):
            return False
        return not network.get("address") and not network.get("dhcp")
