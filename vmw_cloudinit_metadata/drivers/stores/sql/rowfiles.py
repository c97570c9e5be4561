"""Instance files and layers as rows, and rows as files. Reads and writes files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmw_cloudinit_metadata.drivers.content import layer
from vmw_cloudinit_metadata.drivers.content.layer import MAX_FILE_BYTES, FileLayer
from vmw_cloudinit_metadata.drivers.content.owndata import BY_LAYER, OwnData
from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.drivers.files.filesource import FileSource
from vmw_cloudinit_metadata.drivers.filesystem.filename import (
    LAYERS,
    is_data_file,
    is_instance_file,
    usual_stem,
)
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.drivers.store import BIOS_UUID, NAME, VC_UUID
from vmw_cloudinit_metadata.drivers.stores.sql.rowrecords import key_of
from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.instance.keys import DOCUMENTS
from vmw_cloudinit_metadata.instance.values import dump
from vmw_cloudinit_metadata.protocol.printable import one_line, quoted, shortened
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid

_SUFFIX = ".yaml"
_FILE_MODE, _DIRECTORY_MODE = 0o640, 0o750  # user-data has secrets


@dataclass(frozen=True, slots=True)
class VmRow:
    """A row of a VM; `text` is what an instance file has."""

    name: str | None
    vc_uuid: str | None
    bios_uuid: str | None
    text: str


@dataclass(frozen=True, slots=True)
class LayerRow:
    name: str  # of its file, by which layers are ordered
    text: str


def faults_of(directory: Path) -> Iterator[Fault]:
    """Yield what is wrong with the files of a directory; raise DriverError if it is none."""
    driver = FileDriver({"directory": str(directory)})
    try:
        yield from (fault for fault in driver.validate() if not fault.is_warning)
    finally:
        driver.close()


def rows_of(directory: Path) -> tuple[Sequence[VmRow], Sequence[LayerRow]]:
    """Return the rows of all VMs and layers of a directory without faults; raise DriverError."""
    source = FileSource(str(directory), None)
    checks = source.checks()
    others = checks.named_files()
    found: dict[str, OwnData] = {}
    vms: list[VmRow] = []
    with source.view() as view:
        for own in checks.every():
            if own.matched_by == BY_LAYER:
                continue
            said = source.own(own, view)
            if not (said.mapping or own.line) and os.path.realpath(own.path) in others:
                continue  # the user-data of another VM
            stem = usual_stem(own.stem)
            if stem is None:
                raise DriverError(f"{own.label}: no VM can have this name: rename or remove it")
            if stem in found:
                both = f"{found[stem].label} and {own.label}"
                raise DriverError(f"{both} are data of one VM: remove one of them")
            found[stem] = own
            text = _text_of(said, own.path if not own.line else None, source, view)
            uuid = parse_uuid(stem)
            is_file = not own.line  # which may be named by a BIOS UUID too
            vms.append(VmRow(None if uuid else stem, uuid, uuid if is_file else None, text))
        layers = [
            LayerRow(
                os.path.basename(one.file.path), _text_of(one.file, one.file.path, source, view)
            )
            for one in source.layers(view).layers
        ]
    return vms, layers


def _text_of(said: FileLayer, path: str | None, source: FileSource, view: Snapshot) -> str:
    """Return the text of a file, with that of the files that it names; of an entry, a new one."""
    if said.faults:
        raise DriverError(str(said.faults[0]))
    mapping = dict(said.mapping)
    for name in DOCUMENTS:
        file = mapping.pop(f"{name}-file", None)
        if file is not None:
            read = source.document((f"{name}-file",), file, view)
            if isinstance(read, Fault):
                raise DriverError(f"{said.path}: {read}")
            mapping[name] = _plain(read[1])
    if path is None or mapping != said.mapping:
        return dump.yaml_text(mapping)
    content = view.read(path, MAX_FILE_BYTES)
    text = layer.text_of(path, content)
    if isinstance(text, Fault):
        raise DriverError(str(text))
    return text


def _plain(content: bytes) -> str | bytes:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def write(directory: Path, vms: Iterable[VmRow], layers: Iterable[LayerRow]) -> int:
    """Write a file for each identity of each row, all or none; return how many.

    Raise DriverError if the directory is not empty, or a row cannot be a file.
    """
    if directory.exists() and any(directory.iterdir()):
        raise DriverError(f"{directory} is not empty: export into a new directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=".export-", dir=directory.parent))
    try:
        count = 0
        for path, text in _files(vms, layers):
            target = place / path
            target.parent.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
            try:
                descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
            except FileExistsError:
                raise DriverError(f"two rows would be {path}: remove one of them") from None
            with open(descriptor, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123
                file.write(text)
            count += 1
        place.chmod(_DIRECTORY_MODE)
        place.rename(directory)
    except BaseException:
        shutil.rmtree(place)
        raise
    return count


def _files(vms: Iterable[VmRow], layers: Iterable[LayerRow]) -> Iterator[tuple[str, str]]:
    for vm in vms:
        text = _of_file(vm.text)
        for stem in _stems(vm):
            yield f"{stem}{_SUFFIX}", text
    for one in layers:
        name = one.name if is_data_file(one.name) else f"{one.name}{_SUFFIX}"
        if not is_data_file(name) or "/" in name or "\0" in name:
            raise DriverError(f"the layer {quoted(one.name)} cannot be a file: rename it")
        yield f"{LAYERS}/{name}", one.text


def _stems(vm: VmRow) -> Iterable[str]:
    """Return the names of a VM's files, without suffix."""
    identities = ((VC_UUID, vm.vc_uuid), (BIOS_UUID, vm.bios_uuid), (NAME, vm.name))
    stems: dict[str, None] = {}
    for kind, value in identities:
        if value is None:
            continue
        key = key_of(kind, value)
        if key is None or not is_instance_file(f"{key.value}{_SUFFIX}"):
            row = one_line(shortened(value, 200))
            raise DriverError(f"no file can have the name of the row {row}: rename or remove it")
        stems[key.value] = None
    return stems


def _of_file(text: str) -> str:
    """Return the text with the key `metadata`, without which it would be no instance file."""
    said = layer.parse("", text.encode(errors="surrogatepass"))
    if said.faults or "metadata" in said.mapping:
        return text
    mapping: dict[str, Any] = {"metadata": {}, **said.mapping}
    return dump.yaml_text(mapping)
