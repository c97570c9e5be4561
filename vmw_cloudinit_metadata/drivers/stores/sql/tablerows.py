"""The rows of the tables of `sql init`: replaced all at once, or read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.store import Key
from vmw_cloudinit_metadata.drivers.stores.sql.database import Database
from vmw_cloudinit_metadata.drivers.stores.sql.rowfiles import LayerRow, VmRow
from vmw_cloudinit_metadata.drivers.stores.sql.rowrecords import COLUMNS, TooLargeError
from vmw_cloudinit_metadata.drivers.stores.sql.sqltables import LAYERS, VMS


def replace(database: Database, vms: Sequence[VmRow], layers: Sequence[LayerRow]) -> None:
    """Write rows in place of those of the same VMs and layers, all or none; raise DriverError."""
    mark = database.mark
    with database.writing() as connection:
        for kind, column in COLUMNS.items():
            values = [getattr(vm, column) for vm in vms]
            keys = [Key(kind, value) for value in values if value is not None]
            _many(
                connection,
                f"DELETE FROM {VMS} WHERE {column} IN ({database.places})",
                [database.values_of(key) for key in keys],
            )
        _many(
            connection,
            f"INSERT INTO {VMS} (name, vc_uuid, bios_uuid, data) "
            f"VALUES ({mark}, {mark}, {mark}, {mark})",
            [(vm.name, vm.vc_uuid, vm.bios_uuid, vm.text) for vm in vms],
        )
        _many(
            connection,
            f"DELETE FROM {LAYERS} WHERE name = {mark}",
            [(layer.name,) for layer in layers],
        )
        _many(
            connection,
            f"INSERT INTO {LAYERS} (name, data) VALUES ({mark}, {mark})",
            [(layer.name, layer.text) for layer in layers],
        )


def _many(connection: Connection, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    if rows:
        connection.exec_driver_sql(statement, [tuple(row) for row in rows])


def vms_in(database: Database) -> Iterator[VmRow]:
    statement = f"SELECT name, vc_uuid, bios_uuid, data FROM {VMS} ORDER BY id"
    for name, vc_uuid, bios_uuid, data in _every(database, VMS, statement):
        yield VmRow(name, _text(vc_uuid), _text(bios_uuid), data)


def layers_in(database: Database) -> Iterable[LayerRow]:
    statement = f"SELECT name, data FROM {LAYERS} ORDER BY name"
    return (LayerRow(name, data) for name, data in _every(database, LAYERS, statement))


def _every(database: Database, table: str, statement: str) -> Iterator[Sequence[Any]]:
    try:
        yield from (row for _, row in database.every_row(statement))
    except TooLargeError as error:
        raise DriverError(f"{table} in {error}: shorten or delete the row") from None


def _text(uuid: object) -> str | None:
    return None if uuid is None else str(uuid)
