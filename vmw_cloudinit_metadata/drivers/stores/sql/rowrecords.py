"""Rows of a database as records: which columns there are, and what they say. Pure.

A row has the identities of its VM in the columns `name`, `vc_uuid` and `bios_uuid`, as many as
there are. Its data is in the column `data`; without one, each other column is a dotted key, as in
an inventory in CSV. A column `id` only gives the row its label.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vmw_cloudinit_metadata.drivers.content.layer import MAX_FILE_BYTES
from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.filesystem.filename import stem_of
from vmw_cloudinit_metadata.drivers.store import BIOS_UUID, LAYERS, NAME, VC_UUID, Key, Record
from vmw_cloudinit_metadata.instance.keys import FILE_LEVEL
from vmw_cloudinit_metadata.instance.parsing import csvtable
from vmw_cloudinit_metadata.instance.parsing.textkeys import TEXT
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid

COLUMNS = {VC_UUID: "vc_uuid", BIOS_UUID: "bios_uuid", NAME: "name"}
DATA, ID = "data", "id"

# Of the rows of an answer, or of each row of a list. PostgreSQL sends a `bytea` as digits, which
# are twice as many bytes as it has.
MAX_ANSWER_BYTES = 2 * MAX_FILE_BYTES

_NUMBER = re.compile("0|-?[1-9][0-9]{0,17}")  # of 64 bits

Row = Sequence[Any]


class TooLargeError(DriverError):
    """An answer has more bytes than it may have."""

    def __init__(self, text: str = f"an answer has more than {MAX_ANSWER_BYTES:,} bytes") -> None:
        super().__init__(text)


class UnwritableError(DriverError):
    """What was asked for has a character that the column's encoding lacks: no row can have it."""


@dataclass(frozen=True)
class RowShape:
    """The columns of a table or query: where identities and data are."""

    source: str  # for labels: `cloudinit_vms`
    names: list[str]
    identities: Mapping[str, int]  # the place of each kind of key
    data: int | None
    id: int | None
    cells: Sequence[tuple[int, csvtable.Column, Any]]  # place, key and schema of the others

    def records(self, keys: Sequence[Key], rows: Sequence[Row]) -> Iterator[Record]:
        """Yield a record for each key that a row has."""
        for key in keys:
            place = self.identities.get(key.kind)
            if place is None:
                continue
            for row in rows:
                if key_of(key.kind, row[place]) == key:
                    yield Record(key, self._data(row), self._label(row, text_of(row[place])))

    def record(self, row: Row) -> Record:
        """Return the record under the first identity of the row; "" is the key of one without."""
        keys: list[Key] = []
        for kind, place in self.identities.items():
            if row[place] is not None:
                key = key_of(kind, row[place])
                is_found = key is not None and text_of(row[place]) in spellings(key)
                keys.append(key if key and is_found else Key(kind))
        first = keys[0] if keys else Key(NAME)
        name = next((text_of(row[place]) for place in self.identities.values() if row[place]), "")
        also = tuple(key for key in keys if key.value not in ("", first.value))
        return Record(first, self._data(row), self._label(row, name or "without name"), also=also)

    def layers(self, rows: Sequence[Row]) -> Iterator[Record]:
        """Yield layers in the order of their names, compared as file names are."""
        place = self.identities[NAME]
        if any(row[place] is None for row in rows):
            raise DriverError(f"a row of {self.source} has no name: layers need one")
        for row in sorted(rows, key=lambda row: text_of(row[place])):
            label = one_line(f"{text_of(row[place])} of {self.source}")
            yield Record(LAYERS, self._data(row), label)

    def _label(self, row: Row, name: str) -> str:
        if self.id is not None and row[self.id] is not None:
            return one_line(f"row {row[self.id]} of {self.source}")
        return one_line(f"row {shortened(name)} of {self.source}")

    def _data(self, row: Row) -> Any:
        if self.data is not None:
            found = row[self.data]
            return bytes(found) if isinstance(found, memoryview | bytearray) else found
        value: dict[str, Any] = {}
        for place, column, schema in self.cells:
            found = _cell(row[place], schema)
            if found is not None:
                csvtable.put(value, column, found)
        return value


