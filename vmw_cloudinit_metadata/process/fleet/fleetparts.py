"""The parts of the fleet process, one row each. The tables of a part are in migrations.py."""

from __future__ import annotations

from collections.abc import Sequence

from vmw_cloudinit_metadata.process.fleet import (
    fleetmachines,
    fleetservers,
    ledgerrows,
    machineforgetting,
    moverows,
    outcomerows,
    userows,
)
from vmw_cloudinit_metadata.process.fleet.fleetpart import FleetPart

PARTS: Sequence[FleetPart] = (
    fleetservers.PART,
    fleetmachines.PART,
    machineforgetting.PART,
    moverows.PART,
    outcomerows.PART,
    userows.PART,
    ledgerrows.PART,
)
