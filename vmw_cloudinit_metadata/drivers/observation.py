"""What a survey of all data says: each fault with the VMs that it affects, and how much there is.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmw_cloudinit_metadata.instance.fault import Fault

NAMED_VMS = 10  # of those that one fault affects


@dataclass(frozen=True, slots=True)
class Observation:
    """A fault or warning, and the VMs that it affects: the names of some, and their number."""

    fault: Fault
    vms: Sequence[str] = ()
    vm_count: int = 0


@dataclass(frozen=True, slots=True)
class Census:
    """What the last survey has read; None: the driver does not know."""

    files: int | None = None
    vms: int | None = None  # with data of their own, or a name in a layer that serves them
    layers: int = 0
    noun: str = "file"  # for what `files` counts
