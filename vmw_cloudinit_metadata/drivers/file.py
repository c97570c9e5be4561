"""FileDriver: one YAML file per VM in a directory."""

from __future__ import annotations

import errno
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vmw_cloudinit_metadata.budget import Table
from vmw_cloudinit_metadata.drivers.directory import Directory
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.filename import is_named_by_uuid, stem_of
from vmw_cloudinit_metadata.drivers.instancefile import InstanceFiles, only
from vmw_cloudinit_metadata.drivers.lastgood import LastGood
from vmw_cloudinit_metadata.drivers.snapshot import Looks, Snapshot, Token
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
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid

_UNUSED = (
    "{0} is named by the BIOS UUID of this VM, which counts only if the file says so: write "
    "`match: {{bios-uuid: {1}}}` into it, or give the driver the option `match` with bios-uuid"
)
_NOTE = (
    "{0} files are named by a UUID: they are found by VC UUID. One that is named by a BIOS UUID "
    "needs `match: {{bios-uuid: UUID}}` in it, or the driver the option `match`"
)


@dataclass(frozen=True, slots=True)
class _Found:
    """An instance file, and the identity that it was found by."""

    matched_by: str
    path: str


# A look-up waits so long for a descriptor, and looks again so often.
_PATIENCE_S = 1.0
_PAUSE_S = 0.02


class Options(BaseModel):
    """--driver-opts of the file driver."""

    model_config = ConfigDict(extra="forbid", strict=True)

    directory: str = Field(min_length=1)
    # None: all three, but a file counts for a BIOS UUID only if its own `match` has that.
    match: list[Literal["vc-uuid", "bios-uuid", "name"]] | None = Field(default=None, min_length=1)
    defaults: str | None = None  # a file; a relative name is one in the directory
    last_good_max_age_s: float = Field(default=86_400, ge=0)  # 0: no last good answers
    links_outside: bool = False  # links in the directory may lead out of it


class FileDriver(Driver):
    """Reads `<VC UUID>.yaml`, else `<BIOS UUID>.yaml`, else `<VM name>.yaml` (or .yml).

    Who may edit a VM can give it the BIOS UUID that he likes, also one by which another VM's file
    is named. So a BIOS UUID counts only where the file says so in its `match`, or the option
    `match` does.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        checked = _checked_options(options)
        self._match = checked.match or ["vc-uuid", "bios-uuid", "name"]
        self._is_match_given = bool(checked.match)
        self._directory = Directory(checked.directory, links_outside=checked.links_outside)
        self._files = InstanceFiles(self._directory, checked.defaults)
        self._last_good = LastGood(checked.last_good_max_age_s)
        self.stale_if_error_s = checked.last_good_max_age_s

    def get_instance(self, machine: Machine) -> InstanceData | None:
        end_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                with self._directory.snapshot() as snapshot:
                    return self._get(machine, snapshot)
            except DriverError as error:  # nothing can be told of the files now
                if not _lacks_descriptor(error) or time.monotonic() > end_s:
                    return self._last_good_for(machine, error)
            time.sleep(_PAUSE_S)  # connections that were to make room are about to end

    def _get(self, machine: Machine, snapshot: Snapshot) -> InstanceData | None:
        try:
            instance = self._find(machine, snapshot)
        except InvalidInstanceData as error:
            return self._last_good_for(machine, error, snapshot)
        if instance is None:
            self._last_good.forget(machine.vc_uuid)
        else:
            self._last_good.remember(machine.vc_uuid, instance)
        return instance

    def check(self) -> None:
        self._directory.check()

    def tables(self) -> Mapping[str, Table]:
        return {"last good answers": self._last_good, "readings": self._files.readings}

    def still_holds(self, token: Token) -> bool:
        return token.holds()

    def which_hold(self, tokens: Iterable[Token]) -> Iterator[bool]:
        """Directory and defaults are the same for all."""
        looks = Looks()
        return (token.holds(looks) for token in tokens)

    def explain(self, machine: Machine) -> str:
        with self._directory.snapshot() as snapshot:
            found = self._file_for(machine, snapshot)
            unused = None if found else self._unused_file(machine, snapshot)
        if found:
            return f"{found.path} says in `match` that it is for another VM"
        names = " or ".join(quoted(f"{stem}.yaml") for _, stem in self._stems(machine))
        reason = f"no file named {names or 'after it'} in {self._directory.path}"
        return f"{reason}; {_UNUSED.format(unused, machine.bios_uuid)}" if unused else reason

    def document_names(self) -> Collection[str]:
        return self._files.document_names()

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
            yield from self._files.faults_of(path, self.judge)

    def notes(self) -> Iterator[str]:
        """How many files are named by a UUID, where no BIOS UUID counts without being named."""
        count = sum(1 for path in self._files.all_paths() if is_named_by_uuid(path))
        if count and not self._is_match_given:
            yield _NOTE.format(count)

    # Which file

    def _find(self, machine: Machine, snapshot: Snapshot) -> InstanceData | None:
        found = self._file_for(machine, snapshot)
        if found is None:
            return None
        instance = self._files.read(found.path, snapshot).served()
        if not instance.is_for(machine):
            return None
        return replace(instance, matched_by=found.matched_by, token=snapshot.token())

    def _file_for(self, machine: Machine, snapshot: Snapshot) -> _Found | None:
        for matched_by, stem in self._stems(machine):
            paths = self._files.found(stem, snapshot)
            if matched_by == "bios-uuid" and not self._is_match_given:
                paths = [path for path in paths if self._counts(path, machine, snapshot)]
            path = only(paths)
            if path:
                return _Found(matched_by, path)
        return None

    def _counts(self, path: str, machine: Machine, snapshot: Snapshot) -> bool:
        """Whether the file named by the machine's BIOS UUID is there for it.

        A file of which nothing can be told could be: its fault is told, and no other file served.
        """
        reading = self._files.read(path, snapshot, keep=True)
        if not reading.is_legible:
            return True
        return reading.bios_uuid is not None and parse_uuid(str(reading.bios_uuid)) in (
            machine.bios_uuid,
            None,  # a fault, which is told
        )

    def _unused_file(self, machine: Machine, snapshot: Snapshot) -> str | None:
        """The file that is named by the machine's BIOS UUID, and does not count."""
        if self._is_match_given or not machine.bios_uuid:
            return None
        return next(iter(self._files.found(machine.bios_uuid, snapshot)), None)

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
        self,
        machine: Machine,
        error: DriverError | InvalidInstanceData,
        snapshot: Snapshot | None = None,
    ) -> InstanceData:
        """Without a snapshot nothing can be told of the files now."""
        recalled = self._last_good.recall(machine.vc_uuid)
        if recalled is None:
            raise error
        instance, until_s = recalled
        token = None
        if instance.sources[0] not in self._paths_of(machine):  # the VM was renamed
            raise error
        if snapshot:
            if not snapshot.exists(instance.sources[0]):
                self._last_good.forget(machine.vc_uuid)
                raise error
            token = snapshot.token(until_s)
        problem = f"the last good answer is served, because: {error}"
        return replace(instance, problem=problem, token=token)


def _lacks_descriptor(error: DriverError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE)


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
