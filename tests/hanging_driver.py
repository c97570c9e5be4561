"""A driver whose VMs hang, each for as long as a file of its name lies in a directory.

VMs whose names begin with `same` need the same work, which hangs while there is a file `work`; what
comes of it is kept for all if there is a file `kept`.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from vmw_cloudinit_metadata import Driver, InstanceData, Machine
from vmw_cloudinit_metadata.drivers.driver import UnderWay, Work


class HangingDriver(Driver):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self._directory = Path(options["directory"])
        self._work: Work | None = None
        self._lock = threading.Lock()

    def _hang(self, name: str) -> None:
        while (self._directory / name).exists() or (self._directory / "all").exists():
            time.sleep(0.01)

    def get_instance(self, machine: Machine) -> InstanceData | None:
        name = machine.name or ""
        self._hang(name)
        if name.startswith("same"):
            self._do_work()
        version = (self._directory.parent / "version").read_text()
        found = InstanceData.from_mapping({"metadata": {"instance-id": version}})
        return replace(found, token=(name, version))

    def _do_work(self) -> None:
        with self._lock:
            if self._work and self._work.is_over and self._work.is_kept:
                return
            if self._work and not self._work.is_over:
                raise UnderWay(self._work)
            work = self._work = Work()
        self._hang("work")
        work.is_kept = (self._directory / "kept").exists()
        work.is_over = True

    def still_holds(self, token: tuple[str, str]) -> bool:
        self._hang(token[0])
        return (self._directory.parent / "version").read_text() == token[1]

    def close(self) -> None:
        self._hang("close")
