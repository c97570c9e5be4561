"""MariaDB, as Debian has it: a data directory of its own."""

from __future__ import annotations

import getpass
import os
import shutil
from collections.abc import Mapping
from typing import Any

import pymysql

from tests.servers import UNPRIVILEGED, Data, written
from tests.servers.sqlserver import SqlServerBackend, make_tables

PASSWORD = "maria-s3cret%41@word"
QUOTED_PASSWORD = "maria-s3cret%2541%40word"


class MariadbBackend(SqlServerBackend):
    name = "mariadb"

    def __init__(self) -> None:
        super().__init__()
        self._db: pymysql.Connection[Any] | None = None

    @property
    def url(self) -> str:
        return f"mariadb://vmw:{QUOTED_PASSWORD}@127.0.0.1:{self.port}/vms"

    def start(self) -> None:
        is_new = not self.data.exists()
        if is_new:
            user = UNPRIVILEGED if os.geteuid() == 0 else getpass.getuser()
            self.daemon.run(
                self._program("mariadb-install-db"),
                *("--no-defaults", f"--datadir={self.data}", f"--user={user}"),
                *("--auth-root-authentication-method=normal", "--skip-test-db"),
            )
        self.daemon.start(
            self._program("mariadbd"),
            *("--no-defaults", f"--datadir={self.data}", f"--port={self.port}"),
            *("--bind-address=127.0.0.1", f"--socket={self.directory}/socket"),
            *(f"--pid-file={self.directory}/pid", "--skip-name-resolve", "--performance-schema=0"),
            *("--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=64M"),
            is_ready=self._is_ready,
        )
        if is_new:
            with self.admin() as db, db.cursor() as cursor:
                cursor.execute("CREATE DATABASE vms CHARACTER SET utf8mb4")
                cursor.execute("CREATE USER vmw@'127.0.0.1' IDENTIFIED BY %s", [PASSWORD])
                cursor.execute("GRANT ALL ON vms.* TO vmw@'127.0.0.1'")
            make_tables(self.url)
        self._db = None

    @property
    def _open(self) -> pymysql.Connection[Any]:
        """The connection for changes, made where it is used: gevent binds sockets to threads."""
        self._db = self._db or self.admin("vms")
        return self._db

    @staticmethod
    def _program(name: str) -> str:
        path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/bin")
        assert path, f"needs {name} (Debian: apt-get install mariadb-server)"
        return path

    def admin(self, database: str | None = None) -> pymysql.Connection[Any]:
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", database=database, autocommit=True
        )

    def _is_ready(self) -> bool:
        try:
            self.admin().close()
        except pymysql.OperationalError:
            return False
        return True

    def put(self, vms: Mapping[str, Data]) -> None:
        rows = [(name, written(data)) for name, data in vms.items()]
        self._open.begin()
        with self._open.cursor() as cursor:
            cursor.executemany(
                "DELETE FROM cloudinit_vms WHERE name = %s", [(name,) for name in vms]
            )
            cursor.executemany("INSERT INTO cloudinit_vms (name, data) VALUES (%s, %s)", rows)
        self._open.commit()

    def delete(self, name: str) -> None:
        self._execute("DELETE FROM cloudinit_vms WHERE name = %s", name)

    def put_layer(self, name: str, data: Data) -> None:
        self._execute("REPLACE INTO cloudinit_layers VALUES (%s, %s)", name, written(data))

    def _execute(self, statement: str, *values: str) -> None:
        with self._open.cursor() as cursor:
            cursor.execute(statement, values)
