"""FileDriver: one YAML file per VM in a directory."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.filename import SUFFIXES, stem_of
from vmw_cloudinit_metadata.drivers.lastgood import LastGood
from vmw_cloudinit_metadata.drivers.snapshot import Signature, Snapshot, Token, cannot_read
from vmw_cloudinit_metadata.errors import DriverError
from vmw_cloudinit_metadata.instance import advice, nocloud, seed
from vmw_cloudinit_metadata.instance.fault import (
    Fault,
    InvalidInstanceData,
    Key,
    describe,
    nearest,
)
from vmw_cloudinit_metadata.instance.keys import (
    DOCUMENTS,
    FILE_KEYS,
    TOP_LEVEL,
    canonical,
    merged,
    unknown_faults,
)
from vmw_cloudinit_metadata.instance.model import MAX_DOCUMENT_BYTES, InstanceData
from vmw_cloudinit_metadata.printable import quoted
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid

MAX_FILE_BYTES = 4 * 1024 * 1024

# For how long the names of further documents, found by a scan of all files, are taken as they are.
NAMES_KEPT_S = 10.0

_EDITOR_LOCK = ".#"  # Emacs leaves such a link, to nowhere, beside a file that is being edited
_NEVER = Token({}, until_s=0.0)
_NIL_UUID = "00000000-0000-0000-0000-000000000000"


class Options(BaseModel):
    """--driver-opts of the file driver."""

    model_config = ConfigDict(extra="forbid", strict=True)

    directory: str = Field(min_length=1)
    match: list[Literal["vc-uuid", "bios-uuid", "name"]] = Field(
        default=["vc-uuid", "bios-uuid", "name"], min_length=1
    )
    defaults: str | None = None  # a file; a relative name is one in the directory
    last_good_max_age_s: float = Field(default=86_400, ge=0)  # 0: no last good answers


@dataclass(frozen=True)
class _Layer:
    """One file that an answer is made of."""

    path: str
    seed: seed.Seed
    mapping: dict[str, Any]
    faults: tuple[Fault, ...]


class FileDriver(Driver):
    """Reads `<VC UUID>.yaml`, else `<BIOS UUID>.yaml`, else `<VM name>.yaml` (or .yml)."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        checked = _checked_options(options)
        self._match = checked.match
        self._directory = _Directory(checked.directory)
        self._defaults = checked.defaults and _inside(checked.directory, checked.defaults)
        if self._defaults and not os.path.isfile(self._defaults):
            raise DriverError(f"defaults: found no file {self._defaults!r}, expected a YAML file")
        self._defaults_kept: tuple[Signature, _Layer] | None = None
        self._last_good = LastGood(checked.last_good_max_age_s)
        self._names_lock = threading.Lock()
        self._names: tuple[Token, frozenset[str]] = (_NEVER, frozenset())

    def get_instance(self, machine: Machine) -> InstanceData | None:
        snapshot = Snapshot()
        try:
            instance = self._find(machine, snapshot)
        except (DriverError, InvalidInstanceData) as error:
            return self._last_good_for(machine, snapshot, error)
        if instance is None:
            self._last_good.forget(machine.vc_uuid)
            return None
        self._last_good.remember(machine.vc_uuid, instance)
        return replace(instance, token=snapshot.token())

    def still_holds(self, token: Token) -> bool:
        return token.holds()

    def explain(self, machine: Machine) -> str:
        found = self._file_for(machine, Snapshot())
        if found is None:
            names = " or ".join(quoted(f"{stem}.yaml") for _, stem in self._stems(machine))
            return f"no file named {names or 'after it'} in {self._directory.path}"
        return f"{found[1]} says in `match` that it is for another VM"

    def document_names(self) -> Collection[str]:
        with self._names_lock:
            token, names = self._names
            if not token.holds():
                snapshot = Snapshot()
                snapshot.exists(self._directory.path)  # it changes when a file comes or goes
                names = frozenset(self._scan_document_names())
                self._names = snapshot.token(time.monotonic() + NAMES_KEPT_S) or _NEVER, names
            return names

    # Which file

    def _find(self, machine: Machine, snapshot: Snapshot) -> InstanceData | None:
        found = self._file_for(machine, snapshot)
        if found is None:
            return None
        matched_by, path = found
        instance = self._load(path, snapshot)
        return replace(instance, matched_by=matched_by) if instance.is_for(machine) else None

    def _file_for(self, machine: Machine, snapshot: Snapshot) -> tuple[str, str] | None:
        self._directory.check()
        for matched_by, stem in self._stems(machine):
            path = self._path(stem, snapshot)
            if path:
                return matched_by, path
        return None

    def _stems(self, machine: Machine) -> Iterator[tuple[str, str]]:
        stems = {
            "vc-uuid": machine.vc_uuid,
            "bios-uuid": machine.bios_uuid,
            "name": stem_of(machine.name) if machine.name else None,
        }
        for matched_by, stem in stems.items():
            if stem and matched_by in self._match:
                yield matched_by, stem

    def _paths_of(self, machine: Machine) -> list[str]:
        return [path for _, stem in self._stems(machine) for path in self._paths_named(stem)]

    def _paths_named(self, stem: str) -> list[str]:
        return [os.path.join(self._directory.path, stem + suffix) for suffix in SUFFIXES]

    def _path(self, stem: str, snapshot: Snapshot) -> str | None:
        paths = self._paths_named(stem)
        found = [path for path in paths if path != self._defaults and snapshot.exists(path)]
        if len(found) > 1:
            raise InvalidInstanceData([_two_files(found)])
        return found[0] if found else None

    def _last_good_for(
        self, machine: Machine, snapshot: Snapshot, error: DriverError | InvalidInstanceData
    ) -> InstanceData:
        recalled = self._last_good.recall(machine.vc_uuid)
        if recalled is None:
            raise error
        instance, until_s = recalled
        token = None
        if instance.sources[0] not in self._paths_of(machine):  # the VM was renamed
            raise error
        if isinstance(error, InvalidInstanceData):  # else nothing can be told of the files now
            if not snapshot.exists(instance.sources[0]):
                self._last_good.forget(machine.vc_uuid)
                raise error
            token = snapshot.token(until_s)
        problem = f"the last good answer is served, because: {error}"
        return replace(instance, problem=problem, token=token)

    # What the file says

    def _load(self, path: str, snapshot: Snapshot) -> InstanceData:
        layers = [self._layer(path, snapshot), *self._defaults_layers(snapshot)]
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
            faults += (_located(fault, layers) for fault in found)
        if faults or instance is None:
            raise InvalidInstanceData(sorted(set(faults), key=_place))
        return replace(instance, sources=tuple(sources))

    def _defaults_layers(self, snapshot: Snapshot) -> list[_Layer]:
        """The defaults, parsed again only when they have changed."""
        if not self._defaults:
            return []
        snapshot.exists(self._defaults)
        kept = self._defaults_kept
        if kept and kept[0] == snapshot.signature(self._defaults):
            return [kept[1]]
        layer = self._layer(self._defaults, snapshot)
        signature = snapshot.signature(self._defaults)
        self._defaults_kept = (signature, layer) if snapshot.is_settled() else None
        return [layer]

    def _layer(self, path: str, snapshot: Snapshot) -> _Layer:
        text = _text(path, snapshot.read(path, MAX_FILE_BYTES))
        if isinstance(text, Fault):
            return _Layer(path, seed.read(""), {}, (text,))
        read = seed.read(text)
        faults = list(read.faults)
        mapping: dict[str, Any] = {}
        if isinstance(read.value, dict):
            mapping, twice = canonical(read.value)
            faults += twice
            faults += unknown_faults(mapping, TOP_LEVEL | FILE_KEYS)
            both = list(_both_faults(mapping))
            faults += both
            if path == self._defaults and "match" in mapping:
                faults.append(Fault(("match",), "'match'", "no such key among the defaults"))
            mapping = {k: v for k, v in mapping.items() if k in TOP_LEVEL | FILE_KEYS}
            for fault in both:
                del mapping[str(fault.key[0])]
        elif not faults:
            faults.append(Fault((), describe(read.value), "a mapping with the key metadata"))
        located = (replace(f, file=path, line=f.line or read.line(f.key)) for f in faults)
        return _Layer(path, read, mapping, tuple(located))

    def _document(
        self, name: str, file: Any, snapshot: Snapshot, sources: list[str], faults: list[Fault]
    ) -> bytes:
        """The content of a userdata-file or vendordata-file."""
        key = (f"{name}-file",)
        expected = "the name of a file inside the directory"
        if not isinstance(file, str) or not _is_inside(file):
            faults.append(Fault(key, describe(file), expected))
            return b""
        path = os.path.join(self._directory.path, file)
        if not snapshot.exists(path):
            faults.append(Fault(key, f"{file!r}, which is not there", expected))
            return b""
        content = snapshot.read(path, MAX_DOCUMENT_BYTES)
        if content is None or len(content) > MAX_DOCUMENT_BYTES:
            found = f"{file!r}, which is no regular file of at most {MAX_DOCUMENT_BYTES:,} bytes"
            faults.append(Fault(key, found, expected))
            return b""
        sources.append(path)
        return content

    # All files

    def validate(self) -> Iterator[Fault]:
        """Yields every fault and warning of every file, each once."""
        self._directory.check()
        told: set[Fault] = set()
        for fault in self._all_faults():
            if fault not in told:
                told.add(fault)
                yield fault

    def _all_faults(self) -> Iterator[Fault]:
        if self._defaults:
            yield from self._defaults_faults(self._defaults)
        for path in self._paths():
            yield from _name_faults(path)
            yield from _mode_faults(path)
            yield from self._file_faults(path)

    def _file_faults(self, path: str) -> Iterator[Fault]:
        stem, suffix = os.path.splitext(os.path.basename(path))
        if suffix == SUFFIXES[1] and os.path.exists(path.removesuffix(suffix) + SUFFIXES[0]):
            yield _two_files(self._paths_named(stem))
        try:
            instance = self._load(path, Snapshot())
            nocloud.render(instance, Machine(name=stem, vc_uuid=_NIL_UUID))
        except InvalidInstanceData as error:
            yield from (
                fault if fault.file else replace(fault, file=path) for fault in error.faults
            )
        except DriverError as error:
            yield Fault((), f"an error ({error})", "a file that can be read", path, 1)
        else:
            for source in instance.sources[1:]:
                yield from _mode_faults(source)
            layers = [self._layer(path, Snapshot()), *self._defaults_layers(Snapshot())]
            yield from (_located(warning, layers) for warning in advice.warnings_of(instance))

    def _defaults_faults(self, path: str) -> Iterator[Fault]:
        yield from _mode_faults(path)
        layer = self._layer(path, Snapshot())
        yield from layer.faults
        mapping = {k: v for k, v in layer.mapping.items() if k not in FILE_KEYS}
        try:
            InstanceData.from_mapping(mapping)
        except InvalidInstanceData as error:
            yield from (_located(fault, [layer]) for fault in error.faults if not fault.is_absence)

    def _paths(self) -> list[str]:
        try:
            names = sorted(os.listdir(self._directory.path))
        except OSError as error:
            raise cannot_read(self._directory.path, error) from error
        paths = [
            os.path.join(self._directory.path, name)
            for name in names
            if name.endswith(SUFFIXES) and not name.startswith(_EDITOR_LOCK)
        ]
        return [path for path in paths if path != self._defaults]

    def _scan_document_names(self) -> Iterator[str]:
        defaults = [self._defaults] if self._defaults else []
        for path in [*self._paths(), *defaults]:
            try:
                content = Snapshot().read(path, MAX_FILE_BYTES)
                if content and b"documents" in content:
                    documents = self._layer(path, Snapshot()).mapping.get("documents")
                    if isinstance(documents, dict):
                        yield from (str(name).upper() for name in documents)
            except DriverError:
                continue  # it is told when its VM asks


