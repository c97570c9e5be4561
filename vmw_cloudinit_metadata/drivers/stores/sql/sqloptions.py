"""The options of the store `sql`."""

from __future__ import annotations

from typing import Self

from pydantic import Field, SecretStr, model_validator

from vmw_cloudinit_metadata.drivers.driveroptions import DriverOptions


class SqlOptions(DriverOptions):
    url: str = Field(
        description="the database: postgresql://USER:PASSWORD@HOST/DATABASE, mariadb://…, "
        "mysql://… or sqlite:////ABSOLUTE/PATH"
    )
    password: SecretStr | None = Field(
        None, description="the password, if the URL has none; password_file names a file with it"
    )
    table: str | None = Field(
        None, description="the table with a row for each VM; default: that of `sql init`"
    )
    query: str | None = Field(
        None, description="in place of a table, a SELECT that returns the rows of all VMs"
    )
    layers_table: str | None = Field(
        None, description="the table of layers; default: that of `sql init`, if it is used for VMs"
    )
    layers_query: str | None = Field(
        None, description="in place of a table, a SELECT that returns all layers"
    )
    version_query: str | None = Field(
        None,
        description="a SELECT whose result is another one after each change of these rows; without "
        "it, answers from tables and queries of your own are cached for SQLite only",
    )
    channel: str | None = Field(
        None, description="PostgreSQL: the channel on which a trigger of yours sends changes"
    )
    max_connections: int = Field(
        8, ge=1, le=100, description="connections of each worker, one more listens for changes"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        pairs = (
            ("table", "query"),
            ("layers_table", "layers_query"),
            ("channel", "version_query"),
        )
        for one, other in pairs:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"either {one} or {other}: remove one of them")
        return self

    @property
    def has_own_rows(self) -> bool:
        """Return whether the rows of VMs are not those of `sql init`."""
        return self.table is not None or self.query is not None
