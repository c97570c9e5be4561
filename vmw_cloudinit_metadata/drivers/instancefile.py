"""Instance files: what one says, together with the defaults and the files that it names."""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from vmw_cloudinit_metadata.drivers.directory import Directory
from vmw_cloudinit_metadata.drivers.documentnames import DocumentNames
from vmw_cloudinit_metadata.drivers.filename import SUFFIXES, stem_of
from vmw_cloudinit_metadata.drivers.reading import Reading, Readings
from vmw_cloudinit_metadata.drivers.root import LeadsOut
from vmw_cloudinit_metadata.drivers.snapshot import Signature, Snapshot
from vmw_cloudinit_metadata.errors import DriverError
from vmw_cloudinit_metadata.instance import advice, encoding, nocloud, seed
from vmw_cloudinit_metadata.instance.fault import (
    Fault,
    Faults,
    InvalidInstanceData,
    Key,
    bounded,
    kind_of,
)
from vmw_cloudinit_metadata.instance.keys import (
    DOCUMENTS,
    FILE_KEYS,
    FILE_LEVEL,
    canonical,
    merged,
    misplaced_faults,
)
from vmw_cloudinit_metadata.instance.model import MAX_DOCUMENT_BYTES, InstanceData
from vmw_cloudinit_metadata.instance.secrecy import is_secret_text
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid

MAX_FILE_BYTES = 4 * 1024 * 1024

_OUTSIDE_FOUND = "a link that leads out of the directory"
_OUTSIDE_EXPECTED = "a file inside it, or the driver option links_outside: true"
_FILE_NAME = re.compile(r"[\w./@+-]{1,100}", re.ASCII)

_NIL_UUID = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class _Layer:
    """One file that an answer is made of."""

    path: str
    seed: seed.Seed
    mapping: dict[str, Any]
    faults: tuple[Fault, ...]