class _Directory:
    """The directory of instance files, and whether it is still the one that the operator gave."""

    def __init__(self, path: str) -> None:
        self.path = path
        if not os.path.isdir(path):
            raise DriverError(f"directory: found no directory {path!r}, expected one that is there")
        found = os.stat(path)
        self._identity = (found.st_dev, found.st_ino, os.path.realpath(path))

    def check(self) -> None:
        """Raises DriverError if it vanished, or another file system lies in its place."""
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise cannot_read(self.path, error) from error
        if not stat.S_ISDIR(found.st_mode):
            raise DriverError(f"{self.path}: is no directory any more")
        device, inode, place = self._identity
        if (found.st_dev, found.st_ino) == (device, inode):
            return
        now_place = os.path.realpath(self.path)
        if found.st_dev != device and now_place == place:
            raise DriverError(
                f"{self.path}: lies on another file system than at the start: "
                "mount the right one again, or restart the server to accept this one"
            )
        self._identity = (found.st_dev, found.st_ino, now_place)


def _checked_options(options: Mapping[str, Any]) -> Options:
    try:
        return Options.model_validate(dict(options))
    except ValidationError as error:
        raise DriverError("; ".join(_option_fault(item) for item in error.errors())) from None


def _option_fault(error: Any) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"found {name!r}, expected {nearest(name, Options.model_fields)}"
    if error["type"] == "missing":
        return f"{name}: found nothing, expected the directory of the instance files"
    return f"{name}: found {describe(error['input'])}, expected: {error['msg']}"


