"""StoreDriver: makes a driver of a Store."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

from vmw_cloudinit_metadata.drivers import storeoptions
from vmw_cloudinit_metadata.drivers.records.recordsource import RecordSource
from vmw_cloudinit_metadata.drivers.records.recordview import RecordView
from vmw_cloudinit_metadata.drivers.sourcedriver import SourceDriver
from vmw_cloudinit_metadata.drivers.store import Store


class StoreDriver(SourceDriver[RecordView]):
    """Answers from the records of a store, under layers that it may have.

    `match` are the identities that find a VM's record: all if None, and then a BIOS UUID only finds
    a record that has it in its own `match`. VMs get their last good answers for so many seconds
    while the store is out of reach, or their data is invalid.
    """

    def __init__(
        self,
        store: Store,
        match: Collection[str] | None = None,
        last_good_max_age_s: float = 86_400,
    ) -> None:
        super().__init__(store.options, RecordSource(store), match, last_good_max_age_s)

    @classmethod
    def of(cls, store_class: type[Store], options: Mapping[str, Any]) -> Self:
        """Return a driver by --driver-opts, the store's own and ours; raise DriverError."""
        ours, others = storeoptions.split(options)
        return cls(store_class(others), ours.match, ours.last_good_max_age_s)