class InstanceFiles:
    """Reads the instance files of a directory, over the defaults if there is such a file."""

    def __init__(self, directory: Directory, defaults: str | None) -> None:
        self._directory = directory
        self.readings = Readings()
        self._defaults_lock = threading.Lock()
        self._defaults_kept: tuple[Signature, _Layer] | None = None
        self._documents = DocumentNames(directory.path)
        self.defaults = directory.path_of(defaults) if defaults else None
        if self.defaults and not os.path.isfile(self.defaults):
            raise DriverError(f"defaults: found no file {self.defaults!r}, expected a YAML file")

    def all_paths(self) -> list[str]:
        """The instance files of VMs that there are."""
        return [path for path in self._directory.all_paths() if path != self.defaults]

    def found(self, stem: str, snapshot: Snapshot) -> list[str]:
        """The paths at which there is an instance file of that name."""
        paths = self._directory.paths_named(stem)
        return [path for path in paths if path != self.defaults and snapshot.exists(path)]

    def document_names(self) -> Collection[str]:
        """The further documents that any file has."""
        return self._documents.get(self._scan)

    def _scan(self) -> Iterator[str]:
        with self._directory.snapshot() as snapshot:
            for path in [*self.all_paths(), *([self.defaults] if self.defaults else [])]:
                try:
                    seen = Snapshot(snapshot.root)
                    yield from self._documents.of_file(path, seen, self._documents_of)
                except (DriverError, LeadsOut):
                    continue  # it is told when its VM asks

    def _documents_of(self, path: str, snapshot: Snapshot) -> Collection[object]:
        content = snapshot.read(path, MAX_FILE_BYTES)
        if not content or b"documents" not in content:
            return ()
        documents = self._layer_of(path, content).mapping.get("documents")
        return documents if isinstance(documents, dict) else ()

    def read(self, path: str, snapshot: Snapshot, *, keep: bool = False) -> Reading:
        """What a file says, kept as Readings has it.

        Raises DriverError if a file cannot be read, and UnderWay.
        """
        return self.readings.of(path, snapshot, self._read, keep=keep)

    def _read(self, path: str, snapshot: Snapshot) -> Reading:
        layers = [self._layer(path, snapshot), *self._defaults_layers(snapshot)]
        own = layers[0]
        match = own.mapping.get("match")
        return Reading(
            *self._checked(layers, snapshot),
            bios_uuid=match.get("bios-uuid") if isinstance(match, dict) else None,
            is_legible=bool(own.mapping) or not own.faults,
        )

    def _checked(
        self, layers: Sequence[_Layer], snapshot: Snapshot
    ) -> tuple[InstanceData | None, tuple[Fault, ...]]:
        faults = [fault for layer in layers for fault in layer.faults]
        mapping = merged(layers[1].mapping if layers[1:] else {}, layers[0].mapping)
        sources = [layer.path for layer in layers]
        found: list[Fault] = []
        for name in DOCUMENTS:
            file = mapping.pop(f"{name}-file", None)
            if file is not None:
                mapping[name] = self._document(name, file, snapshot, sources, found)
        instance = None
        try:
            instance = InstanceData.from_mapping(mapping)
        except InvalidInstanceData as error:
            found += error.faults
        if not layers[0].faults or layers[0].mapping:  # else nothing of it can be told
            told = {fault.key for fault in faults}
            faults += (_located(fault, layers) for fault in found if fault.key not in told)
        if faults or instance is None:
            return None, tuple(sorted(set(faults), key=_place))
        return replace(instance, sources=tuple(sources)), ()

    def _defaults_layers(self, snapshot: Snapshot) -> list[_Layer]:
        """The defaults, parsed again only when they have changed, by one thread for all."""
        if not self.defaults:
            return []
        with self._defaults_lock:
            snapshot.exists(self.defaults)
            kept = self._defaults_kept
            if kept and kept[0] == snapshot.signature(self.defaults):
                return [kept[1]]
            seen = Snapshot(snapshot.root)
            layer = self._layer(self.defaults, seen)
            signature = seen.signature(self.defaults)
            self._defaults_kept = (signature, layer) if seen.is_settled() else None
            snapshot.include(seen)
            return [layer]

    def _layer(self, path: str, snapshot: Snapshot) -> _Layer:
        try:
            return self._layer_of(path, snapshot.read(path, MAX_FILE_BYTES))
        except LeadsOut:
            return _Layer(path, seed.read(""), {}, (_outside(path),))

    def _layer_of(self, path: str, content: bytes | None) -> _Layer:
        text = _text(path, content)
        if isinstance(text, Fault):
            return _Layer(path, seed.read(""), {}, (text,))
        read = seed.read(text)
        faults = Faults()
        faults.extend(read.faults)
        mapping: dict[str, Any] = {}
        if isinstance(read.value, dict):
            mapping, twice = canonical(read.value)
            faults.extend(twice)
            faults.extend(misplaced_faults(mapping, FILE_LEVEL))
            both = list(_both_faults(mapping))
            faults.extend(both)
            if path == self.defaults and "match" in mapping:
                faults.add(Fault(("match",), "'match'", "no such key among the defaults"))
            mapping = {k: v for k, v in mapping.items() if k in FILE_LEVEL}
            for fault in both:
                del mapping[str(fault.key[0])]
        elif not faults.found:
            found = kind_of(read.value)  # it may be user-data
            faults.add(Fault((), found, "a mapping with the key metadata"))
        located = (read.located(fault, path) for fault in faults.all())
        return _Layer(path, read, mapping, tuple(located))

    def _document(
        self, name: str, file: Any, snapshot: Snapshot, sources: list[str], faults: list[Fault]
    ) -> bytes:
        """The content of a userdata-file or vendordata-file."""
        key = (f"{name}-file",)
        expected = "the name of a file inside the directory"
        if not isinstance(file, str) or not _is_inside(file):
            found = _quoted(file) if isinstance(file, str) else kind_of(file)
            faults.append(Fault(key, found, expected))
            return b""
        path = os.path.join(self._directory.path, file)
        if not snapshot.exists(path):
            faults.append(Fault(key, f"{_quoted(file)}, which is not there", expected))
            return b""
        try:
            content = snapshot.read(path, MAX_DOCUMENT_BYTES)
        except LeadsOut:
            faults.append(Fault(key, f"{_quoted(file)}, {_OUTSIDE_FOUND}", _OUTSIDE_EXPECTED))
            return b""
        if content is None or len(content) > MAX_DOCUMENT_BYTES:
            found = (
                f"{_quoted(file)}, which is no regular file of at most {MAX_DOCUMENT_BYTES:,} bytes"
            )
            faults.append(Fault(key, found, expected))
            return b""
        sources.append(path)
        return content

    def faults_of(self, path: str) -> Iterator[Fault]:
        """Every fault and warning of an instance file."""
        with self._directory.snapshot() as snapshot:
            yield from self._faults_of(path, snapshot)

    def _faults_of(self, path: str, snapshot: Snapshot) -> Iterator[Fault]:
        yield from _name_faults(path)
        yield from _mode_faults(path, snapshot)
        stem, suffix = os.path.splitext(os.path.basename(path))
        if suffix == SUFFIXES[1] and os.path.exists(path.removesuffix(suffix) + SUFFIXES[0]):
            yield _two_files(self._directory.paths_named(stem))
        try:
            instance = self._read(path, snapshot).served()
            nocloud.render(instance, Machine(name=stem, vc_uuid=_NIL_UUID))
        except InvalidInstanceData as error:
            yield from (
                fault if fault.file else replace(fault, file=path) for fault in error.faults
            )
        except DriverError as error:
            yield Fault((), f"an error ({error})", "a file that can be read", path, 1)
        else:
            for source in instance.sources[1:]:
                yield from _mode_faults(source, snapshot)
            layers = [self._layer(path, snapshot), *self._defaults_layers(snapshot)]
            yield from (_located(warning, layers) for warning in advice.warnings_of(instance))
            name = instance.match.get("name") if parse_uuid(stem) else stem
            yield from (
                _located(warning, layers)
                for warning in nocloud.hostname_warnings(instance, name or "")
            )

    def faults_of_defaults(self) -> Iterator[Fault]:
        """Every fault and warning that the defaults have by themselves."""
        if not self.defaults:
            return
        with self._directory.snapshot() as snapshot:
            yield from _mode_faults(self.defaults, snapshot)
            layer = self._layer(self.defaults, snapshot)
        faults = list(layer.faults)
        mapping = {k: v for k, v in layer.mapping.items() if k not in FILE_KEYS}
        try:
            InstanceData.from_mapping(mapping)
        except InvalidInstanceData as error:
            faults += (_located(f, [layer]) for f in error.faults if not f.is_absence)
        yield from bounded(faults)


