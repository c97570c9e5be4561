"""What the servers of the store `sql` have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from tests.process import run
from tests.servers import Daemon, DaemonBackend
from tests.storm import free_port


class SqlServerBackend(DaemonBackend):
    """The server's address, with the password, is a variable of the environment."""

    driver = "sql"
    prepares = True

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.daemon = Daemon(self.directory)
        self.daemons = [self.daemon]
        self.data = self.directory / "data"

    @property
    @abstractmethod
    def url(self) -> str:
        """The address, with the password."""

    @property
    def environment(self) -> Mapping[str, str]:
        return {"VMS_URL": self.url}

    @property
    def options(self) -> Mapping[str, Any]:
        return {"url": "${VMS_URL}"}


def make_tables(url: str) -> None:
    made = run("sql", "init", "--url", url, "--apply")
    assert made.returncode == 0, made.stderr
