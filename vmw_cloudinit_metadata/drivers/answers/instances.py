"""Instances: what a VM's own data says, over the layers and with the texts that these name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Generic

from vmw_cloudinit_metadata.drivers.answers.duplicates import Owners
from vmw_cloudinit_metadata.drivers.answers.reading import Reading, Readings
from vmw_cloudinit_metadata.drivers.answers.source import Source, V
from vmw_cloudinit_metadata.drivers.content import layer
from vmw_cloudinit_metadata.drivers.content.layer import FileLayer
from vmw_cloudinit_metadata.drivers.content.owndata import BY_LAYER, OwnData
from vmw_cloudinit_metadata.drivers.layers.bases import Bases
from vmw_cloudinit_metadata.drivers.layers.sharedlayer import LayerSet
from vmw_cloudinit_metadata.drivers.layers.stack import LayerStack, Selection, selection_of
from vmw_cloudinit_metadata.drivers.vault.vault import Vault
from vmw_cloudinit_metadata.instance import distinct
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData, describe
from vmw_cloudinit_metadata.instance.keys import DOCUMENTS
from vmw_cloudinit_metadata.instance.layering.substitution import Sources, sources_of, unreplaced
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.secrecy import NAMES, shown
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.protocol.vmware import Machine


class Instances(Generic[V]):
    """Reads what a source has for a VM."""

    def __init__(self, source: Source[V], vault: Vault | None = None) -> None:
        self._source = source
        self.vault = vault
        self.bases = Bases()
        self.readings: Readings[V] = Readings()
        self.owners = Owners()

    def of_layers(self, machine: Machine, view: V) -> OwnData | None:
        """In place of data of its own: the layer that serves the machine without any, or None."""
        selection = self._selection(machine, view)
        if not selection.serves:
            return None
        return OwnData(BY_LAYER, selection.serving_path, machine.name or "")

    def read(
        self,
        own: OwnData,
        machine: Machine,
        view: V,
        *,
        keep: bool = False,
        with_secrets: bool = False,
    ) -> Reading:
        """What a VM's own data says, now or as kept in `readings`.

        Without secrets, their references stand for the values, and no secret is read. Raise
        DriverError if it cannot be read, and UnderWay.
        """
        selection = self._selection(machine, view)
        key = (own.matched_by == BY_LAYER, own.label, selection.key if selection.layers else ())
        who = (machine.name, machine.vc_uuid, machine.service_uri)

        def read(view: V) -> Reading:
            return self._read(own, selection, machine, view, with_secrets=with_secrets)

        return self.readings.of(key, who, self._source.size_of(own, view), view, read, keep=keep)

    def own(self, own: OwnData, view: V) -> FileLayer | None:
        """A VM's own data alone; None if it has only layers."""
        if own.matched_by == BY_LAYER:
            return None
        return self._source.own(own, view)

    def stack(self, own: OwnData, machine: Machine, view: V) -> LayerStack:
        """All that counts for a VM; raises DriverError."""
        return self._stack(own, self._selection(machine, view), view)

    def _stack(self, own: OwnData, selection: Selection, view: V) -> LayerStack:
        mine = self.own(own, view)
        lowest = self._source.lowest(view)
        base = self.bases.of(selection.of, selection.indices, lowest)
        return LayerStack(mine, base, selection.captures)

    def _selection(self, machine: Machine, view: V) -> Selection:
        found = self._source.layers(view)
        return selection_of(found, machine) if found.layers else _NO_LAYERS

    def merged(
        self, stack: LayerStack, sources: Callable[[], Sources], view: V
    ) -> tuple[InstanceData | None, tuple[Fault, ...]]:
        """The instance that the layers make, or None and the faults that it has instead."""
        mapping, faults, warnings, secrets = stack.mapping(sources)
        faults = [*stack.faults, *faults]
        if stack.own is None:
            mapping.setdefault("metadata", {})
        paths = stack.paths
        found = self._replace_file_names(mapping, paths, view)
        warnings += unreplaced(mapping)
        instance = None
        try:
            instance = InstanceData.from_mapping(mapping, tuple(paths))
        except InvalidInstanceData as error:
            found += error.faults
        # Faults of what a file lacks only follow from those of a file that says nothing.
        if found and not stack.has_silent:
            known = {fault.key for fault in faults}
            files = stack.files
            faults += (layer.located(fault, files) for fault in found if fault.key not in known)
        if faults or instance is None:
            return None, tuple(sorted(dict.fromkeys(faults), key=_place))
        is_secret = stack.is_secret or bool(secrets)
        if warnings or is_secret:
            instance = replace(
                instance, warnings=tuple(warnings), is_secret=is_secret, secrets=secrets
            )
        return instance, ()

    def _replace_file_names(
        self, mapping: dict[str, Any], sources: list[str], view: V
    ) -> list[Fault]:
        """Put the content of `userdata-file` in place of the name, and its path into `sources`."""
        faults: list[Fault] = []
        for name in DOCUMENTS:
            file = mapping.pop(f"{name}-file", None)
            if file is None:
                continue
            found = self._source.document((f"{name}-file",), file, view)
            if isinstance(found, Fault):
                faults.append(found)
                mapping[name] = b""
            else:
                sources.append(found[0])
                mapping[name] = found[1]
        return faults

    def _read(
        self,
        own: OwnData,
        selection: Selection,
        machine: Machine,
        view: V,
        *,
        with_secrets: bool,
    ) -> Reading:
        stack = self._stack(own, selection, view)
        mine = stack.own
        match = mine.mapping.get("match") if mine else None
        vault = self.vault
        secrets = (vault.values() if with_secrets else vault.stand_in) if vault else None
        sources = partial(sources_of, machine, stack.captures, secrets)
        instance, faults = self.merged(stack, sources, view)
        if instance and own.line:
            instance = labelled(instance, own)
        if selection.faults:
            instance, faults = None, (*selection.faults, *faults)
        return Reading(
            instance,
            faults,
            duplicates=self._duplicates(own, selection.of, instance, view) if instance else (),
            bios_uuid=match.get("bios-uuid") if isinstance(match, dict) else None,
            is_legible=mine is None or bool(mine.mapping) or not mine.faults,
            is_like_user_data=mine is not None and mine.is_like_user_data and not own.line,
            is_of_machine=stack.has_references,
        )

    def _duplicates(
        self, own: OwnData, layers: LayerSet, instance: InstanceData, view: V
    ) -> tuple[str, ...]:
        """What the VM has in common with another one of those that were read."""
        if own.matched_by == BY_LAYER:
            return ()  # the layer itself says what all of its VMs have

        looks = self._source.looks(layers, view)

        def values() -> Iterable[distinct.Value]:
            return distinct.values_of(instance, own.stem)

        claimed = self.owners.claim(own, values, looks)
        return tuple([_described(value, other) for value, other in claimed])


def labelled(instance: InstanceData, own: OwnData) -> InstanceData:
    """Return the instance with the place of its entry in an inventory as its first source."""
    return replace(instance, sources=(own.label, *instance.sources[1:]))


_NO_LAYERS = Selection()


@lru_cache(maxsize=1024)  # many files may have one value: each boot describes it again
def _described(value: distinct.Value, other: str) -> str:
    key, text = value
    return one_line(f"{shown(key, NAMES)} is {describe(text, key)}, which {other} has too")


def _place(fault: Fault) -> tuple[str, int, str]:
    return fault.file, fault.line, str(fault.key)
