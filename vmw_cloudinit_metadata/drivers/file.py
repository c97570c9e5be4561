"""FileDriver: one YAML file per VM in a directory."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vmw_cloudinit_metadata.drivers.directory import Directory
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.filename import stem_of
from vmw_cloudinit_metadata.drivers.instancefile import InstanceFiles
from vmw_cloudinit_metadata.drivers.lastgood import LastGood
from vmw_cloudinit_metadata.drivers.snapshot import Looks, Signature, Snapshot, Token
from vmw_cloudinit_metadata.errors import DriverError
from vmw_cloudinit_metadata.instance.fault import (
    Fault,
    InvalidInstanceData,
    describe,
    joined,
    unknown,
)
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.secrecy import shown
from vmw_cloudinit_metadata.printable import quoted
from vmw_cloudinit_metadata.protocol.vmware import Machine

# For how long the names of further documents, found by a scan of all files, are taken as they are.
NAMES_KEPT_S = 10.0

_NEVER = Token({}, until_s=0.0)


class Options(BaseModel):
    """--driver-opts of the file driver."""

    model_config = ConfigDict(extra="forbid", strict=True)

    directory: str = Field(min_length=1)
    match: list[Literal["vc-uuid", "bios-uuid", "name"]] = Field(
        default=["vc-uuid", "bios-uuid", "name"], min_length=1
    )
    defaults: str | None = None  # a file; a relative name is one in the directory
    last_good_max_age_s: float = Field(default=86_400, ge=0)  # 0: no last good answers


class FileDriver(Driver):
    """Reads `<VC UUID>.yaml`, else `<BIOS UUID>.yaml`, else `<VM name>.yaml` (or .yml)."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        checked = _checked_options(options)
        self._match = checked.match
        self._directory = Directory(checked.directory)
        self._files = InstanceFiles(self._directory, checked.defaults)
        self._last_good = LastGood(checked.last_good_max_age_s)
        self._looks = Looks()
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
        else:
            self._last_good.remember(machine.vc_uuid, instance)
        return instance

    def check(self) -> None:
        self._directory.check()

    def still_holds(self, token: Token) -> bool:
        return token.holds(self._look)

    def _look(self, path: str) -> Signature:
        """At a directory: in a herd all VMs have the same."""
        return self._looks.at(self.moment(), path)

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
                names = frozenset(self._files.document_names())
                self._names = snapshot.token(time.monotonic() + NAMES_KEPT_S) or _NEVER, names
            return names

    def validate(self) -> Iterator[Fault]:
        """Yields every fault and warning of every file, each once."""
        self._directory.check()
        told: set[Fault] = set()
        for fault in self._all_faults():
            if fault not in told:
                told.add(fault)
                yield fault

    def _all_faults(self) -> Iterator[Fault]:
        yield from self._files.faults_of_defaults()
        for path in self._files.all_paths():
            yield from self._files.faults_of(path)

    # Which file

    def _find(self, machine: Machine, snapshot: Snapshot) -> InstanceData | None:
        found = self._file_for(machine, snapshot)
        if found is None:
            return None
        matched_by, path = found
        instance = self._files.load(path, snapshot)
        if not instance.is_for(machine):
            return None
        return replace(instance, matched_by=matched_by, token=snapshot.token())

    def _file_for(self, machine: Machine, snapshot: Snapshot) -> tuple[str, str] | None:
        self._directory.check()
        for matched_by, stem in self._stems(machine):
            path = self._files.find(stem, snapshot)
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
        stems = [stem for _, stem in self._stems(machine)]
        return [path for stem in stems for path in self._directory.paths_named(stem)]

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


def _checked_options(options: Mapping[str, Any]) -> Options:
    try:
        return Options.model_validate(dict(options))
    except ValidationError as error:
        raise DriverError(joined(map(_option_fault, error.errors()))) from None


def _option_fault(error: Any) -> str:
    key = tuple(error["loc"])
    if error["type"] == "extra_forbidden":
        fault = unknown(key, key[-1], Options.model_fields)
        return f"found {fault.found}, expected {fault.expected}"
    name = shown(key, Options.model_fields)
    if error["type"] == "missing":
        return f"{name}: found nothing, expected the directory of the instance files"
    return f"{name}: found {describe(error['input'], key)}, expected: {error['msg']}"
