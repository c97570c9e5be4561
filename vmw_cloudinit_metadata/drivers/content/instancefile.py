"""InstanceFiles: the content of instance files, merged with defaults and the files they name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from vmw_cloudinit_metadata.drivers.content import documentfile, layer
from vmw_cloudinit_metadata.drivers.content.defaults import Defaults
from vmw_cloudinit_metadata.drivers.content.duplicates import Owners
from vmw_cloudinit_metadata.drivers.content.layer import FileLayer
from vmw_cloudinit_metadata.drivers.content.reading import Reading, Readings
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.filesystem.filename import stem_in
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.instance import distinct
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData, describe
from vmw_cloudinit_metadata.instance.keys import DOCUMENTS, merged
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.secrecy import NAMES, shown
from vmw_cloudinit_metadata.protocol.printable import one_line


class InstanceFiles:
    """Reads instance files of the directory at `directory`."""

    def __init__(self, directory: str, defaults: Defaults) -> None:
        self._directory = directory
        self._defaults = defaults
        self.readings = Readings()
        self.owners = Owners()

    def read(self, path: str, snapshot: Snapshot, *, keep: bool = False) -> Reading:
        """Return the content of a file, newly read or as kept in `readings`.

        Raise DriverError if a file cannot be read, and UnderWay.
        """
        return self.readings.of(path, snapshot, self._read, keep=keep)

    def layers(self, path: str, snapshot: Snapshot) -> list[FileLayer]:
        """Return the file, and the defaults if there are any; raise DriverError."""
        return [layer.read(path, snapshot), *self._defaults.layers(snapshot)]

    def merged(
        self, layers: Sequence[FileLayer], snapshot: Snapshot
    ) -> tuple[InstanceData | None, tuple[Fault, ...]]:
        """Return the instance made of the layers, or None, and the faults."""
        faults = [fault for layer in layers for fault in layer.faults]
        own = layers[0].mapping
        mapping = merged(layers[1].mapping, own) if layers[1:] else dict(own)
        sources = [layer.path for layer in layers]
        found = self._replace_file_names(mapping, sources, snapshot)
        instance = None
        try:
            instance = InstanceData.from_mapping(mapping, tuple(sources))
        except InvalidInstanceData as error:
            found += error.faults
        if not layers[0].faults or own:  # otherwise these faults only follow from those
            known = {fault.key for fault in faults}
            faults += (layer.located(fault, layers) for fault in found if fault.key not in known)
        if faults or instance is None:
            return None, tuple(sorted(dict.fromkeys(faults), key=_place))
        return instance, ()

    def _replace_file_names(
        self, mapping: dict[str, Any], sources: list[str], snapshot: Snapshot
    ) -> list[Fault]:
        """Put the content of `userdata-file` in place of the name, and its path into `sources`."""
        faults: list[Fault] = []
        for name in DOCUMENTS:
            file = mapping.pop(f"{name}-file", None)
            if file is None:
                continue
            found = documentfile.read((f"{name}-file",), file, self._directory, snapshot)
            if isinstance(found, Fault):
                faults.append(found)
                mapping[name] = b""
            else:
                sources.append(found[0])
                mapping[name] = found[1]
        return faults

    def _read(self, path: str, snapshot: Snapshot) -> Reading:
        layers = self.layers(path, snapshot)
        own = layers[0]
        match = own.mapping.get("match")
        instance, faults = self.merged(layers, snapshot)
        return Reading(
            instance,
            faults,
            duplicates=self._duplicates(path, instance, snapshot) if instance else (),
            bios_uuid=match.get("bios-uuid") if isinstance(match, dict) else None,
            is_legible=bool(own.mapping) or not own.faults,
            is_like_user_data=own.is_like_user_data,
        )

    def _duplicates(self, path: str, instance: InstanceData, snapshot: Snapshot) -> tuple[str, ...]:
        """Return the values that another file, also read for a VM, has too."""

        def looks(file: str) -> int:
            seen = snapshot.signature(file)
            try:
                if seen is None and snapshot.exists(file):
                    seen = snapshot.signature(file)
            except DriverError:
                return 0
            return hash((seen, snapshot.signature(self._defaults.path or "")))

        def values() -> Iterable[distinct.Value]:
            return distinct.values_of(instance, stem_in(path))

        claimed = self.owners.claim(path, values, looks)
        return tuple([_described(value, other) for value, other in claimed])


@lru_cache(maxsize=1024)  # many files may have one value: each boot describes it again
def _described(value: distinct.Value, other: str) -> str:
    key, text = value
    return one_line(f"{shown(key, NAMES)} is {describe(text, key)}, which {other} has too")


def _place(fault: Fault) -> tuple[str, int, str]:
    return fault.file, fault.line, str(fault.key)
