"""The text of an inventory in YAML: a mapping of VMs to their instance data. Pure.

Each entry is read as a file of its own, with its own faults and lines; the limits of a file are
those of all entries together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from yaml.events import MappingEndEvent, MappingStartEvent

from vmw_cloudinit_metadata.instance.fault import Fault, Faults
from vmw_cloudinit_metadata.instance.parsing import seed
from vmw_cloudinit_metadata.instance.parsing.seed import Reader, Seed
from vmw_cloudinit_metadata.instance.parsing.textkeys import SCHEMA, TEXT


@dataclass(frozen=True, slots=True)
class Entry:
    """One VM of an inventory: its name as written, where that stands, and its data."""

    name: str
    line: int
    read: Callable[[], Seed]


def read(text: str) -> tuple[list[Entry], tuple[Fault, ...]]:
    """Return the entries, and the faults of the text as a whole; never raises."""
    reader = _EntryReader(text)
    whole = reader.seed()
    return reader.found, whole.faults


class _EntryReader(Reader):
    def __init__(self, text: str) -> None:
        super().__init__(text, SCHEMA, ())
        self.found: list[Entry] = []

    def _content(self, event: Any) -> None:
        if not isinstance(event, MappingStartEvent):
            self._fault(event, (), "something else", "a mapping of VM names to instance data")
            super()._content(event)  # up to its end
            return
        while not isinstance(key := next(self._events), MappingEndEvent):
            name = self._key(key, (), TEXT)
            line = seed.place_of(key.start_mark, self._lines)[0]
            self.found.append(Entry(str(name), line, partial(_itself, self._entry())))

    def _entry(self) -> Seed:
        """Read what stands below a key; without its end, its faults are those of the whole."""
        of_whole, self._faults, self._marks = self._faults, Faults(), {}
        is_read = False
        try:
            value = self._node(next(self._events), (), self._schema)
            is_read = True
        finally:
            of_entry, self._faults = self._faults, of_whole
            if not is_read:
                self._faults.extend(of_entry.all())
        return Seed({} if value is None else value, of_entry.all(), self._marks, self._lines)


def _itself(seed: Seed) -> Seed:
    return seed
