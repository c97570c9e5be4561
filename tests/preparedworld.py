"""A server's driver of a store, and that of the process of the catalogue, without a process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Protocol

from tests.waiting import wait_until
from vmw_cloudinit_metadata import Machine, StoreDriver
from vmw_cloudinit_metadata.drivers.catalogue import records
from vmw_cloudinit_metadata.drivers.preparedanswers import PreparedAnswers
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData

LIMIT_BYTES = 1024 * 1024


class Heard(Protocol):
    changes: Any  # what `listen` has got


class PreparedWorld:
    def __init__(self, of_server: Heard, of_process: Heard) -> None:
        """Both are stores."""
        self.server, self._process = map(_listening, (of_server, of_process))
        self.heard: list[Any] = []  # from the present survey
        self.answers.limit_bytes = LIMIT_BYTES
        assert self._process.prepared
        self._process.prepared.prepare(self._hear, LIMIT_BYTES)

    @property
    def answers(self) -> PreparedAnswers:
        assert self.server.prepared
        return self.server.prepared

    def _hear(self, line: bytes) -> None:
        record: Any = records.decode(line.removesuffix(b"\n"))
        self.heard.append(record)
        self.answers.take(record)

    def survey(self) -> None:
        for _ in self.surveying():
            pass

    def surveying(self) -> Iterator[object]:
        """Yield before anything is read, and then while what was read is checked."""
        self.heard.clear()
        self.answers.begin()
        yield None
        yield from self._process.survey()

    def found(self, machine: Machine) -> Any:
        return parts(self.answers.find(machine, time.monotonic()))

    def looked_up(self, machine: Machine) -> Any:
        try:
            return parts(self.server.get_instance(machine))
        except InvalidInstanceData:
            return "invalid"

    def close(self) -> None:
        self.server.close()
        self._process.close()


def _listening(store: Any) -> StoreDriver:
    driver = StoreDriver(store)
    driver.watch(lambda _: None)
    wait_until(lambda: store.changes and store.changes.is_connected)
    return driver


def parts(found: Any) -> Any:
    return found and (
        *(dict(found.metadata), found.network, found.userdata, found.matched_by),
        *(found.sources, found.documents),
    )
