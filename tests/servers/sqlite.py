"""A file of SQLite: locked while it `stop`s, away when it was killed."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from tests.servers import Data, PlaceBackend, written
from tests.servers.sqlserver import make_tables


class SqliteBackend(PlaceBackend):
    name = "sqlite"
    driver = "sql"
    prepares = True
    place_name = "vms.sqlite"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.place}"

    @property
    def options(self) -> Mapping[str, Any]:
        return {"url": self.url}

    def make(self) -> None:
        make_tables(self.url)

    def start(self) -> None:
        super().start()
        self._db = sqlite3.connect(self.place, check_same_thread=False, isolation_level=None)

    def put(self, vms: Mapping[str, Data]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        for name, data in vms.items():
            self._db.execute("DELETE FROM cloudinit_vms WHERE name = ?", [name])
            self._db.execute(
                "INSERT INTO cloudinit_vms (name, data) VALUES (?, ?)", [name, written(data)]
            )
        self._db.execute("COMMIT")

    def delete(self, name: str) -> None:
        self._db.execute("DELETE FROM cloudinit_vms WHERE name = ?", [name])

    def put_layer(self, name: str, data: Data) -> None:
        self._db.execute("REPLACE INTO cloudinit_layers VALUES (?, ?)", [name, written(data)])

    def kill(self) -> None:
        self._db.close()
        super().kill()

    def stop(self) -> None:
        self._db.execute("BEGIN EXCLUSIVE")

    def cont(self) -> None:
        self._db.execute("COMMIT")

    def close(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()
