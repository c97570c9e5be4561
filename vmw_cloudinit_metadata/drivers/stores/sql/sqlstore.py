"""SqlStore: the store of a database, with tables or queries of the operator's own."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.optionsecrets import secrets_in
from vmw_cloudinit_metadata.drivers.store import LAYERS, Changes, Key, Record, Store
from vmw_cloudinit_metadata.drivers.stores.sql import sqltables
from vmw_cloudinit_metadata.drivers.stores.sql.rowrecords import (
    COLUMNS,
    RowShape,
    TooLargeError,
    UnwritableError,
    shape_of,
)
from vmw_cloudinit_metadata.drivers.stores.sql.sqloptions import SqlOptions
from vmw_cloudinit_metadata.settings.knownsecrets import KnownSecrets

if TYPE_CHECKING:
    from sqlalchemy import PoolProxiedConnection

    from vmw_cloudinit_metadata.drivers.stores.sql.database import Database

MAX_ROWS = 100  # of one VM, where one is right
MAX_LAYER_ROWS = 1000
NEEDED = "needs the extra `sql`: pip install 'vmw-cloudinit-metadata[sql]'"


class SqlStore(Store):
    """Takes VMs and layers from tables or queries of PostgreSQL, MariaDB, MySQL or SQLite."""

    Options = SqlOptions
    options: SqlOptions
    can_prepare = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        ours = self.options
        try:  # an extra; loaded when it is used
            from vmw_cloudinit_metadata.drivers.stores.sql.database import Database
        except ImportError as error:
            raise DriverError(f"the driver sql {NEEDED} ({error.name} is missing)") from None
        password = ours.password.get_secret_value() if ours.password else None
        texts = (ours.table, ours.query, ours.layers_table, ours.layers_query, ours.version_query)
        vocabulary = " ".join(filter(None, (*texts, ours.channel, sqltables.VMS, sqltables.LAYERS)))
        self._database: Database = Database(ours.url, password, ours.max_connections, vocabulary)
        self.known_secrets = KnownSecrets([*secrets_in([options, ours]), *self._database.secrets])
        kind = self._database.kind
        if ours.channel is not None and kind != sqltables.POSTGRESQL:
            raise DriverError("channel: only PostgreSQL has channels: use version_query")
        if ours.version_query is not None and kind == sqltables.SQLITE:
            raise DriverError("version_query: SQLite tells changes itself: remove this option")
        self._vms = _Source(ours.table, ours.query, sqltables.VMS, self._database)
        layers = ours.layers_table, ours.layers_query
        self._layers: _Source | None = None
        if any(layers) or not ours.has_own_rows:
            self._layers = _Source(*layers, sqltables.LAYERS, self._database, of_layers=True)

    @property
    def name(self) -> str:
        return f"{self._vms.label} in {self._database.address}"

    def fetch(self, keys: Collection[Key]) -> Iterator[Record]:
        asked = [key for key in keys if key != LAYERS]
        if asked:
            yield from self._vms.fetch(asked)
        if LAYERS in keys:
            yield from self._every_layer()

    def listen(self, changes: Changes) -> None:
        from vmw_cloudinit_metadata.drivers.stores.sql import notifications

        ours, connect = self.options, self._database.listening
        channel, query = ours.channel, ours.version_query
        if not (ours.has_own_rows or channel or query):
            if self._database.kind == sqltables.POSTGRESQL:
                channel = sqltables.CHANNEL
            elif self._database.kind == sqltables.MARIADB:
                query = sqltables.VERSION_QUERY
        if self._database.kind == sqltables.SQLITE:
            notifications.poll(connect, self._database.file_version, changes)
        elif channel is not None:
            notifications.listen(connect, channel, self._tables, changes)
        elif query is not None:
            notifications.poll(connect, partial(self._version, query), changes)

    def all(self) -> Iterable[Record]:
        yield from self._vms.every()
        yield from self._every_layer()

    def check(self) -> None:
        self._vms.look()
        if self._layers:
            self._layers.look()

    def close(self) -> None:
        self._database.close()

    @property
    def _tables(self) -> Sequence[str]:
        """Those with the rows, as SQL names them; what a query reads is not known."""
        sources = (self._vms, self._layers)
        return [source.table for source in sources if source and source.table]

    def _version(self, query: str, connection: PoolProxiedConnection) -> Hashable:
        try:
            with closing(connection.cursor()) as cursor:
                cursor.execute(self._database.escaped(query), ())
                found = cursor.fetchmany(2)
        except TooLargeError as error:
            raise DriverError(f"version_query: {error}: select less") from None
        if len(found) != 1:
            raise DriverError("version_query: expected one row")
        return tuple(map(str, found[0]))

    def _every_layer(self) -> Iterator[Record]:
        if self._layers:
            yield from self._layers.layers()


class _Source:
    """A table or a query, whose columns are looked up when they are needed."""

    def __init__(
        self,
        table: str | None,
        query: str | None,
        default: str,
        database: Database,
        *,
        of_layers: bool = False,
    ) -> None:
        self.label = table or ("the query" if query is not None else default)
        self._option = "layers_query" if of_layers else "query"
        self._database = database
        self._of_layers = of_layers
        self.table = ""  # as SQL names it
        if query is not None:
            text = query.strip().rstrip(";").rstrip()
            # A comment at its end must not take in what follows.
            origin = f"({text}\n) AS cloudinit_rows"
        else:
            origin = self.table = database.quoted(table or default)
        self._from = database.escaped(origin)
        self._conditions = {
            kind: f"{database.quoted(column)} IN ({database.places})"
            for kind, column in COLUMNS.items()
        }
        self._shape: RowShape | None = None

    def look(self) -> None:
        """Read the names of the columns; raise DriverError if the rows cannot be read."""
        names, _ = self._rows(f"SELECT * FROM {self._from} WHERE 1 = 0")
        self._shape = shape_of(self.label, names, of_layers=self._of_layers)

    def fetch(self, keys: Sequence[Key]) -> Iterator[Record]:
        shape = self._known()
        asked = [key for key in keys if key.kind in shape.identities]
        if not asked:
            return
        try:
            names, rows = self._rows(*self._statement(asked))
        except UnwritableError:
            asked = [key for key in asked if key.value.isascii()]  # no row can have the others
            if not asked:
                self.look()  # raises if the query is wrong by itself
                return
            names, rows = self._rows(*self._statement(asked))
        if len(rows) > MAX_ROWS:
            raise DriverError(
                f"{self.label} in {self._database.address}: found more than {MAX_ROWS} rows with "
                "the identities of this VM, expected one: clear what these rows have in common"
            )
        yield from self._shaped(names).records(asked, rows)

    def layers(self) -> Iterator[Record]:
        statement = f"SELECT * FROM {self._from} LIMIT {MAX_LAYER_ROWS}"
        names, rows = self._rows(statement)
        yield from self._shaped(names).layers(rows)

    def every(self) -> Iterator[Record]:
        record: Record | None = None
        shape: RowShape | None = None
        try:
            for names, row in self._database.every_row(f"SELECT * FROM {self._from}"):
                shape = shape or self._shaped(names)
                record = shape.record(row)
                yield record
        except TooLargeError as error:
            place = f", after {record.label}" if record else ""
            raise self._too_large(f"{error}{place}") from None

    def _rows(
        self, statement: str, values: Sequence[Any] = ()
    ) -> tuple[Sequence[str], Sequence[Any]]:
        try:
            return self._database.rows(statement, values)
        except TooLargeError as error:
            raise self._too_large(str(error)) from None

    def _too_large(self, text: str) -> DriverError:
        advice = f"shorten the row, or leave large columns out by the option {self._option}"
        return DriverError(f"{self.label} in {text}: {advice}")

    def _known(self) -> RowShape:
        if self._shape is None:
            self.look()
        assert self._shape
        return self._shape

    def _shaped(self, names: Sequence[str]) -> RowShape:
        """Return the shape of a result: columns may have come or gone."""
        shape = self._shape
        if shape is None or list(names) != shape.names:
            shape = self._shape = shape_of(self.label, names, of_layers=self._of_layers)
        return shape

    def _statement(self, keys: Sequence[Key]) -> tuple[str, list[Any]]:
        """Return a statement with a place for each value of each key, and these."""
        conditions = " OR ".join([self._conditions[key.kind] for key in keys])
        values = [value for key in keys for value in self._database.values_of(key)]
        statement = f"SELECT * FROM {self._from} WHERE {conditions} LIMIT {MAX_ROWS + 1}"
        return statement, values
