"""Validation: every fault of all data of a source, for the command `validate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Generic

from vmw_cloudinit_metadata.drivers.answers.duplicates import Comparison, Duplicate
from vmw_cloudinit_metadata.drivers.answers.instances import Instances
from vmw_cloudinit_metadata.drivers.answers.source import Source, SourceChecks, V
from vmw_cloudinit_metadata.drivers.checking.instancecheck import InstanceCheck, Judge, Preparing
from vmw_cloudinit_metadata.drivers.checking.keptchecks import KeptChecks
from vmw_cloudinit_metadata.drivers.checking.layercheck import LayerCheck
from vmw_cloudinit_metadata.drivers.content.owndata import BY_LAYER, OwnData
from vmw_cloudinit_metadata.drivers.observation import NAMED_VMS, Observation
from vmw_cloudinit_metadata.instance.counts import first_of
from vmw_cloudinit_metadata.instance.fault import Fault, describe

_MAX_DUPLICATES = 100  # of one kind that are reported
_KINDS = {
    "instance-id": "an instance-id of its own for each VM",
    "local-hostname": "a host name of its own for each VM",
    "mac-address": "a MAC address of its own for each VM",
    "address": "a different address for each VM, unless they are in separate networks",
}
_ANOTHER_VM = "one {0} for each VM"


class Validation(Generic[V]):
    """Checks data, and compares its values. `judge` adds warnings about what is served."""

    def __init__(
        self,
        source: Source[V],
        instances: Instances[V],
        checks: SourceChecks[V],
        kept: KeptChecks,
        judge: Judge | None,
        preparing: Preparing | None = None,
    ) -> None:
        self._source = source
        self._checks = checks
        self._layer_check = LayerCheck(source, checks, instances.vault)
        self._instance_check = InstanceCheck(source, instances, checks, kept, preparing)
        self._judge = judge
        self._preparing = preparing
        self.files_checked = 0
        self.vms = 0  # with data that was checked

    def run(self, places: Sequence[OwnData], others: Sequence[OwnData] = ()) -> Iterator[Fault]:
        """Yield each fault and warning of `places` once; `others` are only compared with them."""
        return once(one.fault for one in self.observations(places, others) if one)

    def observations(
        self, places: Sequence[OwnData], others: Sequence[OwnData] = ()
    ) -> Iterator[Observation | None]:
        """Yield the same for each VM that it affects, and None after each place."""
        comparison = Comparison()
        chosen = {own.label: own for own in places}
        rest = {own.label: own for own in others if own.label not in chosen}
        everything = [*places, *rest.values()]
        with self._checks.view() as view:
            for fault in self._checks.of_lowest(view):
                names = [own.stem for own in everything[:NAMED_VMS]]
                yield Observation(fault, names, len(everything))
        of_shared = set()  # faults whose VMs are counted already
        for one in self._layer_check.observations(everything):
            of_shared.add(hash(one.fault))
            yield one
        for own in places:
            checked = self._instance_check.check(own, self._judge)
            self.files_checked += not (checked.is_no_vm or own.matched_by == BY_LAYER)
            self.vms += not checked.is_no_vm
            for fault in checked.faults:
                if hash(fault) not in of_shared:
                    yield Observation(fault, (own.stem,), 1)
            comparison.add(own.label, checked.values)
            yield None
        if self._preparing:
            self._preparing.end(comparison.sharing())
        for own in rest.values():
            comparison.add(own.label, self._instance_check.values_of(own))
        for duplicate, fault in self._duplicates(comparison, chosen):
            labels = duplicate.files if duplicate else ()
            vms = [(chosen.get(label) or rest[label]).stem for label in labels]
            yield Observation(fault, vms, duplicate.count if duplicate else 0)

    def _duplicates(
        self, comparison: Comparison, chosen: Mapping[str, OwnData]
    ) -> Iterator[tuple[Duplicate | None, Fault]]:
        noun = self._source.noun
        counts: Counter[str] = Counter()
        for duplicate in comparison.found():
            if duplicate.files[0] in chosen:
                kind = str(duplicate.value[0][-1])
                counts[kind] += 1
                if counts[kind] <= _MAX_DUPLICATES:
                    yield duplicate, self._warning(duplicate, chosen[duplicate.files[0]])
        for kind, count in counts.items():
            if count > _MAX_DUPLICATES:
                found = f"{count} values of {kind} that several {noun}s have"
                expected = f"none: the first {_MAX_DUPLICATES} are shown"
                yield None, Fault((), found, expected, is_warning=True)
        if not comparison.is_complete:
            found = "more values than are compared with each other"
            expected = f"fewer {noun}s in one {self._source.place}"
            yield None, Fault((), found, expected, is_warning=True)

    def _warning(self, duplicate: Duplicate, first: OwnData) -> Fault:
        """Where the first file has the value, and who else has it."""
        key, text = duplicate.value
        others = duplicate.files[1:]
        names = first_of([self._source.short(label) for label in others], duplicate.count - 1)
        have = "has" if duplicate.count == 2 else "have"
        found = f"{describe(text, key)}, which {names} {have} too"
        expected = _KINDS.get(str(key[-1]), _ANOTHER_VM.format(self._source.noun))
        return self._instance_check.located(Fault(key, found, expected, is_warning=True), first)


def once(faults: Iterable[Fault]) -> Iterator[Fault]:
    """Yield each fault once: faults of defaults and of shared files come with each instance
    file."""
    seen: set[int] = set()  # hashes, since a directory with many files has many
    for fault in faults:
        if hash(fault) not in seen:
            seen.add(hash(fault))
            yield fault
