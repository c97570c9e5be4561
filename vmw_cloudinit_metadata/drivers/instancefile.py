"""Instance files: what one says, together with the defaults and the files that it names."""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import PurePath
from typing import Any

from vmw_cloudinit_metadata.drivers.directory import Directory
from vmw_cloudinit_metadata.drivers.documentnames import DocumentNames
from vmw_cloudinit_metadata.drivers.duplicates import Owners
from vmw_cloudinit_metadata.drivers.errors import DriverError
from vmw_cloudinit_metadata.drivers.filename import stem_in, unquoted_stem, usual_stem
from vmw_cloudinit_metadata.drivers.reading import Reading, Readings
from vmw_cloudinit_metadata.drivers.root import LeadsOut
from vmw_cloudinit_metadata.drivers.snapshot import Signature, Snapshot, cannot_read
from vmw_cloudinit_metadata.instance import advice, distinct, nocloud
from vmw_cloudinit_metadata.instance.fault import (
    Fault,
    Faults,
    InvalidInstanceData,
    Key,
    bounded,
    describe,
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
from vmw_cloudinit_metadata.instance.parsing import encoding, jsontext, seed
from vmw_cloudinit_metadata.instance.secrecy import NAMES, is_secret_text, shown
from vmw_cloudinit_metadata.instance.vmname import normal
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid

Judge = Callable[[InstanceData], Iterable[Fault]]

MAX_FILE_BYTES = 4 * 1024 * 1024

_OUTSIDE_FOUND = "a link that leads out of the directory"
_OUTSIDE_EXPECTED = "a file inside it, or the driver option links_outside: true"
_FILE_NAME = re.compile(r"[\w./@+-]{1,100}", re.ASCII)

_NIL_UUID = "00000000-0000-0000-0000-000000000000"

# How user-data begins; only of such a file is it looked for whether another one names it.
_LIKE_USER_DATA = re.compile(
    r"\s*(?:#!|#cloud-|#include|#part-handler|## template:|content-type:|mime-version:)",
    re.IGNORECASE,
)

_ONE_OF_THEM = "one of them"

_JSON = ".json"
_BEGINS_LIKE_JSON = re.compile(r"\s*\{")
_NAMES_A_FILE = re.compile(rb"data[-_]file|\\[uUx]")  # of one of FILE_KEYS, also with escapes


@dataclass(frozen=True)
class _Layer:
    """One file that an answer is made of."""

    path: str
    seed: seed.Seed
    mapping: dict[str, Any]
    faults: tuple[Fault, ...]
    is_like_user_data: bool = False


@dataclass(frozen=True)
class Checked:
    """What `validate` finds in a file: every fault and warning, and what no other may have."""

    faults: tuple[Fault, ...]
    values: Sequence[distinct.Value] = ()
    is_document: bool = False  # another file names it as its user-data: it is no instance file


class InstanceFiles:
    """Reads the instance files of a directory, over the defaults if there is such a file."""

    def __init__(self, directory: Directory, defaults: str | None) -> None:
        self._directory = directory
        self.readings = Readings()
        self.owners = Owners()
        self._defaults_lock = threading.Lock()
        self._defaults_kept: tuple[Signature, _Layer] | None = None
        self._documents = DocumentNames(directory.path)
        self._named = DocumentNames(directory.path, self._document_path)
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

    def look(self) -> None:
        """Look for files in unusual spellings; raises DriverError if that cannot be told."""
        try:
            self._directory.spellings.look()
        except OSError as error:
            raise cannot_read(self._directory.path, error) from error

    def found_otherwise(self, stem: str, snapshot: Snapshot) -> list[str]:
        """The paths of instance files of that name in unusual spellings."""
        self.look()
        paths = self.known_otherwise(stem)
        if paths:
            snapshot.exists(self._directory.path)  # another one may come: the answer depends on it
        return [path for path in paths if path != self.defaults and snapshot.exists(path)]

    def known_otherwise(self, stem: str) -> list[str]:
        """The same as of the last look, without one."""
        names = self._directory.spellings.others(stem)
        return [os.path.join(self._directory.path, name) for name in names]

    def nearly(self, stem: str) -> str | None:
        """What was most likely meant as the file of that name, as of the last look."""
        spellings = self._directory.spellings
        names = [*spellings.nearly(stem), *spellings.others(stem)]
        return os.path.join(self._directory.path, names[0]) if names else None

    def document_names(self) -> Collection[str]:
        """The further documents that any file has."""
        return self._documents.get(partial(self._scan, self._documents, self._documents_of))

    def is_document(self, path: str) -> bool:
        """Whether a file is user-data that an instance file names, as was seen a while ago."""
        named = self._named.get(partial(self._scan, self._named, self._files_named_by))
        return os.path.realpath(path) in named

    def _scan(
        self, names: DocumentNames, read: Callable[[str, Snapshot], Iterable[object]]
    ) -> Iterator[str]:
        with self._directory.snapshot() as snapshot:
            for path in [*self.all_paths(), *([self.defaults] if self.defaults else [])]:
                try:
                    seen = Snapshot(snapshot.root)
                    yield from names.of_file(path, seen, read)
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

    def _layers(self, path: str, snapshot: Snapshot) -> list[_Layer]:
        """The file, and the defaults if there are any; raises DriverError."""
        return [self._layer(path, snapshot), *self._defaults_layers(snapshot)]

    def _read(self, path: str, snapshot: Snapshot) -> Reading:
        layers = self._layers(path, snapshot)
        own = layers[0]
        match = own.mapping.get("match")
        instance, faults = self._checked(layers, snapshot)
        return Reading(
            instance,
            faults,
            duplicates=self._duplicates(path, instance, snapshot) if instance else (),
            bios_uuid=match.get("bios-uuid") if isinstance(match, dict) else None,
            is_legible=bool(own.mapping) or not own.faults,
            is_like_user_data=own.is_like_user_data,
        )

    def _duplicates(self, path: str, instance: InstanceData, snapshot: Snapshot) -> tuple[str, ...]:
        """What the file has that another one has too, of those that were read for VMs."""

        def looks(file: str) -> int:
            seen = snapshot.signature(file)
            try:
                if seen is None and snapshot.exists(file):
                    seen = snapshot.signature(file)
            except DriverError:
                return 0
            return hash((seen, snapshot.signature(self.defaults or "")))

        def values() -> Iterable[distinct.Value]:
            return distinct.values_of(instance, stem_in(path))

        claimed = self.owners.claim(path, values, looks)
        return tuple([_told_duplicate(value, other) for value, other in claimed])

    def _checked(
        self, layers: Sequence[_Layer], snapshot: Snapshot
    ) -> tuple[InstanceData | None, tuple[Fault, ...]]:
        faults = [fault for layer in layers for fault in layer.faults]
        own = layers[0].mapping
        mapping = merged(layers[1].mapping, own) if layers[1:] else dict(own)
        sources = [layer.path for layer in layers]
        found: list[Fault] = []
        for name in DOCUMENTS:
            file = mapping.pop(f"{name}-file", None)
            if file is not None:
                mapping[name] = self._document(name, file, snapshot, sources, found)
        instance = None
        try:
            instance = InstanceData.from_mapping(mapping, tuple(sources))
        except InvalidInstanceData as error:
            found += error.faults
        if not layers[0].faults or layers[0].mapping:  # else nothing of it can be told
            told = {fault.key for fault in faults}
            faults += (_located(fault, layers) for fault in found if fault.key not in told)
        if faults or instance is None:
            return None, tuple(sorted(dict.fromkeys(faults), key=_place))
        return instance, ()

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
        if path.endswith(_JSON) or _BEGINS_LIKE_JSON.match(text):
            fault = jsontext.fault_of(text)
            if fault is None:
                text = jsontext.as_yaml(text)
            elif path.endswith(_JSON):
                return _Layer(path, seed.read(""), {}, (replace(fault, file=path),))
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
        is_like_user_data = not mapping and _LIKE_USER_DATA.match(text) is not None
        return _Layer(path, read, mapping, tuple(located), is_like_user_data)

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

    def documents_named(self) -> set[str]:
        """The files that instance files, or the defaults, name as their user-data."""
        with self._directory.snapshot() as snapshot:
            paths = [*self.all_paths(), *([self.defaults] if self.defaults else [])]
            named = {name for path in paths for name in self._files_named_by(path, snapshot)}
        return set(map(self._document_path, named))

    def _document_path(self, name: object) -> str:
        return os.path.realpath(os.path.join(self._directory.path, str(name)))

    def _files_named_by(self, path: str, snapshot: Snapshot) -> Iterator[str]:
        try:
            content = snapshot.read(path, MAX_FILE_BYTES)
        except (DriverError, LeadsOut):
            return
        if content and _NAMES_A_FILE.search(content):
            mapping = self._layer_of(path, content).mapping
            files = (mapping.get(key) for key in FILE_KEYS)
            yield from (file for file in files if isinstance(file, str) and _is_inside(file))

    def check(
        self, path: str, documents: Collection[str] = (), judge: Judge | None = None
    ) -> Checked:
        """Judges an instance file, unless it is one of `documents`, as `documents_named` has them;
        `judge` has more warnings of what is served.

        A file that is named as user-data and has a key of an instance file is judged all the same.
        """
        with self._directory.snapshot() as snapshot:
            about_file = [*self._name_faults(path), *_mode_faults(path, snapshot)]
            try:
                layers = self._layers(path, snapshot)
                if documents and not layers[0].mapping and os.path.realpath(path) in documents:
                    return Checked((), is_document=True)
                faults, values = self._judged(layers, snapshot, judge)
            except DriverError as error:
                found = f"an error ({error})"
                faults, values = [Fault((), found, "a file that can be read", path, 1)], ()
        if any(fault.expected == _ONE_OF_THEM for fault in about_file):
            values = ()  # another file of the same VM has them too
        return Checked((*about_file, *faults), values)

    def _judged(
        self, layers: Sequence[_Layer], snapshot: Snapshot, judge: Judge | None
    ) -> tuple[Sequence[Fault], Sequence[distinct.Value]]:
        path = layers[0].path
        stem = stem_in(path)
        instance, faults = self._checked(layers, snapshot)
        if instance is None:
            return faults, ()
        try:
            nocloud.render(instance, Machine(name=stem, vc_uuid=_NIL_UUID))
        except InvalidInstanceData as error:
            return [replace(fault, file=path) for fault in error.faults], ()
        of_sources = (_mode_faults(source, snapshot) for source in instance.sources[1:])
        warnings = [fault for faults in of_sources for fault in faults]
        about_data = [*advice.warnings_of(instance), *(judge(instance) if judge else ())]
        name = instance.match.get("name") if parse_uuid(stem) else stem
        about_data += nocloud.hostname_warnings(instance, name or "")
        about_data += _match_faults(instance, stem)
        warnings += (_located(warning, layers) for warning in about_data)
        return warnings, distinct.values_of(instance, stem)

    def values_of(self, path: str) -> Sequence[distinct.Value]:
        """What no other file may have; nothing of a file that has a fault."""
        with self._directory.snapshot() as snapshot:
            try:
                instance, _ = self._checked(self._layers(path, snapshot), snapshot)
            except DriverError:
                return ()
        return distinct.values_of(instance, stem_in(path)) if instance else ()

    def located(self, fault: Fault, path: str) -> Fault:
        """The fault with its place: in that file, or in the defaults."""
        with self._directory.snapshot() as snapshot:
            return _located(fault, self._layers(path, snapshot))

    def _name_faults(self, path: str) -> Iterator[Fault]:
        """Other files of the same VM, and a name that is not spelled as it is looked up."""
        stem = stem_in(path)
        paths = self._present(stem)
        if len(paths) > 1:
            yield _two_files(paths)
        usual = usual_stem(stem)
        if usual == stem:
            return
        expected = f"{usual}.yaml" if usual else "a name that a VM can have"
        if meant := unquoted_stem(stem):
            expected += f", or {meant}.yaml if it is not part of the VM's name"
        yield Fault((), f"the file name {stem!r}", expected, path, 1, is_warning=True)
        if usual and not parse_uuid(stem):
            # The file of the usual spelling is served; without one, none is.
            same = self._present(usual)
            others = same or self.known_otherwise(usual)
            if others != [path]:
                both = f"{_both(sorted({*others, path}))}, which are one VM name"
                yield Fault((), both, _ONE_OF_THEM, path, 1, is_warning=bool(same))

    def _present(self, stem: str) -> list[str]:
        return [path for path in self._directory.paths_named(stem) if os.path.exists(path)]

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


@lru_cache(maxsize=1024)  # a value that many files have is told for each of them
def _told_duplicate(value: distinct.Value, other: str) -> str:
    key, text = value
    return one_line(f"{shown(key, NAMES)} is {describe(text, key)}, which {other} has too")


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
    if key[:1] in (("userdata",), ("vendordata",), ("network",)):  # text, or a key that is missing
        while len(key) > 1 and not any(layer.seed.has(key) for layer in layers):
            key = key[:-1]
    if key in (("userdata",), ("vendordata",)) and not any(layer.seed.has(key) for layer in layers):
        key = (f"{key[0]}-file",)
    layer = next((layer for layer in layers if layer.seed.has(key)), layers[0])
    return replace(layer.seed.located(replace(fault, key=key), layer.path), key=fault.key)


def _place(fault: Fault) -> tuple[str, int, str]:
    return fault.file, fault.line, str(fault.key)


def _two_files(paths: Sequence[str]) -> Fault:
    return Fault((), _both(paths), _ONE_OF_THEM, paths[0], 1)


def _both(paths: Iterable[str]) -> str:
    """`both web1.yaml and web1.yml`"""
    *names, last = (os.path.basename(path) for path in paths)
    return f"{'both ' if len(names) == 1 else ''}{', '.join(names)} and {last}"


def _match_faults(instance: InstanceData, stem: str) -> Iterator[Fault]:
    """A file that no VM gets: its name is looked up for one VM, and its `match` names another."""
    wanted = instance.match.get("name")
    if wanted is not None and not parse_uuid(stem) and normal(wanted) != normal(stem):
        expected = "the VM name by which the file is named, or the file named by this one"
        yield Fault(("match", "name"), describe(wanted), expected, is_warning=True)


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
