"""A file of SQLite: locked while it `stop`s, away when it was killed."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.process import run
from tests.servers import Backend, Data, written


class SqliteBackend(Backend):
    name = "sqlite"
    driver = "sql"
    prepares = True

    @property
    def url(self) -> str:
        return f"sqlite:///{self._place}"

    @property
    def options(self) -> Mapping[str, Any]:
        return {"url": self.url}

    @property
    def _place(self) -> Path:
        return self.directory / "vms.sqlite"

    @property
    def _away(self) -> Path:
        return self.directory / "away"

    def start(self) -> None:
        if self._away.exists():
            self._away.rename(self._place)
        else:
            made = run("sql", "init", "--url", self.url, "--apply")
            assert made.returncode == 0, made.stderr
        self._db = sqlite3.connect(self._place, check_same_thread=False, isolation_level=None)

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
        self._place.rename(self._away)

    def stop(self) -> None:
        self._db.execute("BEGIN EXCLUSIVE")

    def cont(self) -> None:
        self._db.execute("COMMIT")

    def close(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()
