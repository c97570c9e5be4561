"""A driver without tokens, as most authors write it: what it does depends on files in a directory.

`down`: it raises DriverError. `hangs`: it waits until the file is gone. `none`: there is no VM.
`slow-check`: its check waits until the file is gone. `version` is the instance-id. It writes the
name of each VM that it is asked for to `calls`.
"""

from __future__ import annotations

import time
from pathlib import Path

from vmw_cloudinit_metadata import Driver, DriverError, DriverOptions, InstanceData, Machine


class LedgerOptions(DriverOptions):
    directory: Path


class LedgerDriver(Driver):
    Options = LedgerOptions
    options: LedgerOptions

    def get_instance(self, machine: Machine) -> InstanceData | None:
        directory = self.options.directory
        with (directory / "calls").open("a") as calls:
            calls.write(f"{machine.name}\n")
        while (directory / "hangs").exists():
            time.sleep(0.01)
        if (directory / "down").exists():
            raise DriverError("the database is down")
        if (directory / "none").exists():
            return None
        version = (directory / "version").read_text()
        return InstanceData.from_mapping({"metadata": {"instance-id": version}})

    def check(self) -> None:
        while (self.options.directory / "slow-check").exists():
            time.sleep(0.01)
