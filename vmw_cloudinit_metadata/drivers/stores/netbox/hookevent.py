"""What a webhook of NetBox says: which virtual machines to read again. Pure.

Nothing else of a webhook is used: several may come in another order than the changes were made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Touched:
    """What has changed; `all` stands for every virtual machine."""

    vms: frozenset[int] = field(default=frozenset())
    interfaces: frozenset[int] = field(default=frozenset())
    all: bool = False

    def __bool__(self) -> bool:
        return bool(self.vms or self.interfaces or self.all)

    def joined(self, other: Touched, limit: int) -> Touched:
        """Return what either has touched; beyond so many ids everything."""
        vms, interfaces = self.vms | other.vms, self.interfaces | other.interfaces
        if len(vms) + len(interfaces) > limit:
            return Touched(all=True)
        return Touched(vms, interfaces, self.all or other.all)


def touched_by(event: Any) -> Touched:
    """Return what the body of a webhook names; everything, if it is none that is known.

    `snapshots` are the object before and after the change: an address may have moved.
    """
    if not isinstance(event, Mapping):
        return Touched(all=True)
    data, snapshots = event.get("data"), event.get("snapshots")
    states = [data, *(snapshots.values() if isinstance(snapshots, Mapping) else ())]
    known = [state for state in states if isinstance(state, Mapping)]
    match event.get("object_type"):
        case "virtualization.virtualmachine":
            return _of(vms=_ids([data]))
        case "virtualization.vminterface":
            return _of(vms=_ids(state.get("virtual_machine") for state in known))
        case "ipam.ipaddress" | "dcim.macaddress":
            owners = [state.get("assigned_object") for state in known]
            vms = [one.get("virtual_machine") for one in owners if isinstance(one, Mapping)]
            interfaces = _ids(state.get("assigned_object_id") for state in known)
            return Touched(_ids(vms), interfaces, all="assigned_object_id" not in _first(known))
        case _:
            return Touched(all=True)


def _of(vms: frozenset[int]) -> Touched:
    return Touched(vms, all=not vms)  # a body of another form


def _first(states: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    return states[0] if states else {}


def _ids(values: Iterable[Any]) -> frozenset[int]:
    """Return the ids of objects that are written out, or named by them."""
    ids = (value.get("id") if isinstance(value, Mapping) else value for value in values)
    return frozenset(one for one in ids if isinstance(one, int) and not isinstance(one, bool))
