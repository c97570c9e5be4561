"""RecordCheck: what `validate` asks of the records of a store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from vmw_cloudinit_metadata.drivers.answers.source import SourceChecks
from vmw_cloudinit_metadata.drivers.content.owndata import BY_LAYER, OwnData
from vmw_cloudinit_metadata.drivers.content.rivals import two_files
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.layers.sharedlayer import LayerSet, vms_served
from vmw_cloudinit_metadata.drivers.observation import Census, Observation
from vmw_cloudinit_metadata.drivers.records.recordlayer import KeptRecord
from vmw_cloudinit_metadata.drivers.records.recordview import Records, RecordToken, RecordView
from vmw_cloudinit_metadata.drivers.store import LAYERS, Key
from vmw_cloudinit_metadata.instance.fault import Fault

_NO_VM = "the name of a VM, or its UUID"


def _nothing(keys: Collection[Key]) -> tuple[Mapping[Key, Records], Mapping[Key, float]]:
    return dict.fromkeys(keys, ()), {}


@dataclass(frozen=True, slots=True)
class Listed:
    """All records, by keys that VMs are looked up by; None if they are not listed."""

    records: dict[Key, Records] | None
    unusable: Sequence[KeptRecord]  # whose keys are no VM's
    also: Collection[str] = ()  # by which records are looked up besides their keys
    until_s: Mapping[Key, float] = field(default_factory=dict)  # they may be kept; else for ever


class RecordCheck(SourceChecks[RecordView]):
    def __init__(
        self,
        store: str,
        listed: Listed,
        view: Callable[[], RecordView],
        layers: Callable[[RecordView], LayerSet],
        holds: Callable[[RecordToken], bool],
    ) -> None:
        self._store = store
        self._listed = listed.records
        self._unusable = listed.unusable
        self._also = listed.also
        self._until_s = listed.until_s
        self._view = view
        self._layers = layers
        self._holds = holds

    def view(self) -> RecordView:
        """Return a view that has fetched all records."""
        view = self._view()
        if self._listed is not None:
            view.moment.records = self._listed
            view.moment.is_listed = True
            view.moment.fetch = _nothing
        return view

    def every(self) -> Sequence[OwnData]:
        if self._listed is None:
            raise DriverError(f"{self._store} cannot list its records: name the VMs to check")
        return self.compared()

    def compared(self) -> Sequence[OwnData]:
        if self._listed is None:
            return []
        places = [
            OwnData(key.kind, record.label, key.value)
            for key, records in list(self._listed.items())
            if key != LAYERS
            for record in records
        ]
        with self.view() as view:
            places += vms_served(self._layers(view), {place.stem for place in places})
        return places

    def also(self) -> Collection[str]:
        return self._also

    def chosen(self, name: str) -> None:  # noqa: ARG002
        return None

    def unknown(self, name: str) -> str:  # noqa: ARG002
        return ""

    def of_shared(self, view: RecordView) -> Iterator[Observation]:  # noqa: ARG002
        for record in self._unusable:
            found = "a name that no VM is looked up by"
            yield Observation(Fault((), found, _NO_VM, record.label, is_warning=True))

    def of_own(self, own: OwnData, view: RecordView) -> Iterator[Fault]:
        """Yield that a VM has several records; reported for the first alone."""
        if own.matched_by == BY_LAYER:
            return
        labels = [record.label for record in view.of(Key(own.matched_by, own.stem))]
        if len(labels) > 1 and labels[0] == own.label:
            yield two_files(labels, str)

    def kept_until(self, own: OwnData) -> float:
        keys = Key(own.matched_by, own.stem), LAYERS
        return min(self._until_s.get(key, inf) for key in keys)

    def holds(self, token: RecordToken) -> bool:
        return self._holds(token)

    def census(self, vms: int) -> Census:
        listed = self._listed or {}
        count = sum(map(len, listed.values())) + len(self._unusable)
        return Census(count, vms, len(listed.get(LAYERS, ())), "record")

    def notes(self, *, is_match_given: bool) -> Iterator[str]:  # noqa: ARG002
        if self._listed is not None and not self.compared():
            yield f"0 records: {self._store} has none"
