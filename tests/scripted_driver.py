"""A driver that does what a VM's name says: `sleep-2.5`, `fails`, `raises`, `invalid`, `none`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from vmw_cloudinit_metadata import Driver, DriverError, InstanceData, Machine


class ScriptedDriver(Driver):
    def get_instance(self, machine: Machine) -> InstanceData | None:
        with Path(self.options["calls"]).open("a") as calls:
            calls.write(f"{machine.name}\n")
        what, _, detail = (machine.name or "").partition("-")
        if what == "sleep":
            time.sleep(float(detail.partition(" ")[0]))
        elif what == "fails":
            raise DriverError("the database is down")
        elif what == "raises":
            raise KeyError("oops")
        elif what == "exits":
            raise SystemExit(3)
        elif what == "none":
            return None
        metadata = {
            "instance-id": machine.vc_uuid,
            "name": machine.name,
            "bios": machine.bios_uuid,
            "location": machine.location_uuid,
            "uri": machine.service_uri,
            "query": dict(machine.query),
            "direction": machine.direction,
            "peer": machine.peer_address,
            "since": machine.connected_since and machine.connected_since.isoformat(),
        }
        instance = InstanceData.from_mapping(
            {"metadata": 5 if what == "invalid" else metadata, "userdata": "#!/bin/sh\n"}
        )
        return replace(instance, token=machine.name) if what in ("kept", "sleep") else instance

    def still_holds(self, token: str) -> bool:
        return token != "kept-no"

    def held_at(self, token: str, time_s: float) -> bool:  # noqa: ARG002
        if token == "kept-raises":
            raise KeyError("oops")
        return False

    def close(self) -> None:
        with Path(self.options["calls"]).open("a") as calls:
            calls.write("closed\n")
