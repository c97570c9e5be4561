"""A driver whose VMs hang, each for as long as a file of its name lies in a directory."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from vmw_cloudinit_metadata import Driver, InstanceData, Machine


class HangingDriver(Driver):
    def __init__(self, options: dict[str, str]) -> None:
        super().__init__(options)
        self._directory = Path(options["directory"])
        self.stale_if_error_s = float(options["stale_if_error_s"])

    def _hang(self, name: str) -> None:
        while (self._directory / name).exists() or (self._directory / "all").exists():
            time.sleep(0.01)

    def get_instance(self, machine: Machine) -> InstanceData | None:
        name = machine.name or ""
        self._hang(name)
        version = (self._directory.parent / "version").read_text()
        found = InstanceData.from_mapping({"metadata": {"instance-id": version}})
        return replace(found, token=(name, version))

    def still_holds(self, token: tuple[str, str]) -> bool:
        self._hang(token[0])
        return (self._directory.parent / "version").read_text() == token[1]

    def close(self) -> None:
        self._hang("close")
