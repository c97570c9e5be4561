"""A store in memory that has the records of `count` VMs, each with the data of an instance file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from vmw_cloudinit_metadata.drivers.memorystore import MemoryStore
from vmw_cloudinit_metadata.drivers.store import NAME


class BenchStore(MemoryStore):
    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        template: str = options["template"]
        for index in range(options["count"]):
            name = f"vm-{index:05}"
            self.put(NAME, name, yaml.safe_load(template.format(name=name)))
