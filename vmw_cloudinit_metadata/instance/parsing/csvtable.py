"""An inventory in CSV (RFC 4180): a VM a row, and a dotted key a column. Pure.

Cells end at commas, or at semicolons if the first line has more of these: Excel writes them where
a comma begins decimals. The column `name` has the VM's name or VC UUID, `network.address` its
address, and so on. An empty cell is no key. A cell is text; where a key takes other values too,
`true`, `false` and whole numbers are such; in a column `key+` it is a list of one.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.instance.parsing import seed
from vmw_cloudinit_metadata.instance.parsing.entries import Entry
from vmw_cloudinit_metadata.instance.parsing.seed import Seed
from vmw_cloudinit_metadata.instance.parsing.textkeys import SCHEMA, below, is_text
from vmw_cloudinit_metadata.instance.values.plain import MAX_DEPTH

NAME = "name"
MAX_COLUMNS = 1000

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_BOOLEANS = {"true": True, "false": False}

_CELLS = f"each quote to be closed, at most {csv.field_size_limit():,} characters in a cell"
_EXPECTED = f"the names of the columns there: {NAME}, and dotted keys"

Column = tuple[str, ...]


def read(text: str) -> tuple[list[Entry], tuple[Fault, ...]]:
    """Return the entries, and the faults of the table as a whole; never raises."""
    first, _, _ = text.partition("\n")
    delimiter = max(",;", key=first.count)
    lines = (f"{line}\n" for line in text.split("\n"))
    rows = csv.reader(lines, strict=True, delimiter=delimiter)
    entries: list[Entry] = []
    begins = 1
    try:
        header = next(rows, [])
        faults = list(header_faults(header))
        if faults:
            return [], tuple(faults)
        columns = [column_of(cell) for cell in header]
        schemas = [schema_at(column) for column in columns]
        place = columns.index((NAME,))
        begins = rows.line_num + 1
        for row in rows:
            if any(row):
                read = partial(_seed, row, begins, columns, schemas)
                name = row[place].strip() if place < len(row) else ""
                entries.append(Entry(name, begins, read))
            begins = rows.line_num + 1
    except csv.Error as error:
        return [], (Fault((), f"invalid CSV ({error})", _CELLS, line=begins),)
    return entries, ()


def column_of(cell: str) -> Column:
    """Return the parts of a dotted key."""
    return tuple(cell.strip().split("."))


def header_faults(header: Sequence[str]) -> Iterator[Fault]:
    cells = [cell.strip() for cell in header]
    if NAME not in cells:
        yield Fault((), f"a first line without the column {NAME}", _EXPECTED, line=1)
    if len(cells) > MAX_COLUMNS:
        yield Fault((), f"{len(cells)} columns", f"at most {MAX_COLUMNS}", line=1)
        return
    for index, cell in enumerate(cells):
        column = tuple(cell.split("."))
        if not all(column) or len(column) > MAX_DEPTH:
            yield Fault((), f"column {index + 1} without a key", "a dotted key", line=1)
    above = {tuple(cell.split(".")) for cell in cells}
    if len(above) < len(cells):
        yield Fault((), "a duplicate column", "each column once", line=1)
    if any(column[:length] in above for column in above for length in range(1, len(column))):
        yield Fault((), "a column that is below another one", "only the lower ones", line=1)


def _seed(row: Sequence[str], line: int, columns: Sequence[Column], schemas: Sequence[Any]) -> Seed:
    """Made for each look-up: kept, it would take five times the memory of its row."""
    value: dict[str, Any] = {}
    for cell, column, schema in zip(row, columns, schemas, strict=False):
        text = cell.strip()
        if text and column != (NAME,):
            put(value, column, value_of(text, schema))
    faults: tuple[Fault, ...] = ()
    if len(row) > len(columns):
        expected = f"at most {len(columns)}, as many as columns"
        faults = (Fault((), f"{len(row)} cells", expected, line=line),)
    return seed.on_line(value, line, faults)


def put(value: dict[str, Any], column: Column, found: Any) -> None:
    """Set what a cell says, in a mapping that has only what other cells of its row say."""
    below = value
    for part in column[:-1]:
        below = below.setdefault(part, {})
    below[column[-1]] = [found] if column[-1].endswith("+") else found


def value_of(text: str, schema: Any) -> Any:
    """Return what a cell says that is not empty."""
    if is_text(schema):
        return text
    if _WHOLE_NUMBER.fullmatch(text):
        return int(text)
    return _BOOLEANS.get(text.lower(), text)


def schema_at(column: Column) -> Any:
    """Return which values the key takes: `TEXT` for texts alone."""
    schema: Any = SCHEMA
    for part in column:
        schema = below(schema, part.replace("_", "-"))
    return schema
