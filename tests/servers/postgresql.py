"""PostgreSQL, as Debian has it: a cluster of its own."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.namespaces import NETWORKS
from tests.servers import Data, written
from tests.servers.sqlserver import SqlServerBackend, make_tables

PASSWORD = "pg-s3cret%41@word"  # with what has a meaning in addresses
QUOTED_PASSWORD = "pg-s3cret%2541%40word"


def program(name: str) -> str:
    """Return the path of a program of PostgreSQL, of which Debian links few in PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    path = str(found[-1]) if found else shutil.which(name)
    assert path, f"needs {name} (Debian: apt-get install postgresql)"
    return path


class PostgresqlBackend(SqlServerBackend):
    name = "postgresql"
    ended_by = signal.SIGINT  # "fast": connections are closed

    def __init__(
        self, primary: PostgresqlBackend | None = None, further: Sequence[str] = ()
    ) -> None:
        """A standby of `primary`, if there is one, until it is promoted. It listens on loopback and
        on `further` addresses of a test's own networks."""
        super().__init__()
        self.primary = primary
        self._further = further

    @property
    def url(self) -> str:
        return self.url_at("127.0.0.1")

    def url_at(self, address: str) -> str:
        return f"postgresql://vmw:{QUOTED_PASSWORD}@{address}:{self.port}/vms"

    def start(self) -> None:
        is_new = not self.data.exists()
        if is_new and not self._is_copied():
            common = ("--pgdata", self.data, "--username", "admin", "--encoding", "UTF8")
            self.daemon.run(program("initdb"), *common, "--locale", "C", "--no-sync")
            rules = (
                "host all,replication admin 127.0.0.1/32 trust\n"
                "host all all 127.0.0.1/32 scram-sha-256\n"
                f"host all all {NETWORKS} scram-sha-256\n"
            )
            (self.data / "pg_hba.conf").write_text(rules)
        settings = {
            "port": self.port,
            "listen_addresses": ",".join(["127.0.0.1", *self._further]),
            "unix_socket_directories": "",
            "fsync": "off",  # no power is cut here
        }
        words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        self.daemon.start(
            program("postgres"), "-D", str(self.data), *words, is_ready=self._is_ready
        )
        if is_new and not self.primary:
            with self.admin() as db:
                db.execute(f"CREATE ROLE vmw LOGIN PASSWORD '{PASSWORD}'")
                db.execute("CREATE DATABASE vms OWNER vmw")
            make_tables(self.url)
        self._db = self.admin("vms")

    def _is_copied(self) -> bool:
        """Copy the primary, if there is one."""
        if self.primary is None:
            return False
        place = ("--host", "127.0.0.1", "--port", str(self.primary.port), "--username", "admin")
        options = ("--write-recovery-conf", "--checkpoint", "fast", "--no-sync")
        self.daemon.run(program("pg_basebackup"), "--pgdata", self.data, *place, *options)
        return True

    def promote(self) -> None:
        """Make a standby the primary."""
        with self.admin() as db:
            db.execute("SELECT pg_promote()")

    def admin(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="admin", dbname=database, autocommit=True
        )

    def _is_ready(self) -> bool:
        try:
            self.admin().close()
        except psycopg.OperationalError:
            return False
        return True

    def put(self, vms: Mapping[str, Data]) -> None:
        rows = [(name, written(data)) for name, data in vms.items()]
        with self._db.transaction(), self._db.cursor() as cursor:
            cursor.executemany(
                "DELETE FROM cloudinit_vms WHERE name = %s", [(name,) for name in vms]
            )
            cursor.executemany("INSERT INTO cloudinit_vms (name, data) VALUES (%s, %s)", rows)

    def delete(self, name: str) -> None:
        self._db.execute("DELETE FROM cloudinit_vms WHERE name = %s", [name])

    def put_layer(self, name: str, data: Data) -> None:
        self._db.execute(
            "INSERT INTO cloudinit_layers VALUES (%s, %s) "
            "ON CONFLICT (name) DO UPDATE SET data = EXCLUDED.data",
            [name, written(data)],
        )
