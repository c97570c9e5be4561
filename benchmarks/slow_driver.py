"""A driver that needs `seconds` per look-up, like a slow database; its answers stay valid."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine


class SlowDriver(Driver):
    def get_instance(self, machine: Machine) -> InstanceData | None:
        time.sleep(self.options["seconds"])
        instance = InstanceData.from_mapping(
            {
                "metadata": {"hostname": machine.name or "nobody"},
                "network": {"address": "192.168.1.2/24", "gateway": "192.168.1.254"},
                "userdata": "#cloud-config\npackage_update: true\n",
            }
        )
        return replace(instance, token=True)

    def still_holds(self, token: Any) -> bool:
        return bool(token)
