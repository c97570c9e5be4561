"""MemoryStore: records in memory, for tests: of this package, and of what store authors build."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from vmw_cloudinit_metadata.drivers.store import LAYERS, Changes, Key, Record, Store


class MemoryStore(Store):
    """Tells each change before `put`, `drop` or `layer` returns, while it is connected."""

    name = "memory"

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options or {})
        self._lock = threading.Lock()
        self._records: dict[Key, Record] = {}
        self._layers: dict[str, Record] = {}
        self._changes: Changes | None = None
        self._is_cut = threading.Event()
        self.is_down = False  # every call fails

    def put(self, kind: str, value: str, data: Any, label: str = "") -> None:
        """Set the record of a VM's identity."""
        key = Key(kind, value)
        self._records[key] = Record(key, data, label or value)
        self._tell([key])

    def drop(self, kind: str, value: str) -> None:
        """Remove the record, if there is one."""
        self._records.pop(Key(kind, value), None)
        self._tell([Key(kind, value)])

    def layer(self, label: str, data: Any) -> None:
        """Set a layer, or remove it if `data` is None; they are applied in the order of labels."""
        self._layers.pop(label, None)
        if data is not None:
            self._layers[label] = Record(LAYERS, data, label)
        self._tell([LAYERS])

    def connect(self) -> None:
        """Let `listen` be connected, which it is at first."""
        self._is_cut.clear()

    def disconnect(self) -> None:
        """End `listen`; it fails at each further call until `connect`."""
        self._is_cut.set()

    @property
    def is_listening(self) -> bool:
        return self._changes is not None

    def fetch(self, keys: Collection[Key]) -> Iterable[Record]:
        self.check()
        found = [self._records[key] for key in keys if key in self._records]
        return found + self._in_order() if LAYERS in keys else found

    def all(self) -> Iterable[Record]:
        self.check()
        return [*self._records.values(), *self._in_order()]

    def listen(self, changes: Changes) -> None:
        if self._is_cut.is_set():
            raise ConnectionError("disconnected")
        with self._lock:
            self._changes = changes
            changes.connected()
        try:
            while not changes.closed.is_set():
                if self._is_cut.wait(0.01):
                    raise ConnectionError("disconnected")
        finally:
            with self._lock:
                self._changes = None

    def check(self) -> None:
        if self.is_down:
            raise ConnectionError("the store is down")

    def _in_order(self) -> list[Record]:
        return [record for _, record in sorted(self._layers.items())]

    def _tell(self, keys: Collection[Key]) -> None:
        with self._lock:
            if self._changes and not self._is_cut.is_set():
                self._changes.changed(keys)
