"""Findings: what a survey has observed, each fault once and equal warnings together. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

from vmw_cloudinit_metadata.drivers.observation import NAMED_VMS, Census, Observation
from vmw_cloudinit_metadata.instance import secrecy
from vmw_cloudinit_metadata.instance.counts import counted, first_of
from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened

MAX_FINDINGS = 1000  # of faults, and of warnings, that are kept; further ones are counted
MAX_FILES = 100  # of one finding that are kept; text names fewer
_NAME_CHARACTERS = 200  # of a VM
_PATH_CHARACTERS = 1000
_TEXT_CHARACTERS = 600


@dataclass(slots=True)
class Finding:
    """A fault, or a warning about one or more files."""

    fault: Fault
    files: list[str] = field(default_factory=list)  # the first MAX_FILES
    count: int = 0
    vms: list[str] = field(default_factory=list)  # the first NAMED_VMS that it affects
    vm_count: int = 0

    def add(self, fault: Fault) -> None:
        """Add a fault of the same kind, the first one too."""
        self.count += 1
        if fault.file and len(self.files) < MAX_FILES:
            self.files.append(fault.file)

    def __str__(self) -> str:
        if self.count == 1:
            return str(self.fault)
        others = counted(self.count - 1, "other")
        names = first_of([name.rpartition("/")[2] for name in self.files[1:]], self.count - 1)
        return one_line(f"{self.fault}; likewise in {others}: {names}")

    def as_json(self) -> dict[str, Any]:
        fault = self.fault
        return {
            "severity": "warning" if fault.is_warning else "fault",
            "file": one_line(fault.file),
            "line": fault.line,
            "column": fault.column,
            "key": one_line(secrecy.shown(fault.key, secrecy.NAMES, with_last=fault.is_named)),
            "found": one_line(fault.found),
            "expected": one_line(fault.expected),
            "count": self.count,
            "files": list(map(one_line, self.files)),
        }

    def bounded_json(self) -> dict[str, Any]:
        """The same with the VMs, and with no text longer than the server accepts."""
        found = self.as_json()
        texts = {key: shortened(found[key], _TEXT_CHARACTERS) for key in ("key", "found")}
        return {
            **found,
            **texts,
            "expected": shortened(found["expected"], _TEXT_CHARACTERS),
            "file": shortened(found["file"], _PATH_CHARACTERS),
            "files": [shortened(one, _PATH_CHARACTERS) for one in found["files"][:NAMED_VMS]],
            "vms": [shortened(one_line(name), _NAME_CHARACTERS) for name in self.vms],
            "vm_count": self.vm_count,
        }


def kind_of(fault: Fault) -> Hashable:
    """Return what equal warnings have in common; each fault is of its own kind."""
    return (fault.key, fault.found, fault.expected) if fault.is_warning else fault


class Findings:
    """Takes all observations of a survey."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Finding] = {}
        self._last_vm: dict[Hashable, object] = {}  # that a finding has counted
        self._seen: set[int] = set()  # hashes of faults, since there may be many
        self._room = {True: MAX_FINDINGS, False: MAX_FINDINGS}  # by whether it is a warning
        self._files: dict[bool, set[str]] = {True: set(), False: set()}  # likewise
        self.counts = {True: 0, False: 0}  # likewise
        self.left_out = 0

    def add(self, observation: Observation) -> None:
        fault = observation.fault
        is_new = hash(fault) not in self._seen
        key = kind_of(fault)
        if is_new:
            self._seen.add(hash(fault))
            self.counts[fault.is_warning] += 1
            if fault.file:
                self._files[fault.is_warning].add(fault.file)
        finding = self._kept.get(key)
        if finding is None:
            if not self._room[fault.is_warning]:
                self.left_out += is_new
                return
            self._room[fault.is_warning] -= 1
            finding = self._kept[key] = Finding(fault)
        if is_new:
            finding.add(fault)
        self._add_vms(key, finding, observation)

    def _add_vms(self, key: Hashable, finding: Finding, observation: Observation) -> None:
        if observation.vm_count == 1 and self._last_vm.get(key) == observation.vms[0]:
            return  # the same VM: its file and its user-data's have the same warning
        self._last_vm[key] = observation.vms[0] if observation.vms else None
        finding.vm_count += observation.vm_count
        room = NAMED_VMS - len(finding.vms)
        if room > 0:
            finding.vms += observation.vms[:room]

    def __iter__(self) -> Iterator[Finding]:
        """Faults first."""
        yield from (one for one in self._kept.values() if not one.fault.is_warning)
        yield from (one for one in self._kept.values() if one.fault.is_warning)

    def states(self, census: Census) -> dict[str, int]:
        """How many files have faults, only warnings, and neither."""
        with_fault = len(self._files[False])
        with_warning = len(self._files[True] - self._files[False])
        ok = max((census.files or 0) - with_fault - with_warning, 0)
        return {"ok": ok, "warning": with_warning, "fault": with_fault}
