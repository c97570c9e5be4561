"""RecordCheck: what `validate` asks of the records of a store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from vmw_cloudinit_metadata.drivers.answers.source import SourceChecks
from vmw_cloudinit_metadata.drivers.content.owndata import OwnData
from vmw_cloudinit_metadata.drivers.content.rivals import two_files
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.records.recordlayer import KeptRecord
from vmw_cloudinit_metadata.drivers.records.recordview import Records, RecordView
from vmw_cloudinit_metadata.drivers.store import LAYERS, Key
from vmw_cloudinit_metadata.instance.fault import Fault

_NO_VM = "the name of a VM, or its UUID"


def _nothing(keys: Collection[Key]) -> Mapping[Key, Records]:
    return dict.fromkeys(keys, ())


class RecordCheck(SourceChecks[RecordView]):
    """`listed` are all records, by keys that VMs are looked up by; None if they are not listed."""

    def __init__(
        self,
        store: str,
        listed: dict[Key, Records] | None,
        unusable: Sequence[KeptRecord],
        view: Callable[[], RecordView],
    ) -> None:
        self._store = store
        self._listed = listed
        self._unusable = unusable
        self._view = view

    def view(self) -> RecordView:
        """Return a view that has fetched all records."""
        view = self._view()
        if self._listed is not None:
            view.moment.records = self._listed
            view.moment.fetch = _nothing
        return view

    def every(self) -> Sequence[OwnData]:
        if self._listed is None:
            raise DriverError(f"{self._store} cannot list its records: name the VMs to check")
        return self.compared()

    def compared(self) -> Sequence[OwnData]:
        return [
            OwnData(key.kind, record.label, key.value)
            for key, records in list((self._listed or {}).items())
            if key != LAYERS
            for record in records
        ]

    def chosen(self, name: str) -> None:  # noqa: ARG002
        return None

    def unknown(self, name: str) -> str:  # noqa: ARG002
        return ""

    def of_shared(self, view: RecordView) -> Iterator[Fault]:  # noqa: ARG002
        for record in self._unusable:
            found = "a name that no VM is looked up by"
            yield Fault((), found, _NO_VM, record.label, is_warning=True)

    def of_own(self, own: OwnData, view: RecordView) -> Iterator[Fault]:
        """Yield that a VM has several records; reported for the first alone."""
        labels = [record.label for record in view.of(Key(own.matched_by, own.stem))]
        if len(labels) > 1 and labels[0] == own.label:
            yield two_files(labels, str)

    def notes(self, *, is_match_given: bool) -> Iterator[str]:  # noqa: ARG002
        if self._listed is not None and not self.compared():
            yield f"0 records: {self._store} has none"