def _text(path: str, content: bytes | None) -> str | Fault:
    if content is None:
        return Fault((), "something else", "a regular file", path, 1)
    if len(content) > MAX_FILE_BYTES:
        return Fault((), "a larger file", f"at most {MAX_FILE_BYTES:,} bytes", path, 1)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Fault((), f"the byte 0x{content[error.start]:02x}", "UTF-8", path, line)


def _both_faults(mapping: Mapping[str, Any]) -> Iterator[Fault]:
    for name in DOCUMENTS:
        if mapping.get(name) is not None and mapping.get(f"{name}-file") is not None:
            yield Fault((f"{name}-file",), f"both {name} and {name}-file", "one of them")


def _inside(directory: str, file: str) -> str:
    """The path of a file, by the directory's own path if it lies there."""
    path = os.path.join(directory, file)
    if os.path.realpath(os.path.dirname(path)) == os.path.realpath(directory):
        return os.path.join(directory, os.path.basename(path))
    return path


def _is_inside(file: str) -> bool:
    path = PurePath(file)
    return (
        bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in file
    )


def _located(fault: Fault, layers: Sequence[_Layer]) -> Fault:
    """The fault with file and line: of the layer that has the key, else of the VM's own file."""
    key: Key = fault.key
    if key in (("userdata",), ("vendordata",)) and not any(layer.seed.has(key) for layer in layers):
        key = (f"{key[0]}-file",)
    layer = next((layer for layer in layers if layer.seed.has(key)), layers[0])
    return replace(fault, file=layer.path, line=layer.seed.line(key))


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


def _mode_faults(path: str) -> Iterator[Fault]:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # it is told when the file is read
    if mode & stat.S_IROTH:
        found = f"mode {stat.S_IMODE(mode):04o}: every user of this system can read the file"
        yield Fault((), found, "no rights for others, such as 0640", path, 1, is_warning=True)
