"""FileDriver: one YAML file per VM in a directory."""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vmw_cloudinit_metadata.drivers import skipped
from vmw_cloudinit_metadata.drivers.directory import Directory
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.duplicates import Comparison, Duplicate
from vmw_cloudinit_metadata.drivers.errors import DriverError
from vmw_cloudinit_metadata.drivers.filename import (
    SUFFIXES,
    is_instance_file,
    is_named_by_uuid,
    stem_of,
    swapped,
)
from vmw_cloudinit_metadata.drivers.instancefile import InstanceFiles, only
from vmw_cloudinit_metadata.drivers.lastgood import LastGood
from vmw_cloudinit_metadata.drivers.snapshot import Looks, Snapshot, Token
from vmw_cloudinit_metadata.instance.counts import counted, first_of
from vmw_cloudinit_metadata.instance.fault import (
    Fault,
    InvalidInstanceData,
    describe,
    joined,
    unknown,
)
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.secrecy import shown
from vmw_cloudinit_metadata.process.budget import Table
from vmw_cloudinit_metadata.protocol.printable import quoted
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid

_UNUSED = (
    "{0} is named by the BIOS UUID of this VM, which counts only if the file says so: write "
    "`match: {{bios-uuid: {1}}}` into it, or give the driver the option `match` with bios-uuid"
)
_SWAPPED = (
    "{0} is named by the {1} UUID of this VM as its guest prints it, with the bytes of the first "
    "three groups the other way round: name it {2}.yaml{3}"
)
_NEARLY = "{0} is there, and no VM is looked up by that name: name it {1}.yaml"
_PINNED = (
    "its bios-uuid is that of this VM as the guest prints it, with the bytes of the first three "
    "groups the other way round: write {0}"
)
_UNSEEN = "a name that begins with a dot is not looked up: name the file by the VM's VC UUID"
_NOTES = (
    "{0} {1} named by a UUID: {2} found by VC UUID. One that is named by a BIOS UUID "
    "needs `match: {{bios-uuid: UUID}}` in it, or the driver the option `match`"
)

