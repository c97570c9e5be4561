"""StoreDriver: makes a driver of a Store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from vmw_cloudinit_metadata.drivers.driveroptions import TIMES, field_of
from vmw_cloudinit_metadata.drivers.records.recordsource import RecordSource
from vmw_cloudinit_metadata.drivers.records.recordview import RecordView
from vmw_cloudinit_metadata.drivers.sourcedriver import SourceDriver
from vmw_cloudinit_metadata.drivers.store import Store
from vmw_cloudinit_metadata.drivers.storeoptions import StoreOptions
from vmw_cloudinit_metadata.protocol.webhook import Webhook

# TIMES, `cache_ttl` and `stale_if_error`, are no options of a store: StoreOptions refuses them.
_OURS = (*StoreOptions.model_fields, *TIMES)


class StoreDriver(SourceDriver[RecordView]):
    """Answers from the records of a store, under layers that it may have.

    `options` are those of StoreOptions, such as `match=["name"]`.
    """

    Options = StoreOptions

    def __init__(self, store: Store, **options: Any) -> None:
        super().__init__(options, lambda _: RecordSource(store))
        self.known_secrets = store.known_secrets
        self.why_not_prepared = store.why_not_prepared
        self._store = store

    def source_name(self) -> str:
        return self._store.name

    def hook(self, webhook: Webhook) -> None:
        self._store.hook(webhook)

    @classmethod
    def of(cls, store_class: type[Store], options: Mapping[str, Any]) -> Self:
        """Return a driver by --driver-opts, the store's own and ours; raise DriverError."""
        ours = {name: value for name, value in options.items() if field_of(name) in _OURS}
        others = {name: value for name, value in options.items() if name not in ours}
        return cls(store_class(others), **ours)
