"""VcenterTable: what a process of the server knows of vCenter's VMs, and how vCenter is. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vmw_cloudinit_metadata.process.vcenter.vcenterrows import HOST, split, vm_of
from vmw_cloudinit_metadata.protocol.vcentercheck import VcenterVm

MAX_ROWS = 60_000  # VMs and hosts; a vCenter has up to 40,000 VMs and 2,500 hosts
ROW_BYTES = 260  # a row's place in a table, beside its text
MAX_PROBLEM = 300  # characters


@dataclass(frozen=True, slots=True)
class VcenterState:
    """What the vCenter process says of itself, every second and at each change."""

    is_connected: bool = False  # all VMs have been read, and changes are heard
    since_s: float = 0.0  # since 1970; when it became so. 0: it has never been heard of
    problem: str = ""  # why it is not connected
    place: str = ""  # the address of the vCenter
    reconnects: int = 0
    shed: int = 0  # rows for which there was no room

    @property
    def name(self) -> str:
        if self.is_connected:
            return "connected"
        return "out of reach" if self.problem else "reading"

    def pack(self) -> dict[str, Any]:
        return {
            "connected": self.is_connected,
            "since": self.since_s,
            "problem": self.problem,
            "place": self.place,
            "reconnects": self.reconnects,
            "shed": self.shed,
        }

    @classmethod
    def unpack(cls, packed: object) -> VcenterState:
        """Return what `pack` has packed, after JSON; raise ValueError for anything else."""
        match packed:
            case {
                "connected": bool(is_connected),
                "since": float(since_s) | int(since_s),
                "problem": str(problem),
                "place": str(place),
                "reconnects": int(reconnects),
                "shed": int(shed),
            }:
                texts = problem[:MAX_PROBLEM], place[:MAX_PROBLEM]
                return cls(is_connected, float(since_s), *texts, reconnects, shed)
        raise ValueError("not the state of a vCenter process")


class VcenterTable:
    """Takes what the vCenter process sends; finds a VM by its VC UUID.

    What it has stays while vCenter, or the process, is away.
    """

    def __init__(self) -> None:
        self._vms: dict[str, bytes] = {}
        self._hosts: dict[str, bytes] = {}
        self._bytes = 0
        self._is_complete = False  # all that vCenter has is in it
        self.state = VcenterState()
        self.revision = 0  # the number of changes

    def __len__(self) -> int:
        """The number of VMs."""
        return len(self._vms)

    @property
    def is_current(self) -> bool:
        """Whether what it has is what vCenter has now."""
        return self._is_complete and self.state.is_connected

    @property
    def kept_bytes(self) -> int:
        return self._bytes + (len(self._vms) + len(self._hosts)) * ROW_BYTES

    def find(self, vc_uuid: str | None) -> VcenterVm | None:
        row = self._vms.get(vc_uuid or "")
        return vm_of(row, self._hosts) if row else None

    def begin(self) -> None:
        """All rows follow: another process has read vCenter, or this one was not heard."""
        self._vms, self._hosts = {}, {}
        self._bytes = 0
        self._is_complete = False
        self.revision += 1

    def take(self, payload: bytes) -> None:
        """Take rows that are new, have changed, or are gone; raise ValueError."""
        for key, row in split(payload):
            rows = self._hosts if key.startswith(HOST) else self._vms
            self._bytes -= len(rows.pop(key, b""))
            if row and len(self._vms) + len(self._hosts) < MAX_ROWS:
                rows[key] = row
                self._bytes += len(row)
        self.revision += 1

    def complete(self) -> None:
        """All rows have come."""
        self._is_complete = True
        self.revision += 1

    def take_state(self, state: VcenterState) -> None:
        if state.is_connected != self.state.is_connected:
            self.revision += 1
        self.state = state
