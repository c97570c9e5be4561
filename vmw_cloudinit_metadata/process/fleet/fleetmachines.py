"""The part of the fleet that keeps machines and boots: what it is asked, and what it removes."""

from __future__ import annotations

from vmw_cloudinit_metadata.process.fleet import (
    machineforgetting,
    machinereading,
    machinestory,
    machinewriting,
)
from vmw_cloudinit_metadata.process.fleet.fleetpart import FleetPart, Round

PART = FleetPart(
    asks={
        "record": machinewriting.record,
        "machines": machinereading.page,
        "machine": machinereading.machine,
        "summary": machinereading.summary,
        "story": machinestory.ask,
        machinestory.TOLD: machinestory.tell,
    },
    notices={
        machinestory.ASKED: machinestory.asked,
        machinestory.TOLD: machinestory.told,
    },
    rounds=(
        Round("forget boots", 60.0, machinewriting.forget_boots, is_alone=True),
        Round("forget stories", 30.0, machinestory.forget, is_alone=True),
        Round("age machines", 60.0, machineforgetting.age, is_alone=True),
        Round("forget machines", 60.0, machinewriting.forget_machines, is_alone=True),
    ),
    since=2,
)