def _cell(found: Any, schema: Any) -> Any:
    """Return what a cell says, None if it is empty: a text as in CSV, or a number or list."""
    match found:
        case None | bool() | dict():
            return found
        case list():
            return [_cell(one, None) for one in found]  # such as addresses
        case int() | float() if schema is not TEXT:
            return found
        case bytes() if not _is_text(found):
            return found  # such as user-data that is compressed
        case _:
            text = text_of(found).strip()
            return csvtable.value_of(text, schema) if text else None


def text_of(found: object) -> str:
    """Return the text of a value; bytes are those of a text: databases have columns of such."""
    if isinstance(found, bytes | bytearray | memoryview):
        return bytes(found).decode(errors="surrogateescape")
    return str(found)


def _is_text(found: bytes) -> bool:
    try:
        found.decode()
    except UnicodeDecodeError:
        return False
    return True


def key_of(kind: str, found: object) -> Key | None:
    """Return the key by which the value of a column is looked up; None if it is by none."""
    if found is None:
        return None
    value = stem_of(text_of(found)) if kind == NAME else parse_uuid(text_of(found))
    return Key(kind, value) if value else None


def spellings(key: Key) -> tuple[str, str]:
    """Return the two in which a column may have the key: a database compares without parsing."""
    if key.kind != NAME:
        return key.value, key.value.upper()
    raw = key.value
    for escaped, character in (("%2f", "/"), ("%5c", "\\"), ("%25", "%")):
        raw = raw.replace(escaped, character)
    return key.value, raw


def stored_values(key: Key) -> tuple[str | bytes | int | None, ...]:
    """Return all that SQLite may have for a key: it compares types too, and its columns have any.

    None stands for a number, which most names are not; it is equal to nothing.
    """
    texts = spellings(key)
    number = int(key.value) if _NUMBER.fullmatch(key.value) else None
    return (*texts, *(text.encode() for text in texts), number)


def shape_of(source: str, names: Sequence[str], *, of_layers: bool = False) -> RowShape:
    """Return the shape of a result with these columns; raise DriverError if it is of no use."""
    columns = [str(name) for name in names]
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise DriverError(f"{source} has two columns {twice}: give one another name (AS …)")
    kinds = (NAME,) if of_layers else tuple(COLUMNS)
    identities = {kind: columns.index(COLUMNS[kind]) for kind in kinds if COLUMNS[kind] in columns}
    if not identities:
        expected = " or ".join(COLUMNS[kind] for kind in kinds)
        raise DriverError(f"{source} has no column {expected}: {_shown(columns)}")
    place = columns.index(DATA) if DATA in columns else None
    number = columns.index(ID) if ID in columns else None
    others = [
        (number, name)
        for number, name in enumerate(columns)
        if name not in (*COLUMNS.values(), DATA, ID)
    ]
    if place is not None:
        known = [name for _, name in others if _is_key(name)]
        if known:
            raise DriverError(
                f"{source} has the column {DATA}, and {known[0]} too: use one of them, or name the "
                "others differently"
            )
        return RowShape(source, columns, identities, place, number, ())
    if not others:
        raise DriverError(f"{source} has no column with data: name one {DATA}, or use dotted keys")
    faults = list(csvtable.header_faults([csvtable.NAME, *(name for _, name in others)]))
    if faults:
        raise DriverError(f"{source}: {faults[0]}")
    cells = [
        (number, column, csvtable.schema_at(column))
        for number, column in ((number, csvtable.column_of(name)) for number, name in others)
    ]
    return RowShape(source, columns, identities, None, number, cells)


def _is_key(name: str) -> bool:
    """Return whether a column would be a key of instance data."""
    return csvtable.column_of(name)[0].replace("_", "-").removesuffix("+") in FILE_LEVEL


def _shown(columns: Sequence[str]) -> str:
    return "it has " + one_line(shortened(", ".join(columns), 200))