def only(paths: Sequence[str]) -> str | None:
    """The path, if there is one; two of them are a fault."""
    if len(paths) > 1:
        raise InvalidInstanceData([_two_files(paths)])
    return paths[0] if paths else None


def _text(path: str, content: bytes | None) -> str | Fault:
    if content is None:
        return Fault((), "something else", "a regular file", path, 1)
    if len(content) > MAX_FILE_BYTES:
        return Fault((), "a larger file", f"at most {MAX_FILE_BYTES:,} bytes", path, 1)
    text = encoding.text_of(content)
    return replace(text, file=path) if isinstance(text, Fault) else text


def _both_faults(mapping: Mapping[str, Any]) -> Iterator[Fault]:
    for name in DOCUMENTS:
        if mapping.get(name) is not None and mapping.get(f"{name}-file") is not None:
            yield Fault((f"{name}-file",), f"both {name} and {name}-file", "one of them")


def _is_inside(file: str) -> bool:
    path = PurePath(file)
    return (
        bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in file
    )


def _quoted(file: str) -> str:
    """The name of a file, if it is one: user-data may stand where its file's name belongs."""
    is_name = _FILE_NAME.fullmatch(file) and not is_secret_text(file)
    return repr(file) if is_name else f"a text of {len(file):,} characters"


def _located(fault: Fault, layers: Sequence[_Layer]) -> Fault:
    """The fault with file and line: of the layer that has the key, else of the VM's own file."""
    key: Key = fault.key
    if key in (("userdata",), ("vendordata",)) and not any(layer.seed.has(key) for layer in layers):
        key = (f"{key[0]}-file",)
    layer = next((layer for layer in layers if layer.seed.has(key)), layers[0])
    return replace(layer.seed.located(replace(fault, key=key), layer.path), key=fault.key)


def _place(fault: Fault) -> tuple[str, int, str]:
    return fault.file, fault.line, str(fault.key)


def _two_files(paths: Sequence[str]) -> Fault:
    names = " and ".join(os.path.basename(path) for path in paths)
    return Fault((), f"both {names}", "one of them", paths[0], 1)


def _name_faults(path: str) -> Iterator[Fault]:
    """A file whose name no VM can lead to."""
    stem = os.path.splitext(os.path.basename(path))[0]
    canonical_uuid = parse_uuid(stem)
    wanted = canonical_uuid or stem_of(stem)
    if wanted != stem:
        expected = f"{wanted}.yaml" if wanted else "a name that a VM can have"
        yield Fault((), f"the file name {stem!r}", expected, path, 1, is_warning=True)


def _mode_faults(path: str, snapshot: Snapshot) -> Iterator[Fault]:
    try:
        mode = snapshot.mode(path)
    except (OSError, LeadsOut):
        return  # it is told when the file is read
    if mode & stat.S_IROTH:
        found = f"mode {stat.S_IMODE(mode):04o}: every user of this system can read the file"
        yield Fault((), found, "no rights for others, such as 0640", path, 1, is_warning=True)


def _outside(path: str) -> Fault:
    return Fault((), _OUTSIDE_FOUND, _OUTSIDE_EXPECTED, path, 1)
