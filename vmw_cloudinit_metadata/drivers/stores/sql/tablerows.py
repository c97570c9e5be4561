"""The rows of the tables of `sql init`: replaced all at once, or read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import Connection

from vmw_cloudinit_metadata.drivers.store import Key
from vmw_cloudinit_metadata.drivers.stores.sql.database import Database
from vmw_cloudinit_metadata.drivers.stores.sql.rowfiles import LayerRow, VmRow
from vmw_cloudinit_metadata.drivers.stores.sql.rowrecords import COLUMNS, spellings
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
                f"DELETE FROM {VMS} WHERE {column} IN ({mark}, {mark})",
                [spellings(key) for key in keys],
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


def _many(connection: Connection, statement: str, rows: Sequence[tuple[str | None, ...]]) -> None:
    if rows:
        connection.exec_driver_sql(statement, list(rows))


def vms_in(database: Database) -> Iterator[VmRow]:
    for name, vc_uuid, bios_uuid, data in database.every_row(
        f"SELECT name, vc_uuid, bios_uuid, data FROM {VMS} ORDER BY id"
    ):
        yield VmRow(name, _text(vc_uuid), _text(bios_uuid), data)


def layers_in(database: Database) -> Iterable[LayerRow]:
    statement = f"SELECT name, data FROM {LAYERS} ORDER BY name"
    return (LayerRow(name, data) for name, data in database.every_row(statement))


def _text(uuid: object) -> str | None:
    return None if uuid is None else str(uuid)