_MAX_DUPLICATES = 100  # of one kind that are told
_KINDS = {
    "instance-id": "an instance-id of its own for each VM",
    "local-hostname": "a host name of its own for each VM",
    "mac-address": "a MAC address of its own for each VM",
    "address": "a different address for each VM, unless they are in separate networks",
}
_ANOTHER_VM = "one file for each VM"


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
    """Reads `<VC UUID>.yaml`, else `<BIOS UUID>.yaml`, else `<VM name>.yaml` (or .yml, .json).

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
        return {
            "last good answers": self._last_good,
            "readings": self._files.readings,
            "values compared": self._files.owners,
        }

    def still_holds(self, token: Token) -> bool:
        return token.holds()

    def which_hold(self, tokens: Iterable[Token]) -> Iterator[bool]:
        """Directory and defaults are the same for all."""
        looks = Looks()
        return (token.holds(looks) for token in tokens)

    def explain(self, machine: Machine) -> str:
        with self._directory.snapshot() as snapshot:
            found = self._file_for(machine, snapshot)
            reading = self._files.read(found.path, snapshot) if found else None
            if found and reading and reading.is_like_user_data:
                return f"{found.path} is user-data that another file names, and no instance file"
            hint = self._hint(machine, snapshot, found)
        if found and reading:
            keys = " and ".join(reading.served().differences(machine))
            reason = f"{found.path} says in `match` that it is for another VM: by its {keys}"
        else:
            names = " or ".join(quoted(f"{stem}.yaml") for _, stem in self._stems(machine))
            reason = f"no file named {names or 'after it'} in {self._directory.path}"
        return f"{reason}; {hint}" if hint else reason

    def document_names(self) -> Collection[str]:
        return self._files.document_names()

    def validate(self) -> Iterator[Fault]:
        """Yields every fault and warning of every file, each once."""
        self._directory.check()
        documents = self._files.documents_named()
        yield from _once(self._check(self._files.all_paths(), documents))
        yield from skipped.nearly_instance_files(self._directory.path)

    def validate_named(self, names: Collection[str]) -> Iterator[Fault]:
        """The same of files, by their paths, and of the files of VMs, by names or VC UUIDs alone.

        The other files are only compared with them. Raises DriverError for a file that is not
        there or no instance file, and for a VM that has none.
        """
        self._directory.check()
        paths = list(dict.fromkeys(path for name in names for path in self._paths_for(name)))
        documents = self._files.documents_named()
        yield from _once(self._check(paths, documents, self._files.all_paths()))

    def _check(
        self, paths: Collection[str], documents: Collection[str], others: Iterable[str] = ()
    ) -> Iterator[Fault]:
        self._files.look()
        self.files_checked = 0
        comparison = Comparison()
        yield from self._files.faults_of_defaults()
        for path in paths:
            checked = self._files.check(path, documents, self.judge)
            self.files_checked += not checked.is_document
            yield from checked.faults
            comparison.add(path, checked.values)
        judged = set(paths)
        for path in others:
            if path not in judged:
                comparison.add(path, self._files.values_of(path))
        yield from self._duplicates(comparison, judged)

    def _duplicates(self, comparison: Comparison, judged: Collection[str]) -> Iterator[Fault]:
        told: Counter[str] = Counter()
        for duplicate in comparison.found():
            if duplicate.files[0] in judged:
                kind = str(duplicate.value[0][-1])
                told[kind] += 1
                if told[kind] <= _MAX_DUPLICATES:
                    yield self._told(duplicate)
        for kind, count in told.items():
            if count > _MAX_DUPLICATES:
                found = f"{count} values of {kind} that several files have"
                expected = f"none: the first {_MAX_DUPLICATES} are told"
                yield Fault((), found, expected, is_warning=True)
        if not comparison.is_complete:
            found = "more values than are compared with each other"
            yield Fault((), found, "fewer files in one directory", is_warning=True)

    def _told(self, duplicate: Duplicate) -> Fault:
        """Where the first file has the value, and who else has it."""
        key, text = duplicate.value
        first, *others = duplicate.files
        names = first_of([os.path.basename(path) for path in others], duplicate.count - 1)
        have = "has" if duplicate.count == 2 else "have"
        found = f"{describe(text, key)}, which {names} {have} too"
        expected = _KINDS.get(str(key[-1]), _ANOTHER_VM)
        return self._files.located(Fault(key, found, expected, is_warning=True), first)

    def _paths_for(self, name: str) -> list[str]:
        """The instance file that the operator names, or those of the VM; raises DriverError."""
        path = self._directory.path_of(os.path.abspath(name) if "/" in name else name)
        if path in self._files.all_paths():
            return [path]
        if path == self._files.defaults:
            return []  # they are checked each time
        told = parse_uuid(name)
        machine = Machine(vc_uuid=told) if told else Machine(name=name)
        with self._directory.snapshot() as snapshot:
            for matched_by, stem in self._stems(machine):
                if paths := self._files_named(matched_by, stem, snapshot):
                    return paths
        if "/" in name or name.endswith(SUFFIXES) or os.path.exists(path):
            raise DriverError(self._no_file(name, path))
        raise DriverError(f"{name}: {self.explain(machine)}")

    def _no_file(self, name: str, path: str) -> str:
        directory = self._directory.path
        if not os.path.lexists(path):
            return f"{name}: no such file, and no VM of that name has one in {directory}"
        if is_instance_file(os.path.basename(path)):
            return f"{name}: this file is not in the directory {directory}"
        return (
            f"{name}: not read as an instance file, because of its name: expected NAME{SUFFIXES[0]}"
        )

    def notes(self) -> Iterator[str]:
        """Which files VMs are found by, and which are not looked at."""
        paths = self._files.all_paths()
        if not paths:
            yield f"0 files: {skipped.nothing_in(self._directory.path)}"
        count = sum(map(is_named_by_uuid, paths))
        if count and not self._is_match_given:
            verbs = ("is", "it is") if count == 1 else ("are", "they are")
            yield _NOTES.format(counted(count, "file"), *verbs)
        below = skipped.below(self._directory.path, self._files.documents_named)
        if below:
            yield below

    # Which file

    def _find(self, machine: Machine, snapshot: Snapshot) -> InstanceData | None:
        found = self._file_for(machine, snapshot)
        if found is None:
            return None
        reading = self._files.read(found.path, snapshot)
        if reading.is_like_user_data and self._files.is_document(found.path):
            return None
        instance = reading.served()
        if not instance.is_for(machine):
            return None
        return replace(
            instance,
            matched_by=found.matched_by,
            duplicates=reading.duplicates,
            token=snapshot.token(),
        )

    def _file_for(self, machine: Machine, snapshot: Snapshot) -> _Found | None:
        for matched_by, stem in self._stems(machine):
            paths = self._files_named(matched_by, stem, snapshot)
            if matched_by == "bios-uuid" and not self._is_match_given:
                paths = [path for path in paths if self._counts(path, machine, snapshot)]
            path = only(paths)
            if path:
                return _Found(matched_by, path)
        return None

    def _files_named(self, matched_by: str, stem: str, snapshot: Snapshot) -> list[str]:
        """Those of the usual spelling, else those of others; a UUID has no other one."""
        paths = self._files.found(stem, snapshot)
        if paths or matched_by != "name":
            return paths
        return self._files.found_otherwise(stem, snapshot)

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

    def _hint(self, machine: Machine, snapshot: Snapshot, found: _Found | None) -> str:
        """What was most likely meant for a VM that has no file; `found` is pinned to another."""
        if found:
            match = self._files.read(found.path, snapshot).served().match
            if machine.bios_uuid and match.get("bios-uuid") == swapped(machine.bios_uuid):
                return _PINNED.format(machine.bios_uuid)
            return ""
        self._files.look()
        bios_uuid, vc_uuid = machine.bios_uuid, machine.vc_uuid
        is_match_given = self._is_match_given
        if bios_uuid and not is_match_given and (file := self._named_by(bios_uuid, snapshot)):
            return _UNUSED.format(file, bios_uuid)
        for _, stem in self._stems(machine):
            if file := self._files.nearly(stem):
                return _NEARLY.format(file, stem)
        if bios_uuid and (file := self._named_by(swapped(bios_uuid), snapshot)):
            pin = f", and write `match: {{bios-uuid: {bios_uuid}}}` into it"
            return _SWAPPED.format(file, "BIOS", bios_uuid, "" if is_match_given else pin)
        if vc_uuid and (file := self._named_by(swapped(vc_uuid), snapshot)):
            return _SWAPPED.format(file, "VC", vc_uuid, "")
        return _UNSEEN if machine.name and machine.name.startswith(".") else ""

    def _named_by(self, uuid: str, snapshot: Snapshot) -> str | None:
        """The file that is named by a UUID, in whatever spelling."""
        paths = self._files.found(uuid, snapshot) or self._files.found_otherwise(uuid, snapshot)
        return next(iter(paths), None)

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
        usual = [path for stem in stems for path in self._directory.paths_named(stem)]
        return usual + [path for stem in stems for path in self._files.known_otherwise(stem)]

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


def _once(faults: Iterable[Fault]) -> Iterator[Fault]:
    """Each once: those of the defaults, and of what several files name, come with each file."""
    told: set[int] = set()  # hashes: of a directory with many files there are many
    for fault in faults:
        if hash(fault) not in told:
            told.add(hash(fault))
            yield fault


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
